"""Several fronts in one picture: rival samplers, seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autopeft.objective import FrontPoint, Objective, ParetoFront
from autopeft.objectives import NOMINAL
from autopeft.pictures.canvas import COLOURS, MARKERS, cost_axis, frame, legend, say_nothing
from autopeft.pictures.labels import metric_label
from autopeft.trial import Trial, front_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class FrontsSeries:
    """The fronts of one sampler.

    Args:
        fronts: one a seed, by increasing cost.
        joint: the non-dominated points of all of them.
    """

    name: str
    fronts: tuple[ParetoFront, ...]
    joint: ParetoFront


@dataclass(frozen=True)
class FrontsData:
    """Fronts of several samplers on one task."""

    title: str
    metric: str
    series: tuple[FrontsSeries, ...]
    cost: Objective = NOMINAL
    size: tuple[float, float] = (9.6, 4.8)

    @property
    def alt(self) -> str:
        """Length and ends of each joint front, in words."""
        parts = []
        for series in self.series:
            points = series.joint.points
            if points:
                first, last = points[0], points[-1]
                parts.append(
                    f"{series.name}, {_many(len(series.fronts), 'seed')}, {_many(len(points), 'point')} "
                    f"from {first.value:.4g} at "
                    f"{self.cost.roughly(first.cost)} to {last.value:.4g} at {self.cost.roughly(last.cost)}"
                )
        return f"Pareto fronts, {self.metric}. {'; '.join(parts) or 'Nothing has been measured yet'}."

    def draw(self, ax: Axes) -> None:
        """A colour a sampler: a thin step line for each seed's front, a thick one for their joint front."""
        frame(ax, self.title, self.metric)
        fronts = [front for series in self.series for front in series.fronts]
        floor = cost_axis(ax, [point.cost for front in fronts for point in front.points], self.cost)
        if not any(len(front) for front in fronts):
            say_nothing(ax)
            return
        right = ax.get_xlim()[1]
        for index, series in enumerate(self.series):
            colour, several = COLOURS[index % len(COLOURS)], len(series.fronts) > 1
            for front in series.fronts if several else ():
                ax.plot(*_steps(front.points, floor, right), drawstyle="steps-post", color=colour, lw=0.8, alpha=0.45)
            label = f"{series.name} ({len(series.fronts)} seeds, joint)" if several else f"{series.name} (single seed)"
            costs, values = _steps(series.joint.points, floor, right)
            ax.plot(costs, values, drawstyle="steps-post", color=colour, lw=1.9, label=label, zorder=3)
            ax.plot(costs[:-1], values[:-1], MARKERS[index % len(MARKERS)], ms=4.5, color=colour, zorder=4)
        legend(ax, "thin: each seed; thick: joint front")


def _many(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def fronts_data(
    runs: Mapping[str, Sequence[Sequence[Trial]]], *, cost: Objective = NOMINAL, title: str = "Fronts by sampler"
) -> FrontsData:
    """The fronts of each sampler's seeds, and their joint front.

    Args:
        runs: sampler name to the trials of each of its seeds.
    """
    series = []
    for name, seeds in runs.items():
        fronts = tuple(front_of(trials, cost) for trials in seeds)
        joint = ParetoFront.of((point for front in fronts for point in front.points), cost)
        series.append(FrontsSeries(name, fronts, joint))
    everything = [trial for seeds in runs.values() for trials in seeds for trial in trials]
    return FrontsData(title, metric_label(everything), tuple(series), cost)


def _steps(points: Sequence[FrontPoint], floor: float, right: float) -> tuple[list[float], list[float]]:
    costs, values = [max(point.cost, floor) for point in points], [point.value for point in points]
    return [*costs, *([right] if costs else [])], [*values, *values[-1:]]
