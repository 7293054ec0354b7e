"""The metric by learning rate, a line a method: the picture of a rate card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autopeft.pictures.canvas import COLOURS, MARKERS, legend
from autopeft.training.rate_card import RateCard

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class RatesData:
    """What each method alone was worth at each rate.

    Args:
        metric: its name.
        lines: by method, pairs of a learning rate and the metric of a run that came to its end, by increasing rate.
        stopped: the same of runs that were stopped early.
        chosen: by method, the rate that it has.
        baseline: the metric of always giving the same answer.
    """

    metric: str
    lines: Mapping[str, tuple[tuple[float, float], ...]]
    stopped: Mapping[str, tuple[tuple[float, float], ...]]
    chosen: Mapping[str, float]
    baseline: float
    size: tuple[float, float] = (8.0, 4.2)

    @property
    def alt(self) -> str:
        """The rate of each method, in words."""
        parts = [f"{name} {rate:.2g}" for name, rate in self.chosen.items()]
        return f"{self.metric} by learning rate, each method alone. Chosen: {', '.join(parts)}."

    def draw(self, ax: Axes) -> None:
        """A line a method, the chosen rate marked; crosses are runs that were stopped early."""
        ax.set(title="Each method alone, by learning rate", xlabel="learning rate", ylabel=self.metric, xscale="log")
        for index, (name, points) in enumerate(self.lines.items()):
            colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
            rates, values = [rate for rate, _ in points], [value for _, value in points]
            label = f"{name}: {self.chosen[name]:.2g}"
            ax.plot(rates, values, marker=marker, ms=4, lw=1.4, color=colour, label=label)
            ax.plot([r for r, _ in self.stopped[name]], [v for _, v in self.stopped[name]], "x", ms=5, color=colour)
            best = [point for point in points if point[0] == self.chosen[name]]
            ax.plot([r for r, _ in best], [v for _, v in best], "o", ms=10, mfc="none", mec=colour, mew=1.2)
        ax.axhline(self.baseline, ls=":", lw=1, color="0.5")
        legend(ax, "method: rate (ringed); × stopped early")


def rates_data(card: RateCard) -> RatesData:
    """The picture of `card`; runs that failed are left out."""
    lines, stopped = {}, {}
    for name in card.architectures:
        runs = sorted(card.last_of(name), key=lambda run: run.learning_rate)
        lines[name] = tuple((run.learning_rate, run.value) for run in runs if run.is_full and run.value is not None)
        early = tuple((run.learning_rate, run.value) for run in runs if not run.is_full and run.value is not None)
        stopped[name] = early
    return RatesData(card.objective, lines, stopped, card.rates, card.baseline)
