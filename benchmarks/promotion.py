"""Compares searches with and without promotion at equal cost, on a landscape by formula: seconds instead of days.

    python benchmarks/promotion.py --seeds 20 --trainings 40

An architecture is worth what `autopeft.testing.lattice.accuracy` says of it. At a rung that is measured lower, spread
less, and with noise such that the rank correlation of a rung with the end is what ``--correlation`` asks for; the
measured one is printed. Rungs are at 1/9, 1/3 and the end. A front is chosen by what was measured at the end and judged
by the formula without noise. Differences are paired by seed; intervals are of 95 %, by Student's t over seeds.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import spearmanr, t

import machine
from autopeft import promotions, samplers
from autopeft.fidelity import FULL, Fidelity, Reached
from autopeft.objective import Measurement, hypervolume
from autopeft.objectives import NOMINAL
from autopeft.promotions._extrapolation import extrapolated
from autopeft.rungs import n_reached, search_cost
from autopeft.samplers.random import initial_design
from autopeft.spaces.lattice import Configuration, SearchSpace
from autopeft.study.ladder import Ladder
from autopeft.testing.lattice import accuracy, autopeft_space, measurement, running
from autopeft.trial import Trial, TrialState, front_of

RUNGS = (Fidelity(1.0), Fidelity(3.0), FULL)
SHARES = (1 / 9, 1 / 3, 1.0)
STEPS = 90
END_NOISE = 0.005
"""Standard deviation of a measurement at the end, as between seeds of a training."""

View = Callable[[Sequence[Trial]], list[Trial]]


def at_the_end(trials: Sequence[Trial]) -> list[Trial]:
    """Trials that came to the end are measured; of those that are paused a sampler only learns that they are taken."""
    return [replace(t, state=TrialState.FAILED, failure=None) if t.so_far is not None else t for t in trials]


def as_measured(trials: Sequence[Trial]) -> list[Trial]:
    """The value at the last rung stands for that at the end."""
    return [replace(t, state=TrialState.COMPLETE, measurement=t.latest) if t.so_far is not None else t for t in trials]


@dataclass(frozen=True)
class Rival:
    """A search: who proposes, who is promoted, and what the sampler sees of paused trials."""

    sampler: str
    promotion: str = "all"
    options: tuple[tuple[str, Any], ...] = ()
    view: View = extrapolated


RIVALS = {
    "random": Rival("random"),
    "random, pareto": Rival("random", "pareto"),
    "random, median": Rival("random", "median"),
    "evolution": Rival("evolution"),
    "evolution, pareto": Rival("evolution", "pareto"),
    "evolution, pareto, end alone": Rival("evolution", "pareto", (), at_the_end),
    "evolution, pareto, as measured": Rival("evolution", "pareto", (), as_measured),
}


class Landscape:
    """What is measured of an architecture at each rung; a search of one seed meets the same noise again.

    Args:
        correlation: Spearman's, of a lower rung with the end, over random architectures.
    """

    def __init__(self, correlation: float) -> None:
        self.space: SearchSpace = autopeft_space()
        drawn = initial_design(self.space, 0, 400)
        self._true = np.array([accuracy(self.space, configuration) for configuration in drawn])
        noise = np.random.default_rng(0).standard_normal((2, len(drawn)))
        end = self._true + END_NOISE * noise[0]

        def gap(sigma: float) -> float:
            return float(spearmanr(self._true + sigma * noise[1], end).statistic) - correlation

        self.noise = float(brentq(gap, 1e-4, 1.0, xtol=1e-4))
        self.correlation = correlation + gap(self.noise)
        self.worst = float(np.quantile(self._true, 0.05))
        self.dearest = math.log10(NOMINAL.told(measurement(self.space, self.space.largest(), 0.0)))

    def measured(self, configuration: Configuration, rung: int, seed: int) -> Measurement:
        """At the rung of this number."""
        draws = np.random.default_rng([seed, *configuration.indices]).standard_normal(len(RUNGS))
        true = accuracy(self.space, configuration)
        # Lower rungs are lower and spread less; noise shrinks with the spread, so that correlations are as asked.
        scale = [0.5, 0.75, 1.0]
        sigma = [self.noise, self.noise, END_NOISE]
        values = [0.5 + k * (true - 0.5 + s * d) for k, s, d in zip(scale, sigma, draws, strict=True)]
        reached = [
            Reached(fidelity, round(STEPS * share), 9 * share, float(value), share).as_dict()
            for fidelity, share, value in zip(RUNGS, SHARES, values, strict=True)
        ]
        extra = {"rungs": reached[: rung + 1], "steps": round(STEPS * SHARES[rung]), "planned_steps": STEPS}
        return replace(measurement(self.space, configuration, float(values[rung])), extra=extra)

    def told(self, trial: Trial, rung: int, seed: int) -> Trial:
        """The trial after it was trained up to `rung`."""
        found = self.measured(trial.configuration, rung, seed)
        if rung == len(RUNGS) - 1:
            return replace(trial, state=TrialState.COMPLETE, measurement=found, so_far=None, rung=rung)
        return replace(trial, state=TrialState.PAUSED, so_far=found, rung=rung)

    def judged(self, trials: Sequence[Trial]) -> float:
        """Hypervolume of the front that the measured values choose, by true values and the logarithm of the cost."""
        points = [
            (math.log10(p.cost), accuracy(self.space, trials[p.key].configuration)) for p in front_of(trials).points
        ]
        return hypervolume(points, (self.dearest, self.worst))


def searched(landscape: Landscape, rival: Rival, seed: int, trainings: float, n_initial: int) -> list[Trial]:
    """The trials of one search by one worker; rivals of one seed share the initial design."""
    promotion = promotions.build(rival.promotion, dict(rival.options))
    ladder = Ladder(SHARES, promotion, None, trainings)
    sampler = samplers.build(rival.sampler, landscape.space, seed)
    design, trials = initial_design(landscape.space, seed, n_initial), list[Trial]()
    first = len(RUNGS) - 1 if ladder.first is None else ladder.first
    while True:
        if (climbing := ladder.climbing(trials, NOMINAL)) is not None and climbing.rung is not None:
            trials[climbing.number] = landscape.told(climbing, climbing.rung + 1, seed)
        elif ladder.affords(trials, ladder.first):
            n, seen = len(trials), trials if promotion is None else rival.view(trials)
            configuration = design[n] if n < len(design) else sampler.ask(seen)[0]
            trials.append(landscape.told(running(landscape.space, n, configuration), first, seed))
        else:
            return trials


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and the ends of its 95 % interval."""
    values, n = np.array(differences), len(differences)
    half = float(t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n))
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def compared(
    landscape: Landscape, chosen: Sequence[str], seeds: int, trainings: float, n_initial: int
) -> dict[str, Any]:
    """For each rival its hypervolumes by seed, and the difference from the first one."""
    found: dict[str, Any] = {}
    for name in chosen:
        runs = [searched(landscape, RIVALS[name], seed, trainings, n_initial) for seed in range(seeds)]
        volumes = [landscape.judged(trials) for trials in runs]
        base = found[chosen[0]]["hypervolume"] if found else volumes
        mean, low, high = interval([a - b for a, b in zip(volumes, base, strict=True)])
        found[name] = {
            "hypervolume": volumes,
            "mean": float(np.mean(volumes)),
            "difference": mean,
            "interval": [low, high],
            "trainings": float(np.mean([search_cost(trials).trainings for trials in runs])),
            "reached": np.mean([list(n_reached(trials).values()) for trials in runs], axis=0).tolist(),
        }
        told = f"{found[name]['mean']:.4f}  {mean:+.4f} [{low:+.4f}, {high:+.4f}]"
        rungs = ", ".join(f"{n:.1f}" for n in found[name]["reached"])
        print(f"{name:32} {told}  {found[name]['trainings']:.2f} trainings, reached {rungs}", flush=True)
    return found


def main() -> None:
    """Run every rival on every seed and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trainings", type=float, default=40.0, help="budget of each search, in whole trainings")
    parser.add_argument("--initial", type=int, default=20, help="random proposals before the sampler's own")
    parser.add_argument("--correlation", type=float, default=0.8, help="of a lower rung with the end")
    parser.add_argument("--rivals", nargs="*", default=list(RIVALS), choices=RIVALS, metavar="RIVAL")
    parser.add_argument("--name", default="promotion", help="of the file in results/")
    given = parser.parse_args()
    before = machine.facts()
    landscape = Landscape(given.correlation)
    print(f"rank correlation of a lower rung with the end: {landscape.correlation:.3f}")
    rivals = compared(landscape, given.rivals, given.seeds, given.trainings, given.initial)
    result = {**vars(given), "measured_correlation": landscape.correlation, "noise": landscape.noise, "found": rivals}
    print(machine.write(given.name, result, before))


if __name__ == "__main__":
    main()
