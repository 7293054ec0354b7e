"""A database that goes away and comes back: what is waited for, what waits in files, what is told once."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy
from optuna.exceptions import StorageInternalError

from autopeft.errors import AutopeftError
from autopeft.study.blips import is_full, is_passing, pauses
from autopeft.study.study import Study
from formulas import QUICK, SPACE, Blind, formula, made


def away(words: str = "database is locked") -> StorageInternalError:
    """What Optuna raises when SQLite says `words`."""
    error = StorageInternalError("long text")
    error.__cause__ = sqlalchemy.exc.OperationalError("SELECT 1", {}, sqlite3.OperationalError(words))
    return error


class ServerError(Exception):
    """An error of a driver, with what the server says."""

    def __init__(self, sqlstate: str | None) -> None:
        super().__init__("said the server")
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("state", "passes"),
    [
        (None, True),
        ("57P01", True),
        ("57P03", True),
        ("40P01", True),
        ("53300", True),
        ("53100", False),
        ("42P01", False),
    ],
)
def test_errors_of_a_server_that_restarts_pass_and_mistakes_do_not(state: str | None, passes: bool) -> None:
    assert is_passing(sqlalchemy.exc.OperationalError("SELECT 1", {}, ServerError(state))) is passes


def test_a_busy_file_passes_and_a_full_disk_does_not() -> None:
    assert is_passing(away())
    assert not is_passing(away("no such table: trials"))
    assert not is_passing(away("database or disk is full"))
    assert is_full(away("database or disk is full"))
    assert not is_passing(ValueError("no error of a database"))


def test_pauses_grow_to_half_a_minute() -> None:
    found = [pause for _, pause in zip(range(30), pauses(), strict=False)]
    assert found[0] < 0.3
    assert 22 < found[-1] < 38


def fails(times: int, then: Callable[..., object], error: Exception) -> Callable[..., object]:
    """`then`, which fails at first."""
    left = [times]

    def call(*arguments: object) -> object:
        if left[0]:
            left[0] -= 1
            raise error
        return then(*arguments)

    return call


@pytest.mark.parametrize("method", ["create_new_trial", "set_trial_user_attr", "set_trial_state_values"])
def test_a_blip_costs_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    with made(tmp_path / "study.db") as study:
        study.run(formula, Blind(SPACE), 2)
        backend = study._store.backend
        monkeypatch.setattr(backend, method, fails(2, getattr(backend, method), away()))
        study.run(formula, Blind(SPACE), 4)
        assert [trial.is_complete for trial in study.trials()] == [True] * 4


@pytest.mark.parametrize("method", ["create_new_trial", "set_trial_state_values"])
def test_an_answer_that_is_lost_on_its_way_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The database has done what was asked; the connection breaks before it says so."""
    with made(tmp_path / "study.db") as study:
        backend = study._store.backend
        original, is_first = getattr(backend, method), [True]

        def call(*arguments: object) -> object:
            result = original(*arguments)
            if is_first[0]:
                is_first[0] = False
                raise away()
            return result

        monkeypatch.setattr(backend, method, call)
        study.run(formula, Blind(SPACE), 3)
        trials = study.trials()
        assert [trial.number for trial in trials] == [0, 1, 2]
        assert all(trial.is_complete for trial in trials)


def test_what_is_away_for_too_long_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with made(tmp_path / "study.db", rules=replace(QUICK, patience_seconds=0.5)) as study:
        monkeypatch.setattr(study._store.backend, "create_new_trial", fails(99, formula, away()))
        with pytest.raises(AutopeftError, match="failed while claiming a trial: database is locked"):
            study.claim(Blind(SPACE), 1)


UNTOLD = """
import os, sys
from pathlib import Path
from formulas import SPACE, Blind, formula, made
study = made(Path(sys.argv[1]))
trial = study.claim(Blind(SPACE), 3)
study._store.backend.set_trial_state_values = lambda *rest: os._exit(9)
study.tell(trial, formula(trial.architecture, trial.seed))
"""


@pytest.mark.slow
@pytest.mark.parametrize("is_given_up", [False, True])
def test_a_finished_training_is_told_by_the_next_process(tmp_path: Path, is_given_up: bool) -> None:
    path = tmp_path / "study.db"
    command = [sys.executable, "-c", UNTOLD, str(path)]
    tests = Path(__file__).parents[1]
    environment = {"PYTHONPATH": f"{tests}:{tests.parent / 'src'}", "PATH": "/usr/bin:/bin"}
    assert subprocess.run(command, env=environment, check=False).returncode == 9
    (waiting,) = (tmp_path / "untold").iterdir()
    if is_given_up:
        with Study.open(path, space=SPACE, rules=QUICK) as other:
            other._ledger.refresh()
            other._holder.lose(other._ledger.records[0])
    n_trained: list[object] = []
    with made(path) as study:
        study.run(lambda a, seed: (n_trained.append(a), formula(a, seed))[1], Blind(SPACE), 2)
        complete = [trial for trial in study.trials() if trial.is_complete]
    assert len(n_trained) == 1
    assert len({trial.architecture for trial in complete}) == len(complete) == 2
    assert not waiting.exists()
