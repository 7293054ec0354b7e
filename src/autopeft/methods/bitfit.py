"""BitFit (Ben Zaken, Goldberg and Ravfogel 2022, arXiv 2106.10199): only biases are trained.

Here a bias is added to the output of a site, whether the backbone has one there or not (T5 has none); where it
has, training an addition to it is training it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autopeft.architecture import Cost, Line
from autopeft.backbones import LINEAR, NORMS, Seam, Site
from autopeft.methods import Frozen, Mask, Reads, Traits, sum_of_stored


class Bias(nn.Module):
    """``y' = y + m_0 b``, with b zero at the start."""

    def __init__(self, d_out: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(d_out))

    def forward(self, u: Tensor, y: Tensor, mask: Mask = None) -> Tensor:
        """Shapes: `y` and the result ``(..., d_out)``, `mask` ``(1,)``, 1 or None; `u` is not looked at."""
        return y + (mask[0] * self.bias if isinstance(mask, Tensor) else self.bias)

    def cut(self, size: int) -> dict[str, Tensor]:
        """The only size is 1: the bias itself."""
        return {"bias": self.bias}

    def merged(self, weight: Tensor, bias: Tensor | None, site: Site) -> tuple[Tensor, Tensor | None]:
        """The bias and this one."""
        added = (weight @ self.bias if site.is_before else self.bias).to(weight.dtype)
        return weight, added if bias is None else bias + added


@dataclass(frozen=True)
class BitFit(Traits):
    """A trained bias. It has nothing but biases, so they count in *nominal* too: ``d_out`` a site."""

    name: str = "bitfit"
    roles: tuple[str, ...] = (*LINEAR, *NORMS)
    order: int = 30
    reads: Reads = Reads.OUTPUT
    seam: Seam = "delta"
    is_sized: bool = False

    def cost(self, site: Site) -> Cost:
        """One number a coordinate of the site's output."""
        # Fixed and not by unit: a bias has no size that could be chosen.
        return Cost(nominal=Line(site.d_out, 0), stored=Line(site.d_out, 0))

    def trained(self, placements: Sequence[tuple[Site, int]]) -> int:
        """All that is stored is trained."""
        return sum_of_stored(self, placements)

    def build(self, placements: Sequence[tuple[Site, int]], frozen: Frozen) -> Mapping[str, nn.Module]:
        """One `Bias` a site."""
        return {site.key: Bias(site.d_out) for site, _ in placements}


MEMBERS = {"bitfit": BitFit(about="a trained bias (BitFit), wherever there is a bias or a norm")}
