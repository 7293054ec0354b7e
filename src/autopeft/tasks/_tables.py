"""Tables of raw rows: read from a file of the user's, from a folder in the Hub's field names, or from the Hub."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autopeft.errors import DataError

Row = Mapping[str, Any]

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""File types that can be read; the text ones also compressed, with ``.gz`` behind."""

_QUOTED = re.compile(r'"(?:[^"]|"")*"')

_DELIMITERS = (",", "\t", ";", "|")


@dataclass(frozen=True)
class Table:
    """Rows and where they came from.

    Args:
        source: a path, or a data set's name and split; for messages and for the record.
        columns: the column names, in the order of the source.
        rows: one mapping a row; a column missing from a JSON object is missing here too.
    """

    source: str
    columns: tuple[str, ...]
    rows: Sequence[Row]

    def __len__(self) -> int:
        return len(self.rows)


def read(path: Path, delimiter: str | None = None) -> Table:
    """Read a CSV, TSV, JSON, JSON lines or Parquet file, the text ones gzip-compressed or not.

    Text is UTF-8, a byte-order mark is dropped. The type is told from the name; a CSV's delimiter is the one of
    comma, tab, semicolon and bar that occurs most often in its first line. A TSV is read with CSV quoting, or
    without any quoting where that gives ragged rows.

    Args:
        path: the file.
        delimiter: a CSV's delimiter, when it should not be guessed.

    Raises:
        DataError: the file is missing, empty, of an unknown type, or damaged; a damaged line is named.
    """
    if not path.is_file():
        raise DataError(f"The data file {str(path)!r} does not exist{_neighbours(path)}.")
    suffix = (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"A data file ends in one of {', '.join(SUFFIXES)} (or .gz behind it), but got {str(path)!r}.")
    rows = _parquet(path) if suffix == ".parquet" else _text_rows(path, suffix, delimiter)
    if not rows:
        raise DataError(f"The data file {str(path)!r} holds no rows.")
    return Table(str(path), _columns(rows), rows)


def find_part(folder: Path, stem: str) -> Path | None:
    """The file of `folder` called `stem` with one of the known endings, or None.

    Raises:
        DataError: several files could be meant.
    """
    names = [stem + suffix + end for suffix in SUFFIXES for end in ("", ".gz")]
    found = [folder / name for name in names if (folder / name).is_file()]
    if len(found) > 1:
        raise DataError(f"One file is wanted for {stem!r}, but there are {[str(path) for path in found]}.")
    return found[0] if found else None


def from_hub(path: str, config: str | None, split: str, instead: str) -> Table:
    """A split of a data set of the Hugging Face Hub, from its cache or downloaded.

    Args:
        path: the data set, for example ``nyu-mll/glue``.
        config: its configuration, for example ``mrpc``.
        split: for example ``train``.
        instead: what the user can do instead; ends the message of the error.

    Raises:
        DataError: it could not be had, for whatever reason `datasets` gives.
    """
    import datasets  # here, since it takes a second and a local file needs none of it

    try:
        loaded = datasets.load_dataset(path, config, split=split)
    except Exception as error:  # offline, missing, damaged, not permitted: each library layer has its own classes
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"The split {split!r} of {path}{f' ({config})' if config else ''} is not in the cache of `datasets` and "
            f"could not be downloaded: {type(error).__name__}: {reason}. {instead}"
        ) from error
    return Table(f"{path}/{config}:{split}", tuple(loaded.column_names), loaded.to_list())


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f": there is no folder {str(path.parent)!r}"
    names = sorted(item.name for item in path.parent.iterdir() if item.is_file())[:8]
    return f"; its folder holds {', '.join(names) or 'no files'}"


def _columns(rows: Sequence[Row]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for row in rows for name in row))


def _parquet(path: Path) -> list[Row]:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    try:
        rows: list[Row] = parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"The Parquet file {str(path)!r} cannot be read: {error}.") from error
    return rows


def _text_rows(path: Path, suffix: str, delimiter: str | None) -> list[Row]:
    text = _decoded(path)
    if not text.strip():
        return []
    if suffix == ".json" and text.lstrip().startswith("["):
        return _json_array(path, text)
    if suffix in (".json", ".jsonl"):
        return _json_lines(path, text)
    if suffix == ".tsv" and delimiter is None:
        return _tsv(path, text)
    return _csv(path, text, delimiter or _guess(text), csv.QUOTE_MINIMAL)


def _decoded(path: Path) -> str:
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"The data file {str(path)!r} cannot be read: {error}.") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        bad = raw[error.start : error.end].hex()
        raise DataError(
            f"A data file must be UTF-8, but line {line} of {str(path)!r} holds the bytes 0x{bad}. "
            f"Convert it, for example with `iconv -f latin1 -t utf-8`."
        ) from error


def _json_array(path: Path, text: str) -> list[Row]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"The JSON file {str(path)!r} cannot be read: {error}.") from error
    wrong = [number for number, row in enumerate(rows, start=1) if not isinstance(row, dict)]
    if wrong:
        raise DataError(f"A JSON array must hold objects, but entries {wrong[:5]} of {str(path)!r} are none.")
    return list(rows)


def _json_lines(path: Path, text: str) -> list[Row]:
    rows: list[Row] = []
    mistakes: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):  # str.splitlines would cut at U+2028 inside a string
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            mistakes.append(f"line {number}: {error}")
            continue
        if isinstance(row, dict):
            rows.append(row)
        else:
            mistakes.append(f"line {number}: an object {{...}} is wanted, but got {line.strip()[:40]!r}")
    if mistakes:
        raise DataError(f"{str(path)!r} is not JSON lines: {listed(mistakes)}.")
    return rows


def _tsv(path: Path, text: str) -> list[Row]:
    """Tab-separated: a line is a row wherever all lines have the fields of the first, whatever quotes are in them.

    Read as quoted, a text that begins with a quotation mark would swallow lines up to the next one that ends so.
    """
    lines = [line for line in text.split("\n") if line.strip()]
    if len({line.count("\t") for line in lines}) == 1:
        with contextlib.suppress(DataError):  # a lone carriage return ends a line for the reader
            rows = _csv(path, text, "\t", csv.QUOTE_NONE)
            return [{_unquoted(name): _unquoted(cell) for name, cell in row.items()} for row in rows]
    with contextlib.suppress(DataError):
        return _csv(path, text, "\t", csv.QUOTE_MINIMAL)
    return _csv(path, text, "\t", csv.QUOTE_NONE)


def _unquoted(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if _QUOTED.fullmatch(cell) else cell


def _csv(path: Path, text: str, delimiter: str, quoting: Any) -> list[Row]:
    # a carriage return inside a quoted field is kept, so the text goes in undivided
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    rows: list[Row] = []
    ragged: list[str] = []
    limit = csv.field_size_limit(sys.maxsize)  # a document may well be longer than the module's 131,072 characters
    try:
        header = next(cells for cells in reader if cells)
        for cells in reader:
            if len(cells) == len(header):
                rows.append(dict(zip(header, cells, strict=True)))
            elif cells:
                ragged.append(f"line {reader.line_num} has {len(cells)} fields")
    except csv.Error as error:
        raise DataError(f"{str(path)!r} cannot be read as CSV: line {reader.line_num}: {error}.") from error
    finally:
        csv.field_size_limit(limit)
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"The columns of {str(path)!r} need distinct names, but these stand twice: {twice}.")
    if ragged:
        raise DataError(
            f"Every line of {str(path)!r} needs {len(header)} fields ({delimiter!r} between), but {listed(ragged)}."
        )
    return rows


def _guess(text: str) -> str:
    first = text.lstrip("\r\n").partition("\n")[0]
    return max(_DELIMITERS, key=first.count)


def listed(mistakes: Iterable[str], most: int = 5) -> str:
    """Mistakes as one phrase: the first `most`, then how many more there are."""
    items = list(mistakes)
    rest = f"; and {len(items) - most} more" if len(items) > most else ""
    return "; ".join(items[:most]) + rest
