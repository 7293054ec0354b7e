"""Searches of 24 trainings on landscapes that agree with the table: what each rival finds, and what that is worth.

    python benchmarks/table/rivals.py run --seeds 20
    python benchmarks/table/rivals.py tell

Every seed has a landscape of its own, the same for all rivals: a draw of the process that was fitted to the table. A
rival sees what 400 examples would have shown; what it would have chosen is judged without noise. `run` appends a line
for each search and leaves out what stands there; the seed is the outermost loop.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import machine
from autopeft import samplers
from autopeft.architecture import Counts
from autopeft.backbones import Backbone
from autopeft.benchmark import Answer, Benchmark, Table
from autopeft.objective import Measurement, hypervolume
from autopeft.paired import paired
from autopeft.samplers._bayes.smoothing import smooth
from autopeft.session.parts import build_space
from autopeft.settings import SpaceSettings
from autopeft.spaces.lattice import Configuration, SearchSpace
from autopeft.spaces.start import baselines_first
from autopeft.trial import Trial, TrialState, front_of

TABLE = Path(__file__).parent / "sst2.jsonl.gz"
LINES = Path(__file__).parent / "rivals.jsonl"
LIMITS_OF_OURS: dict[str, Any] = {"preset": "limits"}
RIVALS: dict[str, tuple[str, dict[str, Any], int]] = {
    "random": ("random", {}, 0),
    "recommended": ("saas-nehvi", {"preset": "recommended"}, 9),
    "limits": ("saas-nehvi", LIMITS_OF_OURS, 9),
    "robust": ("saas-nehvi", {"preset": "robust"}, 9),
    "baselines, then random": ("random", {}, 9),
    "evolution": ("evolution", {}, 9),
    "tpe": ("tpe", {}, 9),
    "nsga2": ("nsga2", {}, 9),
    "gp": ("gp", {}, 9),
    "limits from 0.5 %": ("saas-nehvi", {**LIMITS_OF_OURS, "limit_low": 0.5}, 9),
    "limits, choices alone": ("saas-nehvi", {**LIMITS_OF_OURS, "inputs": "choices"}, 9),
    "limits, not told the noise": ("saas-nehvi", {**LIMITS_OF_OURS, "metric_noise": "fitted"}, 9),
    "limits, no floor": ("saas-nehvi", {**LIMITS_OF_OURS, "floor": "none", "reference": "initial"}, 9),
    "limits, values by rank": ("saas-nehvi", {**LIMITS_OF_OURS, "transform": "rank-normal"}, 9),
}
"""Sampler, its options, and how many uniform baselines come first."""

N_TRIALS, _AT_A_TIME = 24, 3
WITHIN = (0.5, 2.0, 100.0)
"""In percent of the backbone."""
_LOW, _HIGH = 0.05, 8.0
"""The range of costs that hypervolumes span by the logarithm: what is cheaper counts as the lower end."""


def trial(space: SearchSpace, table: Table, number: int, at: Configuration, origin: str, answer: Answer) -> Trial:
    """What a sampler sees."""
    nominal = space.cost(at)
    counts = Counts(nominal, nominal, nominal, table.n_backbone)
    extra = {"n_scored": table.n_searched, "constant": table.constant}
    seen = Measurement({"accuracy": answer.value}, "accuracy", counts, 1.0, 0, 0.1, "validation", extra=extra)
    candidate = space.candidate(at)
    return Trial(number, at, candidate.architecture, TrialState.COMPLETE, origin, 0, seen, changes=candidate.changes)


def searched(space: SearchSpace, bench: Benchmark, rival: str, seed: int) -> tuple[list[Trial], list[float]]:
    """The trials of one search, and what each is worth."""
    name, options, n_initial = RIVALS[rival]
    sampler = samplers.build(name, space, seed, options)
    trials: list[Trial] = []
    true: list[float] = []

    def train(asked: Sequence[Configuration], origin: str) -> None:
        for one in asked:
            answer = bench.query(space.candidate(one), seed=seed)
            trials.append(trial(space, bench.table, len(trials), one, origin, answer))
            true.append(answer.true)

    train(baselines_first(space, seed, n_initial), "initial")
    while len(trials) < N_TRIALS:
        train(sampler.ask(trials, min(_AT_A_TIME, N_TRIALS - len(trials))), sampler.name)
    return trials, true


def judged(space: SearchSpace, table: Table, trials: Sequence[Trial], true: Sequence[float]) -> dict[str, float]:
    """Hypervolume of the front above the constant answer, and what is chosen within limits by value and by mean."""
    costs = np.array([100 * space.cost(one.configuration) / table.n_backbone for one in trials])
    front = [(int(point.key), point.cost) for point in front_of(list(trials)).points if point.cost <= _HIGH]
    logs = [(float(np.log10(max(cost, _LOW))), max(true[key], table.constant)) for key, cost in front]
    best = hypervolume(logs, (float(np.log10(_HIGH)), table.constant)) if logs else 0.0
    found = {
        "hypervolume": best / float(np.log10(_HIGH / _LOW)),
        "below a tenth percent": float((costs[9:] < 0.1).mean()),
    }
    found["collapsed"] = float((np.array(true[9:]) < 0.6).mean())
    means = smooth(space, trials)
    for limit in WITHIN:
        allowed = np.flatnonzero(costs <= limit)
        for by, scores in (("value", [t.measurement.value if t.measurement else 0.0 for t in trials]), ("mean", means)):
            chosen = max(allowed, key=lambda n, s=scores: s[int(n)], default=None)
            found[f"within {limit:g} % by {by}"] = table.constant if chosen is None else true[int(chosen)]
    return found


def run(options: argparse.Namespace) -> None:
    """Every rival on every seed that has no line yet."""
    table = Table.load(TABLE)
    wanted = SpaceSettings(name="recommended", batch_factors=(), dropout_factors=())
    space = build_space(Backbone.from_pretrained("minilm"), wanted)
    done = {tuple(line["key"]) for line in machine.lines(LINES)}
    for seed in range(options.seeds):
        for rival in options.rivals:
            if (rival, seed) in done:
                continue
            began = time.process_time()
            trials, true = searched(space, Benchmark(table, seed), rival, seed)
            found = judged(space, table, trials, true)
            line = {"key": (rival, seed), **found, "seconds": round(time.process_time() - began, 1)}
            with LINES.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(rival, seed, {name: round(value, 4) for name, value in found.items()}, flush=True)


def tell(options: argparse.Namespace) -> None:
    """Means over seeds, and differences from random search seed by seed with 95 % intervals."""
    lines = machine.lines(LINES)
    by: dict[str, dict[int, dict[str, float]]] = {}
    for line in lines:
        by.setdefault(line["key"][0], {})[line["key"][1]] = line
    for rival, seeds in by.items():
        print(f"{rival} ({len(seeds)} seeds)")
        for name in [name for name in lines[0] if name not in ("key", "seconds")]:
            own = {seed: line[name] for seed, line in seeds.items()}
            text = f"  {name:26s} {np.mean(list(own.values())):.4f}"
            if rival != "random" and len(own) > 1:
                found = paired(own, {seed: line[name] for seed, line in by["random"].items()})
                text += f"  against random {found.mean:+.4f} ({found.interval[0]:+.4f} to {found.interval[1]:+.4f})"
            print(text)


def main() -> None:
    """Run or tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("run", "tell"))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rivals", nargs="+", default=list(RIVALS))
    options = parser.parse_args()
    print(machine.facts(), flush=True)
    {"run": run, "tell": tell}[options.what](options)


if __name__ == "__main__":
    main()
