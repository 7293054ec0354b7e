"""What a command line says over a file of settings: options with dotted keys, and ``--set key=value`` pairs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from autopeft import yaml_files
from autopeft.errors import SettingsError
from autopeft.settings import Settings, SpaceSettings, from_dict, read_yaml

_SHOWN = 80

_CHEAP = ("rungs", "promotion", "promotion_options", "trainings")
_FULL: Mapping[str, Any] = MappingProxyType({"epochs": 20, "patience": 10})
"""What a retraining has in place of what made trials cheap."""

_CHEAP_RECIPE = ("epochs", "steps", "patience")


def read(file: Path | None, changes: dict[str, Any], sets: list[str], *, trust_remote_code: bool = False) -> Settings:
    """Settings from a file, options (dotted keys; None means not given) and ``--set`` pairs, in that order.

    Raises:
        SettingsError: the file, a pair or a value cannot be used.
    """
    return _changed(read_yaml(file) if file is not None else {}, changes, sets, trust_remote_code)


def for_retraining(
    source: Path,
    changes: dict[str, Any],
    sets: list[str],
    *,
    keeps_data: bool = False,
    trust_remote_code: bool = False,
) -> Settings:
    """The settings of a retraining: those of a file as they are, those of a study without what made trials cheap.

    Args:
        keeps_data: whether a study's limits on the training examples hold on.
    """
    data = read_yaml(source / "settings.yaml" if source.is_dir() else source)
    if source.is_dir():
        return _changed(_in_full(data, keeps_data), changes, sets, trust_remote_code)
    recipe = data.get("recipe") or {}
    if isinstance(recipe, dict):  # anything else is refused with all other mistakes
        recipe = {**_FULL, **recipe}
    return _changed({**data, "recipe": recipe}, changes, sets, trust_remote_code)


def after_search(settings: Settings, changes: dict[str, Any], *, keeps_data: bool) -> Settings:
    """What `for_retraining` gives for a study of these settings, before there is one."""
    data = {name: value for name, value in settings.as_dict().items() if name != "trust_remote_code"}
    return _changed(_in_full(data, keeps_data), changes, [], settings.trust_remote_code)


def _in_full(data: dict[str, Any], keeps_data: bool) -> dict[str, Any]:
    """The settings of a study without what made its trials cheap, and without its workers."""
    left_out = (*_CHEAP, "devices") if keeps_data else (*_CHEAP, "devices", "train_limit")
    of_recipe = _CHEAP_RECIPE if keeps_data else (*_CHEAP_RECIPE, "data_fraction")
    plain = {name: value for name, value in data.items() if name not in left_out}
    recipe = {name: value for name, value in (data.get("recipe") or {}).items() if name not in of_recipe}
    return {**plain, "recipe": {**_FULL, **recipe}}


def rates(text: str | None) -> list[float] | None:
    """The numbers in a text such as "3e-4,1e-3"; None without one.

    Raises:
        SettingsError: one of them is no number.
    """
    try:
        return None if text is None else [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise SettingsError(f"--learning-rates takes numbers separated by commas, but got {text!r}.") from error


def class_weights(text: str | None) -> str | dict[str, float] | None:
    """ "balanced", or the numbers by class in a text such as "good=1,bad=4"; None without one.

    Raises:
        SettingsError: it is neither.
    """
    if text is None or text == "balanced":
        return text
    pairs = [part.rpartition("=") for part in text.split(",") if part.strip()]
    try:
        if not all(name.strip() for name, _, _ in pairs):
            raise ValueError
        return {name.strip(): float(value) for name, _, value in pairs}
    except ValueError as error:
        wanted = "balanced, or a number for each class, such as good=1,bad=4"
        raise SettingsError(f"--class-weights takes {wanted}, but got {text!r}.") from error


def _changed(data: dict[str, Any], changes: dict[str, Any], sets: list[str], trust_remote_code: bool) -> Settings:
    given = {key: value for key, value in changes.items() if value is not None}
    for pair in sets:
        key, equals, value = pair.partition("=")
        if not equals:
            raise SettingsError(f"--set takes key=value, but got {pair!r}.")
        # As in a file, so that a number, a list or `null` means the same at both places.
        given[key.strip()] = yaml_files.parse(value, f"--set {pair[:_SHOWN]!r}")
    if "recipe.epochs" in given:  # steps in a file would beat what was asked for just now
        given.setdefault("recipe.steps", None)
    if "device" in given:  # so would the devices of workers
        given.setdefault("devices", [])
    for key, value in given.items():
        _put(data, key.split("."), _drop_nones(value))
    return from_dict(data, trust_remote_code=trust_remote_code)


def _put(data: dict[str, Any], path: list[str], value: Any) -> None:
    """Set one entry; what stands beside it stays, names in a list and the methods of the default space too."""
    for depth, name in enumerate(path[:-1], start=1):
        inner = data.get(name)
        if isinstance(inner, list):
            inner = dict.fromkeys(inner)
        elif inner is None and path[:depth] == ["space", "methods"]:
            inner = dict.fromkeys(SpaceSettings().methods)
        data[name] = inner = inner if isinstance(inner, dict) else {}
        data = inner
    data[path[-1]] = value


def _drop_nones(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _drop_nones(item) for key, item in value.items() if item is not None}
    return str(value) if isinstance(value, Path) else value
