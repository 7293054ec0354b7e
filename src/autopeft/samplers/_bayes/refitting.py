"""Gaussian processes of all trials so far, whose hyper-parameters are fitted at some numbers of trials only.

Fitting costs as the cube of the number of trials times the steps of an optimiser, and one trial more among hundreds
moves the optimum by next to nothing. At which numbers is fixed beforehand, and a fit sees the first trials of that
number alone: so a search that was interrupted proposes what one that was not would have, whatever this process has
seen. Importing this module imports BoTorch; import it where it is used.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autopeft.samplers._bayes.settings import BayesSettings, Nuts
from autopeft.samplers._bayes.surrogate import FAILURES, fit, unfitted
from autopeft.samplers._propose import quiet

_log = logging.getLogger(__name__)

_FEWEST = 2


def last_fit(n: int, share: float) -> int:
    """The largest number of trials up to `n` at which is fitted: at 2, and whenever they have grown by `share`.

    Args:
        n: at least 2.
        share: 0 fits at every number.
    """
    at = _FEWEST
    while (following := at + max(1, int(share * at))) <= n:
        at = following
    return at


@dataclass(frozen=True)
class Observations:
    """What a process is fitted to.

    Args:
        x: inputs in the unit cube, ``(n, d)``, float64.
        y: transformed values, about zero mean and unit variance, ``(n, 1)``.
        noise: their variances, ``(n, 1)``; None to fit one for all.
    """

    x: Tensor
    y: Tensor
    noise: Tensor | None = None

    def is_same(self, other: Observations) -> bool:
        """Whether a fit to one would give what a fit to the other gives."""
        if self.noise is None or other.noise is None:
            return self.noise is other.noise and torch.equal(self.x, other.x) and torch.equal(self.y, other.y)
        pairs = ((self.x, other.x), (self.y, other.y), (self.noise, other.noise))
        return all(torch.equal(*pair) for pair in pairs)


@dataclass
class Refitting:
    """Fits the processes of one sampler.

    Args:
        settings: the surrogate, and by which share the trials grow from fit to fit.
        seed: of the sampler.
    """

    settings: BayesSettings
    seed: int
    # Only spares what would be computed again: nothing that is proposed depends on what is kept.
    _kept: dict[int, tuple[Observations, dict[str, Any]]] = field(default_factory=dict)

    def fitted_at(self, n: int) -> int:
        """How many of `n` trials, the first, the hyper-parameters are fitted to."""
        # The draws of NUTS are the posterior itself, and there is no optimum to be carried over.
        return n if self.settings.surrogate == "saas-nuts" else last_fit(n, self.settings.refit)

    def model(self, seen: Observations, first: Observations, seed: int, n_features: int, output: int = 0) -> Any:
        """A BoTorch model of all that was `seen`, with the hyper-parameters of the `first` of it.

        Args:
            first: as many as `fitted_at` says, transformed among themselves.
            seed: of a fit to everything.
            n_features: see `autopeft.samplers._bayes.surrogate.fit`.
            output: which one, where several are modelled.

        Raises:
            botorch.exceptions.errors.ModelFittingError: the fit did not converge in five attempts.
        """
        if self.settings.refit and self.settings.surrogate != "saas-nuts":
            try:
                return self._carried(seen, first, n_features, output)
            except FAILURES as error:
                # Or every proposal would be a random one until so many trials more are measured.
                _log.info("A fit to the first %d trials failed (%s); one to all is tried.", len(first.x), error)
        nuts = Nuts(self.settings.warmup, self.settings.samples, self.settings.thinning)
        kind = self.settings.surrogate
        return fit(kind, seen.x, seen.y, n_features=n_features, seed=seed, nuts=nuts, noise=seen.noise)

    def _carried(self, seen: Observations, first: Observations, n_features: int, output: int) -> Any:
        kind = self.settings.surrogate
        seed = int(np.random.default_rng([self.seed, len(first.x), output]).integers(2**31))
        held = self._kept.get(output)
        if held is None or not held[0].is_same(first):
            nuts = Nuts(0, 0, 1)  # of which the maximum a posteriori needs none
            # The global random numbers afterwards must not tell whether it was fitted now or for an earlier proposal.
            with quiet(seed):
                fitted = fit(kind, first.x, first.y, n_features=n_features, seed=seed, nuts=nuts, noise=first.noise)
            held = self._kept[output] = (first, fitted.state_dict())
        model = unfitted(kind, seen.x, seen.y, n_features=n_features, seed=seed, noise=seen.noise)
        model.load_state_dict(held[1])
        return model.eval()
