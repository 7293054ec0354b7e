"""Processor seconds that a sampler takes to propose one configuration, after 20, 60 and 200 trials.

    python benchmarks/search_overhead.py

The space is AutoPEFT's on BERT-base (5,451,776 points; no weights are needed), the trials are those of a formula: a
metric that saturates with the size and has its best layers. The first proposal and the next ones are given apart: some
surrogates compile, and others fit at some numbers of trials only, which their mean over many proposals tells.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from transformers import BertConfig

import machine
from autopeft import samplers
from autopeft.architecture import Architecture, Counts
from autopeft.backbones import Backbone
from autopeft.objective import Measurement
from autopeft.samplers.random import initial_design
from autopeft.spaces import papers as spaces
from autopeft.spaces.lattice import Configuration, SearchSpace
from autopeft.trial import Trial, TrialState

RIVALS: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("random", {}),
    "evolution": ("evolution", {}),
    "tpe": ("tpe", {}),
    "nsga2": ("nsga2", {}),
    "gp (Optuna)": ("gp", {}),
    "recommended (SAAS by MAP)": ("saas-nehvi", {"preset": "recommended"}),
    "robust (the same, told the noise)": ("saas-nehvi", {"preset": "robust"}),
    "released": ("saas-nehvi", {"preset": "released"}),
    "paper (SAAS by NUTS)": ("saas-nehvi", {"preset": "paper"}),
}


def formula(configuration: Configuration, space: SearchSpace) -> float:
    """The metric without noise."""
    layers = {int(placement.site.split(".")[1]) for placement in space.decode(configuration)}
    size = float(np.log10(1 + space.cost(configuration) / 1000))
    return 0.8 + 0.02 * size + 0.004 * sum(layer > 5 for layer in layers)


def measured(
    number: int,
    configuration: Configuration,
    space: SearchSpace,
    n_backbone: int,
    noise: int | Sequence[int] | None = None,
) -> Trial:
    """The trial that the formula gives.

    Args:
        noise: seed of the noise; None for the number.
    """
    architecture: Architecture = space.decode(configuration)
    nominal = space.cost(configuration)
    drawn = np.random.default_rng(number if noise is None else noise).normal(scale=0.005)
    value = formula(configuration, space) + drawn
    counts = Counts(nominal, nominal, nominal, n_backbone)
    found = Measurement(
        {"accuracy": float(value)}, "accuracy", counts, 1.0, 0, 0.1, "validation", extra={"n_scored": 1000}
    )
    return Trial(number, configuration, architecture, TrialState.COMPLETE, "initial", 0, found)


def seconds(
    name: str, options: dict[str, Any], space: SearchSpace, trials: list[Trial], repeats: int
) -> dict[str, Any]:
    """Time of the first proposal, and of the following ones with one more trial each."""
    sampler = samplers.build(name, space, 0, options)
    known, taken = list(trials), []
    for _ in range(1 + repeats):
        began = time.process_time()
        asked = sampler.ask(known, 1)[0]
        taken.append(time.process_time() - began)
        backbone = known[0].measurement.counts.backbone if known[0].measurement else 1
        known.append(replace(measured(len(known), asked, space, backbone), origin=sampler.name))
    following = taken[1:]
    return {
        "first": taken[0],
        "median_of_next": statistics.median(following),
        "mean_of_next": statistics.fmean(following),
        "most_of_next": max(following),
        "next": following,
    }


def main() -> None:
    """Measure every rival at every number of trials and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[20, 60, 200])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rivals", nargs="+", choices=list(RIVALS), default=list(RIVALS))
    parser.add_argument("--name", default="search_overhead")
    options = parser.parse_args()
    before = machine.facts()
    backbone = Backbone.from_config(BertConfig(), device="meta")
    space = spaces.named("SA-PA-PT-Layer", backbone)
    design = initial_design(space, 0, max(options.trials))
    trials = [measured(number, c, space, backbone.n_parameters) for number, c in enumerate(design)]
    found: dict[str, dict[int, Any]] = {}
    for rival in options.rivals:
        for n in options.trials:
            name, settings = RIVALS[rival]
            times = seconds(name, settings, space, trials[:n], options.repeats)
            found.setdefault(rival, {})[n] = times
            print(
                f"{rival}, {n} trials: first {times['first']:.2f} s, then {times['mean_of_next']:.2f} s in the mean, "
                f"{times['most_of_next']:.2f} s at most",
                flush=True,
            )
    result = {
        "setting": {"space": "SA-PA-PT-Layer on BERT-base", "repeats": options.repeats},
        "processor_seconds": found,
    }
    print(f"written: {machine.write(options.name, result, before)}")


if __name__ == "__main__":
    main()
