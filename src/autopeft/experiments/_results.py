"""Results of an experiment: one file of JSON lines, a line a cell, to which a cell is added when it is done.

Until version 0.1 every cell was a file of its own, ``<cell>.json``; such folders are read as before, and what is run
from then on is added as lines. Of two results of one cell the later line counts.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autopeft import paired
from autopeft.errors import SettingsError, WriteError
from autopeft.reading import parse_json, read_json

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)

Result = Mapping[str, Any]
"""What one cell came to, JSON-ready."""

FILE = "cells.jsonl"


def grain_of(results: Iterable[Result]) -> float:
    """The coarsest step of the test metric among `results`; 0 where none tells the size of its test part."""
    sizes = [(one, int(test["size"])) for one in results if (test := one.get("splits", {}).get("test", {})).get("size")]
    return max((paired.grain_of(str(one.get("objective", "")), size) for one, size in sizes), default=0.0)


_NAME = "cell"


@dataclass(frozen=True)
class Results:
    """The finished cells in the folder of one experiment."""

    folder: Path

    @property
    def path(self) -> Path:
        """The file of JSON lines."""
        return self.folder / FILE

    def read(self) -> dict[str, Result]:
        """Every result by the name of its cell; none where nothing is done.

        Raises:
            SettingsError: a line or a file of its own cannot be read, or holds something else than an object.
        """
        # Old files first, so that a line of the same cell, which is newer, takes their place.
        found = {path.stem: _of_old(path) for path in sorted(self.folder.glob("*.json"))}
        for number, raw in self._lines():
            data = self._parsed(number, raw)
            found[str(data.pop(_NAME))] = data
        return found

    def append(self, cell: str, data: Result) -> None:
        """Add the result of `cell`, on the disk before this returns. Readers see the whole line or none of it.

        Raises:
            WriteError: it cannot be written; what was there before still stands.
        """
        # Sorted, so that the same result is the same line and a difference between versions shows what changed.
        line = json.dumps({_NAME: cell, **dict(sorted(data.items()))}) + "\n"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(self.path) as file:
                _add(file, line.encode())
        except OSError as error:
            raise WriteError(f"{str(self.path)!r} cannot be written: {error.strerror}.") from error

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Number and text of each line. What follows the last line end was begun by a writer that was killed."""
        if not self.path.exists():
            return
        # Lines are bytes until they are parsed: what a killed writer left may end within a letter.
        whole, _, rest = self.path.read_bytes().rpartition(b"\n")
        if rest:
            log.warning("The last line of %s was not finished and is left out: its cell is run again.", self.path)
        for number, raw in enumerate(whole.split(b"\n"), start=1):
            if raw.strip():
                yield number, raw

    def _parsed(self, number: int, raw: bytes) -> dict[str, Any]:
        try:
            data = parse_json(raw)
        except ValueError as error:
            raise SettingsError(f"Line {number} of the results {str(self.path)!r} cannot be read: {error}.") from error
        # A line that was merged by hand is the likely cause, and its number is what mends it.
        if not isinstance(data, dict) or not isinstance(data.get(_NAME), str):
            raise SettingsError(
                f"Line {number} of the results {str(self.path)!r} must hold an object with a `{_NAME}`."
            )
        return data


def _of_old(path: Path) -> Result:
    data = read_json(path, "The result", SettingsError)
    if not isinstance(data, dict):
        raise SettingsError(f"The result {str(path)!r} must hold an object, but holds {type(data).__name__}.")
    return data


@contextmanager
def _locked(path: Path) -> Iterator[Any]:
    """The file, open for adding to, and no other writer's meanwhile: cells are run by several processes at once."""
    with path.open("ab+", buffering=0) as file:
        if sys.platform != "win32":
            fcntl.flock(file, fcntl.LOCK_EX)  # given back when the file is closed
        yield file


def _add(file: Any, line: bytes) -> None:
    """Put `line` behind the last whole line; half a line that it cannot finish is taken back."""
    file.seek(0)
    # A writer that was killed in the middle of a line has left a beginning, to which nothing may be joined.
    end = file.read().rfind(b"\n") + 1
    file.truncate(end)
    try:
        written = file.write(line)
        if written != len(line):
            raise OSError(0, f"only {written} of {len(line)} bytes could be written")
        # A cell may have taken hours, and its study may be thrown away as soon as it is told.
        os.fsync(file.fileno())
    except OSError:
        file.truncate(end)
        raise
