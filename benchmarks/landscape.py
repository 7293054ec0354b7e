"""Compares samplers on landscapes fitted to real trials: hundreds of searches in the time of one.

    python benchmarks/landscape.py results/search --task mrpc --noise 0.012 --trials 40 --seeds 10
    python benchmarks/landscape.py results/search --task sst2 --noise 0.008 --trials 60 --seeds 4

A forest of regression trees is fitted to every trial that an experiment has measured, on MiniLM in the space
SA-PA-PT-Layer. A sampler sees the forest's value and Gaussian noise; its front is chosen by what it saw and judged by
what the forest says without noise, so that the luckiest of many noisy values wins nothing. The forest explains part of
the trials' variance only (printed as R², out of bag): this says which settings are worth a real search, and no more.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor

import machine
from autopeft import samplers
from autopeft.architecture import Architecture, Counts
from autopeft.backbones import Backbone
from autopeft.experiments import results_of
from autopeft.objective import Measurement, hypervolume
from autopeft.samplers.random import initial_design
from autopeft.spaces import papers as spaces
from autopeft.spaces.lattice import Configuration, SearchSpace
from autopeft.trial import Trial, TrialState, front_of

RIVALS: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("random", {}),
    "tpe": ("tpe", {}),
    "nsga2": ("nsga2", {}),
    "z-score, log": ("saas-nehvi", {"transform": "z-score", "cost_scale": "log"}),
    "rank-normal, log": ("saas-nehvi", {"transform": "rank-normal", "cost_scale": "log"}),
    "z-score, rank": ("saas-nehvi", {"transform": "z-score", "cost_scale": "rank"}),
    "z-score, rank, told the noise": (
        "saas-nehvi",
        {"transform": "z-score", "cost_scale": "rank", "metric_noise": "sampling"},
    ),
    "rank-normal, log, told the noise": ("saas-nehvi", {"metric_noise": "sampling"}),
    "rank-normal, rank": ("saas-nehvi", {"transform": "rank-normal", "cost_scale": "rank"}),
    "z-score, linear": ("saas-nehvi", {"transform": "z-score", "cost_scale": "linear"}),
    "rank-normal, linear": ("saas-nehvi", {"transform": "rank-normal", "cost_scale": "linear"}),
}
"""The transform of the metric and the scale of the cost are those of `BayesSettings`."""

BUDGETS = (0.1, 0.5, 1.0, 5.0)
"""In percent of the backbone."""


class Landscape:
    """What the forest says of every architecture.

    Args:
        folder: the results of an experiment of kind "compare".
        task: of which part of it; empty for one without parts.
        noise: standard deviation of what a sampler sees.
    """

    def __init__(self, folder: Path, task: str, noise: float) -> None:
        backbone = Backbone.from_pretrained("minilm")
        self.space: SearchSpace = spaces.named("SA-PA-PT-Layer", backbone)
        self.n_backbone, self.noise = backbone.n_parameters, noise
        rows = {}
        for search in results_of(folder.parent, folder.name, task).values():
            for trial in search.get("trials", ()):
                found = self.space.configuration(Architecture.from_dict(trial["architecture"]))
                if found is not None and trial.get("value") is not None:
                    rows[self.space.identity(found)] = (found, float(trial["value"]))
        inputs = np.array([self._features(configuration) for configuration, _ in rows.values()])
        values = np.array([value for _, value in rows.values()])
        self.n_trials, self.worst = len(values), float(np.quantile(values, 0.05))
        self.forest = ExtraTreesRegressor(
            400, min_samples_leaf=2, max_features=0.6, bootstrap=True, oob_score=True, random_state=0
        ).fit(inputs, values)
        self._known: dict[tuple[int, ...], float] = {}

    @property
    def explained(self) -> float:
        """Share of the variance of trials that the forest had not seen, R²."""
        return float(self.forest.oob_score_)

    def value(self, configuration: Configuration) -> float:
        """Without noise."""
        identity = self.space.identity(configuration)
        if identity not in self._known:
            self._known[identity] = float(self.forest.predict(np.array([self._features(configuration)]))[0])
        return self._known[identity]

    def trial(self, number: int, configuration: Configuration, origin: str, seed: int) -> Trial:
        """What a sampler sees; an architecture has the same noise whenever one search meets it."""
        noise = np.random.default_rng([seed, *configuration.indices]).normal() * self.noise
        nominal = self.space.cost(configuration)
        counts = Counts(nominal, nominal, nominal, self.n_backbone)
        value = self.value(configuration)
        # So many examples have a share of right answers that is as noisy as this.
        scored = {"n_scored": max(1, round(value * (1 - value) / self.noise**2))}
        metrics = {"metric": value + noise}
        seen = Measurement(metrics, "metric", counts, 1.0, 0, 0.1, "validation", extra=scored)
        architecture = self.space.decode(configuration)
        return Trial(number, configuration, architecture, TrialState.COMPLETE, origin, 0, seen)

    def _features(self, configuration: Configuration) -> list[float]:
        """Logarithms of sizes, switches, number of layers, cost, units of each method over all layers."""
        pairs = zip(self.space.choices, configuration.indices, strict=True)
        held = {choice.name: choice.values[index] for choice, index in pairs}
        sizes = [held[name] for name in ("serial", "parallel", "prefix")]
        switches = [value for name, value in held.items() if name.startswith("layer")]
        units = [np.log2(1 + size * sum(switches)) for size in sizes]
        cost = np.log10(1 + self.space.cost(configuration))
        return [*np.log2(1 + np.array(sizes)), *switches, sum(switches), cost, *units]


def searched(landscape: Landscape, rival: str, seed: int, n_trials: int, n_initial: int) -> list[Trial]:
    """The trials of one search; rivals of one seed share the initial design."""
    name, options = RIVALS[rival]
    sampler = samplers.build(name, landscape.space, seed, options)
    design = initial_design(landscape.space, seed, n_initial)
    trials = [landscape.trial(number, c, "initial", seed) for number, c in enumerate(design)]
    while len(trials) < n_trials:
        trials.append(landscape.trial(len(trials), sampler.ask(trials, 1)[0], sampler.name, seed))
    return trials


def judged(landscape: Landscape, trials: Sequence[Trial]) -> dict[str, float]:
    """Hypervolumes of the front that the trials chose, and its best value within each budget, all without noise."""
    points = [(point.cost, landscape.value(trials[int(point.key)].configuration)) for point in front_of(trials).points]
    dearest = 100 * landscape.space.cost(landscape.space.largest()) / landscape.n_backbone
    logs = [(float(np.log10(cost)), value) for cost, value in points]
    found = {
        "linear": hypervolume(points, (dearest, landscape.worst)),
        "log": hypervolume(logs, (float(np.log10(dearest)), landscape.worst)),
    }
    for budget in BUDGETS:
        found[f"best within {budget:g} %"] = max([v for cost, v in points if cost <= budget], default=landscape.worst)
    return found


def summary(rows: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and standard error over seeds."""
    spread: NDArray[np.float64] = np.array([list(row.values()) for row in rows])
    return {
        name: {"mean": float(column.mean()), "standard_error": statistics.stdev(column) / len(rows) ** 0.5}
        for name, column in zip(rows[0], spread.T, strict=True)
    }


def main() -> None:
    """Run every rival on every seed and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path, help="folder of a finished search experiment")
    parser.add_argument("--task", default="", help="of which part of it")
    parser.add_argument("--noise", type=float, required=True, help="standard deviation of one training run")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--initial", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=10, help="at least 2")
    parser.add_argument("--rivals", nargs="+", choices=list(RIVALS), default=list(RIVALS))
    options = parser.parse_args()
    before = machine.facts()
    landscape = Landscape(options.results, options.task, options.noise)
    print(f"{landscape.n_trials} trials, R² out of bag {landscape.explained:.3f}", flush=True)
    found: dict[str, Any] = {}
    for rival in options.rivals:
        searches = [searched(landscape, rival, seed, options.trials, options.initial) for seed in range(options.seeds)]
        found[rival] = summary([judged(landscape, trials) for trials in searches])
        shown = ", ".join(f"{name} {value['mean']:.4f}" for name, value in found[rival].items())
        print(f"{rival}: {shown}", flush=True)
    setting = {
        "trials_fitted": landscape.n_trials, "r2_out_of_bag": landscape.explained, "noise": options.noise,
        "trials": options.trials, "initial": options.initial, "seeds": options.seeds,
    }  # fmt: skip
    name = f"landscape-{options.task or options.results.name}"
    print(f"written: {machine.write(name, {'setting': setting, 'found': found}, before)}")


if __name__ == "__main__":
    main()
