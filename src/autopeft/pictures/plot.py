"""Pictures of a study: what each one shows. `autopeft.pictures.draw` puts it on paper.

Every picture is a frozen dataclass made by a pure ``*_data`` function; it carries its own size and a description
in words (`alt`), for readers who do not see it. Values stay natural: percent of the backbone, metric as measured.

The pictures are those of AutoPEFT (arXiv 2301.12132): the front (figures 1 and 4), the layers along it (figure 6),
the cloud of trials by origin (figure 7), hypervolume against evaluations (figure 8); and learning curves and
retrained points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from autopeft.architecture import Architecture
from autopeft.errors import DataError
from autopeft.objective import FrontPoint, Scale, hypervolume_curve
from autopeft.pictures.labels import brief, metric_label, site_parts
from autopeft.trial import Trial, front_of

Band = Literal["range", "standard error"]

_MOST_PANELS = 8
_WIDEST = 11.0  # inches of panels side by side


class Picture(Protocol):
    """What every picture's data have."""

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in inches at which it reads well."""
        ...

    @property
    def alt(self) -> str:
        """What the picture shows, in words."""
        ...


@dataclass(frozen=True)
class NamedPoint:
    """A baseline or a retrained architecture: a mean metric at a cost.

    Args:
        percent: nominal parameters in percent of the backbone.
        mean: the metric, natural orientation, in the unit of the trials it is drawn with.
        std: sample standard deviation over seeds, or None when unknown or from a single seed.
        seeds: number of training runs behind the mean; 0 when it is not known.
        split: which examples the metric was computed on; empty when it is not known.
        counted: what `seeds` counts: "runs" where several of them share a seed.

    Raises:
        DataError: a number is not finite, a cost or deviation is negative, or a single seed has a deviation.
    """

    name: str
    percent: float
    mean: float
    std: float | None = None
    seeds: int = 0
    split: str = ""
    counted: Literal["seeds", "runs"] = "seeds"

    def __post_init__(self) -> None:
        spread = 0.0 if self.std is None else self.std
        problems = {
            f"its percent is {self.percent}": not 0 <= self.percent < math.inf,
            f"its mean is {self.mean}": not math.isfinite(self.mean),
            f"its standard deviation is {self.std}": not 0 <= spread < math.inf,
            f"its number of seeds is {self.seeds}": self.seeds < 0,
            "a single seed has no standard deviation": self.seeds == 1 and self.std is not None,
        }
        if any(problems.values()):
            wrong = "; ".join(problem for problem, is_so in problems.items() if is_so)
            raise DataError(f"The point {self.name!r} cannot be drawn: {wrong}.")


def evenly(n: int, most: int) -> tuple[int, ...]:
    """At most `most` of the indices 0 to n - 1, spread evenly, both ends among them."""
    if most < 1 or n < 1:
        return ()
    return tuple(sorted({round(float(i)) for i in np.linspace(0, n - 1, min(n, most))}))


# -- 1. the front --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FrontData:
    """The front picture.

    Args:
        trials: cost in percent and metric of every measured trial, in order of number.
        front: the non-dominated trials by increasing cost.
        labels: `brief` of the architecture of each point of the front.
        labelled: indices into `front` of the points that carry a label.
        shown_from: metrics below this are drawn as triangles at the lower edge, so that a diverged run does
            not flatten the picture.
    """

    title: str
    metric: str
    trials: tuple[tuple[float, float], ...]
    front: tuple[FrontPoint, ...]
    labels: tuple[str, ...]
    labelled: tuple[int, ...]
    baselines: tuple[NamedPoint, ...]
    shown_from: float

    @property
    def size(self) -> tuple[float, float]:
        """Inches; taller when there is much to explain beside it."""
        return 9.6, max(4.6, 0.34 * (len(self.labelled) + len(self.baselines)) + 0.8)

    @property
    def alt(self) -> str:
        """The front in words: its ends, its length, and the baselines."""
        if not self.front:
            return "The Pareto front: no trial has been measured yet."
        first, last = self.front[0], self.front[-1]
        text = (
            f"Pareto front of {len(self.trials)} measured trials: {len(self.front)} points, from {self.metric} "
            f"{first.value:.4g} at {first.cost:.3g} % to {last.value:.4g} at {last.cost:.3g} % of the parameters."
        )
        names = "; ".join(f"{b.name} {b.mean:.4g} at {b.percent:.3g} %" for b in self.baselines)
        return f"{text} Baselines: {names}." if names else text


def front_data(
    trials: Sequence[Trial],
    baselines: Sequence[NamedPoint] = (),
    *,
    title: str = "Pareto front",
    most_labels: int = 9,
) -> FrontData:
    """Figures 1 and 4 of AutoPEFT: measured trials, their front, and baselines.

    Args:
        most_labels: at most this many points of the front are labelled, spread evenly, both ends among them.
    """
    measured = {t.number: t for t in trials if t.measurement is not None}
    front = front_of(trials).points
    points = tuple((m.percent, m.value) for t in measured.values() if (m := t.measurement) is not None)
    values = [value for _, value in points]
    floor = float(np.quantile(values, 0.05)) if values else 0.0
    return FrontData(
        title=title,
        metric=metric_label(trials),
        trials=points,
        front=front,
        labels=tuple(brief(measured[point.key].architecture) for point in front),
        labelled=_legible(front, most_labels),
        baselines=tuple(baselines),
        shown_from=min([floor, *(point.value for point in front), *(b.mean for b in baselines)]),
    )


def _legible(front: Sequence[FrontPoint], most: int) -> tuple[int, ...]:
    """At most `most` indices of points that stand apart in the picture, both ends among them."""
    if len(front) < 2:
        return tuple(range(len(front)))[:most]
    places = [(math.log10(max(p.cost, 1e-12)), p.value) for p in front]
    width, height = places[-1][0] - places[0][0] or 1.0, places[-1][1] - places[0][1] or 1.0
    kept = [0, len(front) - 1]
    for index in range(1, len(front) - 1):
        x, y = places[index]
        if all(math.hypot((x - places[k][0]) / width, 0.7 * (y - places[k][1]) / height) > 0.04 for k in kept):
            kept.append(index)
    kept.sort()
    return tuple(kept[i] for i in evenly(len(kept), most))


# -- 2. layers and sizes along the front ---------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LayersData:
    """Which layers are on along the front, and how large each module is.

    Args:
        columns: the points of the front by increasing cost.
        rows: the layers, first at the top, counted from 1; then sites outside the layers.
        panels: one a method; or one a method and role where the roles of a layer differ in size.
        sizes: ``(panels, rows, columns)``, the largest size that stands there, 0 for none.
        frequency: ``(rows,)``, the share of columns in which anything stands in the row.
    """

    title: str
    columns: tuple[FrontPoint, ...]
    rows: tuple[str, ...]
    panels: tuple[str, ...]
    sizes: NDArray[np.int64]
    frequency: NDArray[np.float64]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of panels, the bars of frequency among them."""
        cells = len(self.panels) + 1
        fitting = max(1, min(cells, int(_WIDEST / self._panel_width)))
        down = math.ceil(cells / fitting)
        return down, math.ceil(cells / down)

    @property
    def size(self) -> tuple[float, float]:
        """Inches, growing with layers, front and panels."""
        down, across = self.grid
        return max(6.5, across * self._panel_width + 0.9), down * (0.17 * max(len(self.rows), 6) + 1.05) + 0.4

    @property
    def _panel_width(self) -> float:
        return 0.45 + 0.185 * max(len(self.columns), 7)

    @property
    def alt(self) -> str:
        """The layers in words: the most and the least used."""
        if not self.rows or not self.columns:
            return "Layers along the front: no trial has been measured yet."
        order = np.argsort(-self.frequency, kind="stable")
        top = ", ".join(f"{self.rows[i]} ({self.frequency[i]:.0%})" for i in order[:3])
        never = [self.rows[i] for i in order if self.frequency[i] == 0]
        text = f"Module sizes by layer for the {len(self.columns)} points of the front. Most used layers: {top}."
        return f"{text} Never used: {', '.join(never)}." if never else text


def layers_data(trials: Sequence[Trial], *, title: str = "Layers and sizes along the front") -> LayersData:
    """Figure 6 of AutoPEFT, for any sharing of sizes and any number of stacks.

    Every layer and method that any trial had is shown, whether or not the front uses it.
    """
    front = front_of(trials).points
    by_number = {trial.number: trial.architecture for trial in trials}
    architectures = [by_number[point.key] for point in front]
    places = sorted({(item.method, item.site) for trial in trials for item in trial.architecture})
    rows = sorted({_row_key(site) for _, site in places})
    per_role = _roles_differ(architectures, places) and len({_panel(m, s, True) for m, s in places}) <= _MOST_PANELS
    panels = sorted({_panel(method, site, per_role) for method, site in places})
    sizes = np.zeros((len(panels), len(rows), len(front)), dtype=np.int64)
    for column, architecture in enumerate(architectures):
        for item in architecture:
            cell = panels.index(_panel(item.method, item.site, per_role)), rows.index(_row_key(item.site)), column
            sizes[cell] = max(sizes[cell], item.size)
    present = sizes.any(axis=0) if panels else np.zeros((0, len(front)), dtype=np.bool_)
    frequency = present.mean(axis=1) if front else np.zeros(len(rows))
    several = len({stack for _, _, _, stack in rows}) > 1
    names = tuple(_row_name(row, several) for row in rows)
    return LayersData(title, front, names, tuple(panels), sizes, np.asarray(frequency, dtype=np.float64))


def _row_key(site: str) -> tuple[bool, int, str, str]:
    """Sorts encoder before decoder, layers by number, sites outside the layers after their stack."""
    stack, layer, role = site_parts(site)
    return stack != "encoder", 10**9 if layer is None else layer, role if layer is None else "", stack


def _row_name(row: tuple[bool, int, str, str], several: bool) -> str:
    _, layer, role, stack = row
    if role:
        return f"{stack} {role}"
    return f"{stack} {layer + 1}" if several else f"layer {layer + 1}"


def _panel(method: str, site: str, per_role: bool) -> str:
    return f"{method} at {site_parts(site)[2]}" if per_role else method


def _roles_differ(architectures: Sequence[Architecture], places: Sequence[tuple[str, str]]) -> bool:
    """Whether some layer holds one method at different sizes, or at some of its roles only."""
    roles: dict[tuple[str, str], set[str]] = {}
    for method, site in places:
        stack, layer, role = site_parts(site)
        if layer is not None:
            roles.setdefault((method, stack), set()).add(role)
    for architecture in architectures:
        layers: dict[tuple[str, str, int], dict[str, int]] = {}
        for item in architecture:
            stack, layer, role = site_parts(item.site)
            if layer is not None:
                layers.setdefault((item.method, stack, layer), {})[role] = item.size
        for (method, stack, _), found in layers.items():
            if len(set(found.values())) > 1 or len(found) < len(roles[method, stack]):
                return True
    return False


# -- 3. the cloud of trials by origin ------------------------------------------------------------------------


@dataclass(frozen=True)
class CloudSeries:
    """Trials of one origin: cost in percent and metric, in order of number."""

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
    size: tuple[float, float] = (9.6, 4.8)

    @property
    def alt(self) -> str:
        """The cloud in words: the median cost and the best metric of each origin."""
        if not self.series:
            return "Trials by origin: no trial has been measured yet."
        parts = [
            f"{series.name}: {len(series.points)} trials, median cost {series.quartiles()[1]:.3g} %, "
            f"best {max(value for _, value in series.points):.4g}"
            for series in self.series
        ]
        return f"Cost and {self.metric} of the trials by who proposed them. {'; '.join(parts)}."


def cloud_data(studies: Mapping[str, Sequence[Trial]], *, title: str = "Who proposed what") -> CloudData:
    """Figure 7 of AutoPEFT. Initial points that all studies share are one series.

    Args:
        studies: name to trials; names are shown only when there are several.
    """
    groups: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for study, trials in studies.items():
        for trial in trials:
            if (m := trial.measurement) is not None:
                groups.setdefault((trial.origin, study), []).append((m.percent, m.value))
    initial = [points for (origin, _), points in groups.items() if origin == "initial"]
    is_shared = len(studies) > 1 and len(initial) == len(studies) and all(p == initial[0] for p in initial)
    series = [CloudSeries("initial (shared)", tuple(initial[0]), True)] if is_shared else []
    for (origin, study), points in sorted(groups.items(), key=lambda item: item[0][0] != "initial"):
        if not (is_shared and origin == "initial"):
            both = len(studies) > 1 and study != origin
            name = f"{study}: {origin}" if both else origin
            series.append(CloudSeries(name, tuple(points), origin == "initial"))
    return CloudData(title, metric_label([t for trials in studies.values() for t in trials]), tuple(series))


# -- 4. hypervolume against evaluations ----------------------------------------------------------------------


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
        reference: worst cost in percent and worst metric, the same for all curves.
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
    size: tuple[float, float] = (9.6, 4.4)

    @property
    def caption(self) -> str:
        """What the lines, the band and the reference point are."""
        cost, value = self.reference
        text = f"{self.scale} cost; reference point: {cost:.4g} % and {value:.4g}"
        if any(curve.seeds > 1 for curve in self.curves):
            spread = "smallest to largest over seeds" if self.band == "range" else "± 1 standard error over seeds"
            text = f"lines: mean, bands: {spread}; {text}"
        return text

    @property
    def alt(self) -> str:
        """The final hypervolume of each sampler, in words."""
        ends = [f"{c.name} {c.mean[-1]:.5g} after {len(c.mean)}" for c in self.curves if len(c.mean)]
        return f"Hypervolume against evaluations ({self.caption}): {'; '.join(ends) or 'nothing measured yet'}."


def hypervolume_data(
    runs: Mapping[str, Sequence[Sequence[Trial]]],
    reference: tuple[float, float],
    *,
    scale: Scale = "linear",
    band: Band = "range",
    title: str = "Search progress",
) -> HypervolumeData:
    """Figure 8 of AutoPEFT: a mean line and a band a sampler.

    Every trial that counts as finished is an evaluation; a failed one leaves the volume unchanged. The curve of
    a sampler is as long as its shortest seed.

    Args:
        runs: sampler name to the trials of each of its seeds.
        reference: worst cost in percent and worst metric.
        scale: of the cost.

    Raises:
        DataError: a sampler has no seed.
    """
    empty = [name for name, seeds in runs.items() if not seeds]
    if empty:
        raise DataError(f"Every sampler needs at least one seed, but these have none: {', '.join(empty)}.")
    every_run = [trials for seeds in runs.values() for trials in seeds]
    designs = {sum(t.origin == "initial" and t.counts_as_finished for t in trials) for trials in every_run}
    curves = [_curve(name, [volumes(own, reference, scale) for own in seeds], band) for name, seeds in runs.items()]
    initial = designs.pop() if len(designs) == 1 else 0
    metric = metric_label([trial for trials in every_run for trial in trials])
    return HypervolumeData(title, metric, tuple(curves), reference, band, initial, scale)


def volumes(trials: Sequence[Trial], reference: tuple[float, float], scale: Scale = "linear") -> NDArray[np.float64]:
    """Hypervolume after each finished trial, ``(finished,)``; a failed one leaves it unchanged."""
    finished = sorted((t for t in trials if t.counts_as_finished), key=lambda t: t.number)
    # A failed trial adds a point on the reference itself, which dominates nothing.
    points = [(m.percent, m.value) if (m := t.measurement) is not None else reference for t in finished]
    return hypervolume_curve(points, reference, scale)


def _curve(name: str, volumes: Sequence[NDArray[np.float64]], band: Band) -> HypervolumeCurve:
    length = min(len(volume) for volume in volumes)
    table = np.stack([volume[:length] for volume in volumes])  # (seeds, evaluations)
    mean = table.mean(axis=0)
    if band == "range" or len(table) == 1:
        return HypervolumeCurve(name, len(table), mean, table.min(axis=0), table.max(axis=0))
    error = table.std(axis=0, ddof=1) / math.sqrt(len(table))
    return HypervolumeCurve(name, len(table), mean, mean - error, mean + error)


# -- 5. learning curves and retrained points -----------------------------------------------------------------


@dataclass(frozen=True)
class LearningCurve:
    """One training run: epochs counted from 1, the metric after each and the training loss; equal lengths."""

    name: str
    epochs: tuple[float, ...]
    values: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def best(self) -> int:
        """Index of the first epoch with the largest metric."""
        return max(range(len(self.values)), key=lambda i: (self.values[i], -i))


@dataclass(frozen=True)
class LearningData:
    """Learning curves of a few trials; each is a single training run."""

    title: str
    metric: str
    curves: tuple[LearningCurve, ...]
    size: tuple[float, float] = (9.6, 4.0)

    @property
    def alt(self) -> str:
        """The best epoch of each curve, in words."""
        parts = [f"{c.name}: best {c.values[c.best]:.4g} at epoch {c.epochs[c.best]:g}" for c in self.curves]
        return f"Learning curves, {self.metric} and training loss by epoch. {'; '.join(parts) or 'None was recorded'}."


def learning_data(
    trials: Sequence[Trial], numbers: Sequence[int] | None = None, *, most: int = 6, title: str = "Learning curves"
) -> LearningData:
    """Learning curves of the trials called `numbers`, or of points spread evenly over the front.

    Trials without a recorded history are left out.

    Args:
        most: at most this many points of the front; `numbers` are all drawn.

    Raises:
        DataError: a number is not among the measured trials.
    """
    measured = {t.number: t for t in trials if t.measurement is not None}
    unknown = sorted(set(numbers or ()) - set(measured))
    if unknown:
        raise DataError(f"Only measured trials have a learning curve, but got {', '.join(map(str, unknown))}.")
    if numbers is None:
        with_history = [t for t in measured.values() if t.measurement is not None and t.measurement.history]
        points = front_of(with_history).points
        numbers = [points[i].key for i in evenly(len(points), most)]
    curves = (_learning_curve(measured[number]) for number in numbers)
    return LearningData(title, metric_label(list(measured.values())), tuple(c for c in curves if c.epochs))


def _learning_curve(trial: Trial) -> LearningCurve:
    measurement = trial.measurement
    assert measurement is not None
    points = [point for point in measurement.history if measurement.objective in point.metrics]
    return LearningCurve(
        name=f"#{trial.number}, {measurement.percent:.3g} %",
        epochs=tuple(point.epoch for point in points),
        values=tuple(float(point.metrics[measurement.objective]) for point in points),
        losses=tuple(point.loss for point in points),
    )


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


def describe_point(point: NamedPoint) -> str:
    """``name: mean ± std (5 seeds, test)``; one run is called a single seed, and what is not known is said."""
    seeds = {0: "seeds unknown", 1: "single seed"}.get(point.seeds, f"{point.seeds} {point.counted}")
    spread = f" ± {point.std:.2g}" if point.std is not None else ""
    return f"{point.name}: {point.mean:.4g}{spread} ({seeds}, {point.split or 'split unknown'})"
