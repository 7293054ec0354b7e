"""What is wrong with entries that files of several kinds of experiments have, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def wrong_mapping(raw: Mapping[str, Any], key: str) -> list[str]:
    """What is wrong with an entry that must name one thing at least."""
    if isinstance(raw[key], Mapping) and raw[key]:
        return []
    return [f"`{key}` is a mapping with one entry at least, but got {raw[key]!r}"]


def wrong_settings(raw: Mapping[str, Any]) -> list[str]:
    """What is wrong with `settings` before they are read."""
    return [] if isinstance(raw["settings"], Mapping) else [f"`settings` is a mapping, but got {raw['settings']!r}"]


def wrong_samplers(raw: Mapping[str, Any]) -> list[str]:
    """What is wrong with `samplers`: each is a mapping of settings."""
    wrong = wrong_mapping(raw, "samplers")
    odd = {} if wrong else {name: own for name, own in raw["samplers"].items() if not isinstance(own, Mapping)}
    return wrong + [f"`samplers.{name}` is a mapping of settings, but got {change!r}" for name, change in odd.items()]


def wrong_seeds(seeds: Any) -> list[str]:
    """What is wrong with `seeds`."""
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        return [f"`seeds` is a list of whole numbers of at least 0, but got {seeds!r}"]
    # A run that stands twice would count as two independent ones, which agree to the last digit.
    if len(set(seeds)) < len(seeds):
        return [f"`seeds` names every seed once, but got {seeds!r}"]
    return []
