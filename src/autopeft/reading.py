"""JSON that somebody else made: one owner of what a file may be before anything reads its contents.

A file is as large as its sender likes, nests as deeply, names a key twice, and holds numbers that no computer counts
to. Every reader of JSON goes through `read_json` or `parse_json`, and says what it was reading in an error of its own.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from autopeft.errors import InputError

MOST_BYTES = 64 * 2**20
"""The largest JSON file that is read: a study of 10,000 trials with their curves takes a tenth."""

MOST_DEPTH = 100
"""The deepest nesting of lists and objects: ours nests six deep."""

_MOST_DIGITS = 40  # of a whole number; Python counts on, but nothing that the numbers are for does


_POINTER = b"version https://git-lfs"


def is_pointer(path: Path) -> bool:
    """Whether a file is a pointer of git-lfs, in place of what it points at.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def read_json(path: str | Path, what: str, error: type[InputError], *, most_bytes: int = MOST_BYTES) -> Any:
    """The JSON in the file `path`.

    Args:
        what: the file is, for the message: "The architecture file".
        error: the type to raise.
        most_bytes: a larger file is refused unread.

    Raises:
        InputError: of the type `error`: the file is missing, no file, too large, not UTF-8, or not what `parse_json`
            takes.
    """
    place = Path(path)
    try:
        with place.open("rb") as file:
            # One byte more than is allowed tells a file that is too large, whatever its size is said to be, from one
            # that just fits.
            raw = file.read(most_bytes + 1)
        if len(raw) > most_bytes:
            raise ValueError(f"it is larger than {most_bytes:,} bytes")
        return parse_json(raw)
    except (OSError, ValueError) as cause:
        reason = getattr(cause, "strerror", None) or str(cause)
        raise error(f"{what} {str(place)!r} cannot be read: {reason}.") from cause


def parse_json(raw: str | bytes, *, is_finite: bool = True) -> Any:
    """The JSON in `raw`, with what a person can mean alone: see Raises.

    Args:
        is_finite: False lets NaN and infinite numbers pass, which a search that goes on may have noted for itself.

    Raises:
        ValueError: it is no JSON or no UTF-8, nests deeper than `MOST_DEPTH`, names a key of an object twice, or holds
            NaN, an infinite number, a whole number of more than 40 digits, or half of a surrogate pair.
    """
    try:
        text = raw.decode("utf-8-sig") if isinstance(raw, bytes) else raw
        finite: dict[str, Any] = {"parse_constant": _no_number, "parse_float": _finite} if is_finite else {}
        found = json.loads(text, object_pairs_hook=_object, parse_int=_whole, **finite)
    except RecursionError:
        raise ValueError(f"it nests deeper than {MOST_DEPTH} lists and objects") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 at byte {error.start}") from None
    _check_nesting(found)
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Python keeps the last of two equal keys, other readers the first: what a file means would depend on its reader.
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"it names the key {twice[:40]!r} twice in one object")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"it holds {text}, which is not a finite number")


def _finite(text: str) -> float:
    found = float(text)
    return found if math.isfinite(found) else _no_number(text[:40])


def _whole(text: str) -> int:
    # Turning digits into a number takes time that grows with the square of their number.
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"it holds a whole number of {len(text)} digits")
    return int(text)


def _check_nesting(found: Any) -> None:
    """Level by level, because what nests deeply is not to be walked by a function that calls itself."""
    level, depth = [found], 0
    while level:
        if depth > MOST_DEPTH:
            raise ValueError(f"it nests deeper than {MOST_DEPTH} lists and objects")
        level, depth = [inner for item in level for inner in _inside(item)], depth + 1


def _inside(item: Any) -> Iterable[Any]:
    if isinstance(item, dict):
        return (*item, *item.values())
    # Half of a pair passes through Python's reader and fails later, where the text is printed or written.
    if isinstance(item, str) and not item.isascii():
        try:
            item.encode()
        except UnicodeEncodeError:
            raise ValueError("it holds half of a surrogate pair, which no text can hold") from None
    return item if isinstance(item, list) else ()


def followed(path: str | Path) -> Path:
    """`path` made absolute and with its links followed; one that leads to itself is kept as it is.

    `Path.resolve` raises a RuntimeError for such a loop, which no reader of files expects; to open it then is an
    OSError as for any other file that is not there.
    """
    return Path(os.path.realpath(path))
