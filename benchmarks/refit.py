"""Whether fitting hyper-parameters now and then finds as good a front as fitting them for every proposal.

    OMP_NUM_THREADS=1 python benchmarks/refit.py

Searches on the formula of `search_overhead.py`, of two settings on the same seeds: one initial design and then one
proposal after the other, which is where fits of before are oldest. A front is chosen by what was measured, with noise,
and judged by the formula without; the hypervolume is that over the logarithm of the cost. Starts, moves and
samples are fewer than in the preset, so that a search takes seconds.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from transformers import BertConfig

import machine
from autopeft import samplers
from autopeft.backbones import Backbone
from autopeft.objective import hypervolume
from autopeft.paired import paired
from autopeft.samplers.random import initial_design
from autopeft.spaces import papers as spaces
from autopeft.spaces.lattice import Configuration, SearchSpace
from autopeft.trial import Trial, front_of
from search_overhead import formula, measured

FEWER = {"pareto_starts": 3, "random_starts": 3, "moves": 10, "mc_samples": 32}
EVERY = "for every proposal"
RIVALS = {EVERY: {**FEWER, "refit": 0.0}, "at a tenth more": {**FEWER, "refit": 0.1}}
FLOOR = 0.8  # what the formula gives a candidate of no size


def searched(
    space: SearchSpace, n_backbone: int, options: dict[str, Any], seed: int, numbers: range
) -> dict[str, float]:
    """The hypervolume of one search and its processor seconds a proposal."""

    # Each candidate of each seed has noise of its own, whenever it is proposed.
    def trial(number: int, configuration: Configuration) -> Trial:
        return measured(number, configuration, space, n_backbone, noise=[seed, *configuration.indices])

    trials = [trial(number, one) for number, one in enumerate(initial_design(space, seed, numbers.start))]
    sampler, began = samplers.build("saas-nehvi", space, seed, options), time.process_time()
    for number in numbers:
        trials.append(trial(number, sampler.ask(trials, 1)[0]))
    seconds = (time.process_time() - began) / len(numbers)
    chosen = [trials[int(point.key)].configuration for point in front_of(trials).points]
    points = [(float(np.log10(space.cost(one))), formula(one, space)) for one in chosen]
    dearest = float(np.log10(space.cost_range()[1]))
    return {"hypervolume": hypervolume(points, (dearest, FLOOR)), "processor_seconds_a_proposal": seconds}


def main() -> None:
    """Search with both on every seed and write what the difference is."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--initial", type=int, default=20)
    parser.add_argument("--trials", type=int, default=40)
    options = parser.parse_args()
    before = machine.facts()
    backbone = Backbone.from_config(BertConfig(), device="meta")
    space = spaces.named("SA-PA-PT-Layer", backbone)
    found: dict[str, dict[int, dict[str, float]]] = {name: {} for name in RIVALS}
    for seed in range(options.seeds):
        for name, settings in RIVALS.items():
            numbers = range(options.initial, options.trials)
            found[name][seed] = searched(space, backbone.n_parameters, settings, seed, numbers)
            print(name, seed, found[name][seed], flush=True)
    volumes = {name: {seed: cell["hypervolume"] for seed, cell in cells.items()} for name, cells in found.items()}
    base = volumes.pop(EVERY)
    told = {}
    for name, own in volumes.items():
        difference = paired(own, base)
        told[name] = {
            "mean": difference.mean,
            "interval": difference.interval,
            "of": float(np.mean(list(base.values()))),
        }
        print(f"{name} minus {EVERY}: {told[name]}")
    print(f"written: {machine.write('refit', {'setting': vars(options), 'cells': found, 'difference': told}, before)}")


if __name__ == "__main__":
    main()
