"""Results that are of another experiment than the file describes now: what they were made by, against what it asks.

A cell goes by its name, and a file may change while its cells lie there. Only what both sides tell is compared: results
of earlier commits lack what came later, and may lie on a machine where models and data had other folders.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any, Protocol, runtime_checkable

from autopeft.experiments._results import Result
from autopeft.study.identity import flat

_SETTINGS = "settings"
_PARTS = ("train", "validation", "test")

_OF_THE_MACHINE = frozenset(
    {"data", "workers", "batch", "max_retries", "trackers", "device", "devices", "memory", "trust_remote_code"}
)
"""Settings that say where and how fast it is trained."""

_PATHS = frozenset({"model", "warm_start", *(f"files.{part}" for part in _PARTS)})
"""Settings that name files and folders, which lie elsewhere on another machine: their names alone are compared."""

_LEFT_OPEN = frozenset(
    {"initial", "start", "rates", "space.name", "space.batch_factors", "space.dropout_factors", "space.least_steps"}
)
"""Settings that None leaves to be worked out; a result holds what came of it, or None where an earlier commit kept it.
"""


@runtime_checkable
class Asking(Protocol):
    """A part that says what it asks of a cell, which a kind that keeps no settings need not."""

    def asks(self, cell: Any) -> Mapping[str, Any]:
        """What the file asks of a cell, under the keys that its result has it under; ``settings`` may be among them."""
        ...


def as_written(entry: Any) -> str:
    """What a file says of one rival, as text, so that whatever changes in it is seen: a rate more, an option less."""
    return json.dumps(_plain(entry), sort_keys=True)


def _plain(value: Any) -> Any:
    """Numbers as numbers, however they are written: YAML reads 1e-3 as text and 0.001 as a number."""
    if isinstance(value, Mapping):
        return {str(key): _plain(own) for key, own in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(own) for own in value]
    if value is None or isinstance(value, bool):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


def differences(asked: Mapping[str, Any], stored: Result) -> list[str]:
    """What a result was made by that is not what is asked for, a phrase each; empty when they agree."""
    theirs = {key: stored[key] for key in asked if key in stored}
    here, there = _facts(asked), _facts(theirs)
    return [
        f"`{key}` is {there[key]!r} there and {here[key]!r} in the file"
        for key in here
        if key in there and here[key] != there[key]
    ]


def other_data(cells: Iterable[tuple[str, Result]]) -> dict[str, list[str]]:
    """Cells whose data are others than those of the first cell that asks for the same: what differs, by name."""
    first: dict[str, tuple[str, Mapping[str, Any]]] = {}
    found = {}
    for name, cell in cells:
        if not {_SETTINGS, "splits"} <= cell.keys():
            continue
        key = repr([cell[_SETTINGS].get(one) for one in ("task", "protocol", "data_seed", *_LIMITS)])
        whose, digests = first.setdefault(key, (name, _digests(cell["splits"])))
        odd = [part for part, digest in _digests(cell["splits"]).items() if digests.get(part, digest) != digest]
        if odd:
            found[name] = [f"the {part} part has other examples than that of {whose!r}" for part in odd]
    return found


_LIMITS = ("train_limit", "validation_limit", "metrics")


def _digests(splits: Mapping[str, Any]) -> dict[str, Any]:
    # A search that has not opened the test part says nothing of it.
    found = {part: splits.get(part) for part in _PARTS}
    return {part: told["digest"] for part, told in found.items() if isinstance(told, Mapping) and "digest" in told}


def _facts(told: Mapping[str, Any]) -> dict[str, Any]:
    """What is compared, by dotted keys; as JSON has it, where a tuple is a list."""
    found = dict(flat({key: value for key, value in told.items() if key != _SETTINGS}))
    if isinstance(settings := told.get(_SETTINGS), Mapping):
        found |= {f"{_SETTINGS}.{key}": value for key, value in _of_settings(settings)}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


def _of_settings(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    is_tuned = _is_tuned(settings)
    for key, value in flat(settings):
        is_open = value == "auto" or (value is None and key in _LEFT_OPEN)
        is_rate = key == "learning_rates" or (is_tuned and key.startswith(("recipe.learning_rate", "recipe.rate_f")))
        if key.partition(".")[0] not in _OF_THE_MACHINE and not is_open and not is_rate:
            yield key, _name_of(value) if key in _PATHS else value
    # Which methods there are is said by the keys, and a method of one side alone is no setting that came later.
    if isinstance(methods := (settings.get("space") or {}).get("methods"), Mapping):
        yield "space.methods", sorted(methods)


def _name_of(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_name_of(one) for one in value]
    return PurePath(value).name if isinstance(value, str) else value


def _is_tuned(settings: Mapping[str, Any]) -> bool:
    """Whether the learning rate is found and not that of the recipe."""
    if settings.get("learning_rates") or settings.get("rates") == "rule":
        return True
    is_decoder = (settings.get("space") or {}).get("name") == "decoder"
    return is_decoder and settings.get("rates") is None
