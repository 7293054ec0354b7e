"""AdaMix (Wang et al. 2022, arXiv 2205.12410): a mixture of adapters that is one adapter afterwards.

Behind every feed-forward stand several experts with down-projections of their own and one up-projection. In training a
random expert answers each forward pass; afterwards the experts' weights are averaged, so what is stored and what is
computed is one adapter. The paper's consistency loss between two passes is `recipe.consistency`; the authors' release
has it for one of its backbones only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from autopeft.architecture import Cost, Line
from autopeft.backbones import Seam, Site
from autopeft.methods import Frozen, Mask, Reads, Traits, sum_of_stored
from autopeft.methods._products import add_up


class Mixture(nn.Module):
    r"""``y' = y + W_up (m * gelu(W_e u + b_e)) + m_0 b_up`` with a random expert ``e``, or their mean in evaluation.

    Weights start as N(0, 0.02²), biases as 0. The choice comes from PyTorch's global generator.

    Args:
        d: width of ``u`` and ``y``.
        width: number of units of each expert.
        n_experts: how many there are until `fold`.
    """

    def __init__(self, d: int, width: int, n_experts: int) -> None:
        super().__init__()
        self.down_weight = nn.Parameter(torch.empty(n_experts, width, d).normal_(std=0.02))
        self.down_bias = nn.Parameter(torch.zeros(n_experts, width))
        self.up = nn.Linear(width, d)
        nn.init.normal_(self.up.weight, std=0.02)
        nn.init.zeros_(self.up.bias)

    def _expert(self) -> tuple[Tensor, Tensor]:
        """Weight ``(width, d)`` and bias ``(width,)`` of who answers."""
        n = len(self.down_bias)
        if self.training and n > 1:
            # One expert for the whole batch, drawn at every site and every step, as the paper routes.
            chosen = int(torch.randint(n, ()))
            return self.down_weight[chosen], self.down_bias[chosen]
        # Averaged weights rather than averaged answers: after folding one adapter is stored, and it must answer the
        # same.
        return self.down_weight.mean(0), self.down_bias.mean(0)

    def forward(self, u: Tensor, y: Tensor, mask: Mask = None) -> Tensor:
        """Shapes: `u`, `y` and the result ``(..., d)``, `mask` ``(width,)`` or see `Mask`."""
        weight, bias = self._expert()
        if isinstance(mask, int):
            units = functional.gelu(functional.linear(u, weight[:mask], bias[:mask]))  # (..., mask)
            return add_up(y, units, self.up.weight[:, :mask], self.up.bias)
        units = functional.gelu(functional.linear(u, weight, bias))  # (..., width)
        if mask is None:
            return add_up(y, units, self.up.weight, self.up.bias)
        return add_up(y, units * mask, self.up.weight, mask[0] * self.up.bias)

    def cut(self, size: int) -> dict[str, Tensor]:
        """The first units of the mean expert."""
        return {
            "down_weight": self.down_weight.mean(0, keepdim=True)[:, :size],
            "down_bias": self.down_bias.mean(0, keepdim=True)[:, :size],
            "up.weight": self.up.weight[:, :size].contiguous(),
            "up.bias": self.up.bias,
        }

    @torch.no_grad()
    def fold(self) -> None:
        """Replace the experts by their mean. Idempotent."""
        if len(self.down_bias) > 1:
            # The axis of the experts stays, of length one, so that folded weights load into a module that was folded
            # before.
            self.down_weight = nn.Parameter(self.down_weight.mean(0, keepdim=True))
            self.down_bias = nn.Parameter(self.down_bias.mean(0, keepdim=True))


@dataclass(frozen=True)
class AdaMix(Traits):
    """A mixture of `n_experts` adapters. Nominal count ``2 D b``, stored ``+ b + D``; trained: every expert."""

    name: str
    n_experts: int
    roles: tuple[str, ...] = ("ffn",)
    seam: Seam = "delta"
    order: int = 50
    reads: Reads = Reads.OUTPUT
    is_sized: bool = True

    def cost(self, site: Site) -> Cost:
        """That of one adapter: the experts are averaged before anything is stored."""
        return Cost(nominal=Line(0, 2 * site.d_out), stored=Line(site.d_out, 2 * site.d_out + 1))

    def trained(self, placements: Sequence[tuple[Site, int]]) -> int:
        """What is stored, and a down-projection for every further expert."""
        further = sum((self.n_experts - 1) * size * (site.d_out + 1) for site, size in placements)
        return sum_of_stored(self, placements) + further

    def build(self, placements: Sequence[tuple[Site, int]], frozen: Frozen) -> Mapping[str, nn.Module]:
        """One `Mixture` a site."""
        return {site.key: Mixture(site.d_out, size, self.n_experts) for site, size in placements}


MEMBERS = {
    "adamix": AdaMix(
        "adamix",
        n_experts=4,
        is_random=True,
        about="a mixture of adapters (AdaMix), one expert a step, their mean when saved",
    )
}
"""Four experts, as in the paper; the baseline has a bottleneck of 48 on a hidden size of 768."""
