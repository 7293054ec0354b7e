"""The trunk: the layers of a frozen backbone below everything that is trained.

Nothing that is trained changes what these layers give. Where no dropout acts in them, they give the same for an example
whenever it comes, which can be computed once and then put in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autopeft.backbones import Backbone


@dataclass(frozen=True)
class Below:
    """What the lowest `depth` layers give for a batch: `hidden`, ``(rows, tokens, d)``; anything at padding.

    `is_tuple` says that the layers of the family give it as a tuple.
    """

    depth: int
    hidden: Tensor
    is_tuple: bool


class _Reached(Exception):  # it is no error: the end of the trunk is where the pass was to end
    pass


def can_have_trunk(backbone: Backbone) -> bool:
    """Whether all layers stand in one stack: a second one reads what the first gives, wherever it is trained."""
    return len(backbone.family.stacks) == 1


def _layers(backbone: Backbone) -> list[nn.Module]:
    (stack,) = backbone.family.stacks.values()
    return list(backbone.module(stack.layers).children())


@contextmanager
def quiet(backbone: Backbone, depth: int) -> Iterator[None]:
    """Within it nothing is dropped below the layer `depth`, embeddings included, while the rest is in training mode."""
    above = {id(module) for layer in _layers(backbone)[depth:] for module in layer.modules()}
    below = [module for module in backbone.model.modules() if not any(id(inner) in above for inner in module.modules())]

    def silence(*_: Any) -> None:
        # At every pass: whoever evaluates in between switches the whole model back to training mode.
        for module in below:
            module.training = False

    handle = backbone.model.register_forward_pre_hook(silence)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def giving(backbone: Backbone, below: Below | None) -> Iterator[None]:
    """Within it the layers of the trunk compute nothing and give `below`; None lets them compute."""
    layers = [] if below is None else _layers(backbone)[: below.depth]

    def given(*_: Any, **__: Any) -> Any:
        assert below is not None
        return (below.hidden,) if below.is_tuple else below.hidden

    for layer in layers:
        # An attribute of the instance, as at dropout layers: the module, its hooks and its state stay as they are.
        layer.__dict__["forward"] = given
    try:
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


@torch.no_grad()
def captured(backbone: Backbone, depth: int, run: Callable[[], object]) -> Below:
    """What the layers below `depth`, at least 1, give in the pass that `run` begins; it ends there."""
    found: list[Below] = []

    def leave(_: nn.Module, args: Any, output: Any) -> None:
        is_tuple = isinstance(output, tuple)
        found.append(Below(depth, output[0] if is_tuple else output, is_tuple))
        raise _Reached

    handle = _layers(backbone)[depth - 1].register_forward_hook(leave)
    try:
        run()
    except _Reached:
        pass
    finally:
        handle.remove()
    return found[0]
