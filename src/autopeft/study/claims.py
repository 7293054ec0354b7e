"""One worker claims at a time, where the database can see to that.

What a sampler proposes depends on the trials that it is shown. Two workers that ask at once, shown the same trials, are
told the same architecture; one of the two rows is then withdrawn. Whoever holds the lock sees what the others have
claimed, so that proposals differ. Nothing depends on the lock for being right (see `autopeft.study.study`): where it
cannot be had, because the database has none, the connection broke, or its holder hangs, claims go on without it.
"""

from __future__ import annotations

import logging
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import sqlalchemy
from sqlalchemy.exc import SQLAlchemyError

from autopeft.masking import mask_text
from autopeft.study.blips import is_passing

_logger = logging.getLogger(__name__)

_SPACE = 0x61757470  # "autp": advisory locks are numbers that all programs of a database share
_FIRST_SECONDS = 0.005
_MOST_SECONDS = 0.25


class ClaimLock(Protocol):
    """A lock that its holder's end releases, however it ends."""

    def take(self) -> bool:
        """Take it; False when somebody else holds it."""
        ...

    def is_held(self) -> bool:
        """Whether it is still held by this object."""
        ...

    def release(self) -> None:
        """Let go of it, if it is held."""
        ...


class FileClaimLock:
    """The write lock of an empty SQLite file beside the study's: a claim's own writes go to the study meanwhile.

    Args:
        path: of the empty file; it is made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def take(self) -> bool:
        """See `ClaimLock`; raises `sqlite3.Error` where the file cannot be made."""
        if self._connection is None:
            # Waiting is the affair of `Turn`, which looks at the study meanwhile.
            self._connection = sqlite3.connect(self._path, timeout=0, isolation_level=None)
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            # SQLite has one kind of error for a lock that is taken and for a disk that is gone.
            if "locked" not in str(error):
                raise
            return False
        return True

    def is_held(self) -> bool:
        """See `ClaimLock`; a lock on a file ends with its process."""
        return self._connection is not None

    def release(self) -> None:
        """See `ClaimLock`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class AdvisoryClaimLock:
    """An advisory lock of PostgreSQL, held by a connection of its own.

    Args:
        key: of the study; each study is claimed from by itself.
    """

    def __init__(self, engine: sqlalchemy.Engine, key: int) -> None:
        self._engine, self._key = engine, key
        self._connection: sqlalchemy.Connection | None = None

    def take(self) -> bool:
        """See `ClaimLock`; raises `SQLAlchemyError` where the database cannot be reached."""
        if self._connection is None:
            # An open transaction would keep the server from cleaning up for as long as a proposal takes.
            self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        # One try that does not wait: waiting in the server would keep a connection that cannot notice that it has
        # broken.
        question = sqlalchemy.text("SELECT pg_try_advisory_lock(:space, :key)")
        return bool(self._connection.execute(question, {"space": _SPACE, "key": self._key}).scalar_one())

    def is_held(self) -> bool:
        """See `ClaimLock`; raises `SQLAlchemyError` where the connection has broken, which ends the lock."""
        if self._connection is None:
            return False
        # The lock belongs to the session, so that as long as the session answers it is held.
        self._connection.execute(sqlalchemy.text("SELECT 1"))
        return True

    def release(self) -> None:
        """See `ClaimLock`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            # Not given back to the pool, where it would keep the lock if it could not be told to let go.
            connection.invalidate()
            connection.close()


class NoClaimLock:
    """For databases without such a lock: nobody waits."""

    def take(self) -> bool:
        """See `ClaimLock`."""
        return True

    def is_held(self) -> bool:
        """See `ClaimLock`."""
        return True

    def release(self) -> None:
        """See `ClaimLock`."""


class Turn:
    """A worker's turn to claim: it waits for the lock, and notices when it has lost it.

    Args:
        seconds: how long to wait for another holder that claims nothing, and may have been stopped for good.
        newest: something that changes when anybody has claimed.
    """

    def __init__(self, lock: ClaimLock, seconds: float, newest: Callable[[], object]) -> None:
        self._lock, self._seconds, self._newest = lock, seconds, newest
        self.has_lock = self._wait()

    def lasts(self) -> bool:
        """Whether nobody else can have had a turn since this one began, or was last asked about.

        A lock ends with its connection. It is taken again then, and what was read before is out of date.
        """
        if not self.has_lock or self._is_held():
            return True
        self.end()
        self.has_lock = self._wait()
        return False

    def end(self) -> None:
        """Let others have theirs."""
        try:
            self._lock.release()
        except (sqlite3.Error, SQLAlchemyError) as error:
            _logger.debug("A lock on claims ended by itself: %s", error)

    def _is_held(self) -> bool:
        try:
            return self._lock.is_held()
        except (sqlite3.Error, SQLAlchemyError) as error:
            _logger.debug("A lock on claims was lost: %s", error)
            return False

    def _wait(self) -> bool:
        """Take the lock; False where it cannot be had."""
        pause, seen, since = _FIRST_SECONDS, None, time.monotonic()
        while True:
            try:
                if self._lock.take():
                    return True
                # Whoever waits long because many claim quickly is not waiting for somebody who hangs.
                if pause >= _MOST_SECONDS and (now := self._newest()) != seen:
                    seen, since = now, time.monotonic()
            except (sqlite3.Error, SQLAlchemyError) as error:
                self.end()
                if not is_passing(error):
                    _logger.warning("Claims go on without a lock: %s", mask_text(str(error)))
                    return False
            if time.monotonic() > since + self._seconds:
                _logger.warning("Another worker has been claiming a trial for long; this one does not wait any more.")
                return False
            # Workers that were started together would otherwise ask together for ever.
            time.sleep(pause * (0.5 + random.random()))
            pause = min(1.5 * pause, _MOST_SECONDS)


@contextmanager
def turn(lock: ClaimLock, seconds: float, newest: Callable[[], object]) -> Iterator[Turn]:
    """Within the block it is this worker's turn to claim; see `Turn`."""
    mine = Turn(lock, seconds, newest)
    try:
        yield mine
    finally:
        mine.end()
