"""Dropout whose masks are cheap on a CPU, and random numbers that do not depend on who else draws.

PyTorch draws one random number for every element, at 8 to 9 ns each; on a small encoder that is a sixth of a
training step. Sixteen bits decide an element just as well, and one 64-bit draw has four times sixteen.

On a CPU a layer takes one number from PyTorch's global generator and draws its mask from a generator begun with it.
So the n-th layer of a pass drops the same whatever the shapes before it were: architectures of one seed are trained
under the same dropout, one by one or several in one pass, however long their prefixes are.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_LEVELS = 2**16
_LANES = 4  # of 16 bits in a draw of 64

Rows = Callable[[], int | None]
"""How many rows one share of the batch has; None where the batch is one whole."""


def dropout(x: Tensor, p: float, training: bool, rows: int | None = None) -> Tensor:
    """Zero each element of `x` with probability `p` and scale the rest so that the mean is kept.

    On a CPU the probability is rounded to the next 1/65,536. On other devices this is PyTorch's own dropout.
    The numbers come from PyTorch's global generator, so seeds and the recomputation of gradient checkpointing work
    as they always do.

    Args:
        rows: where `x` is several shares of so many rows, one after the other, each share is given the same mask; on
            a CPU, which also draws it only once.
    """
    # On other devices PyTorch draws and multiplies in one kernel, which nothing written in Python comes near.
    if x.device.type != "cpu" or not 0 < p < 1:
        return functional.dropout(x, p, training)
    if not training:
        return x
    # Below the end of the trunk the rows are there once for all shares, and are given the mask that each share has
    # above.
    if rows is None or x.shape[0] <= rows or x.shape[0] % rows:
        return x * _scale(x.shape, p, x.dtype)
    return (x.reshape(-1, rows, *x.shape[1:]) * _scale(torch.Size((rows, *x.shape[1:])), p, x.dtype)).flatten(0, 1)


def _scale(shape: torch.Size, p: float, dtype: torch.dtype) -> Tensor:
    """0 where something is dropped, ``1 / (1 - p)`` elsewhere."""
    # Neither nothing nor everything, however close to it the rate is.
    dropped, n = min(max(round(p * _LEVELS), 1), _LEVELS - 1), shape.numel()
    draws = torch.empty(-(-n // _LANES), dtype=torch.int64).random_(-(2**63), None, generator=_begun())
    lanes = draws.view(torch.int16)[:n].view(shape)
    # A comparison written straight into a floating-point tensor is several times as fast as one that makes Booleans.
    scale = torch.ge(lanes, dropped - _LEVELS // 2, out=torch.empty(shape, dtype=dtype))
    # By the probability as it was rounded, so that the mean is kept exactly.
    return scale.mul_(_LEVELS / (_LEVELS - dropped))


def _begun() -> torch.Generator:
    """A generator begun with the next number of the global one, which thereby goes one step on."""
    return torch.Generator().manual_seed(next_draw())


def next_draw() -> int:
    """The next number of the global generator, 0 to 2^63 - 1.

    Whoever computes a pass takes one first: then what is drawn in it differs from the pass before, even where no layer
    drops anything.
    """
    return int(torch.empty((), dtype=torch.int64).random_())


@contextmanager
def drawing_apart(name: str) -> Iterator[None]:
    """Within it the global generator gives numbers that depend on its state and on `name`; it ends as it began.

    So what a module draws by itself, and whether there is such a module, changes nothing for anybody else.
    """
    state = torch.get_rng_state()
    # A checksum and not `hash`, which differs from process to process; `next_draw` is inside what is put back.
    torch.default_generator.manual_seed(next_draw() ^ zlib.crc32(name.encode()))
    try:
        yield
    finally:
        torch.set_rng_state(state)


def from_one_state(n: int) -> Iterator[int]:
    """0 to n - 1, with the global generator each time in the state in which it was at first."""
    state = torch.get_rng_state()
    for index in range(n):
        if index:
            torch.set_rng_state(state)
        yield index


@contextmanager
def quick_dropout(model: nn.Module, p: float | None = None, rows: Rows = lambda: None) -> Iterator[None]:
    """Let every dropout layer of `model` use `dropout` until the context ends.

    Args:
        p: takes the place of every rate of the model, those of attention included; None leaves them.
        rows: how many rows one share of the batch has, asked at every pass.
    """
    # No subclasses, which may compute something else, and nothing that writes into its input.
    layers = [layer for layer in model.modules() if type(layer) is nn.Dropout and not layer.inplace]
    rates = _rates(model)
    for layer in layers:
        # An attribute of the instance, as the prefix seam is: the module, its hooks and its state stay as they are.
        layer.__dict__["forward"] = lambda x, layer=layer: dropout(x, layer.p, layer.training, rows())
    try:
        for module, name, rate in rates:
            setattr(module, name, rate if p is None else p)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)
        for module, name, rate in rates:
            setattr(module, name, rate)


def _rates(model: nn.Module) -> list[tuple[Any, str, float]]:
    """Where a transformers model keeps its rates.

    In dropout layers; as a number of a module, as T5's attention and BLOOM's blocks do; or in a configuration that a
    block has for itself, as ours of Falcon have.
    """
    found: list[tuple[Any, str, float]] = []
    for module in model.modules():
        own = getattr(module, "config", None)
        # That of the whole model says what it is, and stays.
        holders = [module] if own is None or own is getattr(model, "config", None) else [module, own]
        names = ("p",) if isinstance(module, nn.Dropout) else ("dropout", "attention_dropout", "hidden_dropout")
        found += [
            (holder, name, rate)
            for holder in holders
            for name in names
            if isinstance(rate := getattr(holder, name, None), (int, float))
        ]
    return found
