"""Puts the pictures of `autopeft.pictures.plot` on paper.

A ``draw_*(data, ax)`` draws one picture on given axes, `picture` makes the whole figure, `save` writes it and `svg`
returns it as text. matplotlib is imported only when something is drawn, never through pyplot, and its global
settings are left as they were. Colours are those of Okabe and Ito (2008), which colour-blind readers tell apart.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autopeft.errors import SettingsError
from autopeft.objective import FrontPoint
from autopeft.pictures.fronts import FrontsData
from autopeft.pictures.plot import (
    CloudData,
    FrontData,
    HypervolumeCurve,
    HypervolumeData,
    LayersData,
    LearningData,
    NamedPoint,
    Picture,
    ResultsData,
    describe_point,
    evenly,
)
from autopeft.writing import PRODUCER, whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5A5A5A", "#000000")
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
_INK, _FAINT, _DOT = "#222222", "#d9dee3", "#9fb4c7"
_COST_LABEL = "nominal parameters, % of the backbone (log scale)"
_MOST_NUMBERED = 20  # columns beyond which the numbers in the cells would touch
_ENDINGS = (".png", ".svg", ".pdf")
_STYLE: Any = {  # what matplotlib's context takes
    "font.size": 9,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelcolor": _INK,
    "axes.edgecolor": "#8a939b",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": "#555b61",
    "ytick.color": "#555b61",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "autopeft",
    "pdf.fonttype": 42,
}


def picture(data: Picture) -> Figure:
    """The finished figure of any picture's data, at the size the data ask for.

    Raises:
        SettingsError: `data` is not one of the pictures of `autopeft.pictures.plot`.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    draw = _DRAWERS.get(type(data))
    if draw is None:
        known = ", ".join(sorted(kind.__name__ for kind in _DRAWERS))
        raise SettingsError(f"A picture is one of {known}, but got {type(data).__name__}.")
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=data.size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(data, figure.add_subplot())
    _leave_dollars(figure)
    return figure


def _leave_dollars(figure: Figure) -> None:
    """Titles and names are a user's text: a dollar in it is no mathematics, as it is in the labels of ticks."""
    from matplotlib.axis import Tick
    from matplotlib.text import Text

    of_ticks = {label for tick in figure.findobj(Tick) for label in (tick.label1, tick.label2)}
    for text in figure.findobj(Text):
        if text not in of_ticks:
            text.set_parse_math(False)


def save(figure: Figure, path: str | Path, *, dpi: int = 150) -> None:
    """Write `figure` as PNG, SVG or PDF, by the ending of `path`. Equal figures give equal bytes.

    Args:
        dpi: dots an inch; only PNG has them.

    Raises:
        SettingsError: the ending is another one, or the folder does not exist.
        WriteError: the file cannot be written; an old one still stands.
    """
    target = Path(path)
    if target.suffix.lower() not in _ENDINGS:
        raise SettingsError(f"A picture ends in {', '.join(_ENDINGS)}, but got {target.name!r}.")
    if not target.parent.is_dir():
        raise SettingsError(f"The folder {str(target.parent)!r} for the picture {target.name!r} does not exist.")
    with whole(target) as part:
        _write(figure, part, target.suffix.lower()[1:], dpi)


def svg(figure: Figure) -> str:
    """`figure` as SVG text on a transparent ground; letters are outlines, so no font is needed."""
    buffer = io.BytesIO()
    _write(figure, buffer, "svg", dpi=100, ground="none")
    return buffer.getvalue().decode()


def _write(figure: Figure, target: Any, kind: str, dpi: int, ground: str = "white") -> None:
    import matplotlib

    # A date in the file would make equal figures differ.
    metadata = {
        "svg": {"Date": None, "Creator": PRODUCER},
        "pdf": {"CreationDate": None, "Creator": PRODUCER},
        "png": {"Software": PRODUCER},
    }[kind]
    with matplotlib.rc_context(_STYLE):
        figure.savefig(target, format=kind, dpi=dpi, metadata=metadata, facecolor=ground)


def _frame(ax: Axes, title: str, metric: str) -> None:
    ax.set_title(title)
    ax.set_ylabel(metric)


def _say_nothing(ax: Axes) -> None:
    text = "nothing has been measured yet"
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color="#777777", fontsize=11)


def _cost_axis(ax: Axes, costs: Sequence[float]) -> float:
    """Make x the logarithmic cost; returns the cost at which free points are drawn, for a logarithm has no 0."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    positive = [cost for cost in costs if cost > 0] or [1.0]
    low, high = min(positive), max(positive)
    is_free = any(cost <= 0 for cost in costs)
    floor = low / 2 if is_free else low
    ax.set_xscale("log")
    ax.set_xlim(floor / 1.25, high * 1.25)
    is_narrow = high / floor < 150
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if is_narrow else (1.0,)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.xaxis.set_minor_locator(NullLocator() if is_narrow else LogLocator(subs="auto"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(_COST_LABEL + ("; 0 % at the left edge" if is_free else ""))
    return floor


def _legend(ax: Axes, title: str | None = None) -> None:
    """The key, beside the axes, where it can hide nothing; none when nothing has a name."""
    if not ax.get_legend_handles_labels()[0]:
        return
    key = ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.03), borderaxespad=0, labelspacing=0.6, title=title)
    key.set_alignment("left")
    key.get_title().set_fontsize(8)


def _wrapped(text: str) -> str:
    # Only plain spaces part: what follows the word "layers" stays with it.
    return textwrap.fill(text.replace("layers ", "layers\u00a0").replace("± ", "±\u00a0"), 46)


def draw_front(data: FrontData, ax: Axes) -> None:
    """Light dots for trials, a step line for the front with numbered points, a marker for each baseline."""
    _frame(ax, data.title, data.metric)
    costs = [cost for cost, _ in data.trials] + [b.percent for b in data.baselines]
    if not data.trials:
        _say_nothing(ax)
    floor = _cost_axis(ax, costs)
    _draw_trials(ax, data, floor)
    if data.front:
        _draw_steps(ax, data.front, floor, "Pareto front")
    for index in data.labelled:
        point = data.front[index]
        where = (max(point.cost, floor), point.value)
        ax.plot(*where, "o", ms=10.5, mfc="white", mec=_COLOURS[0], mew=1.3, zorder=5)
        ax.annotate(str(index + 1), where, ha="center", va="center_baseline", fontsize=6.5, zorder=6)
        text = _wrapped(f"{data.labels[index]} ({point.cost:.2g}\u00a0%)")
        digits = 5.5 if index < 9 else 9
        ax.plot(
            [], [], marker=f"$\\mathdefault{{{index + 1}}}$", ls="", mew=0, color=_COLOURS[0], ms=digits, label=text
        )
    _draw_named(ax, data.baselines, floor, colours=_COLOURS[1:])
    _legend(ax)


def _draw_trials(ax: Axes, data: FrontData, floor: float) -> None:
    shown = [(max(c, floor), v) for c, v in data.trials if v >= data.shown_from]
    below = [(max(c, floor), data.shown_from) for c, v in data.trials if v < data.shown_from]
    if shown:
        label = f"trials ({len(data.trials)})"
        ax.scatter([c for c, _ in shown], [v for _, v in shown], 16, _DOT, alpha=0.75, lw=0, zorder=2, label=label)
    if below:
        label = f"{len(below)} trial{'s' * (len(below) > 1)} below {data.shown_from:.3g}"
        ax.scatter([c for c, _ in below], [v for _, v in below], 16, _DOT, marker="v", lw=0, zorder=2, label=label)


def _draw_steps(ax: Axes, front: Sequence[FrontPoint], floor: float, label: str) -> None:
    right = max(ax.get_xlim()[1], front[-1].cost)
    costs = [*(max(point.cost, floor) for point in front), right]
    values = [*(point.value for point in front), front[-1].value]
    ax.plot(costs, values, drawstyle="steps-post", color=_COLOURS[0], lw=1.6, zorder=3, label=label)
    ax.plot(costs[:-1], values[:-1], "o", ms=3.6, color=_COLOURS[0], zorder=4)


def _draw_named(ax: Axes, points: Sequence[NamedPoint], floor: float, colours: Sequence[str], marker: str = "") -> None:
    for index, point in enumerate(points):
        colour = colours[index % len(colours)]
        shape = marker or _MARKERS[index % len(_MARKERS)]
        face = "white" if point.seeds == 1 else colour
        where = max(point.percent, floor), point.mean
        ax.errorbar(*where, yerr=point.std, fmt="none", ecolor=colour, elinewidth=1.1, capsize=3, zorder=5)
        label = _wrapped(describe_point(point))
        ax.plot(*where, shape, ms=7, color=colour, mfc=face, mew=1.3, zorder=6, label=label)


def draw_layers(data: LayersData, ax: Axes) -> None:
    """A heat map a panel (layers down, front across, colour by the logarithm of the size), and bars of frequency."""
    ax.set_title(data.title)
    ax.axis("off")
    if not data.columns:
        _say_nothing(ax)
        return
    down, across = data.grid
    height = data.size[1] - 0.4  # inches left for the panels
    above, below = 0.26 / height, 0.62 / height  # for the titles, and for the ticks under all but the last row
    tall = (1 + below) / down - above - below
    for index in range(len(data.panels) + 1):
        row, column = divmod(index, across)
        low = 1 - row * (above + tall + below) - above - tall
        inner = ax.inset_axes((column / across, low, 0.93 / across, tall))
        if index < len(data.panels):
            _draw_heat(inner, data, index)
        else:
            _draw_frequency(inner, data)
        if column:
            inner.tick_params(labelleft=False)


def _draw_heat(inner: Axes, data: LayersData, index: int) -> None:
    from matplotlib.colors import Normalize

    sizes = data.sizes[index]
    shade = np.ma.masked_where(sizes == 0, np.log2(np.maximum(sizes, 1)) + 1)
    largest = max(2.0, float(np.log2(max(int(sizes.max()), 1)) + 1))
    inner.pcolormesh(shade, cmap="Blues", norm=Normalize(-1, largest), edgecolors="white", linewidth=0.8)
    inner.set_facecolor("#f1f3f5")
    inner.grid(False)
    _rows_axis(inner, data)
    inner.set_title(data.panels[index], fontsize=9, pad=4)
    shown = evenly(len(data.columns), 20 if len(data.columns) <= 20 else 12)
    inner.set_xticks(
        [i + 0.5 for i in shown], [f"{data.columns[i].cost:.2g}" for i in shown], rotation=90, fontsize=6.5
    )
    inner.set_xlabel("% of the backbone", fontsize=7.5)
    if len(data.columns) <= _MOST_NUMBERED:
        for row, column in np.argwhere(sizes > 0):
            dark = np.log2(sizes[row, column]) + 1 > 0.55 * largest
            colour = "white" if dark else _INK
            text = f"{sizes[row, column]}"
            inner.text(column + 0.5, row + 0.53, text, ha="center", va="center", fontsize=5.6, color=colour)


def _draw_frequency(inner: Axes, data: LayersData) -> None:
    inner.barh(np.arange(len(data.rows)) + 0.5, 100 * data.frequency, height=0.72, color=_COLOURS[1], alpha=0.85)
    _rows_axis(inner, data)
    inner.set_xlim(0, 100)
    inner.set_title("how often", fontsize=9, pad=4)
    inner.set_xlabel("% of the front's points", fontsize=7.5)
    inner.tick_params(axis="x", labelsize=7)
    inner.grid(False, axis="y")


def _rows_axis(inner: Axes, data: LayersData) -> None:
    inner.set_ylim(len(data.rows), 0)
    inner.set_yticks([i + 0.5 for i in range(len(data.rows))], list(data.rows), fontsize=7)
    inner.tick_params(length=0)
    for spine in inner.spines.values():
        spine.set_visible(False)
    stacks = [name.split()[0] for name in data.rows]
    for index in range(1, len(stacks)):
        if stacks[index] != stacks[index - 1]:
            inner.axhline(index, color=_INK, lw=1.2)


def draw_cloud(data: CloudData, ax: Axes) -> None:
    """One colour and marker an origin; bars above the cloud span the quartiles of the cost, dots are medians."""
    _frame(ax, data.title, data.metric)
    floor = _cost_axis(ax, [cost for series in data.series for cost, _ in series.points])
    if not data.series:
        _say_nothing(ax)
        return
    strip = ax.inset_axes((0, 1.0, 1, 0.035 * len(data.series) + 0.02), sharex=ax)
    strip.axis("off")
    n_initial = sum(series.is_initial for series in data.series)
    for index, series in enumerate(data.series):
        colour = _DOT if series.is_initial else _COLOURS[(index - n_initial) % len(_COLOURS)]
        costs = [max(cost, floor) for cost, _ in series.points]
        values = [value for _, value in series.points]
        marker = _MARKERS[index % len(_MARKERS)]
        label = f"{series.name} ({len(costs)})"
        ax.scatter(costs, values, s=22, color=colour, marker=marker, alpha=0.75, lw=0, label=label, zorder=2 + index)
        low, middle, high = (max(cost, floor) for cost in series.quartiles())
        strip.plot([low, high], [-index, -index], color=colour, lw=3, alpha=0.7, solid_capstyle="round")
        strip.plot(middle, -index, marker, ms=5, color=colour, mec="white", mew=0.6)
    strip.set_ylim(-len(data.series) + 0.3, 0.7)
    ax.set_title("")
    strip.set_title(data.title)  # above the bars
    _legend(ax, "bars above: quartiles and\nmedian of the cost")


def draw_fronts(data: FrontsData, ax: Axes) -> None:
    """A colour a sampler: a thin step line for each seed's front, a thick one for their joint front."""
    _frame(ax, data.title, data.metric)
    fronts = [front for series in data.series for front in series.fronts]
    floor = _cost_axis(ax, [point.cost for front in fronts for point in front.points])
    if not any(len(front) for front in fronts):
        _say_nothing(ax)
        return
    right = ax.get_xlim()[1]
    for index, series in enumerate(data.series):
        colour, several = _COLOURS[index % len(_COLOURS)], len(series.fronts) > 1
        for front in series.fronts if several else ():
            ax.plot(*_steps(front.points, floor, right), drawstyle="steps-post", color=colour, lw=0.8, alpha=0.45)
        label = f"{series.name} ({len(series.fronts)} seeds, joint)" if several else f"{series.name} (single seed)"
        costs, values = _steps(series.joint.points, floor, right)
        ax.plot(costs, values, drawstyle="steps-post", color=colour, lw=1.9, label=label, zorder=3)
        ax.plot(costs[:-1], values[:-1], _MARKERS[index % len(_MARKERS)], ms=4.5, color=colour, zorder=4)
    _legend(ax, "thin: each seed; thick: joint front")


def _steps(points: Sequence[FrontPoint], floor: float, right: float) -> tuple[list[float], list[float]]:
    costs, values = [max(point.cost, floor) for point in points], [point.value for point in points]
    return [*costs, *([right] if costs else [])], [*values, *values[-1:]]


def draw_hypervolume(data: HypervolumeData, ax: Axes) -> None:
    """Mean lines with bands; the initial design is shaded; the reference point stands below."""
    _frame(ax, data.title, f"hypervolume ({'%' if data.scale == 'linear' else 'log10 %'} × {data.metric})")
    ax.set_xlabel(f"evaluations\n{data.caption}")
    drawn = [curve for curve in data.curves if len(curve.mean)]
    if not drawn:
        _say_nothing(ax)
        return
    if data.initial:
        ax.axvspan(0.5, data.initial + 0.5, color=_FAINT, alpha=0.45, lw=0, label=f"initial design ({data.initial})")
    for index, curve in enumerate(drawn):
        steps, colour = np.arange(1, len(curve.mean) + 1), _COLOURS[index % len(_COLOURS)]
        seeds = f"{curve.seeds} seeds" if curve.seeds > 1 else "single seed"
        style = ("-", "--", "-.", ":")[index // 2 % 4]
        ax.plot(steps, curve.mean, color=colour, lw=1.8, ls=style, label=f"{curve.name} ({seeds})", zorder=3)
        if curve.seeds > 1:
            ax.fill_between(steps, curve.low, curve.high, color=colour, alpha=0.16, lw=0)
    ax.set_xlim(0.5, max(len(curve.mean) for curve in drawn) + 0.5)
    ax.ticklabel_format(axis="y", useOffset=False)
    low, top = _lowest_shown(data.initial, drawn), max(float(curve.high[-1]) for curve in drawn)
    ax.set_ylim(low, top + 0.06 * max(top - low, 1e-9))
    _legend(ax)


def _lowest_shown(initial: int, curves: Sequence[HypervolumeCurve]) -> float:
    """Where the volume axis begins: the climb from nothing is cut, so that the search itself fills the picture."""
    top = max(float(curve.high[-1]) for curve in curves)
    start = min(float(curve.low[min(initial or len(curve.low) // 10 + 1, len(curve.low)) - 1]) for curve in curves)
    return max(start - max(top - start, 1e-9), min(float(curve.low[0]) for curve in curves))


def draw_learning(data: LearningData, ax: Axes) -> None:
    """The metric by epoch on the left, the best epoch ringed; the training loss on the right."""
    from matplotlib.ticker import MaxNLocator

    ax.set_title(data.title)
    ax.axis("off")
    if not data.curves:
        _say_nothing(ax)
        return
    left, right = ax.inset_axes((0, 0, 0.46, 0.97)), ax.inset_axes((0.56, 0, 0.44, 0.97))
    for index, curve in enumerate(data.curves):
        colour, style = _COLOURS[index % len(_COLOURS)], ("-", "--")[index // len(_COLOURS) % 2]
        left.plot(curve.epochs, curve.values, style, color=colour, lw=1.5, marker="o", ms=2.5)
        best = (curve.epochs[curve.best], curve.values[curve.best])
        left.plot(*best, "o", ms=8, mfc="none", mec=colour, mew=1.2)
        right.plot(curve.epochs, curve.losses, style, color=colour, lw=1.5, label=curve.name)
    left.set(xlabel="epoch (best one ringed)", ylabel=data.metric)
    right.set(xlabel="epoch", ylabel="training loss")
    for inner in (left, right):
        inner.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(right, "trial, cost; single seeds")


def draw_results(data: ResultsData, ax: Axes) -> None:
    """Means with bars of one standard deviation; hollow markers are single seeds."""
    _frame(ax, data.title, data.metric)
    floor = _cost_axis(ax, [point.percent for point in (*data.retrained, *data.baselines)])
    if not data.retrained and not data.baselines:
        _say_nothing(ax)
        return
    if len(data.retrained) > 1:
        pairs = [(max(point.percent, floor), point.mean) for point in data.retrained]
        ax.plot(*zip(*pairs, strict=True), color=_COLOURS[0], lw=1, ls=":", zorder=1)
    for index, point in enumerate(data.retrained):
        _draw_named(ax, [point], floor, _COLOURS[:1], marker=_MARKERS[index % len(_MARKERS)])
    _draw_named(ax, data.baselines, floor, colours=_COLOURS[1:])
    _legend(ax, "mean ± 1 standard deviation; hollow: single seed")


_DRAWERS: dict[type, Callable[[Any, Axes], None]] = {
    FrontData: draw_front,
    LayersData: draw_layers,
    CloudData: draw_cloud,
    FrontsData: draw_fronts,
    HypervolumeData: draw_hypervolume,
    LearningData: draw_learning,
    ResultsData: draw_results,
}
