"""Studies in PostgreSQL, on a server that the tests start; left out where none is installed."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import sqlalchemy

import postgres
from autopeft.errors import AutopeftError, InputError, StudyMismatchError
from autopeft.rungs import n_reached
from autopeft.session import processes
from autopeft.study.study import Study
from autopeft.trial import TrialState
from formulas import SPACE, Blind, check_finished, finish, formula, kill_while_holding, made, start
from small_case import Case
from small_case import call as autopeft

# Processes and signals by the clock: where a busy machine makes a sound one fail, its second try is told as a rerun.
pytestmark = pytest.mark.flaky(reruns=1)

if reason := postgres.reason_to_skip():
    pytest.skip(reason, allow_module_level=True)


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    with postgres.running() as started:
        yield started


@pytest.fixture
def url(server: postgres.Server) -> str:
    """A database of its own."""
    return server.database()


def test_a_study_is_made_resumed_and_checked(url: str) -> None:
    with made(url) as study:
        study.run(formula, Blind(SPACE), 3)
    with made(url) as study:
        study.run(formula, Blind(SPACE), 5)
        assert [trial.is_complete for trial in study.trials()] == [True] * 5
    with pytest.raises(StudyMismatchError):
        made(url, seed=8)


@pytest.mark.slow
def test_workers_promote_trials_of_one_study(url: str) -> None:
    for worker in [start(url, 9, 0.02, "pareto") for _ in range(2)]:
        finish(worker)
    with Study.open(url) as study:
        trials = study.trials()
    assert not [trial for trial in trials if trial.state is TrialState.RUNNING]
    reached = list(n_reached(trials).values())
    assert reached[0] == len(trials) == 9
    assert reached[1] >= 3
    # Each part, from rung to rung, is somebody's alone.
    claims = [record.claim for record in study._ledger.visible() if record.is_taken]
    assert len(claims) == len(set(claims))


def test_an_empty_database_holds_no_study(url: str) -> None:
    with pytest.raises(InputError):
        Study.open(url)


SECRET = "S3cret@PW/{0}"


def other_role(url: str, *grants: str) -> str:
    """The URL of the database for a new role with a password, and no rights but the ones that are granted."""
    name = f"role_{uuid.uuid4().hex}"
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN PASSWORD '{SECRET}'")
        for grant in grants:
            connection.exec_driver_sql(f"{grant} TO {name}")
    engine.dispose()
    return url.replace("://postgres@", f"://{name}:{SECRET}@")


def test_a_role_that_may_only_select_can_read(url: str) -> None:
    with made(url) as study:
        study.run(formula, Blind(SPACE), 3)
    reader = other_role(url, "GRANT SELECT ON ALL TABLES IN SCHEMA public")
    with Study.open(reader) as study:
        assert study.n_finished() == len(study.trials()) == 3
        assert len(study.front()) >= 1
        with pytest.raises(AutopeftError, match="permission denied") as caught:
            study.note("x", 1)
        assert "S3cret" not in f"{study.location} {caught.value} {caught.value.__cause__}"


def command_lines() -> str:
    """What every user of this machine can read."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            found.append(" ".join(process.cmdline()))
    return "\n".join(found)


@pytest.mark.slow
def test_a_password_is_in_no_output_and_on_no_worker_s_command_line(
    case: Case, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = other_role(url, "GRANT ALL ON SCHEMA public")
    monkeypatch.setenv("AUTOPEFT_STORAGE", owner)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    seen: list[str] = []
    watched = processes._Ends.look_again

    def look_again(ends: processes._Ends) -> None:
        seen.append(command_lines())
        watched(ends)

    monkeypatch.setattr("autopeft.session.processes._Ends.look_again", look_again)
    folder = tmp_path / "run"
    found = autopeft("-v", "search", case.write(tmp_path / "asked.yaml"), "--out", folder, "--workers", 2)
    assert found.code == 0, found.err
    assert any("autopeft worker" in lines and str(folder) in lines for lines in seen)
    assert autopeft("report", folder).code == 0
    texts = [found.out, found.err, *seen, *(path.read_bytes().decode(errors="replace") for path in files(folder))]
    assert not any("S3cret" in text for text in texts)
    assert ":***@127.0.0.1" in found.out  # the line that begins with "Next:"


@pytest.fixture
def guarded(server: postgres.Server, url: str) -> str:
    """The URL of the database for a role whose password the server asks for, without it."""
    whole = other_role(url, "GRANT ALL ON SCHEMA public")
    role = whole.partition("://")[2].partition(":")[0]
    server.require_password(role)
    return whole.replace(f":{SECRET}@", "@")


def password_file(folder: Path, url: str) -> Path:
    """A file for ``PGPASSFILE`` as the documentation has it, for the role of `url`."""
    made_of = sqlalchemy.make_url(url)
    path = folder / "pgpass"
    path.write_text(f"{made_of.host}:{made_of.port}:{made_of.database}:{made_of.username}:{SECRET}\n")
    path.chmod(0o600)
    return path


def test_a_password_that_only_a_file_knows_opens_the_study_and_is_shown_nowhere(
    case: Case, guarded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AUTOPEFT_STORAGE", guarded)
    monkeypatch.delenv("PGPASSWORD", raising=False)
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "missing"))
    asked, folder = case.write(tmp_path / "asked.yaml", trials=2), tmp_path / "run"
    refused = autopeft("search", asked, "--out", folder)
    assert (refused.code, "no password supplied" in refused.err) == (2, True)
    monkeypatch.setenv("PGPASSFILE", str(password_file(tmp_path, guarded)))
    called = [autopeft("search", asked, "--out", folder), autopeft("front", folder), autopeft("report", folder)]
    assert [one.code for one in called] == [0, 0, 0], [one.err for one in called]
    texts = [text for one in (refused, *called) for text in (one.out, one.err)]
    texts += [path.read_bytes().decode(errors="replace") for path in files(folder)]
    assert not any("S3cret" in text for text in [*texts, *capfd.readouterr()])


@pytest.mark.parametrize("spoil", ["password", "mode"])
def test_a_password_file_that_is_of_no_use_is_one_error_without_its_password(
    guarded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    path = password_file(tmp_path, guarded)
    if spoil == "password":
        path.write_text(path.read_text().replace(SECRET, "Wr0ngPW"))
    else:
        path.chmod(0o644)  # libpq does not read what others can read
    monkeypatch.setenv("PGPASSFILE", str(path))
    found = autopeft("front", tmp_path, "--storage", guarded)
    assert (found.code, "password" in found.err) == (2, True)
    assert not any(secret in found.out + found.err for secret in ("S3cret", "Wr0ngPW"))


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_four_processes_share_a_search(url: str) -> None:
    workers = [start(url, 24, 0.02) for _ in range(4)]
    for worker in workers:
        finish(worker)
    trials = check_finished(url, 24)
    assert len(trials) == 24


@pytest.mark.slow
def test_a_killed_worker_costs_no_trial(url: str) -> None:
    made(url).close()
    victim, survivor = start(url, 14, 0.3), start(url, 14, 0.3)
    deadline = time.monotonic() + 60
    killed: list[int] = []
    while not killed and time.monotonic() < deadline:
        time.sleep(0.05)
        killed = kill_while_holding(url, victim)
    assert killed, "the victim never held a trial"
    victim.communicate()
    finish(survivor)
    trials = check_finished(url, 14)
    assert [trial.number for trial in trials if trial.failure] == killed
    (retry,) = [trial for trial in trials if trial.retry_of is not None]
    assert retry.retry_of == killed[0]
    assert retry.is_complete
