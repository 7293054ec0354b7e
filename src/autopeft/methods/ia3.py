"""IA3 (Liu et al. 2022, arXiv 2205.05638, section 3.3): keys, values and activated hidden states are rescaled.

One learned factor a coordinate of the keys, of the values, and of the feed-forward's hidden state between its
activation and its second linear map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autopeft.architecture import Cost, Line
from autopeft.backbones import Seam, Site
from autopeft.methods import Frozen, Mask, Reads, Traits, sum_of_stored


class Rescaling(nn.Module):
    """``y' = (1 + m_0 w) y``, with w zero at the start: the factor of the paper is ``1 + w``."""

    def __init__(self, d_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(d_out))

    def forward(self, u: Tensor, y: Tensor, mask: Mask = None) -> Tensor:
        """Shapes: `y` and the result ``(..., d_out)``, `mask` ``(1,)``, 1 or None; `u` is not looked at."""
        weight = mask[0] * self.weight if isinstance(mask, Tensor) else self.weight
        return y + y * weight

    def merged(self, weight: Tensor, bias: Tensor | None, site: Site) -> tuple[Tensor, Tensor | None]:
        """Rows and the bias multiplied; before a map, its columns."""
        factor = (1 + self.weight).to(weight.dtype)
        if site.is_before:
            return weight * factor, bias
        return (weight.T * factor).T, None if bias is None else bias * factor

    def cut(self, size: int) -> dict[str, Tensor]:
        """The only size is 1: the factors themselves."""
        return {"weight": self.weight}


@dataclass(frozen=True)
class IA3(Traits):
    """One factor a coordinate: ``d_out`` parameters a place, nominal and stored."""

    name: str = "ia3"
    roles: tuple[str, ...] = ("k", "v", "ffn_hidden")
    # After what is added to the same output: the sum is rescaled, as the keys that attention sees.
    order: int = 70
    reads: Reads = Reads.OUTPUT
    seam: Seam = "delta"
    is_sized: bool = False

    def cost(self, site: Site) -> Cost:
        """One number a coordinate of what is rescaled."""
        return Cost(nominal=Line(site.d_out, 0), stored=Line(site.d_out, 0))

    def trained(self, placements: Sequence[tuple[Site, int]]) -> int:
        """All that is stored is trained."""
        return sum_of_stored(self, placements)

    def build(self, placements: Sequence[tuple[Site, int]], frozen: Frozen) -> Mapping[str, nn.Module]:
        """One `Rescaling` a site."""
        return {site.key: Rescaling(site.d_out) for site, _ in placements}


MEMBERS = {"ia3": IA3(about="IA3: factors on keys, values and the activated hidden state of the feed-forward")}
