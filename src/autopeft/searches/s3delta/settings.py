"""The settings of S3Delta (Hu et al. 2022, arXiv 2206.07382)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Literal

from annotated_types import Ge, Le

from autopeft.rules import NUMBER, Count, NotNegative, Positive, raise_if_any, violations
from autopeft.searches._problem import LATER


@dataclass(frozen=True)
class S3DeltaSettings:
    """How the search is done.

    Args:
        order: 2 differentiates through a virtual step of the weights, 1 does not; a step then has two backward
            passes and not five.
        size: at which of its candidate sizes a module stands: the "smallest" (the paper's rank 1) or "largest".
        epochs: passes over the first half of the training part; None takes the recipe's.
        steps: instead of `epochs`, or None.
        batch_size, learning_rate: None takes the recipe's.
        weight_decay: of the weights' AdamW (β 0.9 and 0.999).
        gate_learning_rate, gate_weight_decay: of the gates' AdamW. Both rates fall linearly to 0.
        clip: limit of the gradient norm, of weights and of gates apart; 0 does not limit.
        sharpness: β, the scale of the sigmoid.
        temperature: τ of the binary concrete gates.
        stretch_low, stretch_high: gates are ``clip(z (high - low) + low, 0, 1)``; 0 and 1 do not stretch.
        is_hard: round the gates in the forward pass, with the gradient of the soft ones.
        is_competing: pass gradients through ``p_i / Σp · stop(Σp)``, by which one module gains what others lose.
        difference: the finite difference of order 2 is this number over the norm of the validation gradient.
        evaluate_every: epochs between evaluations on the second half, with the gates at their probabilities.
        keep: take the gates of the "best" evaluation or the "last".
        answers: how many architectures a budget is answered with: beside the one of all methods, those of one method
            each, whose modules of highest probability fit the budget.
    """

    order: Literal[1, 2] = 2
    size: Literal["smallest", "largest"] = "smallest"
    epochs: Positive | None = None
    steps: Count | None = None
    batch_size: Count | None = None
    learning_rate: Positive | None = None
    weight_decay: NotNegative = 0.0
    gate_learning_rate: Positive = 0.1
    gate_weight_decay: NotNegative = 0.0
    clip: NotNegative = 2.0
    sharpness: Positive = 1.0
    temperature: Positive = 1.0
    stretch_low: Annotated[float, Le(0), NUMBER] = 0.0
    stretch_high: Annotated[float, Ge(1), NUMBER] = 1.0
    is_hard: bool = False
    is_competing: bool = True
    difference: Positive = 0.01
    evaluate_every: Positive = 1.0
    keep: Literal["best", "last"] = "best"
    answers: Count = field(default=1, metadata=LATER)

    def __post_init__(self) -> None:
        raise_if_any("The settings of S3Delta cannot be used", violations(self))


PRESETS: Mapping[str, S3DeltaSettings] = MappingProxyType(
    {"paper": S3DeltaSettings(learning_rate=3e-4), "recommended": S3DeltaSettings()}
)
"""The paper's numbers; the same with the learning rate of the recipe with which what is found will be trained.

LoRA is scaled as the space's method has it: in S2 by 1, in S3Delta-M by 16, as in the authors' release.
"""
