"""A search that goes on keeps the choices that it was begun with, where whoever goes on with it leaves them open.

What a named space brings may change from version to version: its factors on the examples a step, its initial design. A
study that was begun with the former ones goes on by the same command.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from autopeft.came_later import value_before
from autopeft.errors import InputError
from autopeft.session.session import has_begun
from autopeft.settings import Settings, from_dict, read_yaml

_OF_A_SEARCH = ("initial", "start", "rates")
_OF_A_SPACE = ("batch_factors", "dropout_factors", "least_steps")


def as_begun(settings: Settings, folder: str | Path) -> Settings:
    """`settings` with what they leave open as the search in `folder` has it; as they are where none has begun.

    Nothing is taken from another search: the space, the sampler and the model must be those that are asked for.
    """
    if not has_begun(folder):
        return settings
    try:
        stored = read_yaml(Path(folder) / "settings.yaml")
        begun = from_dict(stored, trust_remote_code=settings.trust_remote_code)
    except InputError:
        # Whatever is wrong with the folder is told by who opens the study in it.
        return settings
    if any(_what(settings, name) != _what(begun, name) for name in ("model", "sampler", "space.name")):
        return settings
    whole = _kept(settings, begun, stored, _OF_A_SEARCH)
    space = _kept(settings.space, begun.space, stored.get("space") or {}, _OF_A_SPACE)
    return settings.with_changes(**whole, space=replace(settings.space, **space))


def _kept(asked: object, begun: object, stored: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """What is open in `asked`, as `begun` has it, or as it was where nothing of it is stored."""
    opened = (name for name in names if getattr(asked, name) is None)
    found = {name: getattr(begun, name) if name in stored else value_before(name) for name in opened}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def _what(settings: Settings, path: str) -> Any:
    part, _, name = path.rpartition(".")
    return getattr(getattr(settings, part) if part else settings, name)
