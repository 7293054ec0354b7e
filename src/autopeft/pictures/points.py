"""What pictures have in common: what a picture is, and points that have a name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from autopeft.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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

    def draw(self, ax: Axes) -> None:
        """Put it on given axes."""
        ...


@dataclass(frozen=True)
class Mark:
    """What one drawn point says of itself to whoever asks: a line of text, and the numbers that two are compared by."""

    title: str
    values: Mapping[str, str | float]


class MarkedPicture(Picture, Protocol):
    """A picture whose points can be asked."""

    @property
    def marks(self) -> Mapping[str, Sequence[Mark]]:
        """By the name (`gid`) of a collection of points in the drawing: what each of them says, in order."""
        ...


MOST_DOTS = 400
"""Points of one kind beyond which they are drawn as one image: a vector each would make a page of megabytes."""


@dataclass(frozen=True)
class NamedPoint:
    """A baseline or a retrained architecture: a mean metric at a cost.

    Args:
        cost: in the unit of the costs that it is drawn with.
        mean: the metric, natural orientation, in the unit of the trials it is drawn with.
        std: sample standard deviation over seeds, or None when unknown or from a single seed.
        seeds: number of training runs behind the mean; 0 when it is not known.
        split: which examples the metric was computed on; empty when it is not known.
        counted: what `seeds` counts: "runs" where several of them share a seed.
        group: whose it is, for example a rival's; points of one group share a colour.
        mark: what it answers, for example a budget; points of one mark share a marker.

    Raises:
        DataError: a number is not finite, a cost or deviation is negative, or a single seed has a deviation.
    """

    name: str
    cost: float
    mean: float
    std: float | None = None
    seeds: int = 0
    split: str = ""
    counted: Literal["seeds", "runs"] = "seeds"
    group: str = ""
    mark: str = ""

    def __post_init__(self) -> None:
        spread = 0.0 if self.std is None else self.std
        problems = {
            f"its cost is {self.cost}": not 0 <= self.cost < math.inf,
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
    import numpy as np  # which a front can be shown without, sooner

    return tuple(sorted({round(float(i)) for i in np.linspace(0, n - 1, min(n, most))}))


def describe_point(point: NamedPoint) -> str:
    """``name: mean ± std (5 seeds, test)``; one run is called a single seed, and what is not known is said."""
    seeds = {0: "seeds unknown", 1: "single seed"}.get(point.seeds, f"{point.seeds} {point.counted}")
    spread = f" ± {point.std:.2g}" if point.std is not None else ""
    return f"{point.name}: {point.mean:.4g}{spread} ({seeds}, {point.split or 'split unknown'})"
