"""Low-rank adapters, "Adapter-LR" (S3Delta, arXiv 2206.07382; BIPEFT, section 3.1, on T5).

A bottleneck of fixed width d_out / 32 whose two maps are themselves products of rank r, which is the size.
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
from autopeft.methods._products import add_up, narrow
from autopeft.methods.adapter import gelu_tanh

# Of the released code: the bottleneck is a 32nd of the width, and the factors start with the gain of a rectifier.
_REDUCTION = 32
_GAIN = 2.0**0.5


class LowRankBottleneck(nn.Module):
    """``y' = y + g (B_up (m * A_up gelu(B_down (m * A_down u) + b_down)) + m_0 b_up)``, a mask ``m`` over the rank.

    The mask enters twice, so a scale ``g`` on the whole cannot be a factor on it.

    Only ``B_up`` starts at zero: with a second zero factor behind the activation neither would ever get a gradient.
    The others are Glorot-uniform with gain √2, as in the release, the biases zero; see `even_start`.

    Args:
        d: width of ``u`` and ``y``.
        width: of the bottleneck.
        rank: number of units.
        is_neutral: whether ``B_up`` starts at zero; False starts it as the others.
    """

    def __init__(self, d: int, width: int, rank: int, *, is_neutral: bool = True) -> None:
        super().__init__()
        self.a_down = nn.Parameter(torch.empty(rank, d))
        self.b_down = nn.Parameter(torch.empty(width, rank))
        self.a_up = nn.Parameter(torch.empty(rank, width))
        self.b_up = nn.Parameter(torch.zeros(d, rank))
        self.bias_down = nn.Parameter(torch.zeros(width))
        self.bias_up = nn.Parameter(torch.zeros(d))
        self._is_neutral = is_neutral
        for factor in self._drawn():
            nn.init.xavier_uniform_(factor, gain=_GAIN)

    def _drawn(self) -> list[nn.Parameter]:
        """The factors that do not start at zero."""
        return [self.a_down, self.b_down, self.a_up, *([] if self._is_neutral else [self.b_up])]

    @torch.no_grad()
    def even_start(self) -> None:
        """Take the gain out of every factor, once, before anything is trained.

        One rectifier stands between four factors, so the gain of a rectifier is there three times too often: what
        ``B_up`` is multiplied with is three to four times as large as in LoRA, and so is what a step changes.
        """
        for factor in self._drawn():
            factor.div_(_GAIN)

    def forward(self, u: Tensor, y: Tensor, mask: Mask = None, scale: Tensor | None = None) -> Tensor:
        """Shapes: `u`, `y` and the result ``(..., d)``, `mask` ``(rank,)`` or see `Mask`, `scale` a scalar."""
        part = self.cut(mask if isinstance(mask, int) else len(self.a_down))
        inner = functional.linear(u, part["a_down"])  # (..., rank)
        if isinstance(mask, Tensor):
            inner = inner * mask
        hidden = gelu_tanh(functional.linear(inner, narrow(part["b_down"]), part["bias_down"]))  # (..., width)
        outer = functional.linear(hidden, part["a_up"])  # (..., rank)
        # Without a mask that gradients flow to, both products are exact, and no scale can have been given.
        if not isinstance(mask, Tensor):
            return add_up(y, outer, part["b_up"], part["bias_up"])
        # The scale goes onto the rank rather than onto the result: less to compute, and less to keep for its gradient.
        factor = mask if scale is None else scale * mask
        return add_up(y, outer * factor, part["b_up"], factor[0] * part["bias_up"])

    def cut(self, size: int) -> dict[str, Tensor]:
        """The first rows of both A, columns of both B, and both biases."""
        return {
            "a_down": self.a_down[:size],
            "b_down": self.b_down[:, :size].contiguous(),
            "a_up": self.a_up[:size],
            "b_up": self.b_up[:, :size].contiguous(),
            "bias_down": self.bias_down,
            "bias_up": self.bias_up,
        }


@dataclass(frozen=True)
class LowRankAdapter(Traits):
    """An adapter of low rank. Nominal ``2 (d + d/32) r``; stored adds the biases, ``d + d/32``.

    Args:
        is_neutral: whether it starts at zero.
    """

    name: str = "adapter_lr"
    is_neutral: bool = True
    roles: tuple[str, ...] = ("attention", "ffn")
    order: int = 40
    reads: Reads = Reads.OUTPUT
    seam: Seam = "delta"
    is_sized: bool = True

    def cost(self, site: Site) -> Cost:
        """Per unit two rows and two columns; once, both biases."""
        width = _width(site)
        per_unit = 2 * (site.d_out + width)
        return Cost(nominal=Line(0, per_unit), stored=Line(site.d_out + width, per_unit))

    def trained(self, placements: Sequence[tuple[Site, int]]) -> int:
        """All that is stored is trained."""
        return sum_of_stored(self, placements)

    def build(self, placements: Sequence[tuple[Site, int]], frozen: Frozen) -> Mapping[str, nn.Module]:
        """One `LowRankBottleneck` a site."""
        return {
            site.key: LowRankBottleneck(site.d_out, _width(site), size, is_neutral=self.is_neutral)
            for site, size in placements
        }


def _width(site: Site) -> int:
    return max(1, site.d_out // _REDUCTION)


MEMBERS = {
    "adapter_lr": LowRankAdapter(
        about="an adapter of low rank, its weights products of two factors", is_scaled_apart=True
    ),
    "adapter_lr_s3delta": LowRankAdapter(
        "adapter_lr_s3delta",
        is_neutral=False,
        about="an adapter of low rank as S3Delta starts it: no factor at zero",
        is_scaled_apart=True,
    ),
}
