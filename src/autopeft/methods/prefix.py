"""Prefix tuning (Li and Liang 2021, arXiv 2101.00190), with the reparametrisation that AutoPEFT uses.

In training, keys and values come from one shared embedding through ``Linear(D, 800)``, tanh and a linear map a
site (AutoPEFT's release; together these maps are the ``Linear(800, 2 D n)`` of the papers). When training is over
they are folded into ``2 l D`` numbers a site, and the rest is discarded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autopeft.architecture import Cost, Line
from autopeft.backbones import Seam, Site
from autopeft.methods import Frozen, Mask, Reads, Traits, sum_of_stored


class Trunk(nn.Module):
    """The shared part: ``tanh(Linear(E))`` with ``E`` of shape ``(length, d)``. Default initialisation of PyTorch."""

    def __init__(self, length: int, d: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(length, d)
        self.linear = nn.Linear(d, hidden)

    def forward(self) -> Tensor:
        """``(length, hidden)``."""
        return torch.tanh(self.linear(self.embedding.weight))


class Prefix(nn.Module):
    """Keys and values of one site: reparametrised by a trunk, or free (`trunk` None, N(0, 0.02²)).

    Args:
        trunk: shared with the other sites, or None.
        length: number of units; a trunk may be longer, its first `length` rows are used.
    """

    def __init__(self, trunk: Trunk | None, length: int, heads: int, d_head: int) -> None:
        super().__init__()
        self.length, self.heads, self.d_head = length, heads, d_head
        self.trunk: Trunk | None = trunk
        self.out: nn.Linear | None = None
        self.prefix: nn.Parameter | None = None
        if trunk is None:
            self.prefix = nn.Parameter(torch.empty(length, 2, heads, d_head))
            nn.init.normal_(self.prefix, std=0.02)
        else:
            self.out = nn.Linear(trunk.linear.out_features, 2 * heads * d_head)

    def _values(self) -> Tensor:
        if self.trunk is None or self.out is None:
            assert self.prefix is not None
            return self.prefix
        # Rows are taken before the linear map, so a shorter prefix costs less and equals the longer one's beginning.
        rows: Tensor = self.out(self.trunk()[: self.length])
        return rows.view(self.length, 2, self.heads, self.d_head)

    def keys_values(self, mask: Mask = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values, each ``(heads, length, d_head)``, and `mask` over the length as their presence.

        A whole number as `mask` shortens the prefix to its first positions instead.
        """
        if isinstance(mask, int):
            keys, values = self._values()[:mask].permute(1, 2, 0, 3)  # (2, heads, mask, d_head)
            return keys, values, None
        keys, values = self._values().permute(1, 2, 0, 3)  # (2, heads, length, d_head)
        # The mask is not multiplied in: a key of zeros would still draw attention, while a presence of zero draws none.
        return keys, values, mask

    def cut(self, size: int) -> dict[str, Tensor]:
        """The first positions, after the reparametrisation."""
        # What is handed over is folded: the shared part of the reparametrisation belongs to every site at once.
        return {"prefix": self._values()[:size]}

    @torch.no_grad()
    def fold(self) -> None:
        """Replace the reparametrisation by its value, so that only ``2 l D`` numbers are left. Idempotent."""
        # Sites are folded one after the other, and a second call must not take the value of a value.
        if self.prefix is None:
            self.prefix = nn.Parameter(self._values().detach().clone())
            self.trunk = self.out = None


@dataclass(frozen=True)
class PrefixTuning(Traits):
    """Prefix tuning at self-attentions. `hidden` is the width of the reparametrisation; None for none."""

    name: str
    hidden: int | None
    roles: tuple[str, ...] = ("kv",)
    seam: Seam = "kv"
    order: int = 0
    reads: Reads = Reads.INPUT
    is_sized: bool = True

    def cost(self, site: Site) -> Cost:
        """Per position a key and a value, after folding."""
        line = Line(0, 2 * site.d_out)
        return Cost(nominal=line, stored=line)

    def trained(self, placements: Sequence[tuple[Site, int]]) -> int:
        """The embedding and the linear maps of the reparametrisation; what is stored where there is none."""
        if self.hidden is None or not placements:
            return sum_of_stored(self, placements)
        # All sites of a backbone have heads of one width in common, so the first tells it for all.
        d = placements[0][0].d_out
        # All sites read one embedding, which is as long as the longest of them.
        shared = max(size for _, size in placements) * d + d * self.hidden + self.hidden
        return shared + sum((self.hidden + 1) * 2 * site.d_out for site, _ in placements)

    def build(self, placements: Sequence[tuple[Site, int]], frozen: Frozen) -> Mapping[str, nn.Module]:
        """One `Prefix` a site; all share one `Trunk`."""
        trunk = None
        if self.hidden is not None:
            trunk = Trunk(max(size for _, size in placements), placements[0][0].d_out, self.hidden)
        return {site.key: Prefix(trunk, size, site.heads, site.d_head) for site, size in placements}


MEMBERS = {
    "prefix": PrefixTuning(
        "prefix", hidden=800, about="prefix tuning with the shared reparametrisation, folded when saved"
    ),
    "prefix_direct": PrefixTuning("prefix_direct", hidden=None, about="prefix tuning of free keys and values"),
}
