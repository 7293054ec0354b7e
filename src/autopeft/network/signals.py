"""What flows through a site in a forward pass: its input, its output or a part of it, and what changes them."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn

from autopeft.backbones import Site
from autopeft.methods import Reads
from autopeft.methods._products import is_autocast


class Pass(threading.local):
    """What a forward pass keeps on its way, apart for every thread that calls the model.

    Attributes:
        inputs: what entered a site and is read further on, by site.
        visible: ``(batch, tokens)``, 0 at padding, or None without padding; absent in a thread that began no pass.
    """

    visible: Tensor | None

    def __init__(self) -> None:
        self.inputs: dict[str, Tensor] = {}

    def __reduce__(self) -> tuple[type[Pass], tuple[()]]:
        return Pass, ()  # a copy of the model has no pass under way


def what_is_read(reads: Reads, norm: nn.Module | None, x: Tensor, y: Tensor) -> Tensor:
    """What a delta reads at a site with input `x` and output `y`; see `Reads`, whose SUM needs the unchanged output."""
    if reads is Reads.INPUT:
        return x
    if reads is Reads.NORMED_SUM and norm is not None:
        frozen: Tensor = norm.forward(x + y)  # not called: what else stands at the norm would change it
        return frozen
    return y


def part_of(output: Tensor, site: Site) -> Tensor:
    """What of a module's output belongs to the site: all, or a part of a fused projection's."""
    return output if site.part is None else output[..., slice(*site.part)]


def with_part(output: Tensor, site: Site, changed: Tensor) -> Tensor:
    """`output` with `changed` in place of what `part_of` gives."""
    if site.part is None:
        return changed
    start, stop = site.part
    # A new tensor: writing into the output would change what autograd has kept of it.
    return torch.cat([output[..., :start], changed, output[..., stop:]], dim=-1)


def input_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """What a module of the backbone was called with."""
    x: Tensor = args[0] if args else kwargs["hidden_states"]
    return x


def changed_by(module: nn.Module, u: Tensor, y: Tensor, mask: Tensor | int | None, **more: Tensor | None) -> Tensor:
    """``module(u, y, mask)`` in the module's own precision, which may be higher than the backbone's; as `y` is."""
    follow(module, u.device)
    if not is_autocast(u.device.type):
        # Autocast chooses precisions by operation, so that within it nothing is converted by hand.
        u = u.to(next(module.parameters()).dtype)
    changed: Tensor = module(u, y, mask, **more)
    return changed.to(y.dtype)


def follow(module: nn.Module, device: torch.device) -> None:
    """Move `module` to where the backbone is by now: it is none of the backbone's own, so `model.to` leaves it."""
    first = next(module.parameters(), None)
    if first is not None and first.device != device:
        with torch.inference_mode(False):  # weights moved within it could not be trained any more
            module.to(device)
