"""Whose turn it is to claim: waiting for a lock, losing it, and going on without it."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from autopeft.study.claims import FileClaimLock, Turn, turn
from autopeft.study.ladder import Ladder
from formulas import SPACE, Blind, formula, made


class Lock:
    """A lock whose answers are written down; an exception among them is raised."""

    def __init__(self, taken: list[bool | Exception], held: list[bool | Exception] | None = None) -> None:
        self._taken, self._held = iter(taken), iter(held or [])
        self.n_released = 0

    def take(self) -> bool:
        return self._say(self._taken)

    def is_held(self) -> bool:
        return self._say(self._held)

    def release(self) -> None:
        self.n_released += 1

    def _say(self, answers: Iterator[bool | Exception]) -> bool:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


def error(state: str | None) -> OperationalError:
    """What SQLAlchemy raises when the server says `state`, or nothing."""
    said = Exception("said the server")
    said.sqlstate = state  # type: ignore[attr-defined]
    return OperationalError("SELECT 1", {}, said)


def nothing_new() -> int:
    return 0


def test_a_server_that_restarts_is_waited_for() -> None:
    """Workers that went on without a lock would all propose the same when it is back."""
    lock = Lock([error(None), error("57P03"), False, True])
    assert Turn(lock, 20.0, nothing_new).has_lock
    assert lock.n_released == 2  # a new connection each time


def test_a_lock_that_cannot_be_had_is_gone_without(caplog: pytest.LogCaptureFixture) -> None:
    mine = Turn(Lock([error("42501")]), 20.0, nothing_new)
    assert not mine.has_lock
    assert mine.lasts()
    assert "Claims go on without a lock" in caplog.text


def test_a_lock_that_was_lost_is_taken_again_and_said_so_once() -> None:
    mine = Turn(Lock([True, False, True], held=[True, error(None), True]), 20.0, nothing_new)
    assert [mine.lasts() for _ in range(3)] == [True, False, True]
    assert mine.has_lock


def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second of waiting takes no time."""
    seconds = itertools.count()
    monkeypatch.setattr("autopeft.study.claims.time.sleep", lambda pause: None)
    monkeypatch.setattr("autopeft.study.claims.time.monotonic", lambda: next(seconds))


@pytest.mark.parametrize(("newest", "is_taken"), [(nothing_new, False), (itertools.count().__next__, True)])
def test_only_who_claims_nothing_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, newest: Callable[[], int], is_taken: bool
) -> None:
    quickly(monkeypatch)
    assert Turn(Lock([*[False] * 99, True]), 20.0, newest).has_lock is is_taken
    assert ("claiming a trial for long" in caplog.text) is not is_taken


def test_the_lock_of_a_file_is_another_s_until_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / "claims"
    with turn(FileClaimLock(path), 1.0, nothing_new) as mine:
        assert mine.lasts()
        assert not FileClaimLock(path).take()
    other = FileClaimLock(path)
    assert other.take()
    other.release()


def test_what_others_claimed_while_a_lock_was_lost_is_not_proposed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock ends between the proposal and the writing; another worker claims in that moment. No row is lost."""
    path = tmp_path / "study.db"
    with made(path) as study, made(path) as other:
        lasts, is_first = Turn.lasts, [True]

        def lost_once(mine: Turn) -> bool:
            if not is_first[0]:
                return lasts(mine)
            is_first[0] = False
            mine.end()
            other.run(formula, Blind(SPACE), 1)
            return lasts(mine)

        monkeypatch.setattr(Turn, "lasts", lost_once)
        study.run(formula, Blind(SPACE), 3)
        trials = study.trials()
        assert [trial.number for trial in trials] == [0, 1, 2]
        assert all(trial.is_complete for trial in trials)


def test_a_row_whose_writing_failed_is_not_written_when_it_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "study.db"
    with made(path) as study, made(path) as other:
        backend = study._store.backend
        write, is_first = backend.create_new_trial, [True]

        def broken_once(*arguments: object) -> object:
            if is_first[0]:
                is_first[0] = False
                trial = other._proposer.next(Blind(SPACE), 9, (), Ladder(), other.cost)
                assert trial is not None
                assert other._holder.enter(trial, SPACE, 9, Ladder()) is not None
                raise error(None)
            return write(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(backend, "create_new_trial", broken_once)
        with caplog.at_level(logging.INFO):
            trial = study.claim(Blind(SPACE), 3)
        assert trial is not None
        assert trial.number == 1  # none was written and withdrawn between
        assert "withdrawn" not in caplog.text
