"""Hypervolume against evaluations: figure 8 of AutoPEFT."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from autopeft.errors import DataError
from autopeft.objective import Objective, Scale, hypervolume_curve
from autopeft.objectives import NOMINAL
from autopeft.pictures.canvas import COLOURS, FAINT, frame, legend, say_nothing
from autopeft.pictures.labels import metric_label
from autopeft.trial import Trial, with_cost

if TYPE_CHECKING:
    from matplotlib.axes import Axes


Band = Literal["range", "standard error"]


@dataclass(frozen=True, eq=False)
class HypervolumeCurve:
    """Mean hypervolume of one sampler after 1, 2, ... evaluations, and its band; each ``(evaluations,)``."""

    name: str
    seeds: int
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class HypervolumeData:
    """Search progress of several samplers.

    Args:
        reference: worst cost and worst metric, the same for all curves.
        band: "range": smallest and largest over seeds; "standard error": of the mean, on either side.
        initial: evaluations of the initial design when all runs agree, else 0.
        scale: of the cost.
    """

    title: str
    metric: str
    curves: tuple[HypervolumeCurve, ...]
    reference: tuple[float, float]
    band: Band
    initial: int
    scale: Scale = "linear"
    cost: Objective = NOMINAL
    size: tuple[float, float] = (9.6, 4.4)

    @property
    def caption(self) -> str:
        """What the lines, the band and the reference point are."""
        worst, value = self.reference
        text = f"{self.scale} cost; reference point: {self.cost.text(worst)} and {value:.4g}"
        if any(curve.seeds > 1 for curve in self.curves):
            spread = "smallest to largest over seeds" if self.band == "range" else "± 1 standard error over seeds"
            text = f"lines: mean, bands: {spread}; {text}"
        return text

    @property
    def alt(self) -> str:
        """The final hypervolume of each sampler, in words."""
        ends = [f"{c.name} {c.mean[-1]:.5g} after {len(c.mean)}" for c in self.curves if len(c.mean)]
        return f"Hypervolume against evaluations ({self.caption}): {'; '.join(ends) or 'nothing measured yet'}."

    def draw(self, ax: Axes) -> None:
        """Mean lines with bands; the initial design is shaded; the reference point stands below."""
        unit = self.cost.unit or self.cost.name
        frame(ax, self.title, f"hypervolume ({unit if self.scale == 'linear' else f'log10 {unit}'} × {self.metric})")
        ax.set_xlabel(f"evaluations\n{self.caption}")
        drawn = [curve for curve in self.curves if len(curve.mean)]
        if not drawn:
            say_nothing(ax)
            return
        if self.initial:
            ax.axvspan(0.5, self.initial + 0.5, color=FAINT, alpha=0.45, lw=0, label=f"initial design ({self.initial})")
        for index, curve in enumerate(drawn):
            steps, colour = np.arange(1, len(curve.mean) + 1), COLOURS[index % len(COLOURS)]
            seeds = f"{curve.seeds} seeds" if curve.seeds > 1 else "single seed"
            style = ("-", "--", "-.", ":")[index // 2 % 4]
            ax.plot(steps, curve.mean, color=colour, lw=1.8, ls=style, label=f"{curve.name} ({seeds})", zorder=3)
            if curve.seeds > 1:
                ax.fill_between(steps, curve.low, curve.high, color=colour, alpha=0.16, lw=0)
        ax.set_xlim(0.5, max(len(curve.mean) for curve in drawn) + 0.5)
        ax.ticklabel_format(axis="y", useOffset=False)
        low, top = _lowest_shown(self.initial, drawn), max(float(curve.high[-1]) for curve in drawn)
        ax.set_ylim(low, top + 0.06 * max(top - low, 1e-9))
        legend(ax)


def hypervolume_data(
    runs: Mapping[str, Sequence[Sequence[Trial]]],
    reference: tuple[float, float],
    *,
    cost: Objective = NOMINAL,
    scale: Scale = "linear",
    band: Band = "range",
    title: str = "Search progress",
) -> HypervolumeData:
    """Figure 8 of AutoPEFT: a mean line and a band a sampler.

    Every trial that counts as finished is an evaluation; a failed one leaves the volume unchanged. The curve of
    a sampler is as long as its shortest seed.

    Args:
        runs: sampler name to the trials of each of its seeds.
        reference: worst cost and worst metric.
        scale: of the cost.

    Raises:
        DataError: a sampler has no seed.
    """
    empty = [name for name, seeds in runs.items() if not seeds]
    if empty:
        raise DataError(f"Every sampler needs at least one seed, but these have none: {', '.join(empty)}.")
    every_run = [trials for seeds in runs.values() for trials in seeds]
    designs = {sum(t.origin == "initial" and t.counts_as_finished for t in trials) for trials in every_run}
    found = {name: [volumes(own, reference, scale, cost) for own in seeds] for name, seeds in runs.items()}
    curves = [_curve(name, own, band) for name, own in found.items()]
    initial = designs.pop() if len(designs) == 1 else 0
    metric = metric_label([trial for trials in every_run for trial in trials])
    return HypervolumeData(title, metric, tuple(curves), reference, band, initial, scale, cost)


def volumes(
    trials: Sequence[Trial], reference: tuple[float, float], scale: Scale = "linear", cost: Objective = NOMINAL
) -> NDArray[np.float64]:
    """Hypervolume after each finished trial, ``(finished,)``.

    One that failed, or has not stored this cost, leaves it unchanged.
    """
    finished = sorted((t for t in trials if t.counts_as_finished), key=lambda t: t.number)
    # A failed trial adds a point on the reference itself, which dominates nothing.
    known = {trial.number: (value, found.value) for trial, found, value in with_cost(finished, cost)}
    points = [known.get(trial.number, reference) for trial in finished]
    return hypervolume_curve(points, reference, scale, cost.free)


def _curve(name: str, volumes: Sequence[NDArray[np.float64]], band: Band) -> HypervolumeCurve:
    # A mean over fewer seeds at the end would jump where a seed ends.
    length = min(len(volume) for volume in volumes)
    table = np.stack([volume[:length] for volume in volumes])  # (seeds, evaluations)
    mean = table.mean(axis=0)
    if band == "range" or len(table) == 1:
        return HypervolumeCurve(name, len(table), mean, table.min(axis=0), table.max(axis=0))
    error = table.std(axis=0, ddof=1) / math.sqrt(len(table))
    return HypervolumeCurve(name, len(table), mean, mean - error, mean + error)


def _lowest_shown(initial: int, curves: Sequence[HypervolumeCurve]) -> float:
    """Where the volume axis begins: the climb from nothing is cut, so that the search itself fills the picture."""
    top = max(float(curve.high[-1]) for curve in curves)
    start = min(float(curve.low[min(initial or len(curve.low) // 10 + 1, len(curve.low)) - 1]) for curve in curves)
    return max(start - max(top - start, 1e-9), min(float(curve.low[0]) for curve in curves))
