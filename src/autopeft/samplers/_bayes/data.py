"""The measured trials as a surrogate sees them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from autopeft.samplers._bayes.outcome import OutcomeTransform, Values
from autopeft.spaces.lattice import Configuration


@dataclass(frozen=True)
class Data:
    """The measured trials as a surrogate sees them: inputs, and both objectives maximised and untransformed."""

    configurations: tuple[Configuration, ...]
    values: tuple[float, ...]
    costs: tuple[float, ...]
    reference: tuple[float, float]
    variances: tuple[float, ...] | None = None
    """Of the values, where all are known."""

    def first(self, n: int) -> Data:
        """Of the first `n` trials alone; the reference stands."""
        known = None if self.variances is None else self.variances[:n]
        return replace(
            self, configurations=self.configurations[:n], values=self.values[:n], costs=self.costs[:n], variances=known
        )

    def spread(self, scale: OutcomeTransform) -> Values | None:
        """The variances of the transformed values, where those of the values are known."""
        if self.variances is None:
            return None
        widths = scale.widths(np.array(self.values), np.sqrt(np.array(self.variances)))
        return np.asarray(widths**2)
