"""BIPEFT's scores as one moving average a half of the data, and whether two halves of the steps agree on them.

Equation 4 averages the score of a step, which needs a placement to be on in both of its passes. Here each half of the
data has an average of its own, which a pass updates for what was on, and each is freed of its start at 0, which would
otherwise hold it against a placement that it was seldom on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from autopeft.searches._candidates import Bools, Floats, ScoreRule, sensitivity

_NOISE = 2.33
"""Standard errors from 0 at which one in a hundred rank correlations of noise lies."""


class Averages:
    """The averages of all placements, and the sums of the present window.

    Attributes:
        window: steps since the window was cleared.
    """

    def __init__(self, n: int, gamma: float, rule: ScoreRule) -> None:
        self._gamma, self._rule = gamma, rule
        # Rows: importance on the first half of the data, on the second, and the cosine between their gradients.
        self._values, self._weights = np.zeros((3, n)), np.zeros((3, n))
        # By every other step, the half of the data, and placement.
        self._sums, self._seen = np.zeros((2, 2, n)), np.zeros((2, 2, n))
        self.window = 0

    def take(self, means: tuple[Floats, Floats], is_on: tuple[Bools, Bools], cosine: Floats) -> None:
        """Take in one step: the mean importance in both passes, ``(n,)`` each, and who was on in them."""
        new, measured = np.stack([*means, cosine]), np.stack([*is_on, is_on[0] & is_on[1]])
        gamma = np.where(measured, self._gamma, 1.0)
        self._values = gamma * self._values + (1 - gamma) * new
        self._weights = gamma * self._weights + (1 - gamma)
        self._sums[self.window % 2] += np.where(measured[:2], new[:2], 0.0)
        self._seen[self.window % 2] += measured[:2]
        self.window += 1

    def scores(self) -> Floats:
        """Equation 3 of the averages, ``(n,)``; 0 for what was never on."""
        train, validation, cosine = self._corrected()
        return sensitivity(train, validation, cosine, self._rule)

    def _corrected(self) -> Floats:
        return np.divide(self._values, self._weights, out=np.zeros_like(self._values), where=self._weights > 0)

    def agreement(self, alive: Bools) -> float:
        """The rank correlation of the scores of every other step with those of the steps between, in the window.

        It is the cosine of the centred ranks: about 0 for noise, 1 where both halves order the placements alike. What
        was never on in a half takes the mean of the others there, which says nothing for or against it.
        """
        if alive.sum() < 2:
            return 1.0
        first, second = (self._ranks(sums, seen, alive) for sums, seen in zip(self._sums, self._seen, strict=True))
        length = float(np.sqrt((first @ first) * (second @ second)))
        return float(first @ second) / length if length > 0 else 0.0

    def _ranks(self, sums: Floats, seen: Floats, alive: Bools) -> Floats:
        parts = [_mean(sums[half][alive], seen[half][alive]) for half in (0, 1)]
        # Imported here, since a command that names any sampler imports this file, and scipy.stats takes half a second.
        from scipy.stats import rankdata

        ranks = rankdata(sensitivity(parts[0], parts[1], self._corrected()[2][alive], self._rule))
        return np.asarray(ranks - ranks.mean(), dtype=np.float64)

    def clear(self) -> None:
        """Begin a new window."""
        self._sums[:], self._seen[:], self.window = 0.0, 0.0, 0

    def state(self) -> dict[str, Floats]:
        """Everything that `load` needs."""
        return {
            "average_values": self._values,
            "average_weights": self._weights,
            "window_sums": self._sums,
            "window_seen": self._seen,
            "window": np.array([float(self.window)]),
        }

    def load(self, arrays: Mapping[str, Floats]) -> None:
        """Go on from what `state` gave."""
        self._values, self._weights = arrays["average_values"], arrays["average_weights"]
        self._sums, self._seen = arrays["window_sums"], arrays["window_seen"]
        self.window = int(arrays["window"][0])


def least_agreement(threshold: float, n: int) -> float:
    """`threshold`, or what noise reaches once in a hundred times with `n` placements where that is more."""
    return min(0.99, max(threshold, _NOISE / math.sqrt(max(n - 1, 1))))


def _mean(sums: Floats, seen: Floats) -> Floats:
    found = np.divide(sums, seen, out=np.zeros_like(sums), where=seen > 0)
    return np.where(seen > 0, found, found[seen > 0].mean() if (seen > 0).any() else 0.0)
