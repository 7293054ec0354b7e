"""What a study notes about itself: attributes of the study in Optuna's storage, each a JSON value under a name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REOPENED = "reopened."
"""Begins the names of attributes that say which trials are to be tried again, one a trial: two who do this at once keep
both."""

FAILED_PROPOSALS = "failed_proposals"
"""The fact that tells what samplers failed at."""


def named(key: str) -> str:
    """The attribute that holds the fact `key`: a name that nothing else of the study's uses."""
    return f"fact.{key}"


def fact_in(attributes: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """What was noted as the fact `key`; `default` when there is none."""
    return attributes.get(named(key), default)


def reopened_in(attributes: Mapping[str, Any]) -> frozenset[int]:
    """The numbers of the failed trials that are to be tried again."""
    return frozenset(int(key.removeprefix(REOPENED)) for key in attributes if key.startswith(REOPENED))
