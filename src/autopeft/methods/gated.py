"""Gated modules, the parts of UniPELT (Mao et al. 2022, arXiv 2110.07577, section 3.2).

Each module weighs what it adds by one number an example, ``g = mean over tokens of σ(w·u + c)``, read from the
module's own input ``u``. The mean leaves padding out, so that padding changes nothing. It takes the whole input at
once, which a decoder that writes token by token has not read: gated modules stand in encoders only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from autopeft.architecture import Cost, Line
from autopeft.backbones import Seam, Site
from autopeft.methods import Cuttable, Frozen, Mask, Method, Reads, Traits
from autopeft.methods.adapter import MEMBERS as ADAPTERS
from autopeft.methods.lora import LoRA
from autopeft.methods.prefix import Prefix, PrefixTuning


class InputGate(nn.Module):
    """``mean over tokens of σ(w·u + c)``, with w from N(0, 0.02²) and c = 0: about a half at the start."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d))
        self.bias = nn.Parameter(torch.zeros(1))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, u: Tensor, visible: Tensor | None = None) -> Tensor:
        """``(batch, tokens, d)`` to ``(batch, 1, 1)``; `visible` ``(batch, tokens)`` is 0 at padding."""
        # In the precision of the trained weight: a half-precision input would lose the small steps of its gradient.
        by_token = torch.sigmoid(u.to(self.weight.dtype) @ self.weight + self.bias).to(self.weight.dtype)
        counted = torch.ones_like(by_token) if visible is None else visible.to(by_token.dtype)
        mean: Tensor = (by_token * counted).sum(dim=1) / counted.sum(dim=1)
        return mean.view(-1, 1, 1)


class _Adds(Protocol):
    """A module whose result is ``y`` and a change that does not depend on ``y``."""

    def change(self, u: Tensor, mask: Mask = None) -> Tensor: ...


class _Gated(nn.Module):
    """A module behind a gate over an input of width `d`."""

    def __init__(self, inner: nn.Module, d: int) -> None:
        super().__init__()
        self.inner, self.gate = inner, InputGate(d)

    def cut(self, size: int) -> dict[str, Tensor]:
        """The first units of the inner module, and the gate as it is."""
        inner = {f"inner.{name}": value for name, value in cast(Cuttable, self.inner).cut(size).items()}
        return inner | {"gate.weight": self.gate.weight, "gate.bias": self.gate.bias}


class GatedDelta(_Gated):
    """``y' = y + g d(u)`` for a delta ``d``."""

    def forward(self, u: Tensor, y: Tensor, mask: Mask = None, visible: Tensor | None = None) -> Tensor:
        """Shapes as for the inner module; `visible` ``(batch, tokens)`` is 0 at padding, None without padding."""
        gate: Tensor = self.gate(u, visible)
        return y + gate * cast(_Adds, self.inner).change(u, mask)


class GatedPrefix(_Gated):
    """A prefix whose keys and values are multiplied by ``g``."""

    inner: Prefix

    def keys_values(
        self, mask: Mask = None, x: Tensor | None = None, visible: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values, each ``(batch, heads, length, d_head)``, and the presence over the length or None.

        Args:
            x: the attention's input, ``(batch, tokens, d)``.
            visible: ``(batch, tokens)``, 0 at padding; None without padding.
        """
        assert x is not None
        keys, values, over_length = self.inner.keys_values(mask)
        gate = self.gate(x, visible)[..., None]  # (batch, 1, 1, 1)
        # UniPELT weighs keys and values and leaves the softmax as it is, so a closed gate is a prefix of zeros, not
        # none.
        return gate * keys, gate * values, over_length

    def fold(self) -> None:
        """Fold the prefix; the gate stays."""
        self.inner.fold()


@dataclass(frozen=True)
class GatedMethod(Traits):
    """`base` behind a gate. Nominal count as without it; stored and trained ``+ d_in + 1`` a placement."""

    name: str
    base: Method
    stacks: tuple[str, ...] = field(default=("encoder",), kw_only=True)
    sees_padding: bool = field(default=True, kw_only=True)

    @property
    def roles(self) -> tuple[str, ...]:
        """Those of the base."""
        return self.base.roles

    @property
    def seam(self) -> Seam:
        """That of the base."""
        return self.base.seam

    @property
    def reads(self) -> Reads:
        """As the base; the gate reads the same."""
        return self.base.reads

    @property
    def order(self) -> int:
        """That of the base."""
        return self.base.order

    @property
    def is_sized(self) -> bool:
        """As the base."""
        return self.base.is_sized

    def cost(self, site: Site) -> Cost:
        """That of the base, and the gate in `stored`."""
        base = self.base.cost(site)
        return Cost(base.nominal, Line(base.stored.fixed + self._width(site) + 1, base.stored.per_unit))

    def trained(self, placements: Sequence[tuple[Site, int]]) -> int:
        """That of the base, and the gates."""
        return self.base.trained(placements) + sum(self._width(site) + 1 for site, _ in placements)

    def build(self, placements: Sequence[tuple[Site, int]], frozen: Frozen) -> Mapping[str, nn.Module]:
        """The modules of the base, each behind a gate of its own."""
        widths = {site.key: self._width(site) for site, _ in placements}
        kind = GatedPrefix if self.seam == "kv" else GatedDelta
        return {key: kind(inner, widths[key]) for key, inner in self.base.build(placements, frozen).items()}

    def _width(self, site: Site) -> int:
        return site.d_in if self.reads is Reads.INPUT else site.d_out


MEMBERS = {
    "serial_gated": GatedMethod("serial_gated", ADAPTERS["serial"], about="a serial adapter behind UniPELT's gate"),
    # The authors' reparametrisation is 512 wide; the gate takes the place of LoRA's alpha / r.
    "prefix_gated": GatedMethod(
        "prefix_gated", PrefixTuning("prefix_gated", hidden=512), about="prefix tuning behind UniPELT's gate"
    ),
    "lora_gated": GatedMethod("lora_gated", LoRA("lora_gated", scale=1.0), about="LoRA behind UniPELT's gate"),
}
