"""An open storage: what is done to it is repeated while it is away, and its errors say what to do."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from autopeft.errors import AutopeftError
from autopeft.masking import Secrets
from autopeft.study.blips import is_full, is_passing, pauses
from autopeft.study.claims import AdvisoryClaimLock, ClaimLock, FileClaimLock, NoClaimLock
from autopeft.study.lease import Clock

_logger = logging.getLogger(__name__)

_PRESENT = MappingProxyType(
    {"postgresql": "SELECT EXTRACT(EPOCH FROM clock_timestamp())", "mysql": "SELECT UNIX_TIMESTAMP(NOW(6))"}
)

_T = TypeVar("_T")


class Store:
    """An open storage.

    Args:
        backend: Optuna's storage, whose public methods everything is read and written with.
        label: the path, or the URL without its password; for messages.
        secrets: what messages of the database and its driver must not repeat.
        then: called when it is closed.
        path: of the file, for SQLite.

    Attributes:
        patience_seconds: how long `attempt` waits for a database that has gone away.
        on_return: called when it is back after a while.
    """

    def __init__(
        self,
        backend: RDBStorage,
        label: str,
        secrets: Secrets | None = None,
        then: Callable[[], None] | None = None,
        path: Path | None = None,
    ) -> None:
        self.backend = backend
        self._then = then
        self.label = label
        self.secrets = secrets or Secrets()
        self.path = path
        self.patience_seconds = 600.0
        self.on_return: Callable[[], None] = _ignore
        # The thread that renews leases writes through the same engine, and must not be made to take the write lock.
        self._local = threading.local()
        if backend.engine.name == "sqlite":
            # The driver begins a transaction with the first change, too late to protect the look before it.
            sqlalchemy.event.listen(backend.engine, "begin", self._begin)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Within it, a look at a row and the change that follows are one step for every other process.

        Database servers lock the row (``SELECT ... FOR UPDATE``). SQLite has no such lock, so that each transaction
        of this thread takes the file's write lock at its beginning.
        """
        self._local.is_exclusive = True
        try:
            yield
        finally:
            self._local.is_exclusive = False

    def attempt(self, doing: str, step: Callable[[], _T], *, is_space_awaited: bool = False) -> _T:
        """What `step` returns; it is repeated, with growing pauses, while the database is away, restarting or busy.

        Args:
            doing: for messages, as in "reading trials".
            step: may be run again after it has failed, and even after it has succeeded: a connection can break while
                the answer is on its way.
            is_space_awaited: whether a full disk is waited for as well.

        Raises:
            AutopeftError: the database failed otherwise, or for longer than `patience_seconds`.
        """
        began = time.monotonic()
        for n, pause in enumerate(pauses()):
            try:
                result = step()
            except (StorageInternalError, SQLAlchemyError) as error:
                left = began + self.patience_seconds - time.monotonic()
                if left <= pause or not (is_passing(error) or (is_space_awaited and is_full(error))):
                    raise self.failure(doing, error) from self.secrets.shown_cause(error)
                if n in (0, 5):  # at once, and when it lasts; not at every try
                    _logger.warning(
                        "The storage %s is away while %s (%s); it is waited for, %.0f seconds more at most.",
                        self.label,
                        doing,
                        self.secrets.hide(reason(error)),
                        left,
                    )
                self.backend.remove_session()
                time.sleep(pause)
            else:
                if n:
                    self.on_return()
                return result
        raise AssertionError("pauses never end")

    @contextmanager
    def hurried(self, seconds: float) -> Iterator[None]:
        """Within it, a database that is away is waited for no longer than `seconds`."""
        before, self.patience_seconds = self.patience_seconds, min(self.patience_seconds, seconds)
        try:
            yield
        finally:
            self.patience_seconds = before

    def failure(self, doing: str, error: Exception) -> AutopeftError:
        """The error to raise for one of the database; it says what to do."""
        cause = self.secrets.hide(reason(error))
        hint = " Free some space, then run the same command again." if "full" in cause else ""
        return AutopeftError(
            f"The storage {self.label} failed while {doing}: {cause}. Trials told before are kept.{hint}"
        )

    @property
    def clock(self) -> Clock:
        """Whose clock `now` is by. A file is used by one host only, whose clock is good enough."""
        return "database" if self.backend.engine.name in _PRESENT else "host"

    def now(self) -> float:
        """Seconds since the epoch, by `clock`. Not repeated where it fails: see `attempt`."""
        question = _PRESENT.get(self.backend.engine.name)
        if question is None:
            return time.time()
        with self.backend.engine.connect() as connection:
            return float(connection.execute(sqlalchemy.text(question)).scalar_one())

    def claim_lock(self, key: int) -> ClaimLock:
        """What lets one worker at a time claim from the study with this key."""
        if self.path is not None:
            return FileClaimLock(self.path.with_name(f"{self.path.name}-claims"))
        if self.backend.engine.name == "postgresql":
            return AdvisoryClaimLock(self.backend.engine, key)
        return NoClaimLock()

    def close(self) -> None:
        """Close every connection. The store cannot be used afterwards."""
        self.backend.remove_session()
        self.backend.engine.dispose()
        if self._then is not None:
            self._then()

    def _begin(self, connection: sqlalchemy.Connection) -> None:
        if getattr(self._local, "is_exclusive", False):
            connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def storage_errors(store: Store, doing: str) -> Iterator[None]:
    """Turn errors of the database within the block into one that says what to do.

    Raises:
        AutopeftError: the database failed, for example because the disk is full. What had been told before is kept.
    """
    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        raise store.failure(doing, error) from store.secrets.shown_cause(error)


def reason(error: BaseException) -> str:
    """What the database itself said, without SQL and parameters."""
    # SQLAlchemy's own text repeats the statement with its parameters, which are pages of JSON here.
    inner = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    return " ".join(str(getattr(inner, "orig", inner)).split()).rstrip(".")


@contextmanager
def optuna_logs_as_ours() -> Iterator[None]:
    """Within the block, what Optuna's storage would print to the terminal goes to this package's log, as detail."""
    source = logging.getLogger("optuna.storages._rdb.storage")

    def reroute(record: logging.LogRecord) -> bool:
        _logger.debug("Optuna: %s", record.getMessage())
        return False

    source.addFilter(reroute)
    try:
        yield
    finally:
        source.removeFilter(reroute)


def _ignore() -> None:
    """The listener of those who do not mind."""
