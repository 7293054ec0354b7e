"""Bottleneck adapters: serial (Pfeiffer), parallel, Houlsby.

AutoPEFT (arXiv 2301.12132, section 3.1) puts both kinds at a feed-forward with input ``x`` and output ``h``::

    out = LN(x + h + SA(LN(x + h)) + 4 PA(x))

They differ only in what they read, how they start and how they are scaled, so they are one module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn import functional

from autopeft.architecture import Cost, Line
from autopeft.backbones import Seam, Site
from autopeft.errors import ArchitectureError
from autopeft.methods import Frozen, Mask, Reads, Traits, is_readable, sum_of_stored, unreadable
from autopeft.methods._products import add_up, narrow

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

    def forward(self, u: Tensor, y: Tensor, mask: Mask = None) -> Tensor:
        """Shapes: `u` ``(..., d_in)``, `y` and the result ``(..., d_out)``, `mask` ``(width,)`` or see `Mask`."""
        units, up, bias = self._units(u, mask)
        return add_up(y, units, up, bias, self.scale)

    def change(self, u: Tensor, mask: Mask = None) -> Tensor:
        """What is added to ``y``."""
        units, up, bias = self._units(u, mask)
        # The scale is a plain number and no buffer, so that files of weights do not hold it and the card says it.
        return self.scale * functional.linear(units, narrow(up), bias)

    def _units(self, u: Tensor, mask: Mask) -> tuple[Tensor, Tensor, Tensor]:
        """``m * f(W_down u + b_down)``, ``(..., units)``, and the columns of ``W_up`` and the bias that go with it."""
        if isinstance(mask, int):
            part = self.cut(mask)
            units = self.activation(functional.linear(u, part["down.weight"], part["down.bias"]))  # (..., mask)
            return units, part["up.weight"], part["up.bias"]
        units = self.activation(self.down(u))  # (..., width)
        if mask is None:
            return units, self.up.weight, self.up.bias
        # The bias belongs to no unit, so it goes with the first: with a mask of zeros nothing at all is added.
        return units * mask, self.up.weight, mask[0] * self.up.bias

    def cut(self, size: int) -> dict[str, Tensor]:
        """Rows of the down-projection and columns of the up-projection; the up-projection's bias as it is."""
        return {
            "down.weight": self.down.weight[:size],
            "down.bias": self.down.bias[:size],
            "up.weight": self.up.weight[:, :size].contiguous(),
            # It is there once, however small the module.
            "up.bias": self.up.bias,
        }


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


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation of GELU, which BIPEFT and S3Delta use in every adapter."""
    return functional.gelu(x, approximate="tanh")


@dataclass(frozen=True)
class Adapter(Traits):
    """A bottleneck adapter. Nominal count ``2 D b`` (weights), stored ``+ b + D`` (biases).

    Where input and output of a site differ in width, ``2 D`` is the width of what is read plus that of the output.
    """

    name: str
    reads: Reads
    initialise: Callable[[Bottleneck], None]
    order: int
    scale: float = 1.0
    activation: Activation = functional.relu
    roles: tuple[str, ...] = ("ffn",)
    seam: Seam = "delta"
    is_sized: bool = True
    has_scale: bool = field(default=True, kw_only=True)

    def cost(self, site: Site) -> Cost:
        """Per unit a row and a column (and a bias in `stored`); once, the bias of the up-projection.

        Raises:
            ArchitectureError: it would read a sum of input and output, but their widths differ there.
        """
        if not is_readable(self.reads, site):
            raise ArchitectureError(unreadable(self.name, site))
        # The papers count the weight matrices alone; what is written to disk has the biases too.
        weights = self._width(site) + site.d_out
        return Cost(nominal=Line(0, weights), stored=Line(site.d_out, weights + 1))

    def trained(self, placements: Sequence[tuple[Site, int]]) -> int:
        """All that is stored is trained."""
        return sum_of_stored(self, placements)

    def build(self, placements: Sequence[tuple[Site, int]], frozen: Frozen) -> Mapping[str, nn.Module]:
        """One `Bottleneck` a site."""
        return {site.key: self._module(site, size) for site, size in placements}

    def _module(self, site: Site, size: int) -> Bottleneck:
        module = Bottleneck(self._width(site), site.d_out, size, self.activation, self.scale)
        self.initialise(module)
        return module

    def _width(self, site: Site) -> int:
        return site.d_in if self.reads is Reads.INPUT else site.d_out


MEMBERS = {
    # Pfeiffer placement, as in the authors' release, which produced the published numbers.
    "serial": Adapter(
        "serial",
        Reads.NORMED_SUM,
        normal(0.02),
        order=50,
        about="a serial adapter (Pfeiffer): reads the normalised sum behind the feed-forward",
    ),
    # As AutoPEFT's equation 1 is written: the adapter reads the feed-forward's output.
    "serial_output": Adapter(
        "serial_output",
        Reads.OUTPUT,
        normal(0.02),
        order=50,
        about="a serial adapter as AutoPEFT's equation 1 prints it: reads the feed-forward's output",
    ),
    "parallel": Adapter(
        "parallel",
        Reads.INPUT,
        zero_up,
        order=60,
        scale=4.0,
        about="a parallel adapter: reads the feed-forward's input, scaled by 4",
    ),
    # What the authors' release computes on T5, whose arguments arrive in the opposite order:
    # r + f + SA(r + f) + 4 PA(f).
    "parallel_released": Adapter(
        "parallel_released",
        Reads.OUTPUT,
        zero_up,
        order=45,
        scale=4.0,
        roles=("ffn_block",),
        about="what AutoPEFT's release computes on T5 for a parallel adapter",
    ),
    "serial_released": Adapter(
        "serial_released",
        Reads.SUM,
        normal(0.02),
        order=50,
        roles=("ffn_block",),
        about="what AutoPEFT's release computes on T5 for a serial adapter",
    ),
    # Houlsby et al. 2019 (arXiv 1902.00751): after both sub-layers; swish as in the AutoPEFT release's library.
    "houlsby": Adapter(
        "houlsby",
        Reads.OUTPUT,
        normal(0.02),
        order=50,
        activation=functional.silu,
        roles=("attention", "ffn"),
        about="a serial adapter behind both sub-layers (Houlsby et al. 2019)",
    ),
    # BIPEFT's first space on T5: y = f + SA(f) + PA(u), where u is the normalised input of the feed-forward f.
    "serial_bipeft": Adapter(
        "serial_bipeft",
        Reads.OUTPUT,
        normal(0.01),
        order=50,
        activation=gelu_tanh,
        about="the serial adapter of BIPEFT's space S1",
    ),
    "parallel_bipeft": Adapter(
        "parallel_bipeft",
        Reads.INPUT,
        normal(0.01),
        order=60,
        activation=gelu_tanh,
        about="the parallel adapter of BIPEFT's space S1",
    ),
}
