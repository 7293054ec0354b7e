"""A landscape that agrees with the table and is as rough between its candidates as they are.

The mean of a surrogate is smoother than the truth, and a search finds nothing on it that was not known. A draw of the
process is one truth among those that the table allows; another seed draws another one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autopeft.benchmark._surrogate import Surrogate, check_seed
from autopeft.candidate import Candidate

_JITTER = 1e-6


class Landscape:
    """One draw of the process of `surrogate`, made where it is asked for.

    Args:
        seed: of the draw; in one order of asking the same values come again.
        calm: standard deviations of the draw are multiplied by this: below 1 where the process is less sure of itself
            than its errors show.

    Raises:
        SettingsError: the seed is no whole number of at least 0.
    """

    def __init__(self, surrogate: Surrogate, seed: int, calm: float = 0.85) -> None:
        self._surrogate, self._calm = surrogate, calm
        self._rng = np.random.default_rng([check_seed("landscape", seed), 0x7AB1E])
        self._known: dict[str, float] = {}
        self._places = np.zeros((0, 0))
        self._drawn = np.zeros(0)

    def values(self, candidates: Sequence[Candidate]) -> NDArray[np.float64]:
        """What each is worth without noise, ``(n,)``."""
        fresh = {one.fingerprint: one for one in candidates if one.fingerprint not in self._known}
        if fresh:
            self._known.update(zip(fresh, map(float, self._draw(list(fresh.values()))), strict=True))
        return np.array([self._known[one.fingerprint] for one in candidates])

    def _draw(self, candidates: Sequence[Candidate]) -> NDArray[np.float64]:
        """Deviations from the mean, given all that was drawn before."""
        surrogate, n = self._surrogate, len(self._drawn)
        places = surrogate.placed(candidates)
        every = places if n == 0 else np.vstack([self._places, places])
        mean, covariance = surrogate.process.predict(every, return_cov=True)
        covariance[np.diag_indices_from(covariance)] += _JITTER
        root = np.linalg.cholesky(covariance)
        # The root of the earlier part is the same as before, so that earlier draws stay what they were.
        self._drawn = np.concatenate([self._drawn, self._rng.normal(size=len(candidates))])
        self._places = every
        deviations = (root @ self._drawn)[n:] * self._calm
        return surrogate.unbent(mean[n:] + deviations + surrogate._mean)
