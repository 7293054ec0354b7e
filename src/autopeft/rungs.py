"""What a search cost in trainings and examples, and whether the order at a rung says anything of that at the end."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from autopeft.fidelity import Fidelity
from autopeft.objective import Measurement
from autopeft.trial import Trial

_FEWEST = 4  # of which an interval can be told


@dataclass(frozen=True)
class SearchCost:
    """What was trained in a search; proposals and trials that failed count in seconds alone.

    Args:
        trainings: in units of one training from beginning to end: what was stopped early is a part.
        examples: training examples that went through the model, repetitions counted; those of a sweep are those of
            the longest trial for each rate. None where trials of an earlier version did not count them.
        seconds: of training and evaluation; those of a sweep of one rate for all are not among them, those of a card of
            rates by method are.
    """

    trainings: float
    examples: int | None
    seconds: float

    def __str__(self) -> str:
        told = "" if self.examples is None else f", {self.examples:,} examples"
        return f"{self.trainings:.4g} full trainings{told}, {self.seconds:.4g} s of training and evaluation"


def search_cost(trials: Sequence[Trial], swept: int | SearchCost = 0) -> SearchCost:
    """The cost of a search in three units.

    Args:
        swept: learning rates that were tried before it, each a training of its own; or what trying them cost, where
            that was counted.
    """
    measured = [trial.latest for trial in trials if trial.latest is not None]
    shares = [share_of(one) for one in measured]
    counts = [m.extra.get("n_processed") for m in measured]
    known = [count for count in counts if count is not None]
    before = swept if isinstance(swept, SearchCost) else SearchCost(swept, swept * max(known, default=0), 0.0)
    # One count that is missing makes the sum unknown: half a cost would look like a cheap search.
    is_known = len(known) == len(counts) and before.examples is not None
    examples = sum(known) + (before.examples or 0) if is_known else None
    seconds = math.fsum(m.seconds for m in measured) + before.seconds
    return SearchCost(math.fsum(shares) + before.trainings, examples, seconds)


def share_of(measurement: Measurement) -> float:
    """The share of a whole training that a measurement took; 1 where an earlier version has not counted the steps."""
    extra = measurement.extra
    return float(extra["steps"] / extra["planned_steps"]) if "planned_steps" in extra else 1.0


def n_reached(trials: Sequence[Trial]) -> dict[Fidelity, int]:
    """How many trials came to each rung, the end among them; empty in a study without rungs."""
    # Those that went furthest name all rungs, in order.
    furthest_first = sorted(trials, key=lambda trial: -len(trial.reached))
    return dict(Counter(one.fidelity for trial in furthest_first for one in trial.reached))


@dataclass(frozen=True)
class RungCorrelation:
    """Spearman's rank correlation of the objective at two rungs, over the trials that were measured at both.

    Args:
        lower, upper: the rungs.
        n: how many trials.
        value: the correlation; None for fewer than two trials, or where all are worth the same at one of the rungs.
        interval: of 95 %, by Fisher's transformation with the variance of Bonett and Wright (2000); None where that
            cannot be told.
    """

    lower: Fidelity
    upper: Fidelity
    n: int
    value: float | None
    interval: tuple[float, float] | None

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        return {**asdict(self), "lower": self.lower.to_json(), "upper": self.upper.to_json()}


def rung_correlations(trials: Sequence[Trial]) -> tuple[RungCorrelation, ...]:
    """Every pair of rungs that trials were measured at, the lower one first; empty in a study without rungs."""
    values: dict[Fidelity, dict[int, float]] = {}
    # A trial that went further names more rungs, and names all of them in order.
    for trial in sorted(trials, key=lambda one: -len(one.reached)):
        for one in trial.reached:
            values.setdefault(one.fidelity, {})[trial.number] = one.value
    # Trials are measured at the lower rungs first, so that the keys stand in the order of the rungs.
    return tuple(_correlation(lower, upper, values) for lower, upper in itertools.combinations(values, 2))


def _correlation(lower: Fidelity, upper: Fidelity, values: dict[Fidelity, dict[int, float]]) -> RungCorrelation:
    from scipy.stats import rankdata  # a second of imports, which a study without rungs does not need

    both = [number for number in values[lower] if number in values[upper]]
    ranks = [rankdata([values[rung][number] for number in both]) for rung in (lower, upper)]
    if len(both) < 2 or any(np.ptp(one) == 0 for one in ranks):
        return RungCorrelation(lower, upper, len(both), None, None)
    value = float(np.clip(np.corrcoef(*ranks)[0, 1], -1.0, 1.0))
    return RungCorrelation(lower, upper, len(both), value, _interval(value, len(both)))


def _interval(value: float, n: int) -> tuple[float, float] | None:
    if n < _FEWEST or abs(value) == 1:
        return None
    # Fisher's own variance, 1 / (n - 3), is that of Pearson's correlation and too small for ranks.
    wide = 1.96 * math.sqrt((1 + value**2 / 2) / (n - 3))
    return math.tanh(math.atanh(value) - wide), math.tanh(math.atanh(value) + wide)
