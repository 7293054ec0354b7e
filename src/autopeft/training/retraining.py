"""Retraining what a search found, on several seeds, and reporting on the test part.

The search saw the training and the validation part. Here the test part is opened, once, and every architecture
and baseline gets the same care: its own learning rate, chosen on the validation part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from autopeft.architecture import Architecture, Placement
from autopeft.backbones import LINEAR, NORMS, Backbone
from autopeft.candidate import Candidate, Changes
from autopeft.errors import SettingsError
from autopeft.methods import lookup
from autopeft.objective import Measurement
from autopeft.saved.save import Described, save
from autopeft.spaces.build import stands_at
from autopeft.training.evaluator import Evaluator
from autopeft.training.rate_sweep import ProxySignal, sweep
from autopeft.writing import write_whole

FULL_DIVISOR = 30
"""Full fine-tuning tries a thirtieth of every rate: 2e-5 in AutoPEFT's release, against 1e-4 and more elsewhere."""

DEFAULT_SEEDS = (40, 41, 42, 43, 44)
"""The reporting seeds of AutoPEFT's release."""


@dataclass(frozen=True)
class Retrained:
    """One architecture, retrained.

    Args:
        name: what it is called in tables.
        architecture: what was trained.
        seeds: one a run.
        test: measurements on the test part, one a seed.
        validation: the objective on the validation part at the kept epoch, one a seed.
        learning_rate: what all runs used.
        sweep: how the learning rate was chosen, or None when it was given.
        changes: what it changed about the recipe; `learning_rate` has its factor in it.
    """

    name: str
    architecture: Architecture
    seeds: tuple[int, ...]
    test: tuple[Measurement, ...]
    validation: tuple[float, ...]
    learning_rate: float
    sweep: ProxySignal | None = None
    changes: Changes = field(default_factory=Changes)

    @property
    def candidate(self) -> Candidate:
        """What was trained."""
        return Candidate(self.architecture, self.changes)

    @property
    def seconds(self) -> float:
        """Mean seconds of one run, training and evaluation."""
        return mean(item.seconds for item in self.test)

    def summary(self) -> dict[str, Any]:
        """Mean, standard deviation (n - 1; None for one seed), median and n of the objective on the test part."""
        values = [item.value for item in self.test]
        return {
            "mean": mean(values),
            "std": stdev(values) if len(values) > 1 else None,
            "median": median(values),
            "n": len(values),
            "validation_mean": mean(self.validation),
        }

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        return {
            "name": self.name,
            **self.candidate.as_dict(),
            "described": str(self.candidate),
            "counts": self.test[0].counts.as_dict(),
            "costs": {name: dict(record) for name, record in self.test[0].costs.items()},
            "objective": self.test[0].objective,
            "split": self.test[0].split,
            "seeds": list(self.seeds),
            "values": [item.value for item in self.test],
            "metrics": [dict(item.metrics) for item in self.test],
            "validation": list(self.validation),
            "summary": self.summary(),
            "learning_rate": self.learning_rate,
            "sweep": None if self.sweep is None else self.sweep.as_dict(),
            "seconds": [item.seconds for item in self.test],
            **({"texts": self.test[0].extra["texts"]} if "texts" in self.test[0].extra else {}),
        }


def retrain(
    evaluator: Evaluator,
    name: str,
    given: Candidate | Architecture,
    seeds: Sequence[int] = DEFAULT_SEEDS,
    *,
    learning_rates: Sequence[float] = (),
    tuning: Mapping[str, Any] | None = None,
    widen: int = 2,
    save_to: str | Path | None = None,
    facts: dict[str, Any] | None = None,
    on_run: Callable[[Retrained], None] | None = None,
) -> Retrained:
    """Train an architecture, or a candidate with its changes, once a seed and measure it on the test part.

    With `evaluator.checkpoints` that are held, a retraining that was interrupted trains nothing twice when it is begun
    again: rates and seeds that are done are measured anew, and the one that was at work goes on.

    Args:
        given: what is trained; a factor on the rate that a candidate brings applies to whichever rate is chosen.
        learning_rates: candidates, tried with the first seed on the validation part; empty keeps the recipe's. Full
            fine-tuning tries a thirtieth of each.
        tuning: changes of the recipe while the learning rate is chosen, such as fewer epochs; None for none.
        widen: how many rates beyond the candidates may be tried, while the best is the smallest or the largest.
        save_to: folder for the run with the best validation score; None saves nothing.
        facts: what else goes into the saved card.
        on_run: told after every run of all that there is by then, so that nothing is lost should a later one fail.

    Raises:
        SettingsError: there is no seed.
    """
    if not seeds:
        raise SettingsError("Retraining needs at least one seed.")
    candidate = Candidate.of(given)
    if "full" in candidate.architecture.methods:
        # The whole model moves with every step, and at the rates of small modules it forgets what it was pretrained on.
        learning_rates = tuple(rate / FULL_DIVISOR for rate in learning_rates)
    chosen = None
    if learning_rates:
        # By the validation part alone, and with the first of the seeds for all, or each seed would choose a recipe of
        # its own.
        chosen = sweep(evaluator.with_recipe(**(tuning or {})), candidate, learning_rates, seeds[0], widen=widen)
        evaluator = evaluator.with_recipe(learning_rate=chosen.chosen)
    tests: list[Measurement] = []
    validation: list[float] = []

    def so_far() -> Retrained:
        rate, done = candidate.recipe_for(evaluator.recipe).learning_rate, tuple(seeds[: len(tests)])
        measured = (done, tuple(tests), tuple(validation))
        return Retrained(name, candidate.architecture, *measured, rate, chosen, candidate.changes)

    for seed in seeds:
        with evaluator.trained(candidate, seed) as run:
            # Both parts are measured on one run: which of the runs is saved is decided by the validation part, never by
            # the test part.
            found = run.measure("test", evaluator.splits.test)
            value = run.measure().value
            if save_to is not None and value > max(validation, default=float("-inf")):
                about = _described(run.evaluator, {**(facts or {}), "seed": seed, "test": dict(found.metrics)})
                save(save_to, run.attached, evaluator.learner.model, about)
        tests.append(found)
        validation.append(value)
        if on_run is not None:
            on_run(so_far())
    # All seeds are done; from now on the files would only be taken for those of a retraining that was interrupted.
    if evaluator.checkpoints is not None and evaluator.checkpoints.is_held:
        evaluator.checkpoints.clear()
    return so_far()


def _described(evaluator: Evaluator, facts: dict[str, Any]) -> Described:
    task = evaluator.task
    about = {
        **facts,
        "task": task.name,
        "format": getattr(task.format, "__name__", type(task.format).__name__),
        "answer": evaluator.answer,
        "recipe": evaluator.recipe.as_dict(),
        "splits": evaluator.splits.describe(),
    }
    return Described(
        task.kind, task.label_names, task.inputs, about, task.short_name, task.verbalisers, threshold=task.threshold
    )


@dataclass(frozen=True)
class Baseline:
    """An architecture of the literature: the same modules in every layer that has any."""

    parts: tuple[tuple[str, int | str], ...]
    """Pairs of method and size; ``"D/16"`` divides the hidden size."""
    skipped: float = 0.0
    """Share of the layers of each stack, from the input on, that get nothing; rounded down."""
    roles: tuple[str, ...] = ()
    """Where the modules stand, instead of their methods' own places."""

    def on(self, backbone: Backbone) -> Architecture:
        """The architecture on `backbone`."""
        placements = []
        sites = list(backbone.sites.values())
        # Each stack is skipped by its own depth, as the layers of an encoder and of a decoder are numbered apart.
        depth: dict[str, int] = {}
        for site in sites:
            depth[site.stack] = max(depth.get(site.stack, 0), 1 + (site.layer or 0))
        for name, size in self.parts:
            method = lookup(name)
            units = backbone.hidden_size // int(size[2:]) if isinstance(size, str) else size
            for site in sites:
                is_skipped = site.layer is not None and site.layer < int(self.skipped * depth[site.stack])
                if stands_at(method, site, self.roles or None) and not is_skipped:
                    # What has no size stands as one unit, by which costs and masks count it.
                    placements.append(Placement(site.key, name, units if method.is_sized else 1))
        return Architecture(tuple(placements))


BASELINES = {
    "serial": Baseline((("serial", "D/16"),)),
    "houlsby": Baseline((("houlsby", "D/16"),)),
    "parallel": Baseline((("parallel", "D/2"),)),
    "prefix": Baseline((("prefix", 10),)),
    "lora": Baseline((("lora", 8),)),
    "lora_double": Baseline((("lora_double", 8),)),
    "lora_all": Baseline((("lora", 8),), roles=LINEAR),
    "dora": Baseline((("dora", 8),)),
    "ia3": Baseline((("ia3", 1),)),
    "unipelt": Baseline((("serial_gated", "D/16"), ("prefix_gated", 10), ("lora_gated", 8))),
    "mam": Baseline((("prefix", 30), ("parallel", "D/2"))),
    "adamix": Baseline((("adamix", "D/16"),)),
    "adapterdrop": Baseline((("serial", "D/8"),), skipped=11 / 24),
    "adapter_lr": Baseline((("adapter_lr", 1),)),
    "bitfit": Baseline((("bitfit", 1),)),
    "bitfit_head": Baseline((("bitfit", 1),), roles=(*LINEAR, *NORMS, "lm_head")),
    "lnfit": Baseline((("lnfit", 1),)),
    "full": Baseline((("full", 1),)),
}
"""Defaults of AutoPEFT's table 1: Pfeiffer and Houlsby b = D/16, parallel b = D/2, prefix 10, LoRA 8, MAM 30 and D/2,
UniPELT D/16, 10 and 8; of BIPEFT's table 1: BitFit and LNFit, wherever the backbone has biases and norms, and LoRA 8
with alpha = 2 r (``lora_double``), and BitFit with a bias of the layer that writes words, as its authors have it on T5
(``bitfit_head``); low-rank adapters of rank 1, as S3Delta has them. AdaMix with b = D/16, as AutoPEFT
runs it; AdapterDrop (Rücklé et al. 2020) as in AutoPEFT's table 6: nothing in the first 11 of 24 layers, D/8 in the
others. Beside the papers': LoRA 8 at every linear map (``lora_all``), DoRA 8 where LoRA stands, and IA3."""


def baseline(name: str, backbone: Backbone) -> Architecture:
    """The named baseline on `backbone`; ``serial:12`` gives another size to its (first) method.

    Raises:
        SettingsError: there is no such baseline.
    """
    known, _, size = name.partition(":")
    if known not in BASELINES or (size and not size.isdecimal()):
        raise SettingsError(f"A baseline is one of {', '.join(BASELINES)}, perhaps with ':size', but got {name!r}.")
    chosen = BASELINES[known]
    if size:
        # A combination is known by its first method; the sizes of the others are part of its definition.
        chosen = replace(chosen, parts=((chosen.parts[0][0], int(size)), *chosen.parts[1:]))
    return chosen.on(backbone)


def write_cell(path: Path, data: Any) -> None:
    """Write one result as JSON so that a reader sees it whole or not at all."""
    with write_whole(path) as part:
        part.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n")
