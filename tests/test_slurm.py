"""Workers as jobs: queued by submitit, whose local executor stands in for Slurm."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from autopeft.errors import InputError
from autopeft.slurm import check, submit
from small_case import Case, call, finished

# The local executor leaves its processes to themselves, as a queue would; Python remarks on that.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

URL = "postgresql+psycopg://me:S3cretPW@127.0.0.1:1/db"
SOURCE = str(Path(__file__).parent.parent / "src")


def wait_for(done: Path) -> None:
    deadline = time.monotonic() + 120
    while not done.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_submitit_it_is_said_what_to_install(
    monkeypatch: pytest.MonkeyPatch, case: Case, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    found = call("submit", case.write(tmp_path / "asked.yaml"), "--out", tmp_path / "run", "--storage", URL)
    assert (found.code, "pip install 'autopeft[slurm]'" in found.err) == (2, True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("option", "says"), [("partition", "takes key=value"), ("a b=3", "takes key=value")])
def test_options_have_a_form(case: Case, tmp_path: Path, option: str, says: str) -> None:
    found = call("submit", case.write(tmp_path / "asked.yaml"), "--out", tmp_path / "run", "--slurm", option)
    assert (found.code, says in found.err) == (2, True)
    found = call("submit", tmp_path / "asked.yaml", "--out", tmp_path / "run", "--cluster", "pbs")
    assert (found.code, "--cluster is slurm or local" in found.err) == (2, True)


def test_jobs_of_several_machines_need_a_database_and_a_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    with pytest.raises(InputError, match="give --storage"):
        check("slurm", None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="no Slurm on this machine"):
        check("slurm", URL)
    check("local", None)


def test_a_job_is_told_its_database_by_the_environment_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "queue.py").write_text("raise SystemExit('the wrong queue')")
    # Renamed when it is written whole: a file that is there may be empty yet.
    code = (
        "import os, pathlib, sys; part = pathlib.Path(sys.argv[1] + '.part'); "
        "part.write_text(os.environ['AUTOPEFT_STORAGE']); part.rename(sys.argv[1])"
    )
    environment = {**os.environ, "AUTOPEFT_STORAGE": URL}
    command = [sys.executable, "-c", code, str(tmp_path / "told")]
    ids = submit(command, 1, tmp_path / "jobs", {"timeout_min": 5}, environment, "local")
    assert len(ids) == 1
    wait_for(tmp_path / "told")
    assert (tmp_path / "told").read_text() == URL
    assert "AUTOPEFT_STORAGE" not in os.environ
    assert not [path for path in (tmp_path / "jobs").rglob("*") if path.is_file() and b"S3cret" in path.read_bytes()]
    with pytest.raises(InputError, match="cannot be submitted"):
        submit(command, 1, tmp_path / "jobs", {"no_such_option": 1}, environment, "local")


@pytest.mark.timeout(300)
@pytest.mark.slow
def test_jobs_do_a_search(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    monkeypatch.setenv("PYTHONPATH", SOURCE)
    asked, folder = case.write(tmp_path / "asked.yaml", trials=2), tmp_path / "run"
    local = ("--cluster", "local", "--slurm", "timeout_min=5")
    found = call("submit", asked, "--out", folder, "--workers", 2, *local)
    assert found.code == 0, found.err
    assert "Jobs: " in found.out
    deadline = time.monotonic() + 200
    while finished(folder) < 2:
        assert time.monotonic() < deadline, [path.read_text() for path in (folder / "jobs").glob("*.err")]
        time.sleep(0.2)
