"""Studies whose trials are paused at rungs: what goes on, what it costs, and what interruptions leave."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from autopeft.candidate import Candidate
from autopeft.errors import InputError, NonFiniteFailure, SettingsError
from autopeft.fidelity import FULL
from autopeft.objective import Measurement
from autopeft.rungs import n_reached, search_cost
from autopeft.samplers import build
from autopeft.samplers.random import initial_design
from autopeft.study.ladder import Ladder
from autopeft.study.study import Study
from autopeft.trial import Failure, Trial, TrialState
from formulas import RUNGS, SPACE, Blind, finish, formula, ladder, lose_worker, made, start, up_to


class Interrupted(BaseException):
    """Stands for a machine that is taken away: nobody catches it."""


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    with made(tmp_path / "study.db") as opened:
        yield opened


def facts(trials: tuple[Trial, ...]) -> list[Any]:
    """What the trials of a study come to, without numbers and times."""
    left = [trial for trial in trials if trial.is_taken]
    return [(t.configuration, t.origin, t.state, t.rung, t.latest, t.reached) for t in left]


def test_the_best_third_goes_on_from_each_rung(study: Study) -> None:
    steps = ladder()
    study.run(formula, Blind(SPACE), 12, ladder=steps)
    trials = study.trials()
    assert tuple(n_reached(trials)) == RUNGS
    first, second, last = n_reached(trials).values()
    # A front moves as trials come: some that went on would not go on any more.
    assert (first, second >= 4, second < 12, last >= second // 3) == (12, True, True, True)
    assert steps.climbing(trials, study.cost) is None
    assert Counter(trial.state for trial in trials) == {TrialState.PAUSED: 12 - last, TrialState.COMPLETE: last}
    assert study.n_finished() == len(trials) == 12
    cost = search_cost(trials)
    assert cost.trainings == pytest.approx((first - second) / 9 + (second - last) / 3 + last)
    assert cost.examples == 100 * (first - second) + 300 * (second - last) + 900 * last
    # A value at a rung is no value of the front, however high.
    assert {point.key for point in study.front().points} <= {t.number for t in trials if t.at(FULL) is not None}
    assert len(study.front()) >= 1


def test_a_trial_that_went_on_is_one_trial_with_the_number_that_it_began_with(study: Study) -> None:
    study.run(formula, Blind(SPACE), 9, ladder=ladder())
    whole = next(trial for trial in study.trials() if trial.is_complete)
    assert study.trial(whole.number).measurement == up_to(whole.candidate, study.seed, 2)
    assert [one.fidelity for one in whole.reached] == list(RUNGS)
    parts = [r.trial for r in study._ledger.records.values() if r.trial.root == whole.number]
    assert [part.rung for part in parts] == [0, 1, 2]
    assert whole.finished == parts[-1].finished
    with pytest.raises(InputError, match="has no trial"):
        study.trial(parts[-1].number)  # a part is no trial


def test_optuna_s_own_fronts_hold_no_paused_trial(study: Study, tmp_path: Path) -> None:
    study.run(formula, Blind(SPACE), 9, ladder=ladder())
    found = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'study.db'}")
    states = Counter(trial.state.name for trial in found.trials)
    assert states["COMPLETE"] == n_reached(study.trials())[FULL] > 0
    assert states["PRUNED"] == sum(list(n_reached(study.trials()).values())[:2])
    assert len(found.best_trials) == len(study.front())


def test_a_budget_of_trainings_is_kept_and_spent(study: Study) -> None:
    study.run(formula, Blind(SPACE), 150, ladder=ladder(trainings=3.0))
    spent = search_cost(study.trials()).trainings
    assert 3.0 - 1 / 9 < spent <= 3.0 + 1e-9
    study.run(formula, Blind(SPACE), 150, ladder=ladder(trainings=3.5))  # it may be raised
    assert 3.5 - 1 / 9 < search_cost(study.trials()).trainings <= 3.5 + 1e-9


def test_a_budget_of_trainings_without_promotion(study: Study) -> None:
    study.run(formula, Blind(SPACE), 150, ladder=Ladder(trainings=4.5))
    assert [trial.is_complete for trial in study.trials()] == [True] * 4
    assert all(trial.rung is None for trial in study.trials())


def test_rows_of_a_study_without_promotion_are_what_they_were(study: Study) -> None:
    study.run(formula, Blind(SPACE), 1)
    (stored,) = study._store.backend.get_all_trials(study._key)
    assert not {"rung", "continues"} & set(stored.user_attrs)


def test_a_search_goes_on_when_it_is_given_more_trials(study: Study) -> None:
    study.run(formula, Blind(SPACE), 9, ladder=ladder())
    before = list(n_reached(study.trials()).values())
    study.run(formula, Blind(SPACE), 18, ladder=ladder())
    after = list(n_reached(study.trials()).values())
    assert (before[0], after[0]) == (9, 18)
    assert all(one > other for one, other in zip(after, before, strict=True))


# -- interruptions -----------------------------------------------------------------------------------------------


def searched(path: Path, calls: list[int | None]) -> tuple[list[Any], list[tuple[str, int]]]:
    """A study that is interrupted in each of these calls of its evaluations, and what was evaluated to an end."""
    done: list[tuple[str, int]] = []
    for most in calls:
        left = [most]

        def measure(candidate: Candidate, seed: int, rung: int, left: list[int | None] = left) -> Measurement:
            if left[0] is not None:
                left[0] -= 1
                if not left[0]:
                    raise Interrupted
            done.append((candidate.fingerprint, rung))
            return up_to(candidate, seed, rung)

        with made(path) as study:
            try:
                steps = replace(ladder(), measure=measure)
                sampler = build("evolution", SPACE, 3, {"population": 6, "tournament": 3})
                study.run(formula, sampler, 12, initial_design(SPACE, 3, 4), ladder=steps)
            except Interrupted:
                assert most is not None
    with Study.open(path) as study:
        return facts(study.trials()), done


@pytest.mark.slow
def test_resumed_equals_uninterrupted_and_nothing_is_measured_twice(tmp_path: Path) -> None:
    whole, done = searched(tmp_path / "whole.db", [None])
    assert len(whole) == 12
    assert len(done) == len(set(done))
    rungs = [rung for _, rung in done]
    # In the initial design, at a first and at a last promotion, and among the sampler's own.
    for n in (2, 1 + rungs.index(1), 1 + rungs.index(2), len(done) - 3):
        parts, again = searched(tmp_path / f"parts{n}.db", [n, 2, None])
        assert parts == whole
        assert again == done


def test_a_worker_that_is_lost_in_mid_trial_gives_the_part_back_and_not_what_was_told(study: Study) -> None:
    steps = ladder()
    study.run(formula, Blind(SPACE), 3, ladder=replace(steps, shares=(1 / 9, 1 / 3, 1.0), trainings=1 / 3))
    part = study.claim(Blind(SPACE), 3, (), steps)
    assert part is not None
    assert (part.rung, part.continues) == (1, part.root)
    lose_worker(study, part)
    again = study.claim(Blind(SPACE), 3, (), steps)
    assert again is not None
    assert (again.rung, again.continues, again.retry_of) == (1, part.continues, part.number)
    told = study.tell(again, up_to(again.candidate, again.seed, 1))
    assert told.state is TrialState.PAUSED
    found = study.trial(part.root)
    assert found.at(RUNGS[1]) is not None
    assert [trial.failure.kind for trial in study.trials() if trial.failure] == ["preempted"]
    assert study.n_finished() == 3


def test_a_worker_given_up_that_lives_may_still_tell_its_part(study: Study) -> None:
    steps = ladder()
    study.run(formula, Blind(SPACE), 3, ladder=replace(steps, trainings=1 / 3))
    part = study.claim(Blind(SPACE), 3, (), steps)
    assert part is not None
    with made(Path(study.location)) as other:
        other._ledger.refresh()
        other._holder.lose(other._ledger.records[part.number])
    study.tell(part, up_to(part.candidate, part.seed, 1))
    assert study.trial(part.root).at(RUNGS[1]) is not None


def test_a_part_that_fails_ends_the_trial_keeps_what_was_told_and_can_be_reopened(study: Study) -> None:
    def fails(candidate: Candidate, seed: int, rung: int) -> Measurement:
        if rung:
            raise NonFiniteFailure("the loss is nan")
        return up_to(candidate, seed, rung)

    study.run(formula, Blind(SPACE), 3, ladder=replace(ladder(), measure=fails))
    (failed,) = [trial for trial in study.trials() if trial.state is TrialState.FAILED]
    assert failed.failure is not None
    assert failed.failure.kind == "nan"
    assert failed.at(RUNGS[0]) is not None
    assert failed.measurement is None
    assert study.n_finished() == 3
    assert study.reopen(failed.number) == (failed.number,)
    study.run(formula, Blind(SPACE), 3, ladder=ladder())
    assert study.trial(failed.number).at(RUNGS[1]) is not None


def test_what_patience_ends_at_a_rung_is_at_its_end(study: Study) -> None:
    def impatient(candidate: Candidate, seed: int, rung: int) -> Measurement:
        return up_to(candidate, seed, 2)

    study.run(formula, Blind(SPACE), 3, ladder=replace(ladder(), measure=impatient))
    assert [trial.is_complete for trial in study.trials()] == [True] * 3


def test_a_measurement_that_waits_to_be_told_is_told_as_paused(study: Study) -> None:
    steps = ladder()
    trial = study.claim(Blind(SPACE), 1, (), steps)
    assert trial is not None
    item = study._teller
    from autopeft.study.untold import Untold

    item._shelf.keep(Untold("search", 0, study._ledger.record(0).lease, up_to(trial.candidate, trial.seed, 0)))
    study._holder.let_go(0)
    assert study.claim(Blind(SPACE), 1, (), steps) is None
    assert study.trial(0).state is TrialState.PAUSED


def test_trials_to_be_paused_need_somebody_who_pauses_them(study: Study) -> None:
    trial = study.claim(Blind(SPACE), 1, (), ladder())
    assert trial is not None
    study.fail(trial, Failure("preempted", "the machine is wanted"))
    with pytest.raises(SettingsError, match="nothing is given that does so"):
        raise next(iter(_results(study)))


def _results(study: Study) -> Iterator[Any]:
    from autopeft.study.evaluating import results_of

    trial = study.claim(Blind(SPACE), 1, (), ladder())
    assert trial is not None
    yield from results_of([trial], formula, None, replace(ladder(), measure=None))


def test_a_batch_is_claimed_at_once_and_paused_one_by_one(study: Study) -> None:
    def at_once(*_: Any) -> Any:
        raise AssertionError("what is to be paused is trained by itself")

    study.run(formula, Blind(SPACE), 9, ladder=ladder(), evaluate_all=at_once, batch=4)
    reached = list(n_reached(study.trials()).values())
    assert reached[0] == 9
    assert reached[1] >= 3


# -- several workers -----------------------------------------------------------------------------------------------


def check_climbed(where: str | Path, n_trials: int) -> None:
    with Study.open(where) as study:
        trials = [trial for trial in study.trials() if trial.is_taken]
        claims = [record.claim for record in study._ledger.visible() if record.is_taken]
        study._ledger.refresh()
    assert len(trials) == n_trials
    assert len(claims) == len(set(claims))
    assert not [trial for trial in trials if trial.state is TrialState.RUNNING]
    reached = list(n_reached(trials).values())
    # Of asynchronous workers each decides by what it sees, so that more may go on than a third of all in the end.
    assert reached[0] == n_trials
    assert reached[1] >= n_trials // 3
    for trial in trials:
        assert trial.latest is not None
        expected = up_to(trial.candidate, trial.seed, len(trial.reached) - 1)
        assert trial.latest.metrics == expected.metrics


@pytest.mark.slow
@pytest.mark.flaky(reruns=1)  # processes by the clock
def test_workers_share_a_study_and_one_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "shared.db"
    workers = [start(path, 9, 0.05, "pareto") for _ in range(2)]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.05)
        if path.exists() and workers[0].poll() is None:
            try:
                with Study.open(path) as study:
                    if sum(trial.latest is not None for trial in study.trials(with_history=False)) >= 4:
                        break
            except InputError:
                continue  # they are still making it
    workers[0].kill()
    workers[0].communicate()
    finish(workers[1])
    check_climbed(path, 9)
