"""Outcome transforms: how measured values are bent before a Gaussian process sees them.

A rank transform makes the search indifferent to monotone rescaling of an objective. AutoPEFT's release takes the
empirical distribution function through the inverse normal one, with the best of n values at F = 1, clamped to
0.9999: the best lands at +3.72 and the second best of 100 at +2.33, an outlier of the transform's own making.
Ranks that are shifted by one half have no such outlier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

TransformKind = Literal["rank-normal", "ecdf", "z-score"]
TRANSFORMS: tuple[TransformKind, ...] = ("rank-normal", "ecdf", "z-score")

Values = NDArray[np.float64]

_CLAMP = (1e-4, 0.9999)


@dataclass(frozen=True)
class OutcomeTransform:
    """A never-falling map from natural or maximised values to the scale of a surrogate.

    Args:
        kind: "rank-normal": inverse normal of (average rank - 0.5) / n; a value between observed ones gets the
            share of observations below it, one outside them a quarter of a rank beyond the end. "ecdf": inverse
            normal of the share of observations at most the value, clamped to 1e-4 and 0.9999 (AutoPEFT's
            released code). "z-score": minus mean, by standard deviation (n - 1; 1 where that is 0 or unknown).
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
            return np.asarray((x - seen.mean()) / (spread if spread > 1e-12 * (1 + abs(seen.mean())) else 1.0))
        below = np.searchsorted(seen, x, side="left")
        at_most = np.searchsorted(seen, x, side="right")
        n = len(seen)
        if self.kind == "ecdf":
            return np.asarray(ndtri(np.clip(at_most / n, *_CLAMP)))
        return np.asarray(ndtri(np.clip((below + at_most) / (2 * n), 0.25 / n, 1 - 0.25 / n)))
