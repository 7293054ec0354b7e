"""Studies that may only be read: protected files, protected folders, and roles that may do nothing but SELECT."""

from __future__ import annotations

import ctypes
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from autopeft.cli.train import _check_outputs, _results
from autopeft.errors import AutopeftError, SettingsError, StorageError
from autopeft.study.opening import open_store
from autopeft.study.read_only import for_reading, may_write
from autopeft.study.study import Study
from formulas import SPACE, Blind, formula, made
from small_case import call

# Of `capset(2)`: the third version of the header, and a set of 64 bits in two halves.
CAPABILITY_VERSION = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def give_up_capabilities() -> None:
    """Leave root what the permissions of a file give its owner: without capabilities it is a user like any other.

    Another user could not read the environment that these tests run in where it lies in a folder of root alone.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if library.capset(ctypes.byref(_Header(CAPABILITY_VERSION, 0)), ctypes.byref((_Sets * 2)())):
        raise OSError(ctypes.get_errno(), "capset failed")


def without_rights(act: Callable[[], None]) -> None:
    """Call `act` as somebody whom the permissions of files bind; root, whom they do not, gives that up in a thread."""
    if os.getuid() != 0:
        act()
        return
    wrong: list[BaseException] = []

    def acting() -> None:
        try:
            give_up_capabilities()
            act()
        except BaseException as error:
            wrong.append(error)

    # Capabilities are a thread's own. A child instead would be a copy of all that libraries have reserved in this
    # process, which may be more than the machine has.
    thread = threading.Thread(target=acting)
    thread.start()
    thread.join()
    if wrong:
        raise wrong[0]


def test_who_acts_without_rights_is_bound(folder: Path) -> None:
    path = folder / "kept"
    path.write_text("")
    path.chmod(0o444)

    def refused() -> None:
        with pytest.raises(PermissionError):
            path.write_text("more")

    without_rights(refused)
    with pytest.raises(AssertionError, match="by hand"):
        without_rights(_wrong)
    assert os.getuid() or os.access(path, os.W_OK)


def _wrong() -> None:
    raise AssertionError("by hand")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody can reach, unlike those of pytest."""
    found = Path(tempfile.mkdtemp(prefix="read-only-"))
    found.chmod(0o755)
    yield found
    for path in (found, *(path for path in found.rglob("*") if path.is_dir())):
        path.chmod(0o755)
    shutil.rmtree(found)


def protect(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)


def finished(path: Path, n: int = 3) -> None:
    with made(path) as study:
        study.run(formula, Blind(SPACE), n)


def read(path: Path, n: int = 3) -> None:
    """All that reading needs, and that nothing else can be done."""
    # SQLite keeps its shared memory beside the file wherever it may, also for those who only read.
    own = (
        {path.with_name(f"{path.name}-{what}") for what in ("wal", "shm")} if os.access(path.parent, os.W_OK) else set()
    )
    before = set(path.parent.iterdir()) - own
    assert not may_write(path)
    with Study.open(path) as study:
        assert study.location == str(path)
        assert study.n_finished() == len(study.trials()) == n
        assert len(study.front()) >= 1
        with pytest.raises(AutopeftError, match=r"readonly|read-only"):
            study.note("x", 1)
    assert set(path.parent.iterdir()) - own == before


@pytest.mark.parametrize("what", ["file", "folder", "both"])
def test_a_protected_study_can_be_read(folder: Path, what: str) -> None:
    path = folder / "study.db"
    finished(path)
    if what != "folder":
        path.chmod(0o444)
    if what != "file":
        folder.chmod(0o555)
    without_rights(lambda: read(path))


def test_a_study_that_somebody_else_is_writing_can_be_read(folder: Path) -> None:
    path = folder / "study.db"
    finished(path)
    with made(path) as study:
        study.run(formula, Blind(SPACE), 5)
        assert (folder / "study.db-wal").stat().st_size > 0
        for part in folder.iterdir():
            part.chmod(0o444)
        folder.chmod(0o555)
        without_rights(lambda: read(path, 5))


def killed(path: Path) -> None:
    """Leave the log of a killed search, which holds what the file does not."""
    finished(path, 1)
    copies = path.with_name("copies")
    copies.mkdir()
    with made(path) as study:
        study.run(formula, Blind(SPACE), 4)
        for name in ("study.db", "study.db-wal"):
            shutil.copyfile(path.with_name(name), copies / name)
    assert (copies / "study.db-wal").stat().st_size > 0


def test_what_is_in_the_log_of_a_killed_search_alone_is_read_too(folder: Path, tmp_path: Path) -> None:
    killed(folder / "study.db")
    path = folder / "copies" / "study.db"
    protect(path.parent)
    before = set(Path(tempfile.gettempdir()).glob("autopeft-*"))

    def look() -> None:
        with Study.open(path) as study:
            assert study.n_finished() == 4

    without_rights(look)
    assert set(Path(tempfile.gettempdir()).glob("autopeft-*")) == before  # the copy is gone
    assert sorted(item.name for item in path.parent.iterdir()) == ["study.db", "study.db-wal"]


def test_a_file_that_can_be_written_is_opened_as_always(tmp_path: Path) -> None:
    finished(tmp_path / "study.db")
    assert for_reading(tmp_path / "study.db").uri.endswith("?mode=ro")
    with Study.open(tmp_path / "study.db") as study:
        study.note("x", 1)


def test_what_cannot_even_be_read_is_one_error(folder: Path) -> None:
    path = folder / "study.db"
    finished(path)
    path.chmod(0)

    def look() -> None:
        with pytest.raises(StorageError, match="cannot be read"):
            open_store(path, is_new_allowed=False)

    without_rights(look)
    path.chmod(0o644)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE version_info")
    protect(folder)

    def look_again() -> None:
        with pytest.raises(StorageError, match="cannot be read: no such table"):
            open_store(path, is_new_allowed=False)

    without_rights(look_again)


def test_front_report_and_retraining_of_a_protected_folder(searched: Path, folder: Path) -> None:
    study = folder / "study"
    shutil.copytree(searched, study)
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere").chmod(0o777)
    report, result = folder / "elsewhere" / "report.md", folder / "elsewhere" / "result.json"
    for command in (("front",), ("report", "--to", report)):
        assert call(command[0], study, *command[1:]).code == 0
    report.unlink()
    assert len(_results(study, "trial-0", result)) == 2
    protect(study)

    def look() -> None:
        found = call("front", study, "--json")
        assert found.code == 0, found.err
        found = call("report", study, "--to", report)
        assert found.code == 0, found.err
        assert report.read_text().startswith("# ")
        assert call("report", study).code == 2  # there is no place for it there
        _check_outputs(study, None, result, {}, False)
        assert _results(study, "trial-0", result) == [result]  # and none in the study
        with pytest.raises(SettingsError, match="The study takes what can be written"):
            _check_outputs(study, None, None, {}, False)
        found = call("reopen", study)
        assert found.code == 0, found.err

    without_rights(look)
