"""The precision in which a pass is computed, as its recipe says."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from autopeft.training.recipe import Recipe


def autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager[Any]:
    """Automatic mixed precision in bf16, or nothing."""
    if recipe.precision == "bf16":
        # Without a gradient scaler: bf16 has the range of float32, so small gradients do not become zero as they do in
        # fp16.
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()
