"""A SQLite file that may only be read: protected, in a protected folder, or on a disk that is mounted for reading.

SQLite wants to write even to read: beside a file with a write-ahead log it makes an index of that log. Where it cannot,
a file whose log is empty is read as one that does not change, and a file with a log is copied, log and all.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory


@dataclass(frozen=True)
class ReadOnly:
    """How a file can be read.

    Args:
        uri: SQLite's.
        close: removes what was made for reading; to be called at the end.
    """

    uri: str
    close: Callable[[], None] = lambda: None

    def connect(self) -> sqlite3.Connection:
        """A connection that cannot write, usable from any thread."""
        connection = sqlite3.connect(self.uri, uri=True, timeout=60, check_same_thread=False)
        connection.execute("PRAGMA query_only = ON")
        return connection

    def has_studies(self) -> bool:
        """Whether the file holds the tables of studies.

        Raises:
            sqlite3.Error: it cannot be read this way, or is no database.
        """
        return "studies" in self.tables()

    def tables(self) -> frozenset[str]:
        """The names of all tables.

        Raises:
            sqlite3.Error: as `has_studies`.
        """
        return self._names("SELECT name FROM sqlite_master WHERE type = 'table'")

    def studies(self) -> frozenset[str]:
        """The names of all studies; none where there is no table of them.

        Raises:
            sqlite3.Error: as `has_studies`.
        """
        return self._names("SELECT study_name FROM studies") if self.has_studies() else frozenset()

    def _names(self, query: str) -> frozenset[str]:
        with closing(self.connect()) as connection:
            return frozenset(str(name) for (name,) in connection.execute(query))


def may_write(path: Path) -> bool:
    """Whether this process may write the file and, as SQLite must, beside it."""
    return os.access(path, os.W_OK) and os.access(path.absolute().parent, os.W_OK)


def for_a_look(path: Path) -> ReadOnly:
    """As `for_reading`, for a process that looks once and ends: where it may, it leaves nothing beside the file.

    Raises:
        sqlite3.Error: as `for_reading`.
    """
    # The last to leave a file takes its log away, unless it may only read.
    return ReadOnly(f"{path.absolute().as_uri()}?mode=rw") if may_write(path) else for_reading(path)


def for_reading(path: Path) -> ReadOnly:
    """The way to read the file at `path`, of those that there are the one that sees most of what others write.

    Raises:
        sqlite3.Error: there is none, or it is no database.
    """
    plain = ReadOnly(f"{path.absolute().as_uri()}?mode=ro")
    try:
        plain.has_studies()
        return plain
    except sqlite3.OperationalError as error:
        # Whatever else SQLite says, such as that the file is no database, is not mended by another way to read it.
        if may_write(path) or ("unable to open" not in str(error) and "readonly" not in str(error)):
            raise
    log = path.with_name(f"{path.name}-wal")
    if not log.exists() or not log.stat().st_size:
        # Only where the log is empty: SQLite would read past whatever it holds.
        return ReadOnly(f"{plain.uri}&immutable=1")
    return _copied(path, log)


def _copied(path: Path, log: Path) -> ReadOnly:
    """A copy of file and log in a folder of our own: the end of a killed search is in the log alone."""
    folder = TemporaryDirectory(prefix="autopeft-")
    try:
        for part in (path, log):
            shutil.copyfile(part, Path(folder.name) / part.name)
    except BaseException:
        folder.cleanup()
        raise
    # The copy may be written, by its name alone: SQLite then takes the log into account.
    return ReadOnly(f"{(Path(folder.name) / path.name).as_uri()}?mode=rw", folder.cleanup)
