"""YAML that somebody else wrote, read within bounds: the one owner of every settings and experiment file.

YAML can name a node and repeat it, so that a few hundred bytes stand for gigabytes; it can hold itself; it can nest
deeper than a reader recurses; and of two equal keys the library keeps the last without a word. All of that is found
while the text is scanned, before anything is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from autopeft.errors import SettingsError

MOST_BYTES = 256 * 1024
"""Size of a file; the largest that this package writes has a few thousand bytes."""

MOST_DEPTH = 32
"""Lists and mappings inside each other."""

MOST_NODES = 10_000
"""Values, lists and mappings, those that stand repeated by ``*name`` counted each time."""

# The scanner in C reads the largest file in a tenth of a second, that in Python in several.
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_SHOWN = 40
_BEYOND = 2**63


def read(path: str | Path) -> Any:
    """What a YAML file holds, in UTF-8 or, with a byte-order mark, in UTF-16.

    Raises:
        SettingsError: it cannot be read, is larger than `MOST_BYTES`, or see `parse`.
    """
    what = f"The settings file {str(path)!r}"
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # a path with a NUL in it is a ValueError
        raise SettingsError(f"{what} cannot be read: {error}.") from error
    if len(raw) > MOST_BYTES:
        raise SettingsError(f"{what} may have {MOST_BYTES:,} bytes at the most, but has more.")
    return parse(_decoded(raw, what), what)


def parse(text: str, what: str) -> Any:
    """What the YAML document `text` holds: None, texts, numbers, dates, lists and mappings.

    Args:
        what: what the text is called, at the beginning of a message.

    Raises:
        SettingsError: it is no YAML, nests deeper than `MOST_DEPTH`, stands for more than `MOST_NODES` values, holds
            itself, gives a key twice, or holds a value that is none (a date in a 13th month); with line and column.
    """
    try:
        # Scanned twice: the second reading builds objects, which the first has shown to be few.
        _check(text)
        return _unshared(yaml.load(text, Loader=_Loader))
    except UnicodeEncodeError as error:  # half a character, as a command line may hold it
        raise SettingsError(f"{what} is no text: it holds half a character.") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{what} is broken{_place(error, text)}: {_problem(error)}.") from error


def _decoded(raw: bytes, what: str) -> str:
    # Editors on Windows write it so when they are asked for Unicode.
    is_wide = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return raw.decode("utf-16" if is_wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        bad, line = raw[error.start : error.end].hex(), raw.count(b"\n", 0, error.start) + 1
        raise SettingsError(
            f"{what} cannot be read: it must be UTF-{16 if is_wide else 8}, but line {line} has the bytes 0x{bad}."
        ) from error


class _Refused(yaml.MarkedYAMLError):
    """What is YAML and is not taken here, with its place, as the library would say it."""

    def __init__(self, problem: str, mark: Any) -> None:
        super().__init__(problem=problem, problem_mark=mark)


@dataclass
class _Open:
    """A list or a mapping whose end is yet to come.

    Args:
        name: its anchor, by which it can be repeated.
        before: how many values came before it.
        keys: of a mapping, the event of each key so far; None for a list.
        is_key: whether what comes next in a mapping is a key.
    """

    name: str | None
    before: int
    keys: dict[str, Any] | None
    is_key: bool = True


def _check(text: str) -> None:
    """Refuse what `parse` refuses, while `text` is scanned: nothing is built, and nothing recurses."""
    inside: list[_Open] = []
    sizes: dict[str, int] = {}
    count = 0
    for event in yaml.parse(text, Loader=_Base):
        if isinstance(event, yaml.CollectionEndEvent):
            ended = inside.pop()
            sizes |= {ended.name: count - ended.before} if ended.name else {}
        elif isinstance(event, yaml.NodeEvent):
            _check_place(event, inside)
            is_alias = isinstance(event, yaml.AliasEvent)
            # An alias counts as much as what it repeats, aliases inside of it included.
            count += sizes.get(event.anchor or "", 1) if is_alias else 1
            if isinstance(event, yaml.CollectionStartEvent):
                keys: dict[str, Any] | None = {} if isinstance(event, yaml.MappingStartEvent) else None
                inside.append(_Open(event.anchor, count - 1, keys))
            elif event.anchor and not is_alias:
                sizes[event.anchor] = 1
        if len(inside) > MOST_DEPTH:
            raise _Refused(f"lists and mappings may stand {MOST_DEPTH} deep at the most", event.start_mark)
        if count > MOST_NODES:
            raise _Refused(f"it stands for more than {MOST_NODES:,} values", event.start_mark)


def _check_place(event: Any, inside: list[_Open]) -> None:
    """Whether a node may stand where it stands: not in itself, and no key in a mapping that has the key."""
    if isinstance(event, yaml.AliasEvent) and any(outer.name == event.anchor for outer in inside):
        raise _Refused(f"*{event.anchor} stands inside of &{event.anchor}, which would hold itself", event.start_mark)
    if not inside or (keys := inside[-1].keys) is None:
        return
    if inside[-1].is_key and isinstance(event, yaml.ScalarEvent):
        first = keys.setdefault(event.value, event)
        if first is not event:
            where = f"line {first.start_mark.line + 1}"
            raise _Refused(f"the key {event.value[:_SHOWN]!r} stands in {where} already", event.start_mark)
    inside[-1].is_key = not inside[-1].is_key


class _Loader(_Base):  # type: ignore[misc]  # in C where PyYAML was built so
    """The safe loader, which tells where a value is that is none: the library lets slip what its conversions raise."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """The value of a node."""
        try:
            value = super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
            raise _Refused(f"{_shown(node)} is no {node.tag.rpartition(':')[2]}", node.start_mark) from error
        if isinstance(value, int) and abs(value) >= _BEYOND:
            raise _Refused(f"{_shown(node)} is larger than any number that is wanted", node.start_mark)
        return value


def _shown(node: Any) -> str:
    text = str(node.value)
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def _unshared(value: Any) -> Any:
    """A copy in which nothing stands twice: what changes one entry later must not change another."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _place(error: yaml.YAMLError, text: str) -> str:
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    if mark is None:
        return ""
    if mark.line >= len(text.splitlines()):  # the scanner in C counts a line behind the last
        return " at its end"
    return f", line {mark.line + 1}, column {mark.column + 1}"


def _problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        code = error.character if isinstance(error.character, int) else ord(error.character)  # in C, in Python
        return f"it holds the character U+{code:04X}, which YAML does not allow"
    return getattr(error, "problem", None) or "it is not YAML"
