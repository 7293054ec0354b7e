"""Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685, section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn import functional

from autopeft.architecture import Cost, Line
from autopeft.backbones import Seam, Site
from autopeft.methods import Frozen, Mask, Reads, Traits, sum_of_stored
from autopeft.methods._products import add_up, narrow


class LowRank(nn.Module):
    """``y' = y + c B(m * A x)``. The scale ``c`` does not depend on the rank: masking units must not rescale others.

    A is Kaiming-uniform(a=√5) and B zero, so an untrained module leaves the output unchanged, bit for bit.
    """

    def __init__(self, d_in: int, d_out: int, rank: int, scale: float) -> None:
        super().__init__()
        self.down = nn.Linear(d_in, rank, bias=False)
        self.up = nn.Linear(rank, d_out, bias=False)
        # One number instead of alpha and the rank, since papers differ in whether they divide by the rank at all.
        self.scale = scale
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor, y: Tensor, mask: Mask = None) -> Tensor:
        """Shapes: `x` ``(..., d_in)``, `y` and the result ``(..., d_out)``, `mask` ``(rank,)`` or see `Mask`."""
        units, up = self._units(x, mask)
        return add_up(y, units, up, scale=self.scale)

    def change(self, x: Tensor, mask: Mask = None) -> Tensor:
        """What is added to ``y``."""
        units, up = self._units(x, mask)
        return self.scale * functional.linear(units, narrow(up))

    def _units(self, x: Tensor, mask: Mask) -> tuple[Tensor, Tensor]:
        """``m * A x``, ``(..., units)``, and the columns of B that go with it."""
        if isinstance(mask, int):
            # A product with fewer rows and columns, not one with zeros: that is what makes a small size cheap to train.
            part = self.cut(mask)
            return functional.linear(x, part["down.weight"]), part["up.weight"]
        units = self.down(x)  # (..., rank)
        return units if mask is None else units * mask, self.up.weight

    def merged(self, weight: Tensor, bias: Tensor | None, site: Site) -> tuple[Tensor, Tensor | None]:
        """``W + c B A``; before a map, ``W (1 + c B A)``."""
        change = self.scale * (self.up.weight @ self.down.weight).to(weight.dtype)
        return weight + (weight @ change if site.is_before else change), bias

    def cut(self, size: int) -> dict[str, Tensor]:
        """The first rows of A and columns of B."""
        # A slice of columns is not contiguous, and a file of tensors can only hold what is.
        return {"down.weight": self.down.weight[:size], "up.weight": self.up.weight[:, :size].contiguous()}


@dataclass(frozen=True)
class LoRA(Traits):
    """LoRA with scale ``alpha / r`` given as one number; no dropout. Nominal and stored ``(d_in + d_out) r``."""

    name: str
    scale: float
    roles: tuple[str, ...] = ("q", "v")
    order: int = 10
    reads: Reads = Reads.INPUT
    seam: Seam = "delta"
    is_sized: bool = True
    has_scale: bool = field(default=True, kw_only=True)

    def cost(self, site: Site) -> Cost:
        """Per unit of rank a row of A and a column of B."""
        line = Line(0, site.d_in + site.d_out)
        return Cost(nominal=line, stored=line)

    def trained(self, placements: Sequence[tuple[Site, int]]) -> int:
        """All that is stored is trained."""
        return sum_of_stored(self, placements)

    def build(self, placements: Sequence[tuple[Site, int]], frozen: Frozen) -> Mapping[str, nn.Module]:
        """One `LowRank` a site."""
        return {site.key: LowRank(site.d_in, site.d_out, size, self.scale) for site, size in placements}


MEMBERS = {
    "lora": LoRA(
        "lora", scale=1.0, about="LoRA with alpha = r"
    ),  # alpha = r, as AutoPEFT (r 8, alpha 8) and BIPEFT (no scale) use it
    "lora_double": LoRA(
        "lora_double", scale=2.0, about="LoRA with alpha = 2 r"
    ),  # alpha = 2 r, the T5 baseline (r 8, alpha 16)
    # S3Delta (arXiv 2206.07382) searches at r 1 with alpha 16.
    "lora_s3delta": LoRA(
        "lora_s3delta",
        scale=16.0,
        roles=("q", "k", "v", "o", "ffn_in", "ffn_out"),
        about="LoRA as S3Delta searches it: alpha = 16, at every projection",
    ),
}
