"""The Pareto front among all trials: figures 1 and 4 of AutoPEFT."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autopeft.objective import FrontPoint, Objective
from autopeft.objectives import NOMINAL
from autopeft.pictures.canvas import COLOURS, DOT, cost_axis, draw_named, frame, legend, say_nothing, wrapped
from autopeft.pictures.labels import brief, metric_label
from autopeft.pictures.points import MOST_DOTS, Mark, NamedPoint, describe_point, evenly
from autopeft.trial import Trial, front_of, with_cost

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class FrontData:
    """The front picture.

    Args:
        trials: cost and metric of every measured trial, in order of number.
        numbers: of the trials.
        front: the non-dominated trials by increasing cost.
        labels: `brief` of the architecture of each point of the front, and who found it.
        baselines: measured on the trials' own split, or on one that is not known.
        labelled: indices into `front` of the points that carry a label.
        shown_from: metrics below this are drawn as triangles at the lower edge, so that a diverged run does
            not flatten the picture.
        beside: baselines measured on another split than the trials, in a panel of their own below: a mean on the test
            part is not to be compared with the best of many values on validation.
        details: what each trial says of itself.
    """

    title: str
    metric: str
    trials: tuple[tuple[float, float], ...]
    numbers: tuple[int, ...]
    front: tuple[FrontPoint, ...]
    labels: tuple[str, ...]
    labelled: tuple[int, ...]
    baselines: tuple[NamedPoint, ...]
    shown_from: float
    beside: tuple[NamedPoint, ...] = ()
    details: tuple[Mark, ...] = ()
    cost: Objective = NOMINAL

    @property
    def marks(self) -> dict[str, list[Mark]]:
        """What every dot says, by the part of the drawing that it is in; of many trials, those of the front alone."""
        marks = dict(zip(self.numbers, self.details, strict=True))
        front = {"front-points": [marks[int(point.key)] for point in self.front]}
        if len(self.trials) > MOST_DOTS:
            return front
        pairs = list(zip(self.trials, self.details, strict=True))
        return front | {
            "trial-dots": [mark for (_, value), mark in pairs if value >= self.shown_from],
            "low-dots": [mark for (_, value), mark in pairs if value < self.shown_from],
        }

    @property
    def size(self) -> tuple[float, float]:
        """Inches; taller when there is much to explain beside it."""
        main = max(4.6, 0.4 * (len(self.labelled) + len(self.baselines)) + 0.8)
        return 9.6, main + (max(1.9, 0.34 * len(self.beside) + 0.9) if self.beside else 0.0)

    @property
    def alt(self) -> str:
        """The front in words: its ends, its length, and the baselines."""
        if not self.front:
            return "The Pareto front: no trial has been measured yet."
        first, last = self.front[0], self.front[-1]
        text = (
            f"Pareto front of {len(self.trials)} measured trials: {len(self.front)} points, from {self.metric} "
            f"{first.value:.4g} at {self.cost.roughly(first.cost)} to {last.value:.4g} at "
            f"{self.cost.roughly(last.cost)}, {self.cost.label}."
        )
        names = "; ".join(f"{b.name} {b.mean:.4g} at {self.cost.roughly(b.cost)}" for b in self.baselines)
        others = "; ".join(f"{describe_point(b)} at {self.cost.roughly(b.cost)}" for b in self.beside)
        text += f" Baselines: {names}." if names else ""
        return f"{text} In a panel of their own, on other examples: {others}." if others else text

    def draw(self, ax: Axes) -> None:
        """Light dots for trials, a step line for the front with numbered points, a marker for each baseline."""
        costs = [cost for cost, _ in self.trials] + [b.cost for b in (*self.baselines, *self.beside)]
        if self.beside:
            low, gap = 1.1 / self.size[1], 0.7 / self.size[1]  # inches, as shares of the height
            ax.axis("off")
            self._draw_beside(ax.inset_axes((0, 0, 1, low)), costs)
            ax = ax.inset_axes((0, low + gap, 1, 1 - low - gap))
        frame(ax, self.title, self.metric)
        if not self.trials:
            say_nothing(ax)
        floor = cost_axis(ax, costs, self.cost)
        _draw_trials(ax, self, floor)
        if self.front:
            _draw_steps(ax, self.front, floor, "Pareto front")
        for index in self.labelled:
            point = self.front[index]
            where = (max(point.cost, floor), point.value)
            ax.plot(*where, "o", ms=10.5, mfc="white", mec=COLOURS[0], mew=1.3, zorder=5)
            ax.annotate(str(index + 1), where, ha="center", va="center_baseline", fontsize=6.5, zorder=6)
            text = wrapped(f"{self.labels[index]} ({self.cost.text(point.cost, '.2g')})")
            digits = 5.5 if index < 9 else 9
            ax.plot(
                [], [], marker=f"$\\mathdefault{{{index + 1}}}$", ls="", mew=0, color=COLOURS[0], ms=digits, label=text
            )
        draw_named(ax, self.baselines, floor, colours=COLOURS[1:])
        legend(ax)

    def _draw_beside(self, ax: Axes, costs: Sequence[float]) -> None:
        splits = ", ".join(sorted({point.split for point in self.beside}))
        floor = cost_axis(ax, costs, self.cost)
        ax.set_ylabel(f"{splits}, mean")
        draw_named(ax, self.beside, floor, colours=COLOURS[1:])
        legend(ax, f"on {splits}, not on the trials' split")


def front_data(
    trials: Sequence[Trial],
    baselines: Sequence[NamedPoint] = (),
    *,
    cost: Objective = NOMINAL,
    title: str = "Pareto front",
    most_labels: int = 9,
) -> FrontData:
    """Figures 1 and 4 of AutoPEFT: measured trials, their front, and baselines.

    Args:
        most_labels: at most this many points of the front are labelled, spread evenly, both ends among them.
    """
    costed = with_cost(trials, cost)
    measured, front = {trial.number: trial for trial, _, _ in costed}, front_of(trials, cost).points
    points = tuple((value, found.value) for _, found, value in costed)
    values = [value for _, value in points]
    splits = {m.split for t in measured.values() if (m := t.measurement) is not None}
    same = [point for point in baselines if not splits or point.split in ("", *splits)]
    wanted = measured if len(measured) <= MOST_DOTS else [int(point.key) for point in front]
    labels = {number: brief(measured[number].candidate) for number in wanted}
    floor = float(np.quantile(values, 0.05)) if values else 0.0
    return FrontData(
        title=title,
        metric=metric_label(trials),
        trials=points,
        numbers=tuple(measured),
        front=front,
        labels=tuple(f"{labels[int(point.key)]}, {measured[int(point.key)].origin}" for point in front),
        labelled=_legible(front, most_labels),
        baselines=tuple(same),
        shown_from=min([floor, *(point.value for point in front), *(b.mean for b in same)]),
        beside=tuple(point for point in baselines if point not in same),
        details=tuple(_mark(trial, labels.get(trial.number, ""), cost) for trial in measured.values()),
        cost=cost,
    )


def _mark(trial: Trial, label: str, cost: Objective) -> Mark:
    """What a trial says: its number, who found it and from which seed, its metric and cost, and what it is."""
    found = trial.measurement
    assert found is not None  # only measured trials are drawn
    spent = cost.told(found)
    title = (
        f"#{trial.number}, found by {trial.origin}, seed {trial.seed}: {found.split} {found.objective} "
        f"{found.value:.4f} at {cost.text(spent)}: {label}"
    )
    values: dict[str, str | float] = {
        "trial": f"#{trial.number}", "found by": f"{trial.origin}, seed {trial.seed}", "architecture": label,
        f"{found.split} {found.objective}": round(found.value, 6), cost.heading: float(f"{spent:.6g}"),
        "stored parameters": found.counts.stored, "trained parameters": found.counts.trained,
        "seconds of training": round(found.seconds, 2),
    }  # fmt: skip
    return Mark(title, values)


def _legible(front: Sequence[FrontPoint], most: int) -> tuple[int, ...]:
    """At most `most` indices of points that stand apart in the picture, both ends among them."""
    if len(front) < 2:
        return tuple(range(len(front)))[:most]
    # In the units of the drawing, where two points may lie on each other that differ much in numbers.
    places = [(math.log10(max(p.cost, 1e-12)), p.value) for p in front]
    width, height = places[-1][0] - places[0][0] or 1.0, places[-1][1] - places[0][1] or 1.0
    kept = [0, len(front) - 1]
    for index in range(1, len(front) - 1):
        x, y = places[index]
        if all(math.hypot((x - places[k][0]) / width, 0.7 * (y - places[k][1]) / height) > 0.04 for k in kept):
            kept.append(index)
    kept.sort()
    return tuple(kept[i] for i in evenly(len(kept), most))


def _draw_trials(ax: Axes, data: FrontData, floor: float) -> None:
    shown = [(max(c, floor), v) for c, v in data.trials if v >= data.shown_from]
    below = [(max(c, floor), data.shown_from) for c, v in data.trials if v < data.shown_from]
    if shown:
        label = f"trials ({len(data.trials)})"
        dots = ax.scatter([c for c, _ in shown], [v for _, v in shown], 16, DOT, alpha=0.75, lw=0, label=label)
        dots.set(zorder=2, rasterized=len(data.trials) > MOST_DOTS, gid="trial-dots")
    if below:
        label = f"{len(below)} trial{'s' * (len(below) > 1)} below {data.shown_from:.3g}"
        dots = ax.scatter([c for c, _ in below], [v for _, v in below], 16, DOT, marker="v", lw=0, label=label)
        dots.set(zorder=2, rasterized=len(data.trials) > MOST_DOTS, gid="low-dots")


def _draw_steps(ax: Axes, front: Sequence[FrontPoint], floor: float, label: str) -> None:
    right = max(ax.get_xlim()[1], front[-1].cost)
    costs = [*(max(point.cost, floor) for point in front), right]
    values = [*(point.value for point in front), front[-1].value]
    # In steps: between two points the cheaper one is the best that can be had, and nothing in between.
    ax.plot(costs, values, drawstyle="steps-post", color=COLOURS[0], lw=1.6, zorder=3, label=label)
    ax.plot(costs[:-1], values[:-1], "o", ms=3.6, color=COLOURS[0], zorder=4)
    # Over all else and unseen: large enough to be met with a pointer.
    ax.scatter(costs[:-1], values[:-1], 130, "black", alpha=0, lw=0, zorder=9, gid="front-points")
