"""Makes the tabular benchmark: trains candidate after candidate and writes one line for each run.

    python benchmarks/table/make.py --task sst2 --data FOLDER --out sst2.jsonl
    python benchmarks/table/make.py --task sst2 --data FOLDER --out again.jsonl --more benchmarks/table/sst2.jsonl.gz

The second command trains anew what the table in this folder has, whose candidates were not all of the order below.

The setting is that of ``experiments/payoff-minilm.yaml``: MiniLM, 600 training examples, two epochs, batches of 32.
What differs is that every run answers 1,200 validation examples, and that each answer is kept: a search sees 400 of
them, and the 1,200 say nearly what the candidate is worth. Runs are measured on the way, too, at shares of their steps.

Candidates come in a fixed order, of which every prefix is a design: known architectures at four sizes and four rates in
turn with points of the space `recommended`, the even design and uniform draws. A run that is written down is not done
again, so that the making may be stopped at any time.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, product, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

import machine
from autopeft.backbones import Backbone
from autopeft.candidate import Candidate, Changes
from autopeft.errors import TrialFailure
from autopeft.session import Session
from autopeft.settings import Settings, from_dict
from autopeft.spaces.lattice import SearchSpace
from autopeft.spaces.start import baselines_first
from autopeft.training.batches import collate, evaluation_order
from autopeft.training.evaluator import Evaluator
from autopeft.training.loop import EVALUATION_FACTOR
from autopeft.training.retraining import baseline
from autopeft.training.together import Together

RATE = 1e-3
RATES = (1.0, 3.0, 1 / 3, 10.0)
"""What it is multiplied by, in the order in which baselines try them; the first three are the space's own choices."""
SIZES = {
    "lora_all": (8, 32, 2, 64),
    "serial": (48, 192, 12, 3),
    "lora": (8, 64, 2, 24),
    "parallel": (48, 192, 12, 3),
    "prefix": (8, 32, 2, 64),
    "dora": (8, 64, 2, 24),
}
SHARES = (1 / 3,)
"""Of the steps, at which a run is measured before its end."""
N_VALIDATION, N_EARLY = 1200, 400
"""Examples answered at the end, and at the shares: the first of them, which are those that the pay-off searches on."""
_SECOND_SEED = 30
_EVEN, _UNIFORM = 160, 160


def settings(task: str, data: Path) -> Settings:
    """What the runs have in common; `recommended` is the space that is drawn from."""
    return from_dict(
        {
            "model": "minilm",
            "task": task,
            "data": str(data),
            "train_limit": 600,
            "space": {"name": "recommended", "batch_factors": [], "dropout_factors": []},
            "recipe": {"epochs": 2, "batch_size": 32, "learning_rate": RATE, "warmup": 0.06, "evaluate_every": 2},
            "learning_rates": [],
            "initial": 0,
            "sampler": "random",
        }
    )


# -- which candidates ------------------------------------------------------------------------------------------


def known(backbone: Backbone) -> Iterator[tuple[str, Candidate]]:
    """Baselines: the first rate at every first size, then the other rates, then the other sizes in the same way."""
    for place, factor in product(range(4), RATES):
        rate = Changes(rate_factor=factor)
        for name, sizes in SIZES.items():
            label = f"{name}:{sizes[place]}"
            yield label, Candidate(baseline(label, backbone), rate)
        if place == 0:
            for name in ("bitfit", "lnfit"):
                yield name, Candidate(baseline(name, backbone), rate)


def drawn(space: SearchSpace) -> Iterator[tuple[str, Candidate]]:
    """The even design without its baselines, their rates at random, in turn with uniform draws."""
    rng = np.random.default_rng(0)
    factors = rng.choice(RATES[:3], _EVEN)
    even = baselines_first(space, 0, 30 + _EVEN)[30:]
    uniform = space.sample(rng, _UNIFORM)
    for one, other, factor in zip(even, uniform, factors, strict=False):
        yield "even", Candidate(space.decode(one), Changes(rate_factor=float(factor)))
        yield "uniform", space.candidate(other)


def design(backbone: Backbone, space: SearchSpace) -> list[tuple[str, Candidate, int]]:
    """Origin, candidate and seed of every run, in order; none twice."""
    pairs = zip_longest(known(backbone), drawn(space))
    found: dict[tuple[str, int], tuple[str, Candidate, int]] = {}
    for place, (origin, candidate) in enumerate(filter(None, chain.from_iterable(pairs))):
        # The second seeds come early, so that the noise is known from any prefix of some length.
        for seed in (0, 1) if place % 3 == 0 and place < 3 * _SECOND_SEED else (0,):
            found.setdefault((candidate.fingerprint, seed), (origin, candidate, seed))
    return list(found.values())


# -- one pass ---------------------------------------------------------------------------------------------------


class Curves:
    """Answers of all candidates of a pass, at every share and at the end."""

    def __init__(self, evaluator: Evaluator, answers: Any, labels: NDArray[Any], stops: Sequence[int]) -> None:
        self.evaluator, self.encoded, self.labels, self.stops = evaluator, answers, labels, stops
        self.found: dict[int, list[NDArray[Any]]] = {}

    def __call__(self, together: Together, done: int) -> None:
        """Keep what is answered after so many steps, if it is one of the stops."""
        if done in self.stops:
            n = len(self.labels) if done == self.stops[-1] else N_EARLY
            together._switch(False)
            for place, given in zip(together.shares.active, self._answered(together, n), strict=True):
                self.found.setdefault(place, []).append(given)
            together._switch(True)

    @torch.inference_mode()
    def _answered(self, together: Together, n: int) -> list[NDArray[Any]]:
        learner, heads = together._learner, [member.head for member in together._active]
        found: list[list[Any]] = [[None] * n for _ in heads]
        for indices in evaluation_order(self.encoded.lengths[:n], EVALUATION_FACTOR * 32):
            batch = collate(self.encoded, indices, learner.pad, torch.device("cpu"))
            for own, results in zip(found, learner.outputs_of_shares(batch, together.shares, heads), strict=True):
                for index, result in zip(indices, results, strict=True):
                    own[int(index)] = result
        return [np.array(own) for own in found]


def trained(
    evaluator: Evaluator, validation: Any, labels: NDArray[Any], candidates: Sequence[Candidate], seed: int
) -> list[list[NDArray[Any]] | None]:
    """What each candidate answers at the shares and at the end; None for one that failed."""
    own = [evaluator.with_recipe(**vars(candidate.recipe_for(evaluator.recipe))) for candidate in candidates]
    planned = evaluator.recipe.n_steps(evaluator.n_train)
    curves = Curves(evaluator, validation, labels, [*(round(share * planned) for share in SHARES), planned])
    with Together(own, [candidate.architecture for candidate in candidates], seed) as together:
        ends = together.train(lambda done, _: curves(together, done))
    return [None if isinstance(end, TrialFailure) else curves.found.get(n) for n, end in enumerate(ends)]


def packed(answers: NDArray[Any], labels: NDArray[Any]) -> str:
    """Right or wrong in a bit each."""
    return base64.b64encode(np.packbits(answers.argmax(1) == labels[: len(answers)]).tobytes()).decode()


def order(n: int) -> NDArray[np.int64]:
    """Which of the `n` validation examples are answered: those first that a pay-off with data seed 0 searches on."""
    seen = np.sort(np.random.default_rng(0).permutation(n)[:N_EARLY])
    others = np.setdiff1d(np.arange(n), seen)
    return np.concatenate([seen, np.random.default_rng(1).permutation(others)[: N_VALIDATION - len(seen)]])


# -- the table -------------------------------------------------------------------------------------------------


def head(task: str, session: Session, held: Any) -> dict[str, Any]:
    """The first line of a table: what all of its runs have in common, as `autopeft.benchmark.Table` reads it."""
    evaluator, objective = session.evaluator, session.task.objective
    return {
        "task": task,
        "model": session.settings.model,
        "n_backbone": session.backbone.n_parameters,
        # Of the examples that a search sees, as its own trials know it.
        "constant": session.task.baseline(held.subset(np.arange(N_EARLY)))[objective],
        "rate": RATE,
        "n_searched": N_EARLY,
        "shares": [*SHARES, 1.0],
        "sizes": [*(N_EARLY for _ in SHARES), len(held)],
        "validation": held.digest(),
        "train": evaluator.splits.train.digest(),
    }


def given(path: Path) -> list[tuple[str, Candidate, int]]:
    """Origin, candidate and seed of every line that names a candidate: of a table, its runs."""
    named = [line for line in machine.lines(path) if "candidate" in line]
    return [(one.get("origin", "more"), Candidate.from_dict(one["candidate"]), one.get("seed", 0)) for one in named]


def main() -> None:
    """Run what has no line yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--together", type=int, default=1, help="candidates in one pass")
    parser.add_argument(
        "--more", type=Path, help="a table, or lines with a `candidate`, an `origin` and a `seed`, to be trained first"
    )
    parser.add_argument("--limit", type=int, default=10**6, help="runs at most")
    options = parser.parse_args()
    torch.set_num_threads(1)
    session = Session.build(settings(options.task, options.data))
    if not session.task.label_names:
        raise SystemExit(f"{options.task} has numbers as answers, and a table keeps right or wrong.")
    whole = session.evaluator
    held = whole.validation.subset(order(len(whole.validation)))
    validation, labels = whole.encode(held), np.array(held.labels)
    # The loop's own evaluation at the end is of a few examples, since all are answered beside it.
    few = replace(whole.splits, validation=whole.validation.subset(np.arange(32)))
    evaluator = Evaluator(session.backbone, session.task, few, whole.recipe)
    if not options.out.exists():
        options.out.write_text(json.dumps(head(options.task, session, held)) + "\n")
    run(evaluator, session, validation, labels, options)


def run(evaluator: Evaluator, session: Session, validation: Any, labels: NDArray[Any], options: Any) -> None:
    """Pass after pass, a line for each candidate of it."""
    done = {(line["fingerprint"], line["seed"]) for line in machine.lines(options.out)[1:]}
    todo = [*(given(options.more) if options.more else []), *design(session.backbone, session.space)]
    todo = [one for one in todo if (one[1].fingerprint, one[2]) not in done][: options.limit]
    while todo:
        seed = todo[0][2]
        runs = [one for one in todo if one[2] == seed][: options.together]
        todo = [one for one in todo if one not in runs]
        began = time.perf_counter()
        found = trained(evaluator, validation, labels, [candidate for _, candidate, _ in runs], seed)
        seconds = (time.perf_counter() - began) / len(runs)
        with options.out.open("a") as file:
            for (origin, candidate, _), curve in zip(runs, found, strict=True):
                line = {
                    "fingerprint": candidate.fingerprint, "seed": seed, "origin": origin,
                    "nominal": evaluator.counts(candidate.architecture).nominal,
                    "seconds": round(seconds, 2), "candidate": candidate.as_dict(),
                    "answers": [] if curve is None else [packed(answers, labels) for answers in curve],
                }  # fmt: skip
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
