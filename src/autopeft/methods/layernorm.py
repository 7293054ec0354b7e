"""LNFit: only the weights of the norms are trained.

S3Delta (Hu et al. 2022, arXiv 2206.07382) and BIPEFT (section 3.1) add a second, trained norm without bias in
parallel with the frozen one, which is the same as training its weight. A trained bias of a norm is `bitfit`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autopeft.architecture import Cost, Line
from autopeft.backbones import NORMS, Seam, Site
from autopeft.errors import ArchitectureError
from autopeft.methods import Frozen, Mask, Reads, Traits, sum_of_stored


class NormWeight(nn.Module):
    """``y' = y + m_0 w * normalised(x)``, with w zero at the start.

    Args:
        d: width of ``x``.
        epsilon: what the frozen norm adds to the variance.
        is_centred: whether the frozen norm subtracts the mean (LayerNorm) or not (RMSNorm: T5, Llama).
    """

    def __init__(self, d: int, epsilon: float, is_centred: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(d))
        self.epsilon, self.is_centred = epsilon, is_centred

    def forward(self, x: Tensor, y: Tensor, mask: Mask = None) -> Tensor:
        """Shapes: `x`, `y` and the result ``(..., d)``, `mask` ``(1,)``, 1 or None."""
        normalised = x.float()  # half precision would overflow in the square, and the frozen norms avoid it too
        if self.is_centred:
            normalised = normalised - normalised.mean(-1, keepdim=True)
        normalised = normalised * torch.rsqrt(normalised.square().mean(-1, keepdim=True) + self.epsilon)
        # Added to what the frozen norm gives, and computed anew: the frozen weight may be 0 somewhere, and cannot be
        # divided by.
        weight = mask[0] * self.weight if isinstance(mask, Tensor) else self.weight
        return y + (weight * normalised).to(y.dtype)

    def merged(self, weight: Tensor, bias: Tensor | None, site: Site) -> tuple[Tensor, Tensor | None]:
        """The norm's weight and this one: a norm multiplies by it whether or not it adds 1 to it first."""
        return weight + self.weight.to(weight.dtype), bias

    def cut(self, size: int) -> dict[str, Tensor]:
        """The only size is 1: the weight itself."""
        return {"weight": self.weight}


@dataclass(frozen=True)
class LNFit(Traits):
    """A trained change of a norm's weight: ``d`` parameters a norm, nominal and stored."""

    name: str = "lnfit"
    roles: tuple[str, ...] = NORMS
    order: int = 20
    reads: Reads = Reads.INPUT
    seam: Seam = "delta"
    is_sized: bool = False

    def cost(self, site: Site) -> Cost:
        """One number a coordinate."""
        return Cost(nominal=Line(site.d_out, 0), stored=Line(site.d_out, 0))

    def trained(self, placements: Sequence[tuple[Site, int]]) -> int:
        """All that is stored is trained."""
        return sum_of_stored(self, placements)

    def build(self, placements: Sequence[tuple[Site, int]], frozen: Frozen) -> Mapping[str, nn.Module]:
        """One `NormWeight` a norm.

        Raises:
            ArchitectureError: a site is not a norm.
        """
        wrong = sorted(site.key for site, _ in placements if site.epsilon is None)
        if wrong:
            raise ArchitectureError(f"{self.name} stands at norms only, but these are none: {', '.join(wrong)}.")
        return {site.key: NormWeight(site.d_out, site.epsilon or 0.0, site.is_centred) for site, _ in placements}


MEMBERS = {"lnfit": LNFit(about="trained weights of the norms (LNFit)")}
