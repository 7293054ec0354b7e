"""Where a study may lie, what is refused, and that SQLite's changes are atomic."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy
from optuna.exceptions import StorageInternalError

from autopeft.errors import AutopeftError, InputError, StorageError
from autopeft.masking import masked
from autopeft.study.database import Store, storage_errors
from autopeft.study.location import check_is_local, file_system_of, mounts, sqlite_path
from autopeft.study.opening import open_store
from autopeft.study.study import Study
from formulas import SPACE, Blind, formula, made

TABLE = (
    ("/", "ext4"),
    ("/home", "autofs"),
    ("/home", "nfs4"),
    ("/home/me/local", "xfs"),
    ("/homework", "ext4"),
    ("/mnt/ssh", "fuse.sshfs"),
    ("/mnt/win", "cifs"),
    ("/mnt/fuse", "fuse.ext2"),
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path / "study.db", is_new_allowed=True)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("path", "point", "kind"),
    [
        ("/var/a.db", "/", "ext4"),
        ("/home/me/a.db", "/home", "nfs4"),  # the later mount covers the earlier one
        ("/home/me/local/a.db", "/home/me/local", "xfs"),
        ("/homework/a.db", "/homework", "ext4"),  # no part of /home
    ],
)
def test_the_innermost_mount_holds_a_file(path: str, point: str, kind: str) -> None:
    assert file_system_of(Path(path), TABLE) == (point, kind)


def test_no_mount_table_refuses_nothing() -> None:
    assert file_system_of(Path("/a.db"), ()) == ("", "")
    check_is_local(Path("/a.db"), ())


@pytest.mark.parametrize(
    ("path", "kind"), [("/home/me/a.db", "nfs4"), ("/mnt/ssh/a.db", "fuse.sshfs"), ("/mnt/win/a.db", "cifs")]
)
def test_network_file_systems_are_refused_with_ways_out(path: str, kind: str) -> None:
    with pytest.raises(InputError, match=rf"which is {kind}\. Give a path on a local disk.*postgresql\+psycopg://"):
        check_is_local(Path(path), TABLE)


@pytest.mark.parametrize("path", ["/var/a.db", "/home/me/local/a.db", "/mnt/fuse/a.db"])
def test_local_file_systems_are_accepted(path: str) -> None:
    check_is_local(Path(path), TABLE)


def test_a_study_on_a_network_mount_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mounts()
    monkeypatch.setattr("autopeft.study.opening.mounts", lambda: (("/", "ext4"), (str(tmp_path.resolve()), "nfs")))
    for storage in (tmp_path / "deep" / "a.db", f"sqlite:///{tmp_path}/deep/a.db"):
        with pytest.raises(InputError, match="which is nfs"):
            open_store(storage, is_new_allowed=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["plain.db", "with space.db", "{0}%41?x=1#y.db", "Größe.db"])
def test_any_file_name_may_be_used(tmp_path: Path, name: str) -> None:
    with made(tmp_path / name) as study:
        study.run(formula, Blind(SPACE), 1)
    assert (tmp_path / name).is_file()
    with Study.open(str(tmp_path / name)) as study:
        assert len(study.trials()) == 1


def test_a_file_is_in_write_ahead_mode_and_waits_when_busy(store: Store) -> None:
    with store.backend.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 60_000


def test_a_url_of_a_file_means_the_file() -> None:
    assert sqlite_path("sqlite:////var/a.db") == Path("/var/a.db")
    assert sqlite_path("sqlite:///a.db") == Path("a.db")
    assert sqlite_path("postgresql+psycopg://me@host/db") is None
    assert sqlite_path("runs/a.db") == Path("runs/a.db")


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_memory_cannot_be_resumed(url: str) -> None:
    with pytest.raises(InputError, match="give a path"):
        sqlite_path(url)


def test_a_nul_that_a_url_spells_is_refused_before_any_path_is_made_of_it() -> None:
    with pytest.raises(StorageError, match="its path holds a NUL"):
        sqlite_path("sqlite:///a%00b.db")


@pytest.mark.parametrize(
    ("url", "way"),
    [
        ("mariadb+nosuchdriver://me:secret@host/db", "Install the driver that the URL names"),
        ("postgresql+pg8000://me:secret@host/db", r"pip install 'autopeft\[postgres\]'"),
    ],
)
def test_a_missing_driver_is_named_without_the_password(url: str, way: str) -> None:
    with pytest.raises(InputError, match=way) as caught:
        open_store(url, is_new_allowed=True)
    assert "secret" not in str(caught.value)
    assert "me:***@host" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql://host/db", "postgresql://host/db"),
        ("not a url://me:secret@host", "not a url://me:***@host"),
    ],
)
def test_passwords_are_masked(url: str, shown: str) -> None:
    assert masked(url) == shown


def test_an_unreadable_url_is_an_input_error_without_the_password() -> None:
    with pytest.raises(InputError, match="cannot be read") as caught:
        open_store("post gres://me:secret@host:port/db", is_new_allowed=True)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("is_new_allowed", [True, False])
def test_what_is_no_database_is_refused_and_left_alone(tmp_path: Path, is_new_allowed: bool) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("these are notes, and rather more than a hundred characters of them, " * 4)
    with pytest.raises(InputError, match="cannot be"):
        open_store(text, is_new_allowed=is_new_allowed)
    with pytest.raises(InputError, match="is a folder"):
        open_store(tmp_path, is_new_allowed=is_new_allowed)
    assert text.read_text().startswith("these are notes")


def test_another_database_holds_no_study(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE other (x INTEGER)")
    with pytest.raises(InputError, match="holds none"):
        open_store(path, is_new_allowed=False)


def test_database_errors_say_what_was_being_done(store: Store) -> None:
    with pytest.raises(AutopeftError, match=r"failed while counting: no such table: absent\. Trials told before"):
        with storage_errors(store, "counting"), store.backend.engine.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT * FROM absent"))
    with pytest.raises(AutopeftError, match=r"disk is full.*Free some space"), storage_errors(store, "x"):
        raise StorageInternalError("long text") from sqlite3.OperationalError("database or disk is full")


def test_opening_waits_for_another_process_that_makes_the_same_file(tmp_path: Path) -> None:
    """SQLite refuses to change the kind of log at once, without its busy timeout, while somebody else writes."""
    path = tmp_path / "study.db"
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        with closing(sqlite3.connect(path)) as ours, pytest.raises(sqlite3.OperationalError, match="locked"):
            ours.execute("PRAGMA journal_mode=WAL")
        end = threading.Timer(0.3, other.execute, ["ROLLBACK"])
        end.start()
        open_store(path, is_new_allowed=True).close()
        end.join()


def test_exclusive_steps_of_two_connections_do_not_overlap(tmp_path: Path) -> None:
    """Four threads with a store each add 1 to a stored number by reading and writing it; none is lost."""
    path = tmp_path / "study.db"
    with made(path) as study:
        study.note("count", 0)

    def count() -> None:
        store = open_store(path, is_new_allowed=False)
        with store.exclusive():
            for _ in range(10):
                with store.backend.scoped_session() as session, session.begin():
                    row = sqlalchemy.text("SELECT value_json FROM study_user_attributes WHERE key = 'fact.count'")
                    value = int(session.execute(row).scalar_one()) + 1
                    change = "UPDATE study_user_attributes SET value_json = :v WHERE key = 'fact.count'"
                    session.execute(sqlalchemy.text(change), {"v": str(value)})
        store.close()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with Study.open(path) as study:
        assert study.fact("count") == 40
