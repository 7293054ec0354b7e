"""Compares samplers on landscapes fitted to real trials: a search in a minute, and every cell of it kept.

    python benchmarks/landscape.py run results/search --task mrpc --noise 0.012 --seeds 20
    python benchmarks/landscape.py run results/search --task mrpc --noise 0.012 --seeds 10 --budget 0.5% \
        --rivals random recommended robust "robust, a front"
    python benchmarks/landscape.py tell --task mrpc

A forest of regression trees is fitted to every trial that an experiment has measured, on MiniLM in the space
SA-PA-PT-Layer. A sampler sees the forest's value and Gaussian noise; what it found is chosen by what it saw and judged
by what the forest says without noise, so that the luckiest of many noisy values wins nothing. The forest explains part
of the trials' variance only (its error is stored with the result): this says which settings are worth a real search,
and no more.

`run` appends a line for each search to ``results/landscape-TASK.jsonl`` and leaves out what stands there, so it may be
stopped at any time; the seed is the outermost loop, so that what is there compares like with like. `tell` reads them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.ensemble import ExtraTreesRegressor

import machine
from autopeft import samplers
from autopeft.architecture import Architecture, Counts, ParameterBudget
from autopeft.backbones import Backbone
from autopeft.experiments import results_of
from autopeft.objective import Measurement, hypervolume
from autopeft.paired import paired
from autopeft.samplers._bayes.outcome import CostAxis
from autopeft.samplers.random import initial_design
from autopeft.spaces import papers as spaces
from autopeft.spaces.lattice import Configuration, SearchSpace
from autopeft.trial import Trial, TrialState, front_of

ROBUST = {"preset": "robust"}
RIVALS: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("random", {}),
    "evolution": ("evolution", {}),
    "tpe": ("tpe", {}),
    "nsga2": ("nsga2", {}),
    "gp": ("gp", {}),
    "recommended": ("saas-nehvi", {"preset": "recommended"}),
    "robust": ("saas-nehvi", ROBUST),
    "robust, log cost": ("saas-nehvi", {**ROBUST, "cost_scale": "log"}),
    "robust, not told the noise": ("saas-nehvi", {**ROBUST, "metric_noise": "fitted"}),
    "robust, choices alone": ("saas-nehvi", {**ROBUST, "inputs": "choices"}),
    "robust, values by rank": ("saas-nehvi", {**ROBUST, "transform": "rank-normal"}),
    "robust, z-score": ("saas-nehvi", {**ROBUST, "transform": "z-score"}),
    "robust, no floor": ("saas-nehvi", {**ROBUST, "floor": "none", "reference": "initial"}),
    "robust, a front": ("saas-nehvi", {**ROBUST, "goal": "front"}),
    "paper": ("saas-nehvi", {"preset": "paper"}),
}
"""Rivals, the presets of `BayesSettings` and "robust" without each of its parts."""

LIMITS = (0.5, 5.0)
"""In percent of the backbone."""
_FIRST = 20
_EVERY = 5
_LONG = 200
_TREES = 150
_AT_A_TIME = 5


class Landscape:
    """What the forest says of every architecture.

    Args:
        folder: the results of an experiment of kind "compare".
        task: of which part of it; empty for one without parts.
        noise: standard deviation of what a sampler sees.
        budget: a hard limit as a person writes it; empty for none.
    """

    def __init__(self, folder: Path, task: str, noise: float, budget: str = "") -> None:
        backbone = Backbone.from_pretrained("minilm")
        self.n_backbone, self.noise = backbone.n_parameters, noise
        self.whole = spaces.named("SA-PA-PT-Layer", backbone)
        limit = ParameterBudget.parse(budget, self.n_backbone) if budget else None
        self.space: SearchSpace = self.whole.within(limit)
        found = results_of(folder.parent, folder.name, task)
        rows = {}
        for trial in [trial for search in found.values() for trial in search.get("trials", ())]:
            at = self.whole.configuration(Architecture.from_dict(trial["architecture"]))
            if at is not None and trial.get("value") is not None:
                rows[self.whole.identity(at)] = (at, float(trial["value"]))
        inputs = np.array([self._features(configuration) for configuration, _ in rows.values()])
        self.values = np.array([value for _, value in rows.values()])
        proxy = next(cell for name, cell in found.items() if name.endswith("proxy"))
        self.constant, self.threshold = float(proxy["baseline"]), float(proxy["threshold"])
        self.forest = ExtraTreesRegressor(
            _TREES, min_samples_leaf=2, max_features=0.6, bootstrap=True, oob_score=True, random_state=0
        ).fit(inputs, self.values)
        self.ranked = CostAxis.of(self.whole, "rank")
        self._known: dict[tuple[int, ...], float] = {}

    @property
    def error(self) -> dict[str, float]:
        """What the forest knows of trials that it had not seen."""
        off = self.forest.oob_prediction_ - self.values
        return {
            "trials": len(self.values),
            "r2_out_of_bag": float(self.forest.oob_score_),
            "rank_correlation_out_of_bag": float(spearmanr(self.forest.oob_prediction_, self.values)[0]),
            "rms_error_out_of_bag": float(np.sqrt(np.mean(off**2))),
            "standard_deviation_of_trials": float(self.values.std()),
        }

    def learn(self, configurations: Sequence[Configuration]) -> None:
        """Ask the forest for many at once, which takes hardly longer than for one."""
        fresh = {self.whole.identity(c): c for c in configurations if self.whole.identity(c) not in self._known}
        if fresh:
            predicted = self.forest.predict(np.array([self._features(c) for c in fresh.values()]))
            self._known.update(zip(fresh, map(float, predicted), strict=True))

    def value(self, configuration: Configuration) -> float:
        """Without noise."""
        self.learn([configuration])
        return self._known[self.whole.identity(configuration)]

    def trial(self, number: int, configuration: Configuration, origin: str, seed: int) -> Trial:
        """What a sampler sees; an architecture has the same noise whenever one search meets it."""
        noise = np.random.default_rng([seed, *configuration.indices]).normal() * self.noise
        nominal = self.space.cost(configuration)
        counts = Counts(nominal, nominal, nominal, self.n_backbone)
        value = self.value(configuration)
        # So many examples have a share of right answers that is as noisy as this.
        scored = {"n_scored": max(1, round(value * (1 - value) / self.noise**2)), "constant": self.constant}
        metrics = {"metric": value + noise}
        seen = Measurement(metrics, "metric", counts, 1.0, 0, 0.1, "validation", extra=scored)
        architecture = self.space.decode(configuration)
        return Trial(number, configuration, architecture, TrialState.COMPLETE, origin, 0, seen)

    def _features(self, configuration: Configuration) -> list[float]:
        """Logarithms of sizes, switches, number of layers, cost, units of each method over all layers."""
        pairs = zip(self.whole.choices, configuration.indices, strict=True)
        held = {choice.name: choice.values[index] for choice, index in pairs}
        sizes = [held[name] for name in ("serial", "parallel", "prefix")]
        switches = [value for name, value in held.items() if name.startswith("layer")]
        units = [np.log2(1 + size * sum(switches)) for size in sizes]
        cost = np.log10(1 + self.whole.cost(configuration))
        return [*np.log2(1 + np.array(sizes)), *switches, sum(switches), cost, *units]


# -- one search ------------------------------------------------------------------------------------------------


def searched(landscape: Landscape, rival: str, seed: int, n_trials: int, n_initial: int) -> list[Trial]:
    """The trials of one search, proposed five at a time; rivals of one seed share the initial design."""
    name, options = RIVALS[rival]
    sampler = samplers.build(name, landscape.space, seed, options)
    design = initial_design(landscape.space, seed, n_initial)
    landscape.learn(design)
    trials = [landscape.trial(number, c, "initial", seed) for number, c in enumerate(design)]
    while len(trials) < n_trials:
        asked = sampler.ask(trials, min(_AT_A_TIME, n_trials - len(trials)))
        landscape.learn(asked)
        trials += [landscape.trial(len(trials) + i, one, sampler.name, seed) for i, one in enumerate(asked)]
    return trials


def judged(landscape: Landscape, trials: Sequence[Trial]) -> dict[str, float]:
    """What the trials chose is worth without noise.

    Hypervolumes of the front above the constant answer, the cost by its logarithm to base 10 and by its rank among
    random architectures; and the value of what measured best within each limit.
    """
    front = [(point.cost, point.value, trials[int(point.key)].configuration) for point in front_of(trials).points]
    _, high = landscape.whole.cost_range()
    ranks = landscape.ranked(np.array([landscape.whole.cost(c) for _, _, c in front], dtype=np.int64))
    true = [landscape.value(configuration) for _, _, configuration in front]
    logs = [float(np.log10(cost)) for cost, _, _ in front]
    dearest = float(np.log10(100 * high / landscape.n_backbone))
    found = {
        "log": hypervolume(list(zip(logs, true, strict=True)), (dearest, landscape.constant)),
        "rank": hypervolume(list(zip(map(float, ranks), true, strict=True)), (1.0, landscape.constant)),
    }
    for limit in LIMITS:
        within = [(seen, value) for (cost, seen, _), value in zip(front, true, strict=True) if cost <= limit]
        found[f"within {limit:g} %"] = max(within)[1] if within else landscape.constant
    return found


def cell(landscape: Landscape, rival: str, seed: int, n_trials: int) -> dict[str, Any]:
    """One line: the search after every few trials, and how many proposals fell below the proxy's threshold."""
    began = time.process_time()
    trials = searched(landscape, rival, seed, n_trials, _FIRST)
    seconds = (time.process_time() - began) / (n_trials - _FIRST)
    own = [landscape.value(trial.configuration) for trial in trials[_FIRST:50]]
    costs = [100 * landscape.whole.cost(trial.configuration) / landscape.n_backbone for trial in trials[_FIRST:50]]
    return {
        "curve": {n: judged(landscape, trials[:n]) for n in range(_FIRST, n_trials + 1, _EVERY)},
        "below_threshold": sum(value < landscape.threshold for value in own),
        "below_a_tenth_percent": sum(cost < 0.1 for cost in costs),
        "best_proposed": max(own),
        "processor_seconds_a_proposal": seconds,
    }


def run(options: argparse.Namespace) -> None:
    """Every rival on every seed that has no line yet."""
    path = machine.RESULTS / f"landscape-{options.task}.jsonl"
    done = {tuple(line["key"]) for line in machine.lines(path)}
    landscape = Landscape(options.results, options.task, options.noise, options.budget)
    print(landscape.error, flush=True)
    for seed in range(options.seeds):
        for rival in options.rivals:
            key = (options.budget, rival, seed)
            if key not in done:
                n_trials = _LONG if rival == "random" and not options.budget else options.trials
                found = {"key": key, "noise": options.noise, **cell(landscape, rival, seed, n_trials)}
                with path.open("a") as file:
                    file.write(json.dumps(found) + "\n")
                print(key, {name: round(value, 4) for name, value in found["curve"][50].items()}, flush=True)
    (machine.RESULTS / f"landscape-{options.task}.json").write_text(
        json.dumps({"error": landscape.error, "noise": options.noise, "machine": machine.facts()}, indent=1) + "\n"
    )


# -- what it says ----------------------------------------------------------------------------------------------


def median(values: Sequence[float]) -> tuple[float, float, float]:
    """The median and its 95 % interval, by 2,000 draws of as many seeds."""
    held: NDArray[np.float64] = np.array(values)
    drawn = np.median(np.random.default_rng(0).choice(held, (2000, len(held))), axis=1)
    return float(np.median(held)), float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))


def told(found: Sequence[Mapping[str, Any]], budget: str, n: int) -> dict[str, dict[str, Any]]:
    """Every rival after `n` trials: medians, and differences from random search seed by seed with intervals."""
    cells: dict[str, dict[int, Mapping[str, Any]]] = {}
    for line in found:
        if line["key"][0] == budget:
            cells.setdefault(line["key"][1], {})[line["key"][2]] = line
    long = [line["curve"].get(str(_LONG)) for line in cells.get("random", {}).values()]
    goal = float(np.median([row["log"] for row in long])) if long and all(long) else None
    table: dict[str, dict[str, Any]] = {}
    for rival, seeds in cells.items():
        row: dict[str, Any] = {"seeds": len(seeds)}
        for name in next(iter(seeds.values()))["curve"][str(n)]:
            own = {seed: line["curve"][str(n)][name] for seed, line in seeds.items()}
            base = {seed: line["curve"][str(n)][name] for seed, line in cells["random"].items()}
            difference = paired(own, base)
            row[name] = median(list(own.values()))
            row[f"{name}, against random"] = (difference.mean, difference.interval)
        for name in ("below_threshold", "below_a_tenth_percent", "processor_seconds_a_proposal"):
            row[name] = float(np.mean([line[name] for line in seeds.values()]))
        if goal is not None:
            reached = [_reached(line["curve"], goal) for line in seeds.values()]
            row["evaluations_to_randoms_200"] = float(np.median(reached))
        table[rival] = row
    return table


def _reached(curve: Mapping[str, Mapping[str, float]], goal: float) -> float:
    """After how many evaluations the hypervolume over the logarithm of the cost was `goal`; infinite for never."""
    return min((int(n) for n, row in curve.items() if row["log"] >= goal), default=float("inf"))


def tell(options: argparse.Namespace) -> None:
    """Print the table of a task."""
    found = machine.lines(machine.RESULTS / f"landscape-{options.task}.jsonl")
    for budget in sorted({line["key"][0] for line in found}):
        print(f"## {options.task}, {budget or 'no budget'}, after {options.trials} trials")
        for rival, row in told(found, budget, options.trials).items():
            print(f"{rival} ({row.pop('seeds')} seeds)")
            for name, value in row.items():
                print(f"    {name}: {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        first, *rest = value
        bounds = rest[0] if len(rest) == 1 else rest
        return f"{first:.4f}" + (f" ({bounds[0]:.4f} to {bounds[1]:.4f})" if bounds else "")
    return f"{value:.2f}"


def main() -> None:
    """Run searches, or tell what they found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True)
    more = commands.add_parser("run")
    more.set_defaults(act=run)
    more.add_argument("results", type=Path, help="folder of a finished search experiment")
    more.add_argument("--noise", type=float, required=True, help="standard deviation of one training run")
    more.add_argument("--seeds", type=int, default=20)
    more.add_argument("--budget", default="", help="a hard limit, as in a search")
    more.add_argument("--rivals", nargs="+", choices=list(RIVALS), default=[name for name in RIVALS if name != "paper"])
    said = commands.add_parser("tell")
    said.set_defaults(act=tell)
    for command in (more, said):
        command.add_argument("--task", required=True, help="of which part of the experiment")
        command.add_argument("--trials", type=int, default=50, help="at least 50")
    options = parser.parse_args()
    options.act(options)


if __name__ == "__main__":
    main()
