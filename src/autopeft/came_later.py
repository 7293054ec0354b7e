"""Settings that came after the first studies: a study from before is recognised by settings without them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from autopeft.training.recipe import CAME_LATER

# A study keeps the settings that it was begun with, so a new entry would make every older study look like another one.
_VALUES: Mapping[str, Any] = MappingProxyType(
    {
        **CAME_LATER,
        "cost": "nominal",
        "quantize": None,
        "consistency": 0.0,
        "rate_factors": {},
        "rates": "sweep",
        "start": "random",
        "warm_start": [],
        "scales": {},
        "batch_factors": [],
        "dropout_factors": [],
        "least_steps": 0,
        "bands": None,
        "rungs": [],
        "promotion": "all",
        "promotion_options": {},
        "label_words": False,
        "encoding": None,
        "label_separator": None,
        "metrics": [],
        "class_weights": None,
        "threshold": 0.5,
        "loss_on": "completion",
    }
)
"""Settings that studies written before them lack, with the value that they then had."""


def value_before(name: str) -> Any:
    """The value that a setting had before it could be set; None where studies have always kept it."""
    return _VALUES.get(name)


def without_later(found: Mapping[str, Any]) -> dict[str, Any]:
    """`found` without what came later, where that has the value that it then had."""
    # Only a default is left out: a study that asks for another value is another study.
    return {name: value for name, value in found.items() if (name, value) not in _VALUES.items()}
