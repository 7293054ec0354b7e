"""The study: what is stored, resumed, claimed, retried and ended. Training is a formula."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import sqlalchemy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState as StoredState

from autopeft.candidate import Candidate
from autopeft.errors import (
    AutopeftError,
    InfeasibleFailure,
    InputError,
    NonFiniteFailure,
    OutOfMemoryFailure,
    ProposalFailure,
    SpaceExhaustedError,
    StudyMismatchError,
)
from autopeft.interruption import Interruption, signals_interrupt
from autopeft.objective import Measurement
from autopeft.spaces.lattice import Configuration
from autopeft.study.events import Claimed, Event, Failed, Told
from autopeft.study.study import Study
from autopeft.trial import Failure, Trial, TrialState
from formulas import (
    QUICK,
    SETTINGS,
    SPACE,
    Blind,
    check_finished,
    finish,
    formula,
    kill_while_holding,
    lose_worker,
    made,
    start,
    two_methods,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "study.db"


@pytest.fixture
def study(path: Path) -> Iterator[Study]:
    with made(path) as opened:
        yield opened


# -- what is stored ----------------------------------------------------------------------------------------


def test_a_told_trial_is_read_back_with_every_field(path: Path, study: Study) -> None:
    before = time.time()
    trial = study.claim(Blind(SPACE), 1)
    assert trial is not None
    assert (trial.number, trial.state, trial.origin, trial.seed) == (0, TrialState.RUNNING, "blind", 7)
    measurement = formula(trial.architecture, trial.seed)
    told = study.tell(trial, measurement)
    with Study.open(path) as other:
        (read,) = other.trials()
        assert other.trial(0) == read
    assert read.measurement == measurement
    assert read.measurement is not None
    assert len(read.measurement.history) == 2
    assert read.architecture == SPACE.decode(trial.configuration)
    assert read.configuration == trial.configuration
    assert read.state is TrialState.COMPLETE
    assert read.proposal_seconds > 0
    assert read.finished is not None
    assert before - 1 < read.started <= read.finished < time.time() + 1
    assert told == replace(read, measurement=replace(read.measurement, history=()))


def test_the_front_holds_the_trials_that_nothing_beats(study: Study) -> None:
    # Accuracy grows with size: of the architectures of each total size one is on the front, and all sizes are.
    study.run(formula, Blind(SPACE), 12)
    units = {sum(p.size for p in trial.architecture) for trial in study.trials()}
    front = study.front()
    assert [point.cost for point in front.points] == pytest.approx([n * 10 / 10_000 * 100 for n in sorted(units)])
    assert study.trial(front.points[0].key).measurement is not None


def test_facts_are_seen_by_others_and_replaced(path: Path, study: Study) -> None:
    study.note("reference", (1.0, np.float64(0.5)))
    study.note("rates", {"lora": 1e-3})
    study.note("rates", {"lora": 2e-3})
    with Study.open(path) as other:
        assert other.fact("reference") == [1.0, 0.5]
        assert other.fact("rates") == {"lora": 2e-3}
        assert other.fact("nothing", "default") == "default"


def test_a_measurement_of_another_metric_is_refused(study: Study) -> None:
    trial = study.claim(Blind(SPACE), 1)
    assert trial is not None
    with pytest.raises(InputError, match=r"'accuracy'.*'f1'"):
        study.tell(trial, replace(formula(trial.architecture, 0), objective="f1"))


# -- opening -----------------------------------------------------------------------------------------------


def test_opening_gives_what_the_study_was_made_with(path: Path, study: Study) -> None:
    with Study.open(path) as other:
        assert (other.name, other.seed, other.objective) == ("search", 7, "accuracy")
        assert other.settings == SETTINGS
        assert set(other.versions) >= {"python", "torch", "transformers", "autopeft", "optuna"}
        assert other.location == str(path)


def test_claiming_needs_the_space_and_a_total(path: Path, study: Study) -> None:
    with Study.open(path) as reader, pytest.raises(InputError, match=r"without its space.*at least 1, but is 0"):
        reader.claim(Blind(SPACE), 0)
    with Study.open(path, space=SPACE) as worker:
        assert worker.claim(Blind(SPACE), 1) is not None
    with pytest.raises(StudyMismatchError, match=r"layer\.3 is only here"):
        Study.open(path, space=two_methods(4))


# -- resuming ----------------------------------------------------------------------------------------------


def test_resuming_goes_on_where_the_search_stopped(path: Path, tmp_path: Path) -> None:
    with made(path) as first:
        first.run(formula, Blind(SPACE), 5)
        before = first.trials()
    with made(path) as second:
        assert second.trials() == before
        second.run(formula, Blind(SPACE), 5)  # a total, so that there is nothing to do
        assert second.trials() == before
        second.run(formula, Blind(SPACE), 9)
        after = second.trials()
    with made(tmp_path / "whole.db") as whole:
        whole.run(formula, Blind(SPACE), 9)
        uninterrupted = whole.trials()
    assert after[:5] == before
    assert [t.configuration for t in after] == [t.configuration for t in uninterrupted]


def test_a_search_that_is_interrupted_in_a_trial_goes_on_like_the_uninterrupted_one(path: Path, tmp_path: Path) -> None:
    calls = [0]

    def stopped(candidate: Candidate, seed: int) -> Measurement:
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        return formula(candidate, seed)

    with made(path) as first, pytest.raises(KeyboardInterrupt):
        first.run(stopped, Blind(SPACE), 9)
    with made(path) as second:
        second.run(formula, Blind(SPACE), 9)
        measured = [trial for trial in second.trials() if trial.is_complete]
    with made(tmp_path / "whole.db") as whole:
        whole.run(formula, Blind(SPACE), 9)
        assert [t.configuration for t in whole.trials()] == [t.configuration for t in measured]


# -- the order of claims -----------------------------------------------------------------------------------


def test_the_initial_design_comes_first_and_only_once(study: Study) -> None:
    rng = np.random.default_rng(0)
    first, second = SPACE.sample(rng, 2)
    study.run(formula, Blind(SPACE), 4, initial=[first, second, first])
    trials = study.trials()
    assert [t.origin for t in trials] == ["initial", "initial", "blind", "blind"]
    assert [t.configuration for t in trials[:2]] == [first, second]


def test_the_total_counts_running_trials(path: Path, study: Study) -> None:
    with made(path) as other:
        held = study.claim(Blind(SPACE), 2)
        theirs = other.claim(Blind(SPACE), 2)
        assert held is not None
        assert theirs is not None
        assert study.claim(Blind(SPACE), 2) is None
        assert study.n_finished() == 0
        other.tell(theirs, formula(theirs.architecture, 7))
        assert study.claim(Blind(SPACE), 2) is None
        assert study.n_finished() == 1
        assert study.claim(Blind(SPACE), 3) is not None


def test_what_failed_for_good_counts_and_is_not_repeated(study: Study) -> None:
    trial = study.claim(Blind(SPACE), 2)
    assert trial is not None
    study.fail(trial, Failure("oom", "too large"))
    study.run(formula, Blind(SPACE), 2, initial=[trial.configuration])
    assert [t.state for t in study.trials()] == [TrialState.FAILED, TrialState.COMPLETE]
    assert len({t.architecture for t in study.trials()}) == 2


def test_a_proposal_that_is_taken_is_replaced(study: Study, caplog: pytest.LogCaptureFixture) -> None:
    class Stubborn:
        name = "stubborn"

        def ask(self, trials: Sequence[Trial], n: int = 1) -> list[Configuration]:
            return [SPACE.largest()]

    study.run(formula, Stubborn(), 3)
    assert [t.origin for t in study.trials()] == ["stubborn", "random", "random"]
    assert len({t.architecture for t in study.trials()}) == 3
    assert "a random one takes its place" in caplog.text


def test_an_exhausted_space_ends_the_search(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    space = two_methods(1, (0, 1))  # on, with one of the methods or both: three architectures
    with made(tmp_path / "small.db", space) as study:
        study.run(formula, Blind(space), 10)
        assert len(study.trials()) == 3
        assert "ends with 3 of 10 trials" in caplog.text
        with pytest.raises(SpaceExhaustedError):
            study.claim(Blind(space), 10)


# -- lost workers ------------------------------------------------------------------------------------------


def test_a_lost_trial_is_repeated_first_with_the_same_seed(path: Path, study: Study) -> None:
    first = study.claim(Blind(SPACE), 5)
    assert first is not None
    lose_worker(study, first)
    with made(path) as other:
        retry = other.claim(Blind(SPACE), 5, initial=[SPACE.largest()])
        assert retry is not None
        assert (retry.number, retry.retry_of, retry.configuration) == (1, 0, first.configuration)
        assert (retry.seed, retry.origin) == (first.seed, first.origin)
        lost = other.trial(0)
        assert lost.failure is not None
        assert lost.failure.kind == "preempted"
        following = other.claim(Blind(SPACE), 5, initial=[SPACE.largest()])
        assert following is not None
        assert (following.origin, following.retry_of) == ("initial", None)


@pytest.mark.parametrize("retries", [0, 3])
def test_a_lost_trial_ends_with_its_last_sign_of_life(retries: int, path: Path) -> None:
    rules = replace(QUICK, max_retries=retries)  # 0: it has failed for good at once
    with made(path, rules=rules) as study:
        lost = study.claim(Blind(SPACE), 5)
        assert lost is not None
        study._holder.let_go(0)
        record = study._ledger.records[0]
        old = replace(record.lease, place="another machine", beat=lost.started - 3600)
        study._store.backend.set_trial_user_attr(record.key, "lease", old.as_dict())
        with made(path, rules=rules) as other:
            other.claim(Blind(SPACE), 5)
            time.sleep(2.5 * QUICK.beat_seconds)  # an old sign of life may be a wrong clock's
            other.claim(Blind(SPACE), 5)
            found = other.trial(0)
        assert found.failure is not None
        assert found.failure.kind == ("preempted" if retries else "gave_up")
        assert found.finished == found.started  # not when it was missed


def test_what_loses_its_worker_four_times_has_failed_for_good(study: Study) -> None:
    numbers = []
    for _ in range(4):
        trial = study.claim(Blind(SPACE), 1)
        assert trial is not None
        numbers.append((trial.number, trial.retry_of))
        lose_worker(study, trial)
    assert numbers == [(0, None), (1, 0), (2, 1), (3, 2)]
    assert study.claim(Blind(SPACE), 1) is None
    failures = [trial.failure for trial in study.trials()]
    assert [failure.kind for failure in failures if failure] == ["preempted", "preempted", "preempted", "gave_up"]
    assert failures[3] is not None
    assert "lost 4 times" in failures[3].message
    assert study.n_finished() == 1


def lose(study: Study, times: int) -> None:
    for _ in range(times):
        trial = study.claim(Blind(SPACE), 1)
        assert trial is not None
        lose_worker(study, trial)
    assert study.claim(Blind(SPACE), 1) is None


def test_what_was_given_up_gets_another_chance_when_it_is_reopened(study: Study, path: Path) -> None:
    lose(study, 4)
    with Study.open(path) as other:
        assert other.reopen() == (3,)
        assert other.reopen() == ()
        assert other.n_finished() == 0
    with made(path) as again:
        lose(again, 4)  # it is lost as often again before it is given up
        assert again.reopen(7) == (7,)
        again.run(formula, Blind(SPACE), 1)
        last = again.trials()[-1]
        assert (last.number, last.retry_of, last.is_complete) == (8, 7, True)
        assert again.trial(7).failure == again.trials()[7].failure
        failure = again.trial(7).failure
        assert failure is not None
        assert failure.message.startswith("Reopened after gave_up: The worker was lost 4 times")


def test_any_failed_trial_can_be_reopened_by_its_number(study: Study) -> None:
    def broken(candidate: Candidate, seed: int) -> Measurement:
        raise ValueError("a mistake that is mended now")

    study.run(broken, Blind(SPACE), 1)
    assert study.reopen() == ()  # it was not given up
    for number in (1, -1):
        with pytest.raises(InputError, match="cannot be reopened"):
            study.reopen(number)
    assert study.reopen(0) == (0,)
    study.run(formula, Blind(SPACE), 1)
    assert [trial.is_complete for trial in study.trials()] == [False, True]
    with pytest.raises(InputError, match="cannot be reopened"):
        study.reopen(1)


def test_what_earlier_versions_called_a_crash_is_read_as_given_up(study: Study) -> None:
    trial = study.claim(Blind(SPACE), 1)
    assert trial is not None
    study._holder.let_go(0)
    failure = {"kind": "crash", "message": "The worker was lost 4 times, lastly process 1 on h: not tried again."}
    study._ledger.end(study._ledger.records[0], {"failure": failure, "lost": True}, StoredState.FAIL)
    found = study.trial(0).failure
    assert found is not None
    assert (found.kind, found.message) == ("gave_up", failure["message"])
    assert study.reopen() == (0,)


@pytest.mark.parametrize("where", ["enter", "complete"])
def test_a_signal_waits_until_a_claim_or_a_measurement_is_written(
    study: Study, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """A termination in the middle of writing: the claim is given back, the measurement stored."""
    owner = study._holder if where == "enter" else study._teller
    whole = getattr(owner, where)

    def interrupted_in(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        return whole(*arguments)

    monkeypatch.setattr(owner, where, interrupted_in)
    with signals_interrupt(), pytest.raises(Interruption):
        study.run(formula, Blind(SPACE), 3)
    (trial,) = study.trials()
    if where == "complete":
        assert trial.is_complete
    else:
        assert trial.failure == Failure("preempted", "The worker was interrupted: SIGTERM.")


def test_giving_back_is_no_sign_against_the_architecture(study: Study) -> None:
    for number in range(6):
        trial = study.claim(Blind(SPACE), 1)
        assert trial is not None
        assert (trial.number, trial.retry_of) == (number, number - 1 if number else None)
        study.fail(trial, Failure("preempted", "the machine is wanted"))
    study.run(formula, Blind(SPACE), 1)
    assert study.trials()[-1].is_complete


def test_a_worker_elsewhere_is_lost_when_it_falls_silent(path: Path, study: Study) -> None:
    trial = study.claim(Blind(SPACE), 1)
    assert trial is not None
    study._holder.let_go(0)
    record = study._ledger.records[0]
    far = replace(record.lease, place="another machine", host="far")
    with made(path) as other:
        study._store.backend.set_trial_user_attr(record.key, "lease", far.renewed(time.time()).as_dict())
        assert other.claim(Blind(SPACE), 1) is None
        study._store.backend.set_trial_user_attr(record.key, "lease", far.renewed(time.time() - 3).as_dict())
        assert other.claim(Blind(SPACE), 1) is None  # it may be a wrong clock's
        time.sleep(2.5 * QUICK.beat_seconds)
        retry = other.claim(Blind(SPACE), 1)
    assert retry is not None
    assert retry.retry_of == 0


def test_the_lease_of_a_running_trial_is_renewed(study: Study) -> None:
    trial = study.claim(Blind(SPACE), 1)
    assert trial is not None
    first = study._ledger.records[0].lease.beat
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        study._ledger.refresh()
        if study._ledger.records[0].lease.beat > first:
            break
        time.sleep(0.05)
    assert study._ledger.records[0].lease.beat > first


def test_a_given_up_worker_that_lives_may_still_tell(path: Path, study: Study) -> None:
    trial = study.claim(Blind(SPACE), 1)
    assert trial is not None
    with made(path) as other:
        other._ledger.refresh()
        other._holder.lose(other._ledger.records[0])
    told = study.tell(trial, formula(trial.architecture, 7))
    assert (told.number, told.retry_of, told.state) == (1, 0, TrialState.COMPLETE)
    assert [t.state for t in study.trials()] == [TrialState.FAILED, TrialState.COMPLETE]
    study.run(formula, Blind(SPACE), 1)
    assert len(study.trials()) == 2


def test_a_late_measurement_of_what_was_repeated_is_dropped(
    path: Path, study: Study, caplog: pytest.LogCaptureFixture
) -> None:
    trial = study.claim(Blind(SPACE), 1)
    assert trial is not None
    with made(path) as other:
        other._ledger.refresh()
        other._holder.lose(other._ledger.records[0])
        other._holder.lose(other._ledger.records[0])  # a second one that notices does no harm
        retry = other.claim(Blind(SPACE), 1)
        assert retry is not None
        late = study.tell(trial, formula(trial.architecture, 7))
        assert late.state is TrialState.FAILED
        assert "is dropped" in caplog.text
        other.tell(retry, formula(retry.architecture, 7))
    assert [t.is_complete for t in study.trials()] == [False, True]


# -- running -----------------------------------------------------------------------------------------------


def test_events_tell_what_happens(study: Study) -> None:
    def second_fails(candidate: Candidate, seed: int) -> Measurement:
        if len(events) == 3:
            raise InfeasibleFailure("does not fit")
        return formula(candidate, seed)

    events: list[Event] = []
    study.run(second_fails, Blind(SPACE), 2, on_event=events.append)
    assert [type(event) for event in events] == [Claimed, Told, Claimed, Failed]
    assert [event.trial.number for event in events] == [0, 0, 1, 1]
    assert events[3].trial.failure is not None


def test_an_interruption_gives_the_trial_back(study: Study) -> None:
    def interrupted(candidate: Candidate, seed: int) -> Measurement:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.run(interrupted, Blind(SPACE), 2)
    (trial,) = study.trials()
    assert trial.failure is not None
    assert trial.failure.kind == "preempted"
    study.run(formula, Blind(SPACE), 2)
    assert [t.retry_of for t in study.trials()] == [None, 0, None]
    assert [t.is_complete for t in study.trials()] == [False, True, True]


def test_failures_are_stored_with_their_kind_and_the_search_goes_on(study: Study) -> None:
    def moody(candidate: Candidate, seed: int) -> Measurement:
        match study.n_finished():
            case 0:
                raise OutOfMemoryFailure("no room")
            case 1:
                raise KeyError("data")
            case _:
                return formula(candidate, seed)

    study.run(moody, Blind(SPACE), 4)
    trials = study.trials()
    assert [t.failure and t.failure.kind for t in trials] == ["oom", "crash", None, None]
    assert trials[1].failure is not None
    assert trials[1].failure.message == "KeyError: 'data'"
    assert "in moody" in trials[1].failure.traceback
    assert len({t.architecture for t in trials}) == 4


def test_a_search_that_always_crashes_stops(study: Study) -> None:
    def broken(candidate: Candidate, seed: int) -> Measurement:
        raise KeyError(f"data of {len(study.trials())}")

    with pytest.raises(AutopeftError, match=r"first 3 trials all crashed(.|\n)*data of 3"):
        study.run(broken, Blind(SPACE), 50)
    assert len(study.trials()) == 3


def test_a_wrong_return_value_is_a_crash(study: Study) -> None:
    wrong: Any = lambda architecture, seed: 0.5  # noqa: E731
    with pytest.raises(AutopeftError, match="must return a Measurement, but returned float"):
        study.run(wrong, Blind(SPACE), 5)


def test_a_full_disk_is_reported_and_loses_nothing(
    path: Path, study: Study, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    study.run(formula, Blind(SPACE), 3)
    monkeypatch.setattr("optuna.storages._rdb.storage.time.sleep", lambda seconds: None)
    trial = study.claim(Blind(SPACE), 4)
    assert trial is not None
    engine = study._store.backend.engine
    sqlalchemy.event.listen(engine, "checkout", lambda raw, *_: raw.execute("PRAGMA max_page_count = 1"))
    big = replace(formula(trial.architecture, 7), extra={"text": "x" * 2_000_000})
    study._store.patience_seconds = 0.5
    with caplog.at_level(logging.ERROR), pytest.raises(AutopeftError, match=r"disk is full.*Free some space"):
        study.tell(trial, big)
    assert "The measurement of trial 3 waits in" in caplog.text
    with Study.open(path) as other:
        assert [t.is_complete for t in other.trials()] == [True, True, True, False]
    with made(path) as later:  # there is room again
        later.run(formula, Blind(SPACE), 4)
        assert [t.is_complete for t in later.trials()] == [True] * 4
        assert later.trial(3).measurement == big
    assert not list((path.parent / "untold").iterdir())


def test_optuna_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.INFO)
    try:
        with made(tmp_path / "study.db") as study:
            study.run(formula, Blind(SPACE), 2)
    finally:
        optuna.logging.set_verbosity(level)
    assert capfd.readouterr() == ("", "")


# -- many workers ------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["claim", "tell", "fail", "back", "lose"])), max_size=14))
def test_claims_never_repeat_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str]]
) -> None:
    """Three workers in any order: an architecture is never held or finished twice, the total never exceeded."""
    path, total = tmp_path_factory.mktemp("claims") / "study.db", 4
    with ExitStack() as stack:
        workers = [stack.enter_context(made(path)) for _ in range(3)]
        held: list[list[Trial]] = [[], [], []]
        for who, step in steps:
            worker, mine = workers[who], held[who]
            if step == "claim":
                trial = worker.claim(Blind(SPACE), total)
                mine += [trial] if trial else []
            elif mine:
                trial = mine.pop()
                if step == "tell":
                    worker.tell(trial, formula(trial.architecture, 7))
                elif step == "lose":
                    lose_worker(worker, trial)
                else:
                    worker.fail(trial, Failure("preempted" if step == "back" else "oom", "made up"))
            trials = workers[0].trials()
            taken = [t.architecture for t in trials if t.is_taken]
            assert len(taken) == len(set(taken)) <= total
            assert len({t.number for t in trials}) == len(trials)


def test_of_two_simultaneous_claims_the_later_is_withdrawn(
    path: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autopeft.study.study._CLAIM_SECONDS", 0.5)  # of waiting for each other

    class Racing(Blind):
        """While it thinks, another worker claims what it is about to propose."""

        def ask(self, trials: Sequence[Trial], n: int = 1) -> list[Configuration]:
            if not other_held:
                other_held.append(other.claim(Blind(SPACE), 5))
            return super().ask(trials, n)

    other_held: list[Trial | None] = []
    with made(path, rules=replace(QUICK, beat_seconds=0.1, stale_seconds=0.5)) as other:
        mine = study.claim(Racing(SPACE), 5)
        (theirs,) = other_held
        assert mine is not None
        assert theirs is not None
        assert (theirs.number, mine.number) == (0, 2)
        assert mine.architecture != theirs.architecture
        assert [t.number for t in study.trials()] == [0, 2]
        with pytest.raises(InputError, match="has no trial 1"):
            study.trial(1)


@pytest.mark.slow
@pytest.mark.flaky(reruns=1)  # processes by the clock
def test_four_processes_share_a_search(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    workers = [start(path, 24, 0.02) for _ in range(4)]  # all of them also find no file: one makes it
    for worker in workers:
        finish(worker)
    trials = check_finished(path, 24)
    assert len(trials) == 24
    assert all(trial.is_complete for trial in trials)


@pytest.mark.slow
@pytest.mark.flaky(reruns=1)  # processes by the clock
def test_a_killed_worker_costs_no_trial(tmp_path: Path) -> None:
    path, total = tmp_path / "study.db", 14
    victim, survivor = start(path, total, 0.3), start(path, total, 0.3)
    deadline = time.monotonic() + 60
    killed: list[int] = []
    while not killed and time.monotonic() < deadline:
        time.sleep(0.05)
        killed = kill_while_holding(path, victim)
    assert killed, "the victim never held a trial"
    victim.communicate()
    finish(survivor)
    again = start(path, total, 0.0)
    finish(again)
    trials = check_finished(path, total)
    lost = [trial for trial in trials if trial.failure]
    assert [trial.number for trial in lost] == killed
    (retry,) = [trial for trial in trials if trial.retry_of is not None]
    assert retry.retry_of == killed[0]
    assert retry.architecture == lost[0].architecture
    assert retry.is_complete


# -- samplers that fail at their own work ----------------------------------------------------------------------


class Failing(Blind):
    """Raises `error` when there are two trials."""

    def __init__(self, error: Exception) -> None:
        super().__init__(SPACE)
        self.error = error

    def ask(self, trials: Sequence[Trial], n: int = 1) -> list[Configuration]:
        if len(trials) == 2:
            raise self.error
        return super().ask(trials, n)


@pytest.mark.parametrize(
    ("error", "kind"), [(NonFiniteFailure("The training loss is nan."), "nan"), (MemoryError("no room"), "oom")]
)
def test_a_sampler_s_own_failure_is_stored_with_its_kind_and_what_was_measured_stays(
    path: Path, error: Exception, kind: str
) -> None:
    with made(path) as opened, pytest.raises(ProposalFailure, match=f"'blind' failed .{kind}.*keeps its 2 measured"):
        opened.run(formula, Failing(error), 5)
    with Study.open(path, space=SPACE) as opened:
        assert [trial.is_complete for trial in opened.trials()] == [True, True]
        (stored,) = opened.failed_proposals()
        assert (stored["kind"], stored["sampler"], stored["n_trials"]) == (kind, "blind", 2)
        assert str(error) in stored["message"]
        assert type(error).__name__ in stored["traceback"]
        opened.run(formula, Blind(SPACE), 3)  # it goes on with another
        assert opened.n_finished() == 3


def test_a_sampler_s_mistake_is_stored_too_and_raised_as_it_is(path: Path) -> None:
    with made(path) as opened:
        with pytest.raises(ZeroDivisionError):
            opened.run(formula, Failing(ZeroDivisionError("of its own")), 5)
        assert [row["kind"] for row in opened.failed_proposals()] == ["crash"]
        with pytest.raises(InputError, match="no budget"):
            opened.run(formula, Failing(InputError("no budget")), 5)
        assert len(opened.failed_proposals()) == 1  # what the user can mend is no failure


def test_a_batch_is_proposed_evaluated_and_told_together(study: Study) -> None:
    """Whoever is proposed for a batch knows the others of it as running; failures stay with whom they belong to."""
    sizes: list[int] = []
    events: list[Event] = []

    def evaluate_all(candidates: Sequence[Candidate], seeds: Sequence[int]) -> list[Measurement | NonFiniteFailure]:
        sizes.append(len(candidates))
        assert len(set(candidates)) == len(candidates)
        found: list[Measurement | NonFiniteFailure] = [formula(*pair) for pair in zip(candidates, seeds, strict=True)]
        if len(sizes) == 1:
            found[1] = NonFiniteFailure("the loss is nan")
        return found

    study.run(formula, Blind(SPACE), 8, on_event=events.append, evaluate_all=evaluate_all, batch=3)
    assert sizes == [3, 3, 2]
    kinds = [type(event) for event in events]
    assert kinds[:6] == [Claimed, Claimed, Claimed, Told, Failed, Told]
    trials = study.trials()
    assert [trial.is_complete for trial in trials] == [number != 1 for number in range(8)]
    assert all(trial.measurement == formula(trial.candidate, trial.seed) for trial in trials if trial.is_complete)


def test_a_batch_of_one_is_the_search_without_batches(tmp_path: Path) -> None:
    def never(candidates: Sequence[Candidate], seeds: Sequence[int]) -> list[Measurement]:
        raise AssertionError("one trial is evaluated by itself")

    with made(tmp_path / "a.db") as plain, made(tmp_path / "b.db") as batched:
        plain.run(formula, Blind(SPACE), 5)
        batched.run(formula, Blind(SPACE), 5, evaluate_all=never, batch=1)
        assert [t.candidate for t in plain.trials()] == [t.candidate for t in batched.trials()]


def test_what_fails_for_a_whole_batch_is_tried_one_by_one(study: Study, caplog: pytest.LogCaptureFixture) -> None:
    def evaluate_all(candidates: Sequence[Candidate], seeds: Sequence[int]) -> list[Measurement]:
        raise RuntimeError("all at once")

    study.run(formula, Blind(SPACE), 4, evaluate_all=evaluate_all, batch=4)
    assert all(trial.is_complete for trial in study.trials())
    assert "4 trials failed at once and are tried one by one: all at once" in caplog.text


def test_an_interrupted_batch_is_given_back_as_a_whole(study: Study) -> None:
    def evaluate_all(candidates: Sequence[Candidate], seeds: Sequence[int]) -> list[Measurement]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.run(formula, Blind(SPACE), 6, evaluate_all=evaluate_all, batch=3)
    assert not any(trial.state is TrialState.RUNNING for trial in study.trials())
    study.run(formula, Blind(SPACE), 6)
    assert study.n_finished() == 6
