"""What is measured and what is wanted: the one owner of orientation (which way is better).

Everything outside this module speaks of natural values: accuracy up, parameters down. `Objective.maximised`
turns a natural value into one that is to be maximised; nobody else flips a sign.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from autopeft.architecture import Architecture, CountKind, Counts, ParameterBudget
from autopeft.errors import BudgetError, NonFiniteFailure, SettingsError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from autopeft.objectives._bench import Bench, Probe

Direction = Literal["maximize", "minimize"]

Known = Literal["before training", "by a short measurement", "after training"]
"""When the value of an objective can be had."""


@dataclass(frozen=True)
class Objective:
    """A named quantity: which way it improves, in which unit, how it is shown, and how it is known.

    Args:
        name: what settings and commands call it.
        direction: of a metric "maximize", of a cost "minimize".
        unit: of its values, put after them.
        label: what an axis says; the name with its unit when empty.
        heading: what a column says; the label when empty.
        about: one sentence for lists.
        key: what records call it; the name when empty.
        spec: how Python formats a value.
        count: the parameter count that it is, or None. Samplers that answer parameter budgets know no other cost.
        counted: its value by the three parameter counts.
        read: its value by what every trial has stored, also of earlier versions; None where that does not say it.
        price: its value before training, of an architecture on a bench where nothing is attached. One that is not
            measured as well asks the bench for counts alone, because trials that are attached are priced too.
        measure: a short measurement of what is attached: a record with the ``value`` and how it was come by.
        marks: limits at which architectures are usually compared.
        free: the least value whose logarithm is worth telling.
    """

    name: str
    direction: Direction = "minimize"
    unit: str = ""
    label: str = ""
    heading: str = ""
    about: str = ""
    key: str = ""
    spec: str = ".4g"
    count: CountKind | None = None
    counted: Callable[[Counts], float] | None = None
    read: Callable[[Measurement], float | None] | None = None
    price: Callable[[Bench, Architecture], float] | None = None
    measure: Callable[[Probe], Mapping[str, Any]] | None = None
    marks: tuple[float, ...] = ()
    free: float = 1e-9

    def __post_init__(self) -> None:
        label = self.label or ", ".join(part for part in (self.name, self.unit) if part)
        filled = {"label": label, "heading": self.heading or label, "key": self.key or self.name}
        for name, value in filled.items():
            object.__setattr__(self, name, value)

    @property
    def known(self) -> Known:
        """When a value can be had at the earliest."""
        if self.counted is not None or self.price is not None:
            return "before training"
        return "after training" if self.measure is None else "by a short measurement"

    # -- values ----------------------------------------------------------------------------------------------------

    def of(self, measurement: Measurement) -> float | None:
        """Its value of a measured trial; None where the trial has not stored it."""
        # What was recorded when the trial ran comes first: a count can be computed again, a clock cannot be read again.
        if (record := measurement.costs.get(self.name)) is not None:
            return float(record["value"])
        if self.counted is not None:
            return self.counted(measurement.counts)
        return None if self.read is None else self.read(measurement)

    def told(self, measurement: Measurement) -> float:
        """Its value of a measured trial.

        Raises:
            SettingsError: the trial has not stored it.
        """
        value = self.of(measurement)
        if value is None:
            raise SettingsError(f"The cost {self.name!r} is known {self.known}, but a trial has not stored it.")
        return value

    def priced(self, bench: Bench, architecture: Architecture) -> float | None:
        """Its value before training; None where only a measurement tells."""
        if self.counted is not None:
            return self.counted(bench.counts(architecture))
        return None if self.price is None else self.price(bench, architecture)

    # -- for people ------------------------------------------------------------------------------------------------

    def number(self, value: float) -> str:
        """`value` without its unit, for the cell of a table."""
        return format(value, self.spec)

    def text(self, value: float, spec: str | None = None) -> str:
        """`value` with its unit."""
        return f"{format(value, spec or self.spec)} {self.unit}".rstrip()

    def roughly(self, value: float) -> str:
        """`value` with its unit in three digits, where the sentence is about something else; counts stay whole."""
        return self.text(value, ".3g" if self.spec == ".4g" else None)

    def limits(self, text: str, counts: Counts) -> tuple[float, float]:
        """The least and the most that a person allows: ``"20 ms"``, ``"20"``, ``"5-20"``; of parameters ``"0.5%"`` too.

        Args:
            counts: of any architecture on the backbone in question.

        Raises:
            BudgetError: the text is not of these forms.
        """
        if self.counted is not None:
            budget = ParameterBudget.parse(text, counts.backbone)
            # A budget is read as a count and turned into the objective's own unit, so that each of them takes all ways
            # of writing one.
            return self.counted(replaced(counts, budget.least)), self.counted(replaced(counts, budget.most))
        number, unit = r"([0-9.]+(?:e[-+]?\d+)?)", rf"\s*(?:{re.escape(self.unit)})?\s*"
        found = re.fullmatch(rf"\s*(?:{number}{unit}-\s*)?{number}{unit}", text, re.IGNORECASE)
        try:
            least, most = (float(part) if part else 0.0 for part in found.groups()) if found else (1.0, 0.0)
        except ValueError:
            least, most = 1.0, 0.0
        if not least <= most < math.inf:
            raise BudgetError(f"A limit on {self.name} is {self.text(20)!r} or '5-20', but got {text!r}.")
        return least, most

    # -- orientation -----------------------------------------------------------------------------------------------

    def maximised(self, value: float) -> float:
        """`value`, signed so that larger is better. Its own inverse."""
        return value if self.direction == "maximize" else -value

    def better(self, first: float, second: float) -> bool:
        """Whether `first` is strictly better than `second`."""
        return self.maximised(first) > self.maximised(second)


def replaced(counts: Counts, n: int) -> Counts:
    """`n` parameters of every kind on the backbone of `counts`."""
    return Counts(n, n, n, counts.backbone)


def percent(counts: Counts, kind: CountKind = "nominal") -> float:
    """The count of `kind` in percent of the backbone's parameters."""
    return 100.0 * float(counts.of(kind)) / counts.backbone


def shares(counts: Counts) -> dict[str, float]:
    """What records say of counts beside them: the nominal parameters in percent of the backbone."""
    return {"percent": percent(counts)}


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
        latency: seconds that one evaluation batch takes, median; see `autopeft.objectives.latency`.
        costs: what objectives said of the run, by their names: each a record with a ``value`` in the unit of the
            objective, and how it was come by. Parameter counts are not among them, they are `counts`.
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
    costs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Here and not in each evaluator, since a measurement without its value would be stored and found out by
        # readers.
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
        return percent(self.counts)

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
    """A point of a front: where it came from (`key`), its cost and its metric, both natural."""

    key: int
    cost: float
    value: float


@dataclass(frozen=True)
class ParetoFront:
    """The points that no other point beats in both cost (down) and metric (up), by increasing cost.

    Args:
        cost: what their cost is, for messages.
    """

    points: tuple[FrontPoint, ...]
    cost: Objective = Objective("cost")

    @classmethod
    def of(cls, points: Iterable[FrontPoint], cost: Objective | None = None) -> ParetoFront:
        """Keep the non-dominated points; of points equal in both objectives the one with the lowest key."""
        kept: list[FrontPoint] = []
        # By cost, and the better first: one pass then suffices, and of equal points the oldest trial stays.
        for point in sorted(points, key=lambda item: (item.cost, -item.value, item.key)):
            if not kept or point.value > kept[-1].value:
                kept.append(point)
        return cls(tuple(kept), *(() if cost is None else (cost,)))

    def __len__(self) -> int:
        return len(self.points)

    def at(self, cost: float, least: float = 0.0) -> FrontPoint:
        """The point with the best metric whose cost is at most `cost` and at least `least`.

        Raises:
            BudgetError: no point of the front costs that.
        """
        # The limit was turned into the unit of the cost, which may miss a point by its last bit.
        fitting = [point for point in self.points if least * (1 - 1e-12) <= point.cost <= cost * (1 + 1e-12)]
        if not fitting:
            said = self.cost.text
            ends = [said(self.points[i].cost) for i in (0, -1)] if self.points else []
            there = f"the cheapest costs {ends[0]}, the dearest {ends[1]}" if ends else "the front is empty"
            wanted = f"at most {said(cost)}" if not least else f"{said(least)} to {said(cost)}"
            raise BudgetError(f"No point of the front costs {wanted}: {there}.")
        # Along a front the metric rises with the cost, so that the dearest that fits is the best.
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
        # Dominated points are allowed: the height at a cost is that of the best so far.
        best = max(best, value)
        right = inside[index + 1][0] if index + 1 < len(inside) else worst_cost
        area += (right - cost) * (best - worst_value)
    return area


Scale = Literal["linear", "log"]
"""Of the cost in a hypervolume: as it is, as in AutoPEFT's figure 8, or its logarithm to base 10."""


def hypervolume_curve(
    points: Sequence[tuple[float, float]], reference: tuple[float, float], scale: Scale = "linear", free: float = 1e-6
) -> NDArray[np.float64]:
    """Hypervolume after each of the first 1, 2, ... points: never falls. Shape ``(len(points),)``.

    Args:
        free: a cost below this counts as this where logarithms are taken, see `Objective.free`.
    """
    if scale == "log":
        # An architecture that costs nothing has no logarithm, and would have an area without end.
        *points, reference = [(math.log10(max(cost, free)), value) for cost, value in (*points, reference)]
    import numpy as np  # which a front can be shown without, sooner

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
    # A hair beyond the largest, so that the largest architecture itself dominates some area.
    return largest_cost * (1 + 1e-9), min(values) - width
