"""Weight-decomposed low-rank adaptation, DoRA (Liu et al. 2024, arXiv 2402.09353, section 4).

A frozen weight W is taken apart into the lengths of its rows and their directions; the lengths are trained, and the
directions changed by a low-rank product: ``W' = m (W + c B A) / ‖W + c B A‖``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from autopeft.architecture import Cost, Line
from autopeft.backbones import LINEAR, Seam, Site, linear_weight
from autopeft.errors import ArchitectureError
from autopeft.methods import Frozen, Mask, Reads, Traits, sum_of_stored
from autopeft.methods._products import narrow


class Decomposed(nn.Module):
    """``y' = m / n (y - b) + b + m / n c B A x``, with ``n`` the lengths of the rows of ``W + c B A``.

    As in the paper (section 4.3), no gradient flows through ``n``. A is Kaiming-uniform(a=√5), B zero and m the lengths
    of the rows of W, so an untrained module leaves the output unchanged up to rounding.

    Args:
        frozen: the linear map at the site; its weight is looked up at every call and never trained.
        site: where that is.
        rank: number of units.
        scale: ``c``.
    """

    def __init__(self, frozen: nn.Module, site: Site, rank: int, scale: float) -> None:
        super().__init__()
        # In a list it is no part of this module's parameters, and still follows the backbone.
        self._frozen, self._site, self.scale = [frozen], site, scale
        self.down = nn.Linear(site.d_in, rank, bias=False)
        self.up = nn.Linear(rank, site.d_out, bias=False)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)
        self.magnitude = nn.Parameter(linear_weight(frozen, site)[0].detach().to(self.down.weight.dtype).norm(dim=1))

    def forward(self, x: Tensor, y: Tensor, mask: Mask = None, scale: Tensor | None = None) -> Tensor:
        """Shapes: `x` ``(..., d_in)``, `y` and the result ``(..., d_out)``, `mask` ``(rank,)`` or see `Mask`.

        `scale` is a scalar. `y` is the output of the frozen map, before any other module has changed it.
        """
        part = self.cut(mask if isinstance(mask, int) else len(self.down.weight))
        down, up = part["down.weight"], part["up.weight"]
        if isinstance(mask, Tensor):
            # On one factor only: the product must be linear in the mask, as the search takes it to be.
            up = up * mask
        weight, bias = linear_weight(self._frozen[0], self._site)
        # The paper detaches the lengths (section 4.3): it saves the memory of a matrix of the size of the weight.
        with torch.no_grad():
            length = torch.addmm(weight.to(up.dtype), up, down, alpha=self.scale).norm(dim=1)
        ratio = (self.magnitude / length).to(y.dtype)
        # The directions are those of the weight, so the bias must not be stretched with them.
        base = y if bias is None else y - bias.to(y.dtype)
        change = (ratio - 1) * base + ratio * self.scale * functional.linear(functional.linear(x, down), narrow(up))
        share = 1 if scale is None else scale
        # Without any unit the module is absent, and so are its lengths.
        added: Tensor = change * share * mask[0] if isinstance(mask, Tensor) else change * share
        return y + added

    def merged(self, weight: Tensor, bias: Tensor | None, site: Site) -> tuple[Tensor, Tensor | None]:
        """``m (W + c B A) / ‖W + c B A‖``, row by row; the bias is not stretched."""
        changed = torch.addmm(weight.to(self.up.weight.dtype), self.up.weight, self.down.weight, alpha=self.scale)
        return (changed * (self.magnitude / changed.norm(dim=1))[:, None]).to(weight.dtype), bias

    def cut(self, size: int) -> dict[str, Tensor]:
        """The first rows of A and columns of B, and the lengths as they are."""
        return {
            "down.weight": self.down.weight[:size],
            "up.weight": self.up.weight[:, :size].contiguous(),
            "magnitude": self.magnitude,
        }


@dataclass(frozen=True)
class DoRA(Traits):
    """DoRA with scale ``alpha / r`` given as one number. Nominal and stored ``(d_in + d_out) r + d_out``."""

    name: str
    scale: float
    roles: tuple[str, ...] = ("q", "v")
    # Before anything else at the site: it scales the frozen map's own output.
    order: int = 0
    reads: Reads = Reads.INPUT
    seam: Seam = "delta"
    is_sized: bool = True
    has_scale: bool = field(default=True, kw_only=True)

    def cost(self, site: Site) -> Cost:
        """Per unit of rank a row of A and a column of B; once, a length for every row of the frozen weight.

        Raises:
            ArchitectureError: the site is no linear map.
        """
        _check(self.name, site)
        line = Line(site.d_out, site.d_in + site.d_out)
        return Cost(nominal=line, stored=line)

    def trained(self, placements: Sequence[tuple[Site, int]]) -> int:
        """All that is stored is trained."""
        return sum_of_stored(self, placements)

    def build(self, placements: Sequence[tuple[Site, int]], frozen: Frozen) -> Mapping[str, nn.Module]:
        """One `Decomposed` a site.

        Raises:
            ArchitectureError: a site is no linear map.
        """
        for site, _ in placements:
            _check(self.name, site)
        return {site.key: Decomposed(frozen[site.key], site, size, self.scale) for site, size in placements}


def _check(name: str, site: Site) -> None:
    if site.role not in LINEAR or site.entry != site.exit:
        raise ArchitectureError(f"{name} stands at linear maps only ({', '.join(LINEAR)}), but {site.key} is none.")


MEMBERS = {
    "dora": DoRA(
        "dora", scale=1.0, is_scaled_apart=True, about="DoRA with alpha = r: lengths and directions of frozen weights"
    )
}
