"""What one pass over a batch gives, and how two passes of the same batch are drawn together.

AdaMix (Wang et al. 2022, arXiv 2205.12410, section 3.2) sends every batch through the model twice, each time with
experts of its own, and adds half the symmetric Kullback-Leibler divergence between the two answers to the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Forward:
    """One pass over a batch.

    Args:
        loss: the mean loss, a scalar.
        logits: ``(rows, classes)``, minus infinity where a class is absent; ``(rows,)`` for a regression.
    """

    loss: Tensor
    logits: Tensor


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """How far two passes are apart, a scalar, in float32: 0 where they agree, and the same in either order.

    Mean over rows of ``½ KL(p ‖ q) + ½ KL(q ‖ p)`` for logits ``(rows, classes)``; mean squared difference for
    values ``(rows,)``.
    """
    if first.dim() == 1:
        return functional.mse_loss(first.float(), second.float())
    # The difference of two minus infinities is NaN, and so would be the gradient of the whole batch.
    is_absent = torch.isneginf(first)
    p, q = (
        # In bf16 two answers that are almost alike differ by rounding alone.
        logits.float().log_softmax(-1).masked_fill(is_absent, 0)  # (rows, classes): both 0, so their difference is 0
        for logits in (first, second)
    )
    return 0.5 * ((p.exp() - q.exp()) * (p - q)).sum(-1).mean()


def loss_with_consistency(forward: Callable[[], Forward], weight: float) -> Tensor:
    """The loss of one pass, and `weight` times its divergence from a second; no second pass for a weight of 0.

    Args:
        forward: a pass over the batch, with random choices of its own each time.
    """
    first = forward()
    if weight == 0:
        return first.loss
    return first.loss + weight * divergence(first.logits, forward().logits)
