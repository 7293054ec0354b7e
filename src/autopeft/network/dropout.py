"""Dropout whose masks are cheap on a CPU.

PyTorch draws one random number for every element, at 8 to 9 ns each; on a small encoder that is a sixth of a
training step. Sixteen bits decide an element just as well, and one 64-bit draw has four times sixteen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

_LEVELS = 2**16
_LANES = 4  # of 16 bits in a draw of 64


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero each element of `x` with probability `p` and scale the rest so that the mean is kept.

    On a CPU the probability is rounded to the next 1/65,536. On other devices this is PyTorch's own dropout.
    The numbers come from PyTorch's global generator, so seeds and the recomputation of gradient checkpointing work
    as they always do.
    """
    if x.device.type != "cpu" or not 0 < p < 1:
        return functional.dropout(x, p, training)
    if not training:
        return x
    dropped = min(max(round(p * _LEVELS), 1), _LEVELS - 1)
    draws = torch.empty(-(-x.numel() // _LANES), dtype=torch.int64).random_(-(2**63), None)
    lanes = draws.view(torch.int16)[: x.numel()].view(x.shape)
    # A comparison written straight into a floating-point tensor is several times as fast as one that makes Booleans.
    scale = torch.ge(lanes, dropped - _LEVELS // 2, out=torch.empty(x.shape, dtype=x.dtype))
    return x * scale.mul_(_LEVELS / (_LEVELS - dropped))


@contextmanager
def quick_dropout(model: nn.Module, p: float | None = None) -> Iterator[None]:
    """Let every dropout layer of `model` use `dropout` until the context ends.

    Args:
        p: takes the place of every rate of the model, those of attention included; None leaves them.
    """
    layers = [layer for layer in model.modules() if type(layer) is nn.Dropout and not layer.inplace]
    rates = _rates(model)
    for layer in layers:
        # An attribute of the instance, as the prefix seam is: the module, its hooks and its state stay as they are.
        layer.__dict__["forward"] = lambda x, layer=layer: dropout(x, layer.p, layer.training)
    try:
        for module, name, rate in rates:
            setattr(module, name, rate if p is None else p)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)
        for module, name, rate in rates:
            setattr(module, name, rate)


def _rates(model: nn.Module) -> list[tuple[nn.Module, str, float]]:
    """Where a transformers model keeps its rates: in dropout layers, or as a number, as T5's attention does."""
    return [
        (module, name, rate)
        for module in model.modules()
        for name in (("p",) if isinstance(module, nn.Dropout) else ("dropout", "attention_dropout"))
        if isinstance(rate := getattr(module, name, None), (int, float))
    ]
