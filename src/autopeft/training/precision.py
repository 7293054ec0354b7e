"""The precision in which a pass is computed, as its recipe says."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from autopeft.errors import SettingsError
from autopeft.training.recipe import Recipe


def check_precision(recipe: Recipe) -> None:
    """Refuse a recipe that leaves its precision open.

    Raises:
        SettingsError: it does.
    """
    if recipe.precision == "auto":
        raise SettingsError("The precision 'auto' is chosen by a search; a training takes 'float32' or 'bf16'.")


def autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager[Any]:
    """Automatic mixed precision in bf16, or nothing."""
    if recipe.precision == "bf16":
        # Without a gradient scaler: bf16 has the range of float32, so small gradients do not become zero as they do in
        # fp16.
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()
