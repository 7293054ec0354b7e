"""Retrained architectures beside baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autopeft.pictures.canvas import COLOURS, MARKERS, cost_axis, draw_named, frame, legend, say_nothing
from autopeft.pictures.points import NamedPoint, describe_point

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class ResultsData:
    """Retrained architectures against baselines: means over seeds, with their standard deviation where known."""

    title: str
    metric: str
    retrained: tuple[NamedPoint, ...]
    baselines: tuple[NamedPoint, ...]

    @property
    def size(self) -> tuple[float, float]:
        """Inches; taller when there is much to name beside it."""
        return 9.6, max(4.4, 0.4 * (len(self.retrained) + len(self.baselines)) + 0.6)

    @property
    def alt(self) -> str:
        """Every point in words."""
        points = [*self.retrained, *self.baselines]
        parts = [f"{describe_point(point)} at {point.percent:.3g} %" for point in points]
        return f"Retrained architectures and baselines, {self.metric}. {'; '.join(parts) or 'There is none'}."

    def draw(self, ax: Axes) -> None:
        """Means with bars of one standard deviation, a colour a group; hollow markers are single seeds."""
        frame(ax, self.title, self.metric)
        floor = cost_axis(ax, [point.percent for point in (*self.retrained, *self.baselines)])
        if not self.retrained and not self.baselines:
            say_nothing(ax)
            return
        groups = list(dict.fromkeys(point.group for point in self.retrained))
        for number, group in enumerate(groups):
            own = [point for point in self.retrained if point.group == group]
            colour = COLOURS[number % len(COLOURS)]
            if group and len(own) > 1:  # points that nothing relates have no line between them
                pairs = [(max(point.percent, floor), point.mean) for point in own]
                ax.plot(*zip(*pairs, strict=True), color=colour, lw=1, ls=":", zorder=1)
            for index, point in enumerate(own):
                draw_named(ax, [point], floor, [colour], marker=MARKERS[index % len(MARKERS)])
        draw_named(ax, self.baselines, floor, colours=COLOURS[max(1, len(groups)) % len(COLOURS) :])
        legend(ax, "mean ± 1 standard deviation; hollow: single seed")


def results_data(
    retrained: Sequence[NamedPoint],
    baselines: Sequence[NamedPoint] = (),
    *,
    metric: str = "metric",
    title: str = "Retrained architectures",
) -> ResultsData:
    """Cost and metric of retrained points by increasing cost, and of baselines.

    Args:
        metric: what is measured; the splits of the retrained points are put before it.
    """
    ordered = tuple(sorted(retrained, key=lambda point: (point.percent, point.name)))
    splits = sorted({point.split for point in ordered if point.split})
    return ResultsData(title, f"{' / '.join(splits)} {metric}".strip(), ordered, tuple(baselines))
