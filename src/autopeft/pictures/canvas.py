"""Paper, ink and files: what drawings share, and how a picture becomes a file.

`picture` makes the whole figure of a picture's data, `save` writes it and `svg` returns it as text. matplotlib is
imported only when something is drawn, never through pyplot, and its global settings are left as they were. Colours
are those of Okabe and Ito (2008), which colour-blind readers tell apart.
"""

from __future__ import annotations

import io
import json
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import escape

from autopeft.errors import SettingsError
from autopeft.objective import Objective
from autopeft.pictures.points import Mark, MarkedPicture, NamedPoint, Picture, describe_point
from autopeft.recognising import PRODUCER
from autopeft.writing import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5A5A5A", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
INK, FAINT, DOT = "#222222", "#d9dee3", "#9fb4c7"
_ENDINGS = (".png", ".svg", ".pdf")
_STYLE: Any = {  # what matplotlib's context takes
    "font.size": 9,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#8a939b",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": "#555b61",
    "ytick.color": "#555b61",
    "legend.frameon": False,
    "legend.fontsize": 8,
    # Without a salt matplotlib draws the identifiers in an SVG at random, and equal figures would differ.
    "svg.hashsalt": "autopeft",
    # Text in fonts of Type 42 can be searched and edited, and many publishers refuse matplotlib's usual Type 3.
    "pdf.fonttype": 42,
}


def picture(data: Picture) -> Figure:
    """The finished figure of any picture's data, at the size the data ask for."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        # Not through pyplot, which keeps every figure alive and asks for a display.
        figure = Figure(figsize=data.size, layout="constrained")
        FigureCanvasAgg(figure)
        data.draw(figure.add_subplot())
    _leave_dollars(figure)
    return figure


def _leave_dollars(figure: Figure) -> None:
    """Titles and names are a user's text: a dollar in it is no mathematics, as it is in the labels of ticks."""
    from matplotlib.axis import Tick
    from matplotlib.text import Text

    # Labels of ticks are matplotlib's own, and powers of ten in them are mathematics.
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
    # Folders are made by whoever knows that they are wanted; here a missing one is most likely a slip of the pen.
    if not target.parent.is_dir():
        raise SettingsError(f"The folder {str(target.parent)!r} for the picture {target.name!r} does not exist.")
    with write_whole(target) as part:
        _write(figure, part, target.suffix.lower()[1:], dpi)


def inline_svg(data: MarkedPicture, name: str) -> str:
    """`data` as an SVG element for a page, whose points say in a title what they are; no script is needed for that.

    Args:
        name: of the picture, put before every identifier so that those of several pictures differ.
    """
    text = svg(picture(data))
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], count=1, flags=re.S)
    # In a page of HTML an SVG needs no name spaces, and each picture would repeat them.
    text = re.sub(r' xmlns(?::xlink)?="[^"]*"', "", text, count=2)
    for gid, marks in data.marks.items():
        text = _with_titles(text, gid, marks)
    # The names of groups have done their work, and those of several pictures on a page would be the same.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    return re.sub(r"<!--.*?-->\s*", "", text, flags=re.S).replace("xlink:href", "href")


def _with_titles(text: str, gid: str, marks: Sequence[Mark]) -> str:
    """`text` with a title in every point of the collection called `gid`; the points stand in the order of `marks`."""
    start = text.find(f'<g id="{gid}">')
    # A series without points is not drawn, and there is nothing to name.
    if start < 0:
        return text
    end = _end_of_group(text, start)
    head, block, tail = text[:start], text[start:end], text[end:]
    # The shapes that are used later stand there, and are no points themselves.
    defined = block.find("</defs>") + 1
    # matplotlib writes a marker once and then uses it, or draws a path a point where there are few.
    points = list(re.finditer(r"<(use|path)\b([^>]*)/>", block[defined:]))
    if len(points) != len(marks):  # drawn as an image, or in some other way that holds no points
        return text
    parts, last = [block[:defined]], defined
    for point, mark in zip(points, marks, strict=True):
        told = escape(json.dumps(dict(mark.values), ensure_ascii=False))
        parts.append(block[last : defined + point.start()])
        parts.append(f'<{point[1]}{point[2]} class="point" data-point="{told}">')
        parts.append(f"<title>{escape(mark.title)}</title></{point[1]}>")
        last = defined + point.end()
    return head + "".join(parts) + block[last:] + tail


def _end_of_group(text: str, start: int) -> int:
    """Where the group that begins at `start` is closed."""
    depth = 0
    for tag in re.compile(r"<g\b[^>]*?(?P<empty>/?)>|</g>").finditer(text, start):
        # Groups hold groups, and no expression can count how deep.
        depth += -1 if tag[0] == "</g>" else 0 if tag["empty"] else 1
        if depth == 0:
            return tag.start()
    return len(text)


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


def frame(ax: Axes, title: str, metric: str) -> None:
    """Title, and what is measured along y."""
    ax.set_title(title)
    ax.set_ylabel(metric)


def say_nothing(ax: Axes) -> None:
    """An empty picture says that it is one."""
    text = "nothing has been measured yet"
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color="#777777", fontsize=11)


def cost_axis(ax: Axes, costs: Sequence[float], cost: Objective) -> float:
    """Make x the logarithmic cost; returns the cost at which free points are drawn, for a logarithm has no 0."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    positive = [value for value in costs if value > 0] or [1.0]
    low, high = min(positive), max(positive)
    is_free = any(value <= 0 for value in costs)
    # Half of the lowest, so that what costs nothing stands apart from what costs little.
    floor = low / 2 if is_free else low
    ax.set_xscale("log")
    # A factor and not a sum: on a logarithmic axis equal factors are equal distances.
    ax.set_xlim(floor / 1.25, high * 1.25)
    # Over two decades and less, powers of ten alone would leave an axis with one or two numbers.
    is_narrow = high / floor < 150
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if is_narrow else (1.0,)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.xaxis.set_minor_locator(NullLocator() if is_narrow else LogLocator(subs="auto"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(f"{cost.label} (log scale)" + (f"; {cost.text(0.0)} at the left edge" if is_free else ""))
    return floor


def legend(ax: Axes, title: str | None = None) -> None:
    """The key, beside the axes, where it can hide nothing; none when nothing has a name."""
    if not ax.get_legend_handles_labels()[0]:
        return
    key = ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.03), borderaxespad=0, labelspacing=0.6, title=title)
    key.set_alignment("left")
    key.get_title().set_fontsize(8)


def wrapped(text: str) -> str:
    """`text` in lines that fit beside a picture."""
    # Only plain spaces part: what follows the word "layers" stays with it.
    return textwrap.fill(text.replace("layers ", "layers\u00a0").replace("± ", "±\u00a0"), 46)


def draw_named(ax: Axes, points: Sequence[NamedPoint], floor: float, colours: Sequence[str], marker: str = "") -> None:
    """Named points in their own colours and markers, with a bar of one deviation; hollow ones are single runs."""
    for index, point in enumerate(points):
        colour = colours[index % len(colours)]
        # A marker beside the colour, for readers who do not tell colours apart and for paper.
        shape = marker or MARKERS[index % len(MARKERS)]
        # A single run has no deviation to draw a bar of, and must not look as certain as a mean whose bar is short.
        face = "white" if point.seeds == 1 else colour
        where = max(point.cost, floor), point.mean
        ax.errorbar(*where, yerr=point.std, fmt="none", ecolor=colour, elinewidth=1.1, capsize=3, zorder=5)
        label = wrapped(describe_point(point))
        ax.plot(*where, shape, ms=7, color=colour, mfc=face, mew=1.3, zorder=6, label=label)
