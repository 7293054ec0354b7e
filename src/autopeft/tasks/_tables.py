"""Tables of raw rows: read from a file of the user's, from a folder in the Hub's field names, or from the Hub."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path
from typing import Any

from autopeft.errors import DataError
from autopeft.reading import followed
from autopeft.tasks._bytes import COMPRESSED, text_of

Row = Mapping[str, Any]

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
"""File types that can be read; the text ones also compressed, with one of `COMPRESSED` behind."""

_QUOTED = re.compile(r'"(?:[^"]|"")*"')

DELIMITERS = (",", "\t", ";", "|")
"""What may stand between the fields of a text file whose delimiter is not said."""


@dataclass(frozen=True)
class Table:
    """Rows and where they came from.

    Args:
        source: a path, or a data set's name and split; for messages and for the record.
        columns: the column names, in the order of the source.
        rows: one mapping a row; a column missing from a JSON object is missing here too.
        repeated: names that more than one column has, which are no columns here: nobody can say which is meant.
    """

    source: str
    columns: tuple[str, ...]
    rows: Sequence[Row]
    repeated: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)


def read(
    path: Path, delimiter: str | None = None, encoding: str | None = None, columns: Sequence[str] | None = None
) -> Table:
    """Read a CSV, TSV, JSON, JSON lines or Parquet file, the text ones compressed or not.

    The type is told from the name; a CSV's delimiter is the one of comma, tab, semicolon and bar that occurs most often
    in its first line. A TSV is read with CSV quoting, or without any quoting where that gives ragged rows. Blank
    fields at the end of a line, and blank headings at the end of the first, are left out.

    Args:
        path: the file.
        delimiter: a CSV's delimiter, when it should not be guessed.
        encoding: of a text file; None for UTF-8, or what a byte-order mark says.
        columns: those that are used; what Parquet holds in others and Python cannot hold does no harm. None for all.

    Raises:
        DataError: the file is missing, empty, of an unknown type, or damaged; a damaged line is named.
    """
    if not _is_file(path):
        raise DataError(f"The data file {str(path)!r} does not exist{_neighbours(path)}.")
    suffix = (path.with_suffix("") if path.suffix.lower() in COMPRESSED else path).suffix.lower()
    if suffix not in SUFFIXES:
        behind = ", ".join(COMPRESSED)
        raise DataError(
            f"A data file ends in one of {', '.join(SUFFIXES)} (or {behind} behind it), but got {str(path)!r}."
        )
    found = _parquet(path, columns) if suffix == ".parquet" else _text_rows(path, suffix, delimiter, encoding)
    if not found.rows:
        why = f"nothing stands below its headings {found.columns!r:.200}" if found.columns else "it is empty or blank"
        raise DataError(f"The data file {str(path)!r} holds no rows: {why}.")
    return found


def files_of(wanted: str | Path) -> list[Path]:
    """The data files that `wanted` means: one file, those of a folder, or those that a pattern (``*``) fits; sorted.

    Raises:
        DataError: a folder or a pattern without any.
    """
    place = Path(wanted)
    if _is_file(place):
        return [place]
    if place.is_dir():
        found = sorted(item for item in place.iterdir() if item.is_file() and _is_known(item))
        is_many = True
    else:
        is_many = any(mark in str(wanted) for mark in "*?[")
        # Sorted, as a file system lists names in an order of its own and rows are numbered through all files.
        found = sorted(Path(item) for item in glob(str(wanted), recursive=True)) if is_many else [place]
    if is_many and not found:
        raise DataError(f"{str(wanted)!r} holds no data file (its name ends in one of {', '.join(SUFFIXES)}).")
    return found


def files_of_part(wanted: Sequence[str | Path]) -> list[Path]:
    """The data files that all of `wanted` mean, see `files_of`.

    Raises:
        DataError: as `files_of`; or one file is meant twice: its rows would count twice, and may be cut into two parts.
    """
    found = [path for one in wanted for path in files_of(one)]
    counts = Counter(followed(path) for path in found)
    twice = next((path for path in found if counts[followed(path)] > 1), None)
    if twice is not None:
        raise DataError(f"{str(twice)!r} is named twice in one part.")
    return found


def together(tables: Sequence[Table]) -> Table:
    """The rows of several tables, one after the other; a column that one of them lacks is missing in its rows."""
    if len(tables) == 1:
        return tables[0]
    rows = [row for table in tables for row in table.rows]
    source = f"{tables[0].source} and {len(tables) - 1} more"
    repeated = tuple(dict.fromkeys(name for table in tables for name in table.repeated))
    return Table(source, _columns(rows), rows, repeated)


def find_part(folder: Path, stem: str) -> Path | None:
    """The file of `folder` called `stem` with one of the known endings, or None.

    Raises:
        DataError: several files could be meant.
    """
    names = [stem + suffix + end for suffix in SUFFIXES for end in ("", *COMPRESSED)]
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


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or with a NUL
        return False


def _is_known(path: Path) -> bool:
    stem = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    return stem.suffix.lower() in SUFFIXES


def _parquet(path: Path, wanted: Sequence[str] | None) -> Table:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    try:
        # The file itself and not a data set of a folder, which would make columns of the names of folders.
        found = parquet.ParquetFile(path).read()
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, ImportError) as error:
        raise DataError(f"The Parquet file {str(path)!r} cannot be read: {error}.") from error
    repeated = _repeated(found.column_names)
    names = tuple(dict.fromkeys(name for name in found.column_names if name not in repeated))
    columns, wrong = {}, []
    for name in names:
        try:
            columns[name] = found.column(name).to_pylist()
        except (pyarrow.ArrowException, ValueError, OverflowError) as error:
            # What Python cannot hold is found when a value becomes one: bytes that are no text, dates before year 1.
            wrong += [f"the column {name!r}: {error}"] if wanted is None or name in wanted else []
    if wrong:
        raise DataError(f"The Parquet file {str(path)!r} cannot be read: {listed(wrong)}.")
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return Table(str(path), names, rows, repeated)


def _text_rows(path: Path, suffix: str, delimiter: str | None, encoding: str | None) -> Table:
    text = text_of(path, encoding)
    if not text.strip():
        return Table(str(path), (), ())
    # Files called .json hold one array or an object a line, and both are common.
    if suffix == ".json" and text.lstrip().startswith("["):
        return _json_array(path, text)
    if suffix in (".json", ".jsonl", ".ndjson"):
        return _json_lines(path, text)
    if suffix == ".tsv" and delimiter is None:
        return _tsv(path, text)
    return _csv(path, text, delimiter or _guess(text), csv.QUOTE_MINIMAL)


def _repeated(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(name for name, count in Counter(names).items() if count > 1))


class _Objects:
    """Makes objects of JSON, and notes the names that one of them gives twice."""

    def __init__(self) -> None:
        self.repeated: set[str] = set()

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            self.repeated |= set(_repeated(name for name, _ in pairs))
        return found

    def table(self, path: Path, rows: Sequence[Row]) -> Table:
        """The rows, without columns of which it is not known which is meant."""
        if self.repeated:
            rows = [{name: value for name, value in row.items() if name not in self.repeated} for row in rows]
        return Table(str(path), _columns(rows), rows, tuple(sorted(self.repeated)))


def _json_array(path: Path, text: str) -> Table:
    objects = _Objects()
    try:
        rows = json.loads(text, object_pairs_hook=objects)
    except (ValueError, RecursionError) as error:
        raise DataError(f"The JSON file {str(path)!r} cannot be read: {error}.") from error
    wrong = [number for number, row in enumerate(rows, start=1) if not isinstance(row, dict)]
    if wrong:
        raise DataError(f"A JSON array must hold objects, but entries {wrong[:5]} of {str(path)!r} are none.")
    return objects.table(path, rows)


def _json_lines(path: Path, text: str) -> Table:
    objects = _Objects()
    rows: list[Row] = []
    mistakes: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):  # str.splitlines would cut at U+2028 inside a string
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=objects)
        except (ValueError, RecursionError) as error:
            mistakes.append(f"line {number}: {error}")
            continue
        if isinstance(row, dict):
            rows.append(row)
        else:
            mistakes.append(f"line {number}: an object {{...}} is wanted, but got {line.strip()[:40]!r}")
    if mistakes:
        raise DataError(f"{str(path)!r} is not JSON lines: {listed(mistakes)}.")
    return objects.table(path, rows)


def _tsv(path: Path, text: str) -> Table:
    """Tab-separated: a line is a row wherever all lines have the fields of the first, whatever quotes are in them.

    Read as quoted, a text that begins with a quotation mark would swallow lines up to the next one that ends so.
    """
    lines = [line for line in text.split("\n") if line.strip()]
    if len({line.count("\t") for line in lines}) == 1:
        with contextlib.suppress(DataError):  # a lone carriage return ends a line for the reader
            found = _csv(path, text, "\t", csv.QUOTE_NONE)
            rows = [{_unquoted(name): _unquoted(cell) for name, cell in row.items()} for row in found.rows]
            return replace(found, columns=tuple(map(_unquoted, found.columns)), rows=rows)
    with contextlib.suppress(DataError):
        return _csv(path, text, "\t", csv.QUOTE_MINIMAL)
    return _csv(path, text, "\t", csv.QUOTE_NONE)


def _unquoted(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if _QUOTED.fullmatch(cell) else cell


def _csv(path: Path, text: str, delimiter: str, quoting: Any) -> Table:
    # a carriage return inside a quoted field is kept, so the text goes in undivided
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    lines: list[list[str]] = []
    ragged: list[str] = []
    limit = csv.field_size_limit(sys.maxsize)  # a document may well be longer than the module's 131,072 characters
    try:
        header = next((cells for cells in reader if cells), [])
        width = _width(header)
        for cells in reader:
            # Spreadsheets fill lines up with empty cells, which is no reason to refuse a file; a cell with something in
            # it is.
            if width <= len(cells) and (len(cells) <= len(header) or not any(map(str.strip, cells[len(header) :]))):
                lines.append(cells[:width])
            elif cells:
                ragged.append(f"line {reader.line_num} has {len(cells)} fields")
    except csv.Error as error:
        raise DataError(f"{str(path)!r} cannot be read as CSV: line {reader.line_num}: {error}.") from error
    finally:
        # The limit is the module's own and would hold for whoever else reads CSV in this process.
        csv.field_size_limit(limit)
    if ragged:
        raise DataError(
            f"Every line of {str(path)!r} needs {width} fields ({delimiter!r} between), but {listed(ragged)}."
        )
    repeated = _repeated(header[:width])
    kept = [(place, name) for place, name in enumerate(header[:width]) if name not in repeated]
    rows = [{name: cells[place] for place, name in kept} for cells in lines]
    return Table(str(path), tuple(name for _, name in kept), rows, repeated)


def _width(header: Sequence[str]) -> int:
    """How many columns there are: blank headings at the end come from delimiters at the ends of lines."""
    width = len(header)
    while width and not header[width - 1].strip():
        width -= 1
    return width


def _guess(text: str) -> str:
    first = text.lstrip("\r\n").partition("\n")[0]
    # By the first line alone: texts further down hold commas, too, and headings rarely do.
    return max(DELIMITERS, key=first.count)


def listed(mistakes: Iterable[str], most: int = 5) -> str:
    """Mistakes as one phrase: the first `most`, then how many more there are."""
    items = list(mistakes)
    rest = f"; and {len(items) - most} more" if len(items) > most else ""
    return "; ".join(items[:most]) + rest
