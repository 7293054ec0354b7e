"""All trials by who proposed them: figure 7 of AutoPEFT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autopeft.objective import Objective
from autopeft.objectives import NOMINAL
from autopeft.pictures.canvas import COLOURS, DOT, MARKERS, cost_axis, frame, legend, say_nothing
from autopeft.pictures.labels import metric_label
from autopeft.pictures.points import MOST_DOTS
from autopeft.trial import Trial, with_cost

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class CloudSeries:
    """Trials of one origin: cost and metric, in order of number."""

    name: str
    points: tuple[tuple[float, float], ...]
    is_initial: bool = False

    def quartiles(self) -> tuple[float, float, float]:
        """Lower quartile, median and upper quartile of the cost."""
        low, middle, high = np.quantile([cost for cost, _ in self.points], [0.25, 0.5, 0.75])
        return float(low), float(middle), float(high)


@dataclass(frozen=True)
class CloudData:
    """Trials by who proposed them, of one or several studies."""

    title: str
    metric: str
    series: tuple[CloudSeries, ...]
    cost: Objective = NOMINAL
    size: tuple[float, float] = (9.6, 4.8)

    @property
    def alt(self) -> str:
        """The cloud in words: the median cost and the best metric of each origin."""
        if not self.series:
            return "Trials by origin: no trial has been measured yet."
        parts = [
            f"{series.name}: {len(series.points)} trials, median cost {self.cost.roughly(series.quartiles()[1])}, "
            f"best {max(value for _, value in series.points):.4g}"
            for series in self.series
        ]
        return f"Cost and {self.metric} of the trials by who proposed them. {'; '.join(parts)}."

    def draw(self, ax: Axes) -> None:
        """One colour and marker an origin; bars above the cloud span the quartiles of the cost, dots are medians."""
        frame(ax, self.title, self.metric)
        floor = cost_axis(ax, [cost for series in self.series for cost, _ in series.points], self.cost)
        if not self.series:
            say_nothing(ax)
            return
        # Above the axes and not in them, where bars would cover the points that they sum up.
        strip = ax.inset_axes((0, 1.0, 1, 0.035 * len(self.series) + 0.02), sharex=ax)
        strip.axis("off")
        n_initial = sum(series.is_initial for series in self.series)
        for index, series in enumerate(self.series):
            # Pale, since the design is the same for everybody and the difference is in the rest.
            colour = DOT if series.is_initial else COLOURS[(index - n_initial) % len(COLOURS)]
            costs = [max(cost, floor) for cost, _ in series.points]
            values = [value for _, value in series.points]
            marker = MARKERS[index % len(MARKERS)]
            label = f"{series.name} ({len(costs)})"
            dots = ax.scatter(costs, values, 22, color=colour, marker=marker, alpha=0.75, lw=0, label=label)
            # Thousands of points as shapes make a file of megabytes, which as an image they do not.
            dots.set(zorder=2 + index, rasterized=len(costs) > MOST_DOTS)
            low, middle, high = (max(cost, floor) for cost in series.quartiles())
            strip.plot([low, high], [-index, -index], color=colour, lw=3, alpha=0.7, solid_capstyle="round")
            strip.plot(middle, -index, marker, ms=5, color=colour, mec="white", mew=0.6)
        strip.set_ylim(-len(self.series) + 0.3, 0.7)
        ax.set_title("")
        strip.set_title(self.title)  # above the bars
        legend(ax, "bars above: quartiles and\nmedian of the cost")


def cloud_data(
    studies: Mapping[str, Sequence[Trial]], *, cost: Objective = NOMINAL, title: str = "Who proposed what"
) -> CloudData:
    """Figure 7 of AutoPEFT. Initial points that all studies share are one series.

    Args:
        studies: name to trials; names are shown only when there are several.
    """
    groups: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for study, trials in studies.items():
        for trial, found, value in with_cost(trials, cost):
            groups.setdefault((trial.origin, study), []).append((value, found.value))
    initial = [points for (origin, _), points in groups.items() if origin == "initial"]
    # Rivals of one comparison begin with the same design, which drawn for each would hide itself.
    is_shared = len(studies) > 1 and len(initial) == len(studies) and all(p == initial[0] for p in initial)
    series = [CloudSeries("initial (shared)", tuple(initial[0]), True)] if is_shared else []
    for (origin, study), points in sorted(groups.items(), key=lambda item: item[0][0] != "initial"):
        if not (is_shared and origin == "initial"):
            both = len(studies) > 1 and study != origin
            name = f"{study}: {origin}" if both else origin
            series.append(CloudSeries(name, tuple(points), origin == "initial"))
    return CloudData(title, metric_label([t for trials in studies.values() for t in trials]), tuple(series), cost)
