"""Products with the narrow matrices of PEFT modules, in the layout in which a processor is quick at them.

The gradient of an up-projection's weight is a product of two tall matrices, of which one has a column a unit. As
PyTorch lays it out by itself it is ``Gᵀ U``, at which the products of a CPU are slow for fewer than sixteen units: for
LoRA of rank 8 on a wide map it takes two thirds as long as the frozen map beside it. With the weight laid out by
columns it is ``Uᵀ G``, which is as quick as it should be (`benchmarks/step.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def narrow(weight: Tensor) -> Tensor:
    """`weight`, ``(d_out, units)``, in the layout that makes it cheap to train by `torch.nn.functional.linear`.

    The values are the same. On other devices than a CPU it is `weight` itself.
    """
    return weight.t().contiguous().t() if weight.device.type == "cpu" else weight


def is_autocast(kind: str) -> bool:
    """Whether precisions are chosen by operation on this kind of device; "meta" knows no autocast."""
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def add_up(y: Tensor, units: Tensor, weight: Tensor, bias: Tensor | None = None, scale: float = 1.0) -> Tensor:
    """``y + c (units Wᵀ + b)``: what an up-projection adds, without a pass over ``y`` for each of its three steps.

    Args:
        y: ``(..., d_out)``.
        units: ``(..., units)``, with as many rows.
        weight: ``(d_out, units)``.
        bias: ``(d_out,)``.
        scale: ``c``.
    """
    kind = y.device.type
    # What is of two precisions is added in the higher one; autocast would lower what is added to with the product.
    if y.dtype != units.dtype or (is_autocast(kind) and y.dtype != torch.get_autocast_dtype(kind)):
        return y + scale * functional.linear(units, narrow(weight), bias)
    rows = torch.addmm(y.reshape(-1, y.shape[-1]), units.reshape(-1, units.shape[-1]), narrow(weight).t(), alpha=scale)
    added = rows.view(y.shape)
    return added if bias is None else added + scale * bias
