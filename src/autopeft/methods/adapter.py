"""Bottleneck adapters: serial (Pfeiffer), parallel, Houlsby.

AutoPEFT (arXiv 2301.12132, section 3.1) puts both kinds at a feed-forward with input ``x`` and output ``h``::

    out = LN(x + h + SA(LN(x + h)) + 4 PA(x))

They differ only in what they read, how they start and how they are scaled, so they are one module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from autopeft.architecture import Cost, Line
from autopeft.backbones import Seam, Site
from autopeft.methods import Reads, sum_of_stored

Activation = Callable[[Tensor], Tensor]


class Bottleneck(nn.Module):
    r"""``y' = y + c (W_up (m * f(W_down u + b_down)) + m_0 b_up)`` with a mask ``m`` over the width.

    Args:
        d_in: width of ``u``.
        d_out: width of ``y``.
        width: number of units.
        activation: ``f``.
        scale: ``c``.
    """

    def __init__(self, d_in: int, d_out: int, width: int, activation: Activation, scale: float) -> None:
        super().__init__()
        self.down = nn.Linear(d_in, width)
        self.up = nn.Linear(width, d_out)
        self.activation, self.scale = activation, scale

    def forward(self, u: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
        """Shapes: `u` ``(..., d_in)``, `y` and the result ``(..., d_out)``, `mask` ``(width,)`` or None."""
        units = self.activation(self.down(u))  # (..., width)
        if mask is None:
            return y + self.scale * self.up(units)
        change = functional.linear(units * mask, self.up.weight) + mask[0] * self.up.bias
        return y + self.scale * change


def normal(std: float) -> Callable[[Bottleneck], None]:
    """Both weights N(0, std²), biases 0: the adapter is not the identity at the start."""

    def initialise(module: Bottleneck) -> None:
        for linear in (module.down, module.up):
            nn.init.normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)

    return initialise


def zero_up(module: Bottleneck) -> None:
    """Down-projection Kaiming-uniform(a=√5), up-projection and biases 0: the adapter starts at zero."""
    nn.init.kaiming_uniform_(module.down.weight, a=math.sqrt(5))
    for tensor in (module.up.weight, module.down.bias, module.up.bias):
        nn.init.zeros_(tensor)


@dataclass(frozen=True)
class Adapter:
    """A bottleneck adapter. Nominal count ``2 D b`` (weights), stored ``+ b + D`` (biases)."""

    name: str
    reads: Reads
    initialise: Callable[[Bottleneck], None]
    order: int
    scale: float = 1.0
    activation: Activation = functional.relu
    roles: tuple[str, ...] = ("ffn",)
    seam: Seam = "delta"
    is_sized: bool = True

    def cost(self, site: Site) -> Cost:
        """Per unit a row and a column (and a bias in `stored`); once, the bias of the up-projection."""
        weights = site.d_in + site.d_out
        return Cost(nominal=Line(0, weights), stored=Line(site.d_out, weights + 1))

    def trained(self, placements: Sequence[tuple[Site, int]]) -> int:
        """All that is stored is trained."""
        return sum_of_stored(self, placements)

    def build(self, placements: Sequence[tuple[Site, int]]) -> Mapping[str, nn.Module]:
        """One `Bottleneck` a site."""
        return {site.key: self._module(site, size) for site, size in placements}

    def _module(self, site: Site, size: int) -> Bottleneck:
        d_in = site.d_in if self.reads is Reads.INPUT else site.d_out
        module = Bottleneck(d_in, site.d_out, size, self.activation, self.scale)
        self.initialise(module)
        return module


MEMBERS = {
    # Pfeiffer placement, as in the authors' release, which produced the published numbers.
    "serial": Adapter("serial", Reads.NORMED_SUM, normal(0.02), order=50),
    # As AutoPEFT's equation 1 is written: the adapter reads the feed-forward's output.
    "serial_output": Adapter("serial_output", Reads.OUTPUT, normal(0.02), order=50),
    "parallel": Adapter("parallel", Reads.INPUT, zero_up, order=60, scale=4.0),
    # What the authors' release computes on T5, whose arguments arrive in the opposite order:
    # r + f + SA(r + f) + 4 PA(f).
    "parallel_released": Adapter("parallel_released", Reads.OUTPUT, zero_up, order=45, scale=4.0, roles=("ffn_block",)),
    "serial_released": Adapter("serial_released", Reads.SUM, normal(0.02), order=50, roles=("ffn_block",)),
}
