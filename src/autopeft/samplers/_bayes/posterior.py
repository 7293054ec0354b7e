"""What a fitted Gaussian process says of many points, asked in many small parts.

`model.posterior` of BoTorch solves with the covariance of the observations anew for every part, and for the covariances
among all points of a part, of which an acquisition function of single candidates needs the diagonal alone. Importing
this module imports BoTorch; import it where it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from linear_operator.utils.cholesky import psd_safe_cholesky
from torch import Tensor


@dataclass(frozen=True)
class Points:
    """Points and what the observations say of them; b members of an ensemble, 1 for a plain process.

    Args:
        x: inputs, ``(m, d)``.
        mean: of the function, ``(b, m)``.
        pull: the root of the observations' covariance solved for their covariance with the points, ``(b, n, m)``.
    """

    x: Tensor
    mean: Tensor
    pull: Tensor


class Posterior:
    """The noise-free function that a BoTorch model of one output without transforms has learnt.

    Args:
        model: fitted; a process or an ensemble of them.
    """

    def __init__(self, model: Any) -> None:
        # The covariances of an ensemble know their number of members only once they are computed.
        self._model = model.eval()
        with torch.no_grad():
            x = model.train_inputs[0]
            # The members of an ensemble have seen the same.
            self._x = x if x.dim() == 2 else x[0]
            covariance = self._prior(self._x, self._x)
            noise = torch.as_tensor(model.likelihood.noise).expand(covariance.shape[:-1])
            self._root: Tensor = psd_safe_cholesky(covariance + torch.diag_embed(noise))
            surprise = (model.train_targets - self._prior_mean(self._x)).expand(covariance.shape[:-1])
            self._surprise = torch.linalg.solve_triangular(self._root, surprise.unsqueeze(-1), upper=False)

    def at(self, x: Tensor) -> Points:
        """What is known of the points `x`, ``(m, d)``; m may be 0."""
        with torch.no_grad():
            pull = torch.linalg.solve_triangular(self._root, self._prior(self._x, x), upper=False)
            mean = self._prior_mean(x) + (pull.mT @ self._surprise).squeeze(-1)
        return Points(x, mean, pull)

    def covariance(self, these: Points, those: Points) -> Tensor:
        """Between two sets of points, ``(b, m, m')``."""
        with torch.no_grad():
            return self._prior(these.x, those.x) - these.pull.mT @ those.pull

    def variance(self, points: Points) -> Tensor:
        """Of each point, ``(b, m)``; rounding may take it below nothing at a point that was measured."""
        with torch.no_grad():
            prior = self._model.covar_module(points.x, diag=True)
            return torch.as_tensor(prior - points.pull.square().sum(-2))

    def _prior(self, these: Tensor, those: Tensor) -> Tensor:
        found: Tensor = self._model.covar_module(these, those).to_dense()
        return found if found.dim() == 3 else found.unsqueeze(0)

    def _prior_mean(self, x: Tensor) -> Tensor:
        found: Tensor = self._model.mean_module(x)
        return found if found.dim() == 2 else found.unsqueeze(0)
