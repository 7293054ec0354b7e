"""From the bytes of a data file to its text: compression by the file's name, encoding by what is said or found."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from autopeft.errors import DataError, SettingsError

MOST_BYTES = 2**32
"""Size of a file when it is unpacked: a small one may stand for more than a disk holds."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NOT_FOR_FILES = ("idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "mbcs", "oem")
_LOOKED_AT = 4096
_WIDE_SHARE = 0.3
_AT_ONCE = 2**20  # bytes that are unpacked at a time
_NOT_BY_CHANCE = 3  # characters beyond ASCII, every one of them well-formed UTF-8


def _zstandard(path: Path) -> Any:
    import pyarrow  # type: ignore[import-untyped]  # comes with `datasets`

    return pyarrow.input_stream(str(path), compression="zstd")


_OPENERS: Mapping[str, Callable[[Path], Any]] = MappingProxyType(
    {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _zstandard}
)

COMPRESSED = tuple(_OPENERS)
"""Endings that may stand behind those of text files."""


def check_encoding(name: str | None) -> None:
    """Whether `name` is an encoding of text that Python knows; None is taken for "found out".

    Raises:
        SettingsError: it is not.
    """
    try:
        known = None if name is None else codecs.lookup(name).name.replace("-", "_")
        b"a".decode(name or "utf-8", "replace")  # fails for what is no encoding of text, such as hex
    except (LookupError, ValueError) as error:
        raise SettingsError(
            f"An encoding is a name such as utf-8, utf-16, cp1252 or latin-1, but got {name!r}."
        ) from error
    if known in _NOT_FOR_FILES:
        raise SettingsError(f"An encoding of files is wanted, such as utf-8 or cp1252, but got {name!r}.")


def text_of(path: Path, encoding: str | None = None) -> str:
    """The text in `path`, without a byte-order mark.

    Args:
        path: the file, unpacked where its name ends in one of `COMPRESSED`.
        encoding: of the text; None for what a byte-order mark says (UTF-8, 16 or 32), else UTF-8.

    Raises:
        DataError: it cannot be read or unpacked, is in another encoding, or holds NULs; the first line is named. What
            can be read in the encoding that is said, and certainly was not written in it, is refused too.
    """
    raw = _unpacked(path)
    marked = next((name for mark, name in _MARKS if raw.startswith(mark)), None)
    if encoding is None and marked is None and (wide := _looks_wide(raw)):
        raise DataError(f"{str(path)!r} looks like {wide.upper()} without a byte-order mark: give --encoding {wide}.")
    name = encoding or marked or "utf-8"
    try:
        text = raw.decode(name)
    except UnicodeError as error:
        if encoding is not None and (instead := _instead(raw, encoding, None)):
            raise DataError(_belied(path, encoding, instead)) from error
        raise DataError(_undecoded(path, raw, name, error, is_said=encoding is not None)) from error
    if encoding is not None and (instead := _instead(raw, encoding, text)):
        raise DataError(_belied(path, encoding, instead))
    # A mark that stands although an encoding was said would become part of the first column's name.
    text = text.removeprefix("\ufeff")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{str(path)!r} is no text: line {line} holds a NUL.")
    return text


def _at_most(stream: Any, most: int) -> bytes:
    """The first `most` bytes of a stream, and what lies behind them is not unpacked.

    Asked for all at once, a library reserves as much before it reads, and pyarrow keeps it reserved where it fails.
    """
    found = bytearray()
    while len(found) < most and (part := stream.read(min(_AT_ONCE, most - len(found)))):
        found += part
    return bytes(found)


def _unpacked(path: Path) -> bytes:
    import pyarrow

    try:
        with _OPENERS.get(path.suffix.lower(), _open_as_is)(path) as stream:
            raw = _at_most(stream, MOST_BYTES + 1)  # one more than is allowed tells that there is too much
    except (OSError, EOFError, zlib.error, lzma.LZMAError, pyarrow.ArrowException, ValueError) as error:
        raise DataError(f"The data file {str(path)!r} cannot be read: {error}.") from error
    if len(raw) > MOST_BYTES:
        raise DataError(f"The data file {str(path)!r} may hold {MOST_BYTES:,} bytes at the most, but holds more.")
    return raw


def _open_as_is(path: Path) -> io.BufferedReader:
    return path.open("rb")


def _looks_wide(raw: bytes) -> str | None:
    """UTF-16 without a mark: of two bytes of most characters one is 0, and always the same one."""
    start = raw[:_LOOKED_AT]
    pairs = len(start) // 2
    even, odd = start[0::2].count(0), start[1::2].count(0)
    # Text of Latin letters has a zero in every pair; other bytes with zeros have them at both places.
    if pairs and max(even, odd) > _WIDE_SHARE * pairs and min(even, odd) == 0:
        return "utf-16-le" if odd else "utf-16-be"
    return None


def _instead(raw: bytes, said: str, text: str | None) -> str | None:
    """What the bytes are certainly, where that is not what was said; None where there is no such certainty.

    Args:
        text: how the bytes read in the encoding that was said, or None where they cannot be read in it.
    """
    for mark, name in _MARKS:
        if raw.startswith(mark) and (own := _decoded(raw, name)) is not None:
            # Where the text is the same, the mark is only kept as its first character.
            is_same = text is not None and text.removeprefix("\ufeff") == own
            told = name.removesuffix("-sig").upper()
            return None if is_same else f"begins with the byte-order mark of {told}: leave the encoding out"
    if wide := _looks_wide(raw):
        is_same = text is not None and text == _decoded(raw, wide)
        return None if is_same else f"looks like {wide.upper()} without a byte-order mark: give --encoding {wide}"
    own = _decoded(raw, "utf-8")
    if own is None or own == text or "\0" in own:
        return None
    n_beyond = len(own) - len(own.encode("ascii", "ignore"))
    # In UTF-16 and on mainframes line ends and commas are other bytes, so that real text in them is never UTF-8. Of
    # other encodings a letter or two may look like UTF-8 by chance.
    if text is None or b"a,\n".decode(said, "replace") != "a,\n" or n_beyond >= _NOT_BY_CHANCE:
        lines = own.count("\n") + (not own.endswith("\n"))
        return f"is valid UTF-8 ({lines:,} lines, {n_beyond:,} characters beyond ASCII): leave the encoding out"
    return None


def _decoded(raw: bytes, name: str) -> str | None:
    try:
        return raw.decode(name)
    except UnicodeError:
        return None


def _belied(path: Path, said: str, instead: str) -> str:
    return f"A data file is to be {said}, as was said, but {str(path)!r} {instead}."


def _undecoded(path: Path, raw: bytes, name: str, error: UnicodeError, *, is_said: bool) -> str:
    where = f"{str(path)!r} holds what it is not"
    if isinstance(error, UnicodeDecodeError):
        line, bad = raw.count(b"\n", 0, error.start) + 1, raw[error.start : error.end].hex()
        where = f"line {line} of {str(path)!r} holds the bytes 0x{bad}"
    if is_said:
        return f"A data file is to be {name}, as was said, but {where}."
    return (
        f"A data file must be {name.removesuffix('-sig').upper()} where no encoding is said, but {where}. "
        "Give its encoding, for example --encoding cp1252 (Windows in western Europe) or latin-1."
    )
