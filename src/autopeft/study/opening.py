"""Opening a storage: a SQLite file on a local disk, or any SQL database that Optuna can write to."""

from __future__ import annotations

import logging
import random
import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from autopeft.errors import StorageError
from autopeft.masking import Secrets, masked
from autopeft.reading import followed
from autopeft.study.database import Store, reason
from autopeft.study.location import OWN_STUDY, check_is_local, driver_message, mounts, server_url, sqlite_path
from autopeft.study.read_only import for_reading, may_write
from autopeft.writing import Inputs, check_outside_of_models, check_place

_logger = logging.getLogger(__name__)

_SKEW_SECONDS = 60.0

BUSY_SECONDS = 60
"""How long a process waits for another one that writes to the same SQLite file."""

_OPENING_RETRIES = 6
# Without these, libpq waits for ever for a server that does not answer, and two hours for one that has vanished.
_LIBPQ = MappingProxyType(
    {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
)


_T = TypeVar("_T")


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
        # Made of its parts, since a path may hold characters that mean something in a URL. Absolute, as workers may
        # change their folder.
        url = sqlalchemy.URL.create("sqlite", database=str(path.absolute())).render_as_string()
        return Store(_connected(url, str(path), Secrets()), str(path), path=path.absolute())
    label, secrets = masked(str(storage)), Secrets.of(str(storage))
    return Store(_connected(server_url(str(storage)), label, secrets), label, secrets)


def check_storage(storage: str | None, folder: Path, inputs: Inputs) -> None:
    """Make sure, before any work, that the study of `folder` may be kept in `storage`.

    Args:
        storage: None for the folder's own file. A server is asked only when the study is opened.
        inputs: see `autopeft.writing.Inputs`.

    Raises:
        StorageError: the file is a database of something else, or the own file of another study.
        SettingsError: no file may stand there.
    """
    path = folder / "study.db" if storage is None else sqlite_path(storage)
    if path is None:
        return
    path = followed(path)
    check_place("The storage" if storage is None else "--storage", path, is_folder=False)
    if not path.exists():
        check_outside_of_models("--storage", path, inputs)
    if not path.exists() or not path.stat().st_size:
        return
    try:
        with closing(_retried(lambda: for_reading(path))) as way:
            tables, studies = way.tables(), way.studies()
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"The storage {path} cannot be read: {error}.") from error
    if tables and not tables & {"studies", "version_info"}:
        raise StorageError(f"The storage {path} is a database of something else; no study is put into it.")
    # Commands that are given a folder take the only study of its own file, and would find two.
    if storage is not None and OWN_STUDY in studies:
        raise StorageError(f"The storage {path} is the own file of another study: give a file of its own, or --out.")


def _prepare_file(path: Path, is_new_allowed: bool) -> None:
    # Resolved, since a link on a local disk may lead to a network's.
    check_is_local(followed(path), mounts())
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
        # The mode is written into the file, so that every later connection, Optuna's too, finds it so.
        connection.execute("PRAGMA journal_mode=WAL")


def _reading(path: Path) -> Store:
    """A store on a file that may only be read; whoever writes to it is told so by SQLite."""
    way = for_reading(path)
    try:
        kwargs = {"creator": way.connect}
        # The URL only names the dialect: connections are made by the function that is given.
        backend = RDBStorage("sqlite:///read-only", engine_kwargs=kwargs, skip_table_creation=True)
    except (RuntimeError, SQLAlchemyError, StorageInternalError) as error:
        way.close()
        raise StorageError(f"The storage {path} cannot be read: {reason(error)}.") from error
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
        raise StorageError(secrets.hide(driver_message(url, label, error))) from cause
    except (RuntimeError, ValueError, TypeError, SQLAlchemyError, StorageInternalError) as error:
        # A driver may name the password, or what it took for the host: in the message and in what caused it.
        cause = secrets.shown_cause(error)
        raise StorageError(f"The storage {label} cannot be opened: {secrets.hide(reason(error))}.") from cause


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
        # Drawn by the unseeded generator: workers of one seed would otherwise collide again at the same moment.
        time.sleep(0.1 * 2**attempt * (1 + random.random()))
    return action()


def _is_collision(error: Exception) -> bool:
    text = f"{error} {reason(error)}".lower()
    return any(word in text for word in ("already exists", "locked", "unique", "duplicate", "no such table"))


def warn_of_skew(store: Store) -> None:
    """Leases go by the database's clock; what a trial's row says of its beginning and end goes by the host's."""
    behind = store.attempt("reading the clock", store.now) - time.time()
    if abs(behind) > _SKEW_SECONDS:
        _logger.warning(
            "The clock of this host is about %.0f seconds %s that of the database. Leases go by the database's, but "
            "the times of trials are off: set the clock.",
            abs(behind),
            "behind" if behind > 0 else "ahead of",
        )
