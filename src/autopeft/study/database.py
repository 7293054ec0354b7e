"""Where a study is kept: a SQLite file on a local disk, or any SQL database that Optuna can write to.

A path means a SQLite file; so does a URL of the form ``sqlite:///path``. SQLite coordinates processes through file
locks, which network file systems do not keep, so such places are refused. Several machines share a study through a
database server, ``postgresql+psycopg://user:password@host/name``.
"""

from __future__ import annotations

import logging
import random
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import psutil
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from autopeft.errors import AutopeftError, StorageError
from autopeft.masking import Secrets, masked, parts_of
from autopeft.study.blips import is_full, is_passing, pauses
from autopeft.study.claims import AdvisoryClaimLock, ClaimLock, FileClaimLock, NoClaimLock
from autopeft.study.lease import Clock
from autopeft.study.read_only import for_reading, may_write

_logger = logging.getLogger(__name__)

BUSY_SECONDS = 60
"""How long a process waits for another one that writes to the same SQLite file."""

_NETWORK = frozenset(
    "nfs nfs3 nfs4 cifs smb smb2 smb3 smbfs afs ncpfs afpfs webdav davfs davfs2 ceph ceph-fuse lustre gpfs beegfs "
    "glusterfs orangefs pvfs2 sshfs s3fs rclone gcsfuse goofys".split()
)
_OPENING_RETRIES = 6
# Without these, libpq waits for ever for a server that does not answer, and two hours for one that has vanished.
_LIBPQ = MappingProxyType(
    {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
)

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
        self._local = threading.local()
        if backend.engine.name == "sqlite":
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
                        self.secrets.hide(_reason(error)),
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
        cause = self.secrets.hide(_reason(error))
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


def open_store(storage: str | Path, *, is_new_allowed: bool) -> Store:
    """Open the storage at a path or URL; a file that may only be read is opened for that.

    Args:
        storage: path of a SQLite file, or a database URL.
        is_new_allowed: whether a missing SQLite file (and its folder) is made. A missing file is never made otherwise.

    Raises:
        StorageError: the file is missing, is no study, lies on a network file system; the URL cannot be read; its
            driver is not installed; or the database cannot be reached.
    """
    path = sqlite_path(storage)
    if path is not None:
        _prepare_file(path, is_new_allowed)
        if not is_new_allowed and not may_write(path):
            return _reading(path)
        url = sqlalchemy.URL.create("sqlite", database=str(path.absolute())).render_as_string()
        return Store(_connected(url, str(path), Secrets()), str(path), path=path.absolute())
    label, secrets = masked(str(storage)), Secrets.of(str(storage))
    return Store(_connected(server_url(str(storage)), label, secrets), label, secrets)


def sqlite_path(storage: str | Path) -> Path | None:
    """The file that `storage` names, or None when it is the URL of a database server.

    Raises:
        StorageError: a URL that cannot be read, or SQLite in memory, which no second process could see.
    """
    _check_text(str(storage))
    if isinstance(storage, Path) or "://" not in storage:
        return Path(storage)
    if not re.match(r"sqlite[+:]", storage):
        server_url(storage)
        return None
    try:
        url = sqlalchemy.make_url(storage)
    except (ArgumentError, ValueError):
        raise StorageError(_unreadable(storage, "SQLite's form is sqlite:///path")) from None
    if not url.database or url.database == ":memory:":
        raise StorageError(f"A study in memory cannot be resumed: give a path instead of {storage!r}.")
    if "\0" in url.database:  # the URL spells it %00, which only reading it turns into one
        raise StorageError(_unreadable(storage, "its path holds a NUL"))
    return Path(url.database)


def server_url(storage: str) -> str:
    """The URL of a database server with what is special in user and password percent-encoded.

    Raises:
        StorageError: it cannot be read; no word of the password is repeated. Or there is no such database.
    """
    parts = parts_of(storage)
    port = re.search(r":([^:/\]]*)(?:/|$)", parts.place)
    if port is not None and port[1] and not (port[1].isdecimal() and int(port[1]) < 65536):
        raise StorageError(_unreadable(storage, "the port must be a number below 65536"))
    try:
        url = sqlalchemy.make_url(parts.normalised())
        url.get_dialect()
    except (NoSuchModuleError, ImportError) as error:
        raise StorageError(_driver_message(storage, masked(storage), error)) from error
    except (ArgumentError, ValueError, TypeError, AttributeError):
        # What these say may hold a piece of the password: without a cause.
        raise StorageError(_unreadable(storage, "it has another form")) from None
    return parts.normalised()


def _check_text(storage: str) -> None:
    """Refuse what cannot be a path or a URL, before anything is made.

    Raises:
        StorageError: it holds a NUL, a URL holds control characters or bytes that are no text, or it is a connection
            string, which would be taken for the name of a file.
    """
    if "\0" in storage:
        raise StorageError(_unreadable(storage, "it holds a NUL"))
    if "://" in storage:
        if not storage.isprintable():
            raise StorageError(_unreadable(storage, "it holds a control character or bytes that are no text"))
    elif masked(storage) != storage or re.match(r"(postgres|mysql|mariadb|sqlite)\S*:", storage):
        raise StorageError(_unreadable(storage, "a connection string has another form"))


def _unreadable(storage: str, why: str) -> str:
    shown = repr(masked(storage)) if "://" in storage else "what was given"
    return f"A storage is a path or a URL (scheme://user:password@host/name), but {shown} cannot be read: {why}."


def mounts() -> tuple[tuple[str, str], ...]:
    """The mount table: pairs of mount point and file system type, later mounts last."""
    return tuple((item.mountpoint, item.fstype) for item in psutil.disk_partitions(all=True))


def file_system_of(path: Path, table: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """Mount point and type of the file system that holds `path`, or two empty strings when none does.

    Args:
        path: absolute and resolved; it need not exist.
        table: pairs of mount point and type; of two at the same place the later one covers the earlier.
    """
    found = ("", "")
    for point, kind in table:
        if path.is_relative_to(point) and len(point) >= len(found[0]):
            found = (point, kind)
    return found


def check_is_local(path: Path, table: Iterable[tuple[str, str]]) -> None:
    """Refuse a SQLite file on a network file system.

    Raises:
        StorageError: `path` lies on one; the message names it and the ways out.
    """
    point, kind = file_system_of(path, table)
    if kind.lower().removeprefix("fuse.") in _NETWORK:
        raise StorageError(
            f"A SQLite file must lie on a local disk, because network file systems do not keep its locks, but {path} "
            f"is on {point}, which is {kind}. Give a path on a local disk, or share the study through a database: "
            f"postgresql+psycopg://user:password@host/name."
        )


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


def _prepare_file(path: Path, is_new_allowed: bool) -> None:
    check_is_local(path.resolve(), mounts())
    if path.is_dir():
        raise StorageError(f"A storage is a file or a URL, but {path} is a folder.")
    if not is_new_allowed:
        _check_is_study(path)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _retried(lambda: _keep_write_ahead_log(path))
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"The storage {path} cannot be opened or made: {error}.") from error


def _keep_write_ahead_log(path: Path) -> None:
    """Have the file keep a write-ahead log, with which readers and one writer do not wait for each other."""
    with closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def _reading(path: Path) -> Store:
    """A store on a file that may only be read; whoever writes to it is told so by SQLite."""
    way = for_reading(path)
    try:
        kwargs = {"creator": way.connect}
        backend = RDBStorage("sqlite:///read-only", engine_kwargs=kwargs, skip_table_creation=True)
    except (RuntimeError, SQLAlchemyError, StorageInternalError) as error:
        way.close()
        raise StorageError(f"The storage {path} cannot be read: {_reason(error)}.") from error
    return Store(backend, str(path), then=way.close)


def _check_is_study(path: Path) -> None:
    if not path.is_file():
        raise StorageError(f"There is no study at {path}.")
    try:
        way = _retried(lambda: for_reading(path))
        with closing(way):
            has_studies = _retried(way.has_studies)
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"The storage {path} cannot be read: {error}.") from error
    if not has_studies:
        raise StorageError(f"There is no study at {path}: the file holds none.")


def _connected(url: str, label: str, secrets: Secrets) -> RDBStorage:
    """Connect, and make the tables where they are missing."""
    template = url.replace("{", "{{").replace("}", "}}")  # Optuna formats the text as a template
    try:
        return _retried(lambda: RDBStorage(template, engine_kwargs=_engine_options(url)))
    except (ImportError, ArgumentError) as error:
        cause = secrets.shown_cause(error)
        raise StorageError(secrets.hide(_driver_message(url, label, error))) from cause
    except (RuntimeError, ValueError, TypeError, SQLAlchemyError, StorageInternalError) as error:
        # A driver may name the password, or what it took for the host: in the message and in what caused it.
        cause = secrets.shown_cause(error)
        raise StorageError(f"The storage {label} cannot be opened: {secrets.hide(_reason(error))}.") from cause


def _engine_options(url: str) -> dict[str, Any]:
    """Options of SQLAlchemy's engine: how long to wait, and how soon a server that has vanished is noticed."""
    if url.startswith("sqlite"):
        return {"connect_args": {"timeout": BUSY_SECONDS}}
    options: dict[str, Any] = {"pool_pre_ping": True}
    if re.match(r"postgres(ql)?(\+psycopg2?)?:", url):
        given = sqlalchemy.make_url(url).query
        options["connect_args"] = {key: value for key, value in _LIBPQ.items() if key not in given}
    return options


def _retried(action: Callable[[], _T]) -> _T:
    """What `action` returns. It is tried again while processes that open the same storage at once are in its way.

    SQLite waits for a lock by itself, but not for the one that changes how the file keeps its log.
    """
    for attempt in range(_OPENING_RETRIES):
        try:
            return action()
        except (sqlite3.OperationalError, SQLAlchemyError, StorageInternalError) as error:
            if not _is_collision(error):
                raise
        time.sleep(0.1 * 2**attempt * (1 + random.random()))
    return action()


def _is_collision(error: Exception) -> bool:
    text = f"{error} {_reason(error)}".lower()
    return any(word in text for word in ("already exists", "locked", "unique", "duplicate", "no such table"))


def _reason(error: BaseException) -> str:
    """What the database itself said, without SQL and parameters."""
    inner = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    return " ".join(str(getattr(inner, "orig", inner)).split()).rstrip(".")


def _driver_message(url: str, label: str, error: Exception) -> str:
    if url.startswith("postgres"):
        way = "Install it with: pip install 'autopeft[postgres]', and write the URL as postgresql+psycopg://..."
    else:
        way = "Install the driver that the URL names; SQLAlchemy's documentation lists them by database."
    return f"The database driver for {label} is missing ({' '.join(str(error).split()).rstrip('.')}). {way}"


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
