"""A study that is read with the standard library alone is the one that is read the ordinary way, whatever is in it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from autopeft.errors import AutopeftError, OutOfMemoryFailure
from autopeft.objective import Epoch
from autopeft.study import reading
from autopeft.study.identity import FORMAT
from autopeft.study.reading import Readable, opened_for_reading
from autopeft.study.snapshot import Snapshot, snapshot_of
from autopeft.study.study import Study
from autopeft.trial import Failure, Trial, TrialState
from formulas import SPACE, Blind, formula, ladder, lose_worker, made
from small_case import call

COMPATIBILITY = Path(__file__).parent.parent / "compatibility" / "files"
OLD = sorted(COMPATIBILITY.glob("*/studies/*/study.db"))


def told(study: Readable) -> list[object]:
    """Everything that a study tells."""
    facts = [study.fact(key) for key in ("data", "model", "signal", "largest", "mine", "nothing")]
    identity = [study.objective, study.cost, dict(study.settings), dict(study.versions), study.location]
    return [*identity, *facts, study.failed_proposals(), study.trials(), study.trials(with_history=False)]


def check_same(path: Path) -> tuple[Trial, ...]:
    found = snapshot_of(path)
    assert found is not None
    with Study.open(path) as study:
        assert told(found) == told(study)
    return found.trials()


def lost_for_good(study: Study) -> int:
    """Lose the workers of a trial until it is given up; returns the number of its last repetition."""
    while True:
        trial = study.claim(Blind(SPACE), 100)
        assert trial is not None
        before = len(study.trials())
        lose_worker(study, trial)
        again = study.claim(Blind(SPACE), 100)
        assert again is not None
        if again.retry_of != trial.number:
            study.fail(again, Failure("infeasible", "in the way"))
            return before - 1
        study.fail(again, Failure("preempted", "given back", "a\nb"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study.db"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with trials of every state and every odd content; to be read only."""
    path = tmp_path_factory.mktemp("full") / "study.db"
    curve = (Epoch(1.0, 3, 0.5, {"accuracy": 0.25, "odd]": 1.0}, 1.5),)
    extra = {"text": "nul \x00, \ud800, 'q\" and \\", "history": [1], "cost": float("nan")}
    with made(path) as study:
        study.run(formula, Blind(SPACE), 4)
        odd = study.claim(Blind(SPACE), 100)
        assert odd is not None
        costs = {"latency": {"unit": "ms", "value": 7.5}}
        study.tell(odd, replace(formula(odd.architecture, 0), history=curve, extra=extra, costs=costs))
        for failure in (Failure("oom", 'out "of" memory'), Failure("crash", "broke", 'File "x": "history": [1]')):
            trial = study.claim(Blind(SPACE), 100)
            assert trial is not None
            study.fail(trial, failure)
        study.reopen(trial.number)
        record = study._ledger.record(0)
        study._store.backend.create_new_trial(study._key, study._store.backend.get_trial(record.key))
        lost_for_good(study)
        study.note("mine", {"a": [1, None]})
        study._proposer._failed("blind", Failure("crash", "no"), 1.0, OutOfMemoryFailure("no"))
        assert study.claim(Blind(SPACE), 100) is not None  # and it runs on
    optuna.load_study(study_name="search", storage=f"sqlite:///{path}").enqueue_trial({"lora": 1})
    return path


def test_every_kind_of_trial_is_read_alike(full: Path) -> None:
    found = check_same(full)
    assert {trial.state for trial in found} == {TrialState.COMPLETE, TrialState.FAILED, TrialState.RUNNING}
    assert {"oom", "preempted", "infeasible"} <= {trial.failure.kind for trial in found if trial.failure is not None}


def test_trials_that_stand_at_rungs_or_went_on_are_read_alike(path: Path) -> None:
    with made(path, settings={"promotion": "pareto"}) as study:
        study.run(formula, Blind(SPACE), 9, ladder=ladder())
    states = [trial.state for trial in check_same(path)]
    assert TrialState.PAUSED in states
    assert TrialState.COMPLETE in states


@pytest.mark.parametrize("old", OLD, ids=lambda path: "-".join(path.parts[-4:-1:2]))
def test_studies_of_earlier_versions_are_read_alike(old: Path, path: Path) -> None:
    shutil.copyfile(old, path)
    assert check_same(path)


def test_one_of_several_studies_is_read_by_its_name(path: Path) -> None:
    for name, n in (("one", 2), ("two", 3)):
        with Study.create_or_resume(path, name, SPACE, "accuracy", {}, 0) as study:
            study.run(formula, Blind(SPACE), n)
    assert snapshot_of(path) is None
    found = snapshot_of(path, "two")
    assert found is not None
    with Study.open(path, "two") as study:
        assert told(found) == told(study)


def ordinary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "snapshot_of", lambda path, name: None)


COMMANDS = (("front",), ("front", "--json"), ("front", "--at", "100%"), ("front", "--cost", "stored", "--json"))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_front_that_is_printed_is_the_same(
    full: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (command[0], full.parent, *command[1:])
    found = call(*words)
    ordinary(monkeypatch)
    assert call(*words) == found
    assert found.code == 0
    assert found.out.strip()


def test_the_report_that_is_written_is_the_same(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = []
    for name in ("one.json", "two.json"):
        assert call("report", searched, "--to", tmp_path / name).code == 0
        pages.append((tmp_path / name).read_text())
        ordinary(monkeypatch)
    assert pages[0] == pages[1]


# -- what is left to the ordinary way ----------------------------------------------------------------------------------


def sql(*statements: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    return change


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def scribbled(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[:4096] + b"\xff" * (len(raw) - 4096))


def newer(path: Path) -> None:
    with made(path) as study:
        study._ledger.note("identity", {**study._identity.as_dict(), "format": FORMAT + 1})


BROKEN = {
    "missing": Path.unlink,
    "cut": cut,
    "scribbled": scribbled,
    "empty": lambda path: path.write_bytes(b""),
    "no database": lambda path: path.write_bytes(b"x" * 5000),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "another schema": sql("UPDATE version_info SET schema_version = 13"),
    "another head": sql("UPDATE alembic_version SET version_num = 'v9'"),
    "no version": sql("DROP TABLE version_info"),
    "no trials": sql("DROP TABLE trials"),
    "no study": sql("DELETE FROM studies"),
    "somebody else's": sql("DELETE FROM study_user_attributes"),
    "newer": newer,
    "no identity": sql("UPDATE study_user_attributes SET value_json = '{' WHERE key = 'identity'"),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of one trial; to be copied."""
    path = tmp_path_factory.mktemp("small") / "study.db"
    with made(path) as study:
        study.run(formula, Blind(SPACE), 1)
    return path


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_not_as_expected_is_told_as_always(
    what: str, small: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copyfile(small, path)
    BROKEN[what](path)
    assert snapshot_of(path) is None
    told_by = []
    for way in (lambda: None, lambda: ordinary(monkeypatch)):
        way()
        try:
            with opened_for_reading(path) as found:
                told_by.append(repr(found.trials()))
        except Exception as error:
            told_by.append(f"{type(error).__name__}: {error}")
    assert told_by[0] == told_by[1]


def test_a_network_s_disk_is_refused_as_always(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("snapshot", "opening"):
        monkeypatch.setattr(f"autopeft.study.{module}.mounts", lambda: (("/", "nfs4"),))
    with pytest.raises(AutopeftError, match="network file systems"), opened_for_reading(small):
        pass


# -- beside others ---------------------------------------------------------------------------------------------------


@pytest.fixture
def written(path: Path) -> Iterator[Path]:
    """A study whose newest trials are in the log alone, since somebody has it open."""
    with made(path) as study:
        study.run(formula, Blind(SPACE), 3)
        yield path


def test_what_others_have_just_written_is_read_and_a_writer_is_not_waited_for(written: Path) -> None:
    with closing(sqlite3.connect(written, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM trial_user_attributes")
        found = snapshot_of(written)
        assert found is not None
        assert sum(trial.is_complete for trial in found.trials()) == 3
        writer.execute("ROLLBACK")


def test_nothing_is_left_beside_the_file_and_nothing_in_it_changes(small: Path, path: Path) -> None:
    shutil.copyfile(small, path)
    before, beside = path.read_bytes(), sorted(path.parent.iterdir())
    assert isinstance(snapshot_of(path), Snapshot)
    assert sorted(path.parent.iterdir()) == beside
    assert path.read_bytes() == before


def test_a_link_that_leads_to_itself_is_no_study(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(AutopeftError, match="There is no study"), opened_for_reading(tmp_path / "loop" / "study.db"):
        pass
