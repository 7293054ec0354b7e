"""Retrained architectures beside baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autopeft.objective import Objective
from autopeft.objectives import NOMINAL
from autopeft.pictures.canvas import COLOURS, INK, MARKERS, cost_axis, draw_named, frame, legend, say_nothing
from autopeft.pictures.points import NamedPoint, describe_point

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_APART = 1.035
"""Factor of the cost between points of two groups that answer the same, so that their bars do not hide each other."""


@dataclass(frozen=True)
class ResultsData:
    """Retrained architectures against baselines: means over seeds, with their standard deviation where known.

    Args:
        groups: those of the retrained points, in the order of their colours; none where points have no group.
        marks: those of the retrained points, in the order of their markers.
    """

    title: str
    metric: str
    retrained: tuple[NamedPoint, ...]
    baselines: tuple[NamedPoint, ...]
    groups: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    cost: Objective = NOMINAL

    @property
    def size(self) -> tuple[float, float]:
        """Inches; taller when there is much to name beside it."""
        n_named = len(self.baselines) + (len(self.groups) + len(self.marks) if self.groups else len(self.retrained))
        return 9.6, max(4.8, 0.4 * n_named + 0.6)

    @property
    def alt(self) -> str:
        """Every point in words."""
        points = [*self.retrained, *self.baselines]
        parts = [f"{describe_point(point)} at {self.cost.roughly(point.cost)}" for point in points]
        return f"Retrained architectures and baselines, {self.metric}. {'; '.join(parts) or 'There is none'}."

    def places(self, floor: float) -> list[tuple[float, float]]:
        """Cost and metric at which each retrained point is drawn: groups stand a little apart along the cost.

        Args:
            floor: where points that cost nothing are drawn.
        """
        middle = (len(self.groups) - 1) / 2
        steps = [self.groups.index(point.group) - middle if self.groups else 0 for point in self.retrained]
        return [
            (max(point.cost, floor) * _APART**step, point.mean)
            for point, step in zip(self.retrained, steps, strict=True)
        ]

    def draw(self, ax: Axes) -> None:
        """Means with bars of one standard deviation, a colour a group and a marker a mark; hollow: single seeds."""
        frame(ax, self.title, self.metric)
        floor = cost_axis(ax, [point.cost for point in (*self.retrained, *self.baselines)], self.cost)
        if not self.retrained and not self.baselines:
            say_nothing(ax)
            return
        if self.groups:
            self._draw_groups(ax, floor)
        else:
            for index, point in enumerate(self.retrained):
                draw_named(ax, [point], floor, COLOURS[:1], marker=MARKERS[index % len(MARKERS)])
        first = max(1, len(self.groups)) % len(COLOURS)
        draw_named(ax, self.baselines, floor, colours=COLOURS[first:])
        apart = ";\ngroups drawn a little apart" if self.groups else ""
        legend(ax, f"mean ± 1 standard deviation; hollow: single seed{apart}")

    def _draw_groups(self, ax: Axes, floor: float) -> None:
        for point, (cost, mean) in zip(self.retrained, self.places(floor), strict=True):
            colour = COLOURS[self.groups.index(point.group) % len(COLOURS)]
            shape = MARKERS[self.marks.index(point.mark) % len(MARKERS)]
            face = "white" if point.seeds == 1 else colour
            ax.errorbar(cost, mean, yerr=point.std, fmt="none", ecolor=colour, elinewidth=1.1, capsize=3, zorder=5)
            ax.plot(cost, mean, shape, ms=7, color=colour, mfc=face, mew=1.3, zorder=6)
        for number, group in enumerate(self.groups):
            ax.plot([], [], "s", ms=8, color=COLOURS[number % len(COLOURS)], label=group)
        for number, mark in enumerate(self.marks if len(self.marks) > 1 else ()):
            ax.plot([], [], MARKERS[number % len(MARKERS)], ms=7, color=INK, mfc="none", label=mark)


def results_data(
    retrained: Sequence[NamedPoint],
    baselines: Sequence[NamedPoint] = (),
    *,
    cost: Objective = NOMINAL,
    metric: str = "metric",
    title: str = "Retrained architectures",
) -> ResultsData:
    """Cost and metric of retrained points by increasing cost, and of baselines.

    Args:
        metric: what is measured; the splits of the retrained points are put before it.
    """
    ordered = tuple(sorted(retrained, key=lambda point: (point.cost, point.name)))
    splits = sorted({point.split for point in ordered if point.split})
    groups = tuple(dict.fromkeys(point.group for point in retrained)) if all(p.group for p in retrained) else ()
    marks = tuple(dict.fromkeys(point.mark for point in retrained))
    return ResultsData(
        title,
        f"{' / '.join(splits)} {metric}".strip(),
        ordered,
        tuple(baselines),
        groups=groups,
        marks=marks,
        cost=cost,
    )
