"""Which layers are on along the front, and how large: figure 6 of AutoPEFT."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autopeft.architecture import Architecture
from autopeft.objective import FrontPoint, Objective
from autopeft.objectives import NOMINAL
from autopeft.pictures.canvas import COLOURS, INK, say_nothing
from autopeft.pictures.labels import site_parts
from autopeft.pictures.points import evenly
from autopeft.trial import Trial, front_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_MOST_PANELS = 8


_WIDEST = 11.0  # inches of panels side by side


_MOST_NUMBERED = 20  # columns beyond which the numbers in the cells would touch


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
    cost: Objective = NOMINAL

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

    def draw(self, ax: Axes) -> None:
        """A heat map a panel (layers down, front across, colour by the log of the size), and bars of frequency."""
        ax.set_title(self.title)
        ax.axis("off")
        if not self.columns:
            say_nothing(ax)
            return
        down, across = self.grid
        height = self.size[1] - 0.4  # inches left for the panels
        above, below = 0.26 / height, 0.62 / height  # for the titles, and for the ticks under all but the last row
        tall = (1 + below) / down - above - below
        for index in range(len(self.panels) + 1):
            row, column = divmod(index, across)
            low = 1 - row * (above + tall + below) - above - tall
            inner = ax.inset_axes((column / across, low, 0.93 / across, tall))
            if index < len(self.panels):
                _draw_heat(inner, self, index)
            else:
                _draw_frequency(inner, self)
            if column:
                inner.tick_params(labelleft=False)


def layers_data(
    trials: Sequence[Trial], *, cost: Objective = NOMINAL, title: str = "Layers and sizes along the front"
) -> LayersData:
    """Figure 6 of AutoPEFT, for any sharing of sizes and any number of stacks.

    Every layer and method that any trial had is shown, whether or not the front uses it.
    """
    front = front_of(trials, cost).points
    by_number = {trial.number: trial.architecture for trial in trials}
    architectures = [by_number[point.key] for point in front]
    places = sorted({(item.method, item.site) for trial in trials for item in trial.architecture})
    rows = sorted({_row_key(site) for _, site in places})
    # A panel a role is worth its place only where roles of a layer differ, which they do not in the shared spaces.
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
    return LayersData(title, front, names, tuple(panels), sizes, np.asarray(frequency, dtype=np.float64), cost)


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


def _draw_heat(inner: Axes, data: LayersData, index: int) -> None:
    from matplotlib.colors import Normalize

    sizes = data.sizes[index]
    # By the logarithm, as the sizes to choose from are halvings.
    shade = np.ma.masked_where(sizes == 0, np.log2(np.maximum(sizes, 1)) + 1)
    largest = max(2.0, float(np.log2(max(int(sizes.max()), 1)) + 1))
    inner.pcolormesh(shade, cmap="Blues", norm=Normalize(-1, largest), edgecolors="white", linewidth=0.8)
    inner.set_facecolor("#f1f3f5")
    inner.grid(False)
    _rows_axis(inner, data)
    inner.set_title(data.panels[index], fontsize=9, pad=4)
    shown = evenly(len(data.columns), 20 if len(data.columns) <= 20 else 12)
    inner.set_xticks(
        [i + 0.5 for i in shown], [format(data.columns[i].cost, ".2g") for i in shown], rotation=90, fontsize=6.5
    )
    inner.set_xlabel(data.cost.label, fontsize=7.5)
    if len(data.columns) <= _MOST_NUMBERED:
        for row, column in np.argwhere(sizes > 0):
            dark = np.log2(sizes[row, column]) + 1 > 0.55 * largest
            colour = "white" if dark else INK
            text = f"{sizes[row, column]}"
            inner.text(column + 0.5, row + 0.53, text, ha="center", va="center", fontsize=5.6, color=colour)


def _draw_frequency(inner: Axes, data: LayersData) -> None:
    inner.barh(np.arange(len(data.rows)) + 0.5, 100 * data.frequency, height=0.72, color=COLOURS[1], alpha=0.85)
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
            inner.axhline(index, color=INK, lw=1.2)
