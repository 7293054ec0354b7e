"""The pages that list settings, options and commands say what the code says."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from typer.main import get_command

from autopeft import samplers
from autopeft.cli.app import add_commands
from autopeft.samplers._bayes import settings as bayes_settings
from autopeft.searches.bipeft import settings as bilevel_settings
from autopeft.settings import AxisSettings, Settings

DOCS = Path(__file__).parent.parent / "docs"
PLAIN = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`", Any: "anything"}
OWN: Mapping[str, Mapping[str, Any]] = {
    "saas-nehvi": bayes_settings.PRESETS,
    "bipeft": bilevel_settings.PRESETS,
}
"""Settings by preset of the samplers whose factory does not show them."""


def rows(page: str, heading: str = "") -> dict[str, list[str]]:
    """The other cells of every table row whose first cell is code, by that code, below `heading`."""
    text = (DOCS / page).read_text()
    if heading:
        parts = re.split(r"^#+ ", text, flags=re.MULTILINE)
        text = "\n".join(part for part in parts if part.split("\n")[0].strip("` ") == heading)
        assert text, f"{page} has no heading {heading!r}"
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        match = re.fullmatch(r"`([^`]+)`", cells[0]) if cells else None
        if match is not None:
            assert match.group(1) not in found, f"{page} lists {match.group(1)} twice"
            found[match.group(1)] = cells[1:]
    return found


def type_text(hint: Any) -> str:
    """A type in a person's words."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        named = [type_text(item) for item in inside if item is not type(None)]
        return " or ".join([*named, *(["`null`"] if type(None) in inside else [])])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inside)
    if origin is tuple:
        return f"list of {type_text(inside[0])}"
    return "mapping" if origin is dict else PLAIN[hint]


def value_text(value: Any) -> str:
    """A value as YAML would have it."""
    if isinstance(value, tuple):
        return f"`[{', '.join(f'{item:g}' if isinstance(item, float) else str(item) for item in value)}]`"
    if value is None or isinstance(value, bool):
        return f"`{str(value).lower()}`".replace("none", "null")
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def keys(
    kind: Any, prefix: str = "", usual: Mapping[str, Any] = types.MappingProxyType({})
) -> Iterator[tuple[str, str, str]]:
    """Every key of a settings class with type and default; those of its parts with dots.

    `usual` is what the class has where it is a part, which may differ from what it has by itself.
    """
    hints = get_type_hints(kind)
    for item in fields(kind):
        hint = hints[item.name]
        inner = next((part for part in (hint, *get_args(hint)) if is_dataclass(part)), None)
        if inner is AxisSettings:
            yield from keys(inner, f"{prefix}{item.name}.NAME.")
        elif inner is not None:
            own = {} if item.default_factory is MISSING else vars(item.default_factory())
            yield from keys(inner, f"{prefix}{item.name}.", own)
        else:
            is_own = item.name in usual and item.default_factory is MISSING
            yield f"{prefix}{item.name}", type_text(hint), value_text(usual[item.name]) if is_own else _default(item)


def _default(item: Field[Any]) -> str:
    if item.default_factory is not MISSING:
        return value_text(item.default_factory())
    return "required" if item.default is MISSING else value_text(item.default)


def presets(name: str) -> Mapping[str, Any]:
    """Settings of the sampler called `name` by preset."""
    found = samplers.lookup(name)
    return OWN[name] if name in OWN else found.presets or {"recommended": found.defaults}


def option_rows(name: str) -> dict[str, tuple[str, str, str]]:
    """Type, recommended value and the presets that differ, for every option of a sampler."""
    by_preset = presets(name)
    usual = by_preset["recommended"]
    hints, found = get_type_hints(type(usual)), {}
    for item in fields(usual):
        if item.name == "preset":
            continue
        own = getattr(usual, item.name)
        others = {preset: getattr(values, item.name) for preset, values in sorted(by_preset.items())}
        changed = "; ".join(f"{preset} {value_text(value)}" for preset, value in others.items() if value != own)
        found[item.name] = type_text(hints[item.name]), value_text(own), changed
    return found


def test_every_key_of_the_settings_is_listed_with_type_and_default() -> None:
    listed = {name: tuple(cells[:2]) for name, cells in rows("settings.md", "Keys").items()}
    assert listed == {name: (kind, default) for name, kind, default in keys(Settings)}


@pytest.mark.parametrize("name", samplers.names())
def test_every_option_of_a_sampler_is_listed_with_its_presets(name: str) -> None:
    listed = {option: tuple(cells[:3]) for option, cells in rows("settings.md", name).items()}
    assert listed == option_rows(name)


def test_no_row_is_without_a_meaning() -> None:
    text = (DOCS / "settings.md").read_text() + (DOCS / "command-line.md").read_text()
    empty = [line for line in text.splitlines() if line.startswith("| `") and re.search(r"\|\s*\|$", line)]
    assert not empty


COMMANDS: Mapping[str, Any] = get_command(add_commands()).commands  # type: ignore[attr-defined]


def command_rows(command: Any) -> dict[str, str]:
    """The default of every argument and option, by the name that a person types."""
    found = {}
    for parameter in command.params:
        is_option = parameter.param_type_name == "option"
        name = max(parameter.opts, key=len) if is_option else (parameter.metavar or parameter.name.upper())
        found[name] = "required" if parameter.required else _shown(parameter)
    return found


def _shown(parameter: Any) -> str:
    default = parameter.default
    if callable(default) or default in (None, (), [], "", False):
        return ""
    return f"`{default}`"


def test_every_command_is_on_its_page() -> None:
    headings = re.findall(r"^## autopeft (\S+)$", (DOCS / "command-line.md").read_text(), flags=re.MULTILINE)
    assert sorted(headings) == sorted(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_of_a_command_is_listed_with_its_default(name: str) -> None:
    shared = rows("command-line.md", "What is searched") if name in ("search", "check", "submit") else {}
    listed = {option: cells[0] for option, cells in {**shared, **rows("command-line.md", f"autopeft {name}")}.items()}
    assert listed == command_rows(COMMANDS[name])


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_says_in_a_terminal_what_it_means(name: str) -> None:
    without = [parameter.name for parameter in COMMANDS[name].params if not parameter.help]
    assert not without


def test_every_sampler_has_its_place_on_the_page_about_searches() -> None:
    assert set(samplers.names()) <= set(rows("searches.md", "Which one"))
