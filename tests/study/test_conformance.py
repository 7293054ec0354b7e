"""Optuna's own conformance suite for storages, on the storages as this package opens them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.storages import RDBStorage
from optuna.testing.pytest_storages import StorageTestCase

import postgres
from autopeft.study.opening import open_store

pytestmark = [
    pytest.mark.flaky(reruns=1),  # a server of its own for each case
    pytest.mark.slow,
    # The suite leaves storages that it restores from a pickle open; psycopg warns of connections that nobody closed.
    pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    if reason := postgres.reason_to_skip():
        pytest.skip(reason)
    with postgres.running() as started:
        yield started
        # What the suite has left open is collected here, or it would be told in whatever test comes after this file.
        gc.collect()


class TestSQLite(StorageTestCase):
    """A file with a write-ahead log, whose transactions may take the write lock at their beginning."""

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Iterator[RDBStorage]:  # type: ignore[override]
        store = open_store(tmp_path / "study.db", is_new_allowed=True)
        with store.exclusive():
            yield store.backend
        store.close()


class TestPostgreSQL(StorageTestCase):
    """A server, with this package's options of the connection."""

    @pytest.fixture
    def storage(self, server: postgres.Server) -> Iterator[RDBStorage]:  # type: ignore[override]
        store = open_store(server.database(), is_new_allowed=True)
        yield store.backend
        store.close()
