"""Noisy expected hypervolume improvement of one candidate over two objectives, value (up) and cost (down).

Daulton, Balandat and Bakshy 2021 (arXiv 2105.08195): the hypervolume that a candidate adds to the front, averaged
over what the front may truly be. Two ways to compute it: `KnownCostNehvi`, where the cost is exact and the
candidate's value is integrated in closed form, and `SampledNehvi`, BoTorch's Monte Carlo over both outputs.
Importing this module imports BoTorch; import it where it is used.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.acquisition.multi_objective.monte_carlo import qNoisyExpectedHypervolumeImprovement
from botorch.sampling.index_sampler import IndexSampler
from botorch.sampling.list_sampler import ListSampler
from botorch.sampling.normal import SobolQMCNormalSampler
from botorch.utils.sampling import draw_sobol_normal_samples
from linear_operator.utils.cholesky import psd_safe_cholesky
from torch import Tensor

from autopeft.samplers._bayes.surrogate import joint

_log = logging.getLogger(__name__)

# Elements of the largest tensor held at once: 32 MiB of float64.
_ELEMENTS = 4 << 20
_SAMPLED_CHUNK = 64
# Below this the linear sum has lost its digits and the logarithms are summed instead.
_TINY = 1e-290
_FAR = 1e3


def log_h(u: Tensor) -> Tensor:
    """Logarithm of ``φ(u) + u Φ(u)``, the expected improvement of a standard normal over ``-u``; any shape.

    Accurate in both tails, where the sum itself cancels or underflows (Ament et al. 2023, arXiv 2310.20708).
    """
    log_density = -0.5 * u.square() - 0.5 * math.log(2 * math.pi)
    ratio = torch.exp(torch.special.log_ndtr(u.clamp(-_FAR, 0)) - log_density.clamp_min(-0.5 * _FAR**2 - 1))
    near = log_density + torch.log1p(u.clamp(-_FAR, 0) * ratio)
    far = log_density - 2 * torch.log(u.abs().clamp_min(1))
    positive = torch.log(_h(u.clamp_min(0)))
    result: Tensor = torch.where(u > 0, positive, torch.where(u > -_FAR, near, far))
    return result


def _h(u: Tensor) -> Tensor:
    # erfc keeps its relative accuracy in the lower tail, and is eight times as fast as torch's ndtr.
    density = torch.exp(u.square().mul_(-0.5)).mul_(1 / math.sqrt(2 * math.pi))
    return density.addcmul_(u, torch.erfc(u * -math.sqrt(0.5)), value=0.5)


class KnownCostNehvi:
    """Logarithm of NEHVI when the cost of every candidate is known.

    The front of one posterior sample is a staircase: the best value so far over increasing cost. A candidate of
    cost c and value y adds, to the right of c, the area between y and the stairs below it. Over y, which is
    normal given the sampled values at the baseline, that is a sum over stairs of width times expected
    improvement over the stair's height: no sampling of the candidate, no box decomposition.

    Args:
        model: a fitted model of the value, larger is better.
        x: inputs of the baseline, measured and pending, ``(n, d)``.
        cost: their costs, ``(n,)``, on any increasing scale, smaller is better.
        reference: worst value and worst cost, on the scales of the model and of `cost`.
        n_samples: quasi-random posterior samples of the baseline.
        seed: of these samples.
        is_pruned: leave out baseline points that are on the front in no sample.
    """

    def __init__(
        self,
        model: Any,
        x: Tensor,
        cost: Tensor,
        reference: tuple[float, float],
        *,
        n_samples: int,
        seed: int,
        is_pruned: bool = True,
    ) -> None:
        self._model, self._samples, self._seed = model, n_samples, seed
        self._worst_value, self._worst_cost = reference
        order = torch.argsort(cost, stable=True)
        # Beyond the reference a point adds no area, and its stair would have a negative width.
        order = order[cost[order] < self._worst_cost]
        self._condition(x[order], cost[order])
        if is_pruned and len(order):
            # The posterior is sampled anew for the rest: fewer points mean smaller matrices in every later call.
            used = (self._levels[..., 1:] > self._levels[..., :-1]).flatten(0, 1).any(0)
            self._condition(x[order][used], cost[order][used])

    @property
    def n_baseline(self) -> int:
        """Number of baseline points that remain."""
        return self._x.shape[0]

    def _condition(self, x: Tensor, cost: Tensor) -> None:
        """Sample the values at `x`, sorted by cost, and lay the stairs of every sample."""
        self._x, self._cost = x, cost
        n = x.shape[0]
        if n == 0:
            self._normal = torch.zeros(1, 0, dtype=torch.float64)
            self._levels = torch.full((1, 1, 1), self._worst_value, dtype=torch.float64)
            self._lay(torch.zeros(1, 1, 0, dtype=torch.bool))
            return
        mean, covariance = joint(self._model, x)  # (b, n), (b, n, n)
        self._root = _root(covariance)
        self._normal = draw_sobol_normal_samples(n, self._samples, dtype=torch.float64, seed=self._seed)  # (s, n)
        # One draw for all candidates: common random numbers, so that two candidates differ by what they are.
        values = mean.unsqueeze(1) + self._normal @ self._root.mT  # (b, s, n)
        heights = values.clamp_min(self._worst_value).cummax(-1).values
        floor = torch.full_like(heights[..., :1], self._worst_value)
        self._levels = torch.cat([floor, heights], -1)  # (b, s, n + 1)
        self._lay(self._levels[..., 1:] > self._levels[..., :-1])

    def _lay(self, rises: Tensor) -> None:
        """Keep the stairs of every sample alone, without the points at which it does not rise.

        Few points of the baseline are on the front of one sample, many on that of some: a step of no height would be
        integrated for nothing, and integrating is most of what a proposal takes.
        """
        most = int(rises.sum(-1).max()) if rises.shape[-1] else 0
        # Stable, so that the rises stand in front in their order; what follows them in shorter stairs has no width.
        places = torch.argsort(~rises, dim=-1, stable=True)[..., :most]  # (b, s, k)
        is_step = torch.gather(rises, -1, places)
        levels = torch.gather(self._levels[..., 1:], -1, places)
        begins = torch.where(is_step, self._cost[places], self._worst_cost)
        self._heights = torch.cat([self._levels[..., :1], levels], -1)  # (b, s, k + 1)
        self._left = torch.cat([torch.full_like(self._levels[..., :1], -math.inf), begins], -1)
        self._right = torch.cat([begins, torch.full_like(self._levels[..., :1], self._worst_cost)], -1)

    def __call__(self, x: Tensor, cost: Tensor) -> Tensor:
        """Log NEHVI of each candidate alone, given the pending ones in the baseline.

        Args:
            x: ``(m, d)``.
            cost: ``(m,)``.

        Returns:
            ``(m,)``; minus infinity where the cost reaches the reference.
        """
        per_candidate = self._heights.numel()
        # What is held at once must not grow with the number of samples, or a large design would not fit in memory.
        size = max(1, min(128, _ELEMENTS // per_candidate))
        parts = [self._score(x[i : i + size], cost[i : i + size]) for i in range(0, len(x), size)]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)

    def _score(self, x: Tensor, cost: Tensor) -> Tensor:
        mean, spread = self._values_given_samples(x)  # (b, s, m), (b, 1, m)
        width = self._widths(cost)  # (b, s, m, k + 1)
        u = (mean.unsqueeze(-1) - self._heights.unsqueeze(2)) / spread.unsqueeze(-1)  # (b, s, m, k + 1)
        plain = (_h(u).clamp_min_(0).mul_(width).sum(-1) * spread).mean((0, 1))  # (m,)
        result = torch.log(plain)
        # The logarithm of a sum that has underflowed says nothing about which candidate is better, and most are that
        # bad.
        lost = (plain < _TINY) & (cost < self._worst_cost)
        if lost.any():
            terms = log_h(u[:, :, lost]) + torch.log(width[:, :, lost]) + torch.log(spread[..., lost]).unsqueeze(-1)
            n_terms = terms.shape[0] * terms.shape[1]
            result[lost] = torch.logsumexp(terms.movedim(2, 0).flatten(1), -1) - math.log(n_terms)
        return result

    def _values_given_samples(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the value at `x` given each sample of the baseline."""
        n = self.n_baseline
        mean, covariance = joint(self._model, torch.cat([self._x, x]))
        variance = covariance.diagonal(dim1=-2, dim2=-1)[:, n:]
        if n == 0:
            return mean.unsqueeze(1), variance.clamp_min(1e-14).sqrt().unsqueeze(1)
        pull = torch.linalg.solve_triangular(self._root, covariance[:, :n, n:], upper=False)  # (b, n, m)
        # Rounding can take a variance below nothing at a point that was measured already.
        left = (variance - pull.square().sum(1)).clamp_min(1e-14)
        return mean[:, n:].unsqueeze(1) + self._normal @ pull, left.sqrt().unsqueeze(1)

    def _widths(self, cost: Tensor) -> Tensor:
        """Length of every stair that lies to the right of each candidate, ``(b, s, m, k + 1)``."""
        begins = torch.maximum(self._left.unsqueeze(2), cost[:, None])
        return (self._right.unsqueeze(2) - begins).clamp_min_(0)


def _root(covariance: Tensor) -> Tensor:
    """Lower Cholesky factor; a billionth of the mean variance is added, as measured points may coincide."""
    scale = covariance.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-12)
    jitter = 1e-9 * scale[:, None, None] * torch.eye(covariance.shape[-1], dtype=covariance.dtype)
    root: Tensor = psd_safe_cholesky(covariance + jitter)
    return root


class SampledNehvi:
    """BoTorch's NEHVI, or its logarithm, by Monte Carlo over the posteriors of both outputs.

    Args:
        model: a BoTorch model list of two outputs, both larger is better.
        x: inputs of the measured points, ``(n, d)``.
        pending: inputs of the points under evaluation, ``(k, d)``; k may be 0.
        reference: worst value of each output.
        is_log: log-NEHVI, which BoTorch smooths; its kernel is compiled at the first use where a compiler exists.
        n_samples: quasi-random posterior samples.
        seed: of these samples.
        is_pruned: leave out baseline points that are almost surely dominated.
        is_cost_known: the second output is deterministic.
    """

    def __init__(
        self,
        model: Any,
        x: Tensor,
        pending: Tensor,
        reference: tuple[float, float],
        *,
        is_log: bool,
        n_samples: int,
        seed: int,
        is_pruned: bool,
        is_cost_known: bool,
    ) -> None:
        if is_log:
            _log.debug("BoTorch compiles a kernel for this CPU; where unlike hosts share it, set TORCH_EXTENSIONS_DIR.")
        shape = torch.Size([n_samples])
        # A deterministic cost has one value; noise drawn for it would blur the front.
        second = IndexSampler if is_cost_known else SobolQMCNormalSampler
        kind = qLogNoisyExpectedHypervolumeImprovement if is_log else qNoisyExpectedHypervolumeImprovement
        self._function = kind(
            model=model,
            ref_point=list(reference),
            X_baseline=x,
            sampler=ListSampler(SobolQMCNormalSampler(shape, seed=seed), second(shape, seed=seed + 1)),
            X_pending=pending if len(pending) else None,
            prune_baseline=is_pruned,
            cache_root=False,
        )

    def __call__(self, x: Tensor) -> Tensor:
        """The acquisition value of each candidate alone. `x`: ``(m, d)``; returns ``(m,)``."""
        with torch.no_grad():
            parts = [self._function(part.unsqueeze(1)) for part in torch.split(x, _SAMPLED_CHUNK)]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)
