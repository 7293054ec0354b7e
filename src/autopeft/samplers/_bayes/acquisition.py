"""Noisy expected hypervolume improvement of one candidate over two objectives, value (up) and cost (down).

Daulton, Balandat and Bakshy 2021 (arXiv 2105.08195): the hypervolume that a candidate adds to the front, averaged
over what the front may truly be. Two ways to compute it: `KnownCostNehvi`, where the cost is exact and the
candidate's value is integrated in closed form, and `SampledNehvi`, BoTorch's Monte Carlo over both outputs.
Importing this module imports BoTorch; import it where it is used.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
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

from autopeft.samplers._bayes.posterior import Posterior

_log = logging.getLogger(__name__)

# Elements of the largest tensor held at once: 32 MiB of float64.
_ELEMENTS = 4 << 20
_SAMPLED_CHUNK = 64
_AT_ONCE = 128
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
        model: a fitted model of the value without transforms, larger is better.
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
        self._posterior, self._samples, self._seed = Posterior(model), n_samples, seed
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
        return self._baseline.x.shape[0]

    def _condition(self, x: Tensor, cost: Tensor) -> None:
        """Sample the values at `x`, sorted by cost, and lay the stairs of every sample."""
        self._baseline, self._cost = self._posterior.at(x), cost
        n, mean = x.shape[0], self._baseline.mean
        if n == 0:
            self._normal = torch.zeros(1, 0, dtype=torch.float64)
            self._levels = torch.full((len(mean), 1, 1), self._worst_value, dtype=torch.float64)
        else:
            self._root = _root(self._posterior.covariance(self._baseline, self._baseline))
            self._normal = draw_sobol_normal_samples(n, self._samples, dtype=torch.float64, seed=self._seed)  # (s, n)
            # One draw for all candidates: common random numbers, so that two candidates differ by what they are.
            values = mean.unsqueeze(1) + self._normal @ self._root.mT  # (b, s, n)
            heights = values.clamp_min(self._worst_value).cummax(-1).values
            floor = torch.full_like(heights[..., :1], self._worst_value)
            self._levels = torch.cat([floor, heights], -1)  # (b, s, n + 1)
        self._stairs = [_stairs(levels, cost, self._worst_cost) for levels in self._levels]

    def __call__(self, x: Tensor, cost: Tensor) -> Tensor:
        """Log NEHVI of each candidate alone, given the pending ones in the baseline.

        Args:
            x: ``(m, d)``.
            cost: ``(m,)``.

        Returns:
            ``(m,)``; minus infinity where the cost reaches the reference.
        """
        # What is held at once must not grow with the number of samples, or a large design would not fit in memory.
        size = max(1, min(_AT_ONCE, _ELEMENTS // max(len(one.height) for one in self._stairs)))
        # Neighbours in cost have the same stairs to their right, and the others need not be looked at.
        order = torch.argsort(cost, stable=True)
        found = torch.empty(len(x), dtype=torch.float64)
        for part in torch.split(order, size) if len(x) else ():
            found[part] = self._score(x[part], cost[part])
        return found

    def _score(self, x: Tensor, cost: Tensor) -> Tensor:
        """Of candidates in the order of their cost."""
        mean, spread = self._values_given_samples(x)  # (b, s, m), (b, 1, m)
        parts = [
            _gains(stairs.right_of(float(cost[0])), mean[member], spread[member], cost)
            for member, stairs in enumerate(self._stairs)
        ]
        n_terms = mean.shape[0] * mean.shape[1]
        plain = torch.stack([(h * width).sum(0) for h, width, _ in parts]).mul_(spread[:, 0]).sum(0) / n_terms
        result = torch.log(plain)
        # The logarithm of a sum that has underflowed says nothing about which candidate is better, and most are that
        # bad.
        lost = (plain < _TINY) & (cost < self._worst_cost)
        if lost.any():
            terms = [
                log_h(u[:, lost]) + torch.log(width[:, lost]) + torch.log(wide[:, lost])
                for (_, width, u), wide in zip(parts, spread, strict=True)
            ]
            result[lost] = torch.logsumexp(torch.cat(terms), 0) - math.log(n_terms)
        return result

    def _values_given_samples(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the value at `x` given each sample of the baseline."""
        points = self._posterior.at(x)
        mean, variance = points.mean.unsqueeze(1), self._posterior.variance(points)
        if self.n_baseline:
            shared = self._posterior.covariance(self._baseline, points)
            pull = torch.linalg.solve_triangular(self._root, shared, upper=False)  # (b, n, m)
            mean, variance = mean + self._normal @ pull, variance - pull.square().sum(1)
        # Rounding can take a variance below nothing at a point that was measured already.
        return mean, variance.clamp_min(1e-14).sqrt().unsqueeze(1)


@dataclass(frozen=True)
class _Stairs:
    """The stairs of all samples of one process, one after the other, by where they end.

    Few points of the baseline are on the front of one sample, many on that of some: steps of no height are left out,
    for integrating is most of what a proposal takes.

    Args:
        sample: whose stair it is, ``(j,)``.
        height: above which a value improves upon it, ``(j,)``.
        left, right: where it begins and ends, ``(j,)``; `right` increases.
    """

    sample: Tensor
    height: Tensor
    left: Tensor
    right: Tensor

    def right_of(self, cost: float) -> _Stairs:
        """Those that do not end before `cost`."""
        first = int(torch.searchsorted(self.right, cost, right=True))
        return _Stairs(*(part[first:] for part in (self.sample, self.height, self.left, self.right)))


def _stairs(levels: Tensor, cost: Tensor, worst: float) -> _Stairs:
    """From the best value so far before and at every point, ``(s, n + 1)``, and the points' increasing costs."""
    # A stair begins at the left edge or where its sample rises, and ends where that rises next.
    edge = torch.ones_like(levels[:, :1], dtype=torch.bool)
    sample, place = torch.nonzero(torch.cat([edge, levels[:, 1:] > levels[:, :-1]], 1), as_tuple=True)
    begins = torch.cat([torch.tensor([-math.inf], dtype=cost.dtype), cost])[place]
    # In this order a stair is followed by the next of its sample, or by the first of another one.
    ends = torch.cat([begins[1:], begins.new_tensor([worst])])
    right = torch.where(ends == -math.inf, worst, ends)
    order = torch.argsort(right, stable=True)
    return _Stairs(sample[order], levels[sample, place][order], begins[order], right[order])


def _gains(stairs: _Stairs, mean: Tensor, spread: Tensor, cost: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Improvement over every stair in standard deviations, width of the stair to the right of the cost, and what the
    improvement was computed from; each ``(j, m)``."""
    u = (mean[stairs.sample] - stairs.height.unsqueeze(-1)).div_(spread)
    begins = torch.maximum(stairs.left.unsqueeze(-1), cost)
    return _h(u).clamp_min_(0), (stairs.right.unsqueeze(-1) - begins).clamp_min_(0), u


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
