"""What is measured and what is wanted: the one owner of orientation (which way is better).

Everything outside this module speaks of natural values: accuracy up, parameters down. `Objective.maximised`
turns a natural value into one that is to be maximised; nobody else flips a sign.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autopeft.architecture import Counts
from autopeft.errors import BudgetError, NonFiniteFailure

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Objective:
    """A named quantity and the direction in which it improves."""

    name: str
    direction: Direction

    def maximised(self, value: float) -> float:
        """`value`, signed so that larger is better. Its own inverse."""
        return value if self.direction == "maximize" else -value

    def better(self, first: float, second: float) -> bool:
        """Whether `first` is strictly better than `second`."""
        return self.maximised(first) > self.maximised(second)


def metric_and_cost(metric: str) -> tuple[Objective, Objective]:
    """The two objectives of a search: the task's metric and the nominal parameters in percent of the backbone."""
    return Objective(metric, "maximize"), Objective("percent", "minimize")


@dataclass(frozen=True)
class Epoch:
    """One point of a learning curve. `epoch` counts from 1 and may be a fraction; `seconds` is since the start."""

    epoch: float
    step: int
    loss: float
    metrics: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class Measurement:
    """What one training run gave.

    Args:
        metrics: metric name to value on `split`, natural orientation, fractions rather than percent.
        objective: the name of the metric that the search maximises.
        counts: the three parameter counts.
        seconds: wall-clock time of training and evaluation.
        peak_memory: bytes; on a GPU the allocator's peak during this run, on a CPU the peak resident size of
            the process so far.
        latency: seconds that one evaluation batch takes, median.
        split: which examples `metrics` were computed on.
        history: the learning curve.
        extra: further facts, JSON-ready.
    """

    metrics: Mapping[str, float]
    objective: str
    counts: Counts
    seconds: float
    peak_memory: int
    latency: float
    split: str
    history: tuple[Epoch, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.objective not in self.metrics:
            raise NonFiniteFailure(f"The metric {self.objective!r} was not measured; there are {sorted(self.metrics)}.")
        if not math.isfinite(self.value):
            raise NonFiniteFailure(f"The metric {self.objective!r} is {self.value}.")

    @property
    def value(self) -> float:
        """The metric that the search maximises."""
        return float(self.metrics[self.objective])

    @property
    def percent(self) -> float:
        """Nominal parameters in percent of the backbone."""
        return self.counts.percent("nominal")

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping; `from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Measurement:
        """The measurement written by `as_dict`."""
        rest = {key: value for key, value in data.items() if key not in ("counts", "history")}
        history = tuple(Epoch(**item) for item in data.get("history", ()))
        return cls(counts=Counts(**data["counts"]), history=history, **rest)


@dataclass(frozen=True)
class FrontPoint:
    """A point of a front: where it came from (`key`), its cost in percent and its metric, both natural."""

    key: int
    cost: float
    value: float


@dataclass(frozen=True)
class ParetoFront:
    """The points that no other point beats in both cost (down) and metric (up), by increasing cost."""

    points: tuple[FrontPoint, ...]

    @classmethod
    def of(cls, points: Iterable[FrontPoint]) -> ParetoFront:
        """Keep the non-dominated points; of points equal in both objectives the one with the lowest key."""
        kept: list[FrontPoint] = []
        for point in sorted(points, key=lambda item: (item.cost, -item.value, item.key)):
            if not kept or point.value > kept[-1].value:
                kept.append(point)
        return cls(tuple(kept))

    def __len__(self) -> int:
        return len(self.points)

    def at(self, cost: float, least: float = 0.0) -> FrontPoint:
        """The point with the best metric whose cost is at most `cost` and at least `least` percent.

        Raises:
            BudgetError: no point of the front costs that.
        """
        fitting = [point for point in self.points if least * (1 - 1e-12) <= point.cost <= cost * (1 + 1e-12)]
        if not fitting:
            ends = [f"{self.points[i].cost:.4g}%" for i in (0, -1)] if self.points else []
            there = f"the cheapest costs {ends[0]}, the dearest {ends[1]}" if ends else "the front is empty"
            wanted = f"at most {cost:.4g}%" if not least else f"{least:.4g}% to {cost:.4g}%"
            raise BudgetError(f"No point of the front costs {wanted}: {there}.")
        return fitting[-1]

    def hypervolume(self, reference: tuple[float, float]) -> float:
        """Area dominated by the front and bounded by `reference` = (worst cost, worst metric), natural units."""
        return hypervolume([(point.cost, point.value) for point in self.points], reference)


def hypervolume(points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Area between `points` (cost down, metric up) and `reference`; points beyond it count nothing.

    Args:
        points: pairs of cost and metric; dominated points are allowed.
        reference: pair of worst cost and worst metric.
    """
    worst_cost, worst_value = reference
    inside = sorted((cost, value) for cost, value in points if cost < worst_cost and value > worst_value)
    area, best = 0.0, worst_value
    for index, (cost, value) in enumerate(inside):
        best = max(best, value)
        right = inside[index + 1][0] if index + 1 < len(inside) else worst_cost
        area += (right - cost) * (best - worst_value)
    return area


Scale = Literal["linear", "log"]
"""Of the cost in a hypervolume: percent, as in AutoPEFT's figure 8, or its logarithm to base 10."""

_FREE = 1e-6  # percent; less than one parameter of a hundred million has no logarithm worth telling


def hypervolume_curve(
    points: Sequence[tuple[float, float]], reference: tuple[float, float], scale: Scale = "linear"
) -> NDArray[np.float64]:
    """Hypervolume after each of the first 1, 2, ... points: never falls. Shape ``(len(points),)``."""
    if scale == "log":
        *points, reference = [(math.log10(max(cost, _FREE)), value) for cost, value in (*points, reference)]
    # A dominated point adds nothing, so only the front so far is summed: time grows with its length, which is short.
    found: list[float] = []
    front: list[tuple[float, float]] = []
    for cost, value in points:
        if not any(other[0] <= cost and other[1] >= value for other in front):
            front = [other for other in front if other[0] < cost or other[1] > value] + [(cost, value)]
            found.append(hypervolume(front, reference))
        else:
            found.append(found[-1])
    return np.array(found, dtype=np.float64)


def reference_point(initial: Sequence[tuple[float, float]], largest_cost: float) -> tuple[float, float]:
    """The fixed reference: the cost of the largest architecture, and the worst metric of the initial design.

    The metric is widened by a tenth of the observed range (at least 1e-6), so that the worst point itself
    dominates some area. Fixed once, so that curves of one study and of rival searches can be compared.

    Args:
        initial: pairs of cost and metric of the initial design; at least one.
        largest_cost: cost of the largest architecture of the space, in the unit of the costs.
    """
    values = [value for _, value in initial]
    width = max(0.1 * (max(values) - min(values)), 1e-6)
    return largest_cost * (1 + 1e-9), min(values) - width
