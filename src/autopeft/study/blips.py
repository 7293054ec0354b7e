"""A database that is away for a moment: which errors pass, and how long to pause before the next try."""

from __future__ import annotations

import random
from collections.abc import Iterator

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

_FIRST_SECONDS = 0.2
_GROWTH = 1.7
_MOST_SECONDS = 30.0

# The first two characters of SQLSTATE (PostgreSQL's appendix A): connections, rollbacks, resources, operators, system.
_PASSING_STATES = ("08", "40", "53", "55", "57", "58")
_FULL_STATE = "53100"


def pauses() -> Iterator[float]:
    """Seconds between tries: from a fifth of a second up to half a minute, with chance, so that workers spread out."""
    seconds = _FIRST_SECONDS
    while True:
        yield seconds * (0.75 + 0.5 * random.random())
        seconds = min(_GROWTH * seconds, _MOST_SECONDS)


def is_passing(error: Exception) -> bool:
    """Whether the same step may succeed a while later: the database is away, restarts, or is busy with others."""
    inner = _of_database(error)
    if not isinstance(inner, DBAPIError):
        return False
    # SQLAlchemy has thrown the connection away, so that the next try begins with a new one.
    if inner.connection_invalidated:
        return True
    if _module_of(inner.orig) == "sqlite3":
        return any(word in str(inner.orig) for word in ("locked", "busy"))
    state = _state_of(inner.orig)
    if state is None:  # said by the driver, which had no answer from the server
        return isinstance(inner, OperationalError | InterfaceError)
    # A full disk is of the class of missing resources, but waiting does not empty it: whoever can afford to wait says
    # so.
    return state[:2] in _PASSING_STATES and not is_full(error)


def is_full(error: Exception) -> bool:
    """Whether the disk of the database is full."""
    inner = _of_database(error)
    if not isinstance(inner, DBAPIError):
        return False
    if _module_of(inner.orig) == "sqlite3":
        # A limit on the size of files, as of `ulimit -f`, is told as an error of input and output.
        return any(word in str(inner.orig) for word in ("full", "disk I/O error"))
    return _state_of(inner.orig) == _FULL_STATE


def _of_database(error: Exception) -> BaseException:
    is_wrapped = isinstance(error, StorageInternalError) and error.__cause__ is not None
    return error.__cause__ if is_wrapped and error.__cause__ is not None else error


def _module_of(error: object) -> str:
    return type(error).__module__.partition(".")[0]


def _state_of(error: object) -> str | None:
    """SQLSTATE of an error of a driver; psycopg and psycopg2 have it under different names, others not at all."""
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return state if isinstance(state, str) else None
