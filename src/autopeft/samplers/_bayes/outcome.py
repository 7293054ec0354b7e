"""The scales of the two objectives of a search: transforms of measured values, and the axis of a known cost.

A rank transform makes the search indifferent to monotone rescaling of an objective. AutoPEFT's release takes the
empirical distribution function through the inverse normal one, with the best of n values at F = 1, clamped to
0.9999: the best lands at +3.72 and the second best of 100 at +2.33, an outlier of the transform's own making.
Ranks that are shifted by one half have no such outlier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from autopeft.architecture import CountKind
from autopeft.spaces.lattice import Configuration, SearchSpace

TransformKind = Literal["rank-normal", "ecdf", "z-score", "clipped"]
CostScale = Literal["linear", "log", "rank"]

Values = NDArray[np.float64]

Price = Callable[[Configuration], float]
"""The cost of a configuration before it is trained, in the unit of the objective."""

_CLAMP = (1e-4, 0.9999)
_LOWEST = -3.0
_LEAST_WIDTH = 1e-3
# Random architectures that define the scale "rank", and the seed of that draw, the same for every study.
_RANKED, _RANK_SEED = 2048, 0
_PRICED = 256
"""Random architectures whose prices are the ends of an axis."""


@dataclass(frozen=True)
class OutcomeTransform:
    """A never-falling map from natural or maximised values to the scale of a surrogate.

    Args:
        kind: "rank-normal": inverse normal of (average rank - 0.5) / n; a value between observed ones gets the
            share of observations below it, one outside them a quarter of a rank beyond the end. "ecdf": inverse
            normal of the share of observations at most the value, clamped to 1e-4 and 0.9999 (AutoPEFT's
            released code). "z-score": minus mean, by standard deviation (n - 1; 1 where that is 0 or unknown).
            "clipped": minus the median, by the spread of the upper half about it (1 where that is 0), and no lower than
            -3: runs that collapsed do not squeeze the good ones together, and these keep their metric's own distances.
        observed: the values that define it; at least one.
    """

    kind: TransformKind
    observed: tuple[float, ...]

    def __call__(self, values: Sequence[float] | Values) -> Values:
        """The transformed `values`, shape ``(n,)``."""
        x = np.asarray(values, dtype=np.float64)
        seen = np.sort(np.asarray(self.observed, dtype=np.float64))
        if self.kind == "z-score":
            spread = float(seen.std(ddof=1)) if len(seen) > 1 else 0.0
            return np.asarray((x - seen.mean()) / _unless_none(spread, float(seen.mean())))
        if self.kind == "clipped":
            middle, spread = self._upper
            return np.maximum((x - middle) / spread, _LOWEST)
        # Equal values share the middle of their ranks; many architectures of a small validation part measure the same.
        below = np.searchsorted(seen, x, side="left")
        at_most = np.searchsorted(seen, x, side="right")
        n = len(seen)
        if self.kind == "ecdf":
            return np.asarray(ndtri(np.clip(at_most / n, *_CLAMP)))
        return np.asarray(ndtri(np.clip((below + at_most) / (2 * n), 0.25 / n, 1 - 0.25 / n)))

    def widths(self, values: Values, widths: Values) -> Values:
        """What standard deviations `widths` of `values` become, ``(n,)``; never none.

        Half of what one up and one down makes: ranks are flat beyond the observed values and steep where these are
        dense, so that their slope alone would not do. What is clipped stays as noisy as the rest.
        """
        if self.kind == "clipped":
            return np.maximum(widths / self._upper[1], _LEAST_WIDTH)
        return np.maximum((self(values + widths) - self(values - widths)) / 2, _LEAST_WIDTH)

    @property
    def _upper(self) -> tuple[float, float]:
        """The median, and the spread of the upper half about it."""
        seen = np.asarray(self.observed, dtype=np.float64)
        middle = float(np.median(seen))
        spread = float(np.sqrt(np.mean((seen[seen >= middle] - middle) ** 2)))
        return middle, _unless_none(spread, middle)


def _unless_none(spread: float, size: float) -> float:
    """`spread`, or 1 where it is nothing but rounding of values of this size."""
    return spread if spread > 1e-12 * (1 + abs(size)) else 1.0


@dataclass(frozen=True)
class CostAxis:
    """An increasing map from costs to the scale on which the hypervolume is spanned: 0 to 1.

    0 is the cheapest architecture and 1 the dearest that is allowed, which is also the reference.
    """

    scale: CostScale
    low: float
    high: float
    drawn: tuple[float, ...] = ()
    free: float = 0.5

    @classmethod
    def of(cls, space: SearchSpace, scale: CostScale, kind: CountKind = "nominal") -> CostAxis:
        """The axis of the counts of `kind`; "rank" draws random architectures, the same ones every time."""
        low, high = space.cost_range(kind)
        if space.budget is not None:
            low, high = space.budget.narrowed(low, high, kind)
        drawn: tuple[int, ...] = ()
        if scale == "rank":
            # Not the seed of the study: two studies of a space must mean the same by a position on the axis.
            configurations = space.sample(np.random.default_rng(_RANK_SEED), _RANKED)
            drawn = tuple(sorted({space.cost(configuration, kind) for configuration in configurations}))
        return cls(scale, low, high, drawn)

    @classmethod
    def priced(cls, space: SearchSpace, scale: CostScale, price: Price) -> CostAxis:
        """The axis of a cost that is no sum over the lattice, from the prices of random architectures.

        Its ends are those of the draw and of the largest architecture where that is allowed; what lies beyond an end
        gets a position beyond 0 or 1, and beyond 1 nothing is gained.
        """
        drawn = space.sample(np.random.default_rng(_RANK_SEED), _PRICED)
        if space.is_feasible(space.largest()):
            drawn.append(space.largest())
        prices = sorted({price(configuration) for configuration in drawn})
        return cls(scale, prices[0], prices[-1], tuple(prices) if scale == "rank" else (), free=1e-9)

    @property
    def worst(self) -> float:
        """The reference: the dearest architecture, or a tenth beyond it where all cost the same."""
        return 1.0 if self.high > self.low else 1.1

    def __call__(self, costs: NDArray[np.int64] | Values) -> Values:
        """Positions of `costs`, shape ``(n,)``."""
        low, high = self._bent(np.array([self.low, self.high]))
        return np.asarray((self._bent(costs) - low) / (high - low if high > low else 1.0))

    def _bent(self, costs: NDArray[np.int64] | Values) -> Values:
        if self.scale == "linear":
            return costs.astype(np.float64)
        # A bias-only module has no nominal parameters.
        logs = np.log10(np.maximum(costs.astype(np.float64), self.free))
        if self.scale == "log":
            return logs
        known = np.log10(np.maximum(np.array([self.low, *self.drawn, self.high], dtype=np.float64), self.free))
        # Interpolation wants points that increase, and the ends may have been drawn as well.
        known = np.unique(known)
        return np.interp(logs, known, np.linspace(0, 1, len(known)))
