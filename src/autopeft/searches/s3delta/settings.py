"""The settings of S3Delta (Hu et al. 2022, arXiv 2206.07382)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from autopeft.rules import COUNT, NOT_NEGATIVE, POSITIVE, Rule, one_of, or_none, raise_if_any, violations


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
    """

    order: Literal[1, 2] = 2
    size: Literal["smallest", "largest"] = "smallest"
    epochs: float | None = None
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    weight_decay: float = 0.0
    gate_learning_rate: float = 0.1
    gate_weight_decay: float = 0.0
    clip: float = 2.0
    sharpness: float = 1.0
    temperature: float = 1.0
    stretch_low: float = 0.0
    stretch_high: float = 1.0
    is_hard: bool = False
    is_competing: bool = True
    difference: float = 0.01
    evaluate_every: float = 1.0
    keep: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        raise_if_any("The settings of S3Delta cannot be used", violations(self, _RULES))


_RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "order": one_of(1, 2),
        "size": one_of("smallest", "largest"),
        "epochs": or_none(POSITIVE),
        "steps": or_none(COUNT),
        "batch_size": or_none(COUNT),
        "learning_rate": or_none(POSITIVE),
        "weight_decay": NOT_NEGATIVE,
        "gate_learning_rate": POSITIVE,
        "gate_weight_decay": NOT_NEGATIVE,
        "clip": NOT_NEGATIVE,
        "sharpness": POSITIVE,
        "temperature": POSITIVE,
        "stretch_low": ("at most 0", lambda value: -math.inf < value <= 0),
        "stretch_high": ("at least 1", lambda value: 1 <= value < math.inf),
        "difference": POSITIVE,
        "evaluate_every": POSITIVE,
        "keep": one_of("best", "last"),
    }
)

PRESETS: Mapping[str, S3DeltaSettings] = MappingProxyType(
    {"paper": S3DeltaSettings(learning_rate=3e-4), "recommended": S3DeltaSettings()}
)
"""The paper's numbers; the same with the learning rate of the recipe with which what is found will be trained.

LoRA is scaled as the space's method has it, in S2 by 1; the authors' release scales by 16, as `lora_s3delta` does.
"""
