"""Who goes on from a rung, and what a sampler is shown of those who do not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autopeft import promotions
from autopeft.errors import SettingsError, UnknownNameError
from autopeft.fidelity import FULL, Fidelity, Reached
from autopeft.objectives import NOMINAL
from autopeft.promotions._extrapolation import extrapolated, steps_between
from autopeft.promotions._promotion import has_diverged
from autopeft.promotions.pareto import covering
from autopeft.trial import Failure, Trial, TrialState
from formulas import SPACE, formula

RUNGS = (Fidelity(1.0), Fidelity(3.0), FULL)
CONFIGURATIONS = SPACE.sample(np.random.default_rng(0), 64)


def trial(number: int, cost: int, *values: float, state: TrialState | None = None, **extra: Any) -> Trial:
    """A trial that costs so much and was worth `values` at its rungs; at its end, where it has all three."""
    candidate = SPACE.candidate(CONFIGURATIONS[number])
    found = formula(candidate, 0)
    reached = [Reached(rung, 1, 1.0, value, 1.0).as_dict() for rung, value in zip(RUNGS, values, strict=False)]
    found = replace(
        found,
        metrics={"accuracy": values[-1]},
        counts=replace(found.counts, nominal=cost),
        extra={"rungs": reached, **extra},
    )
    is_over = len(values) == len(RUNGS)
    return Trial(
        number,
        CONFIGURATIONS[number],
        candidate.architecture,
        state or (TrialState.COMPLETE if is_over else TrialState.PAUSED),
        "random",
        0,
        measurement=found if is_over else None,
        so_far=None if is_over else found,
        rung=len(values) - 1,
    )


def order(name: str, trials: list[Trial], **options: Any) -> list[int]:
    promotion = promotions.build(name, options)
    assert promotion is not None
    return promotion.order(trials, NOMINAL)


def test_of_three_the_one_that_none_beats_goes_on() -> None:
    trials = [trial(0, 20, 0.6), trial(1, 10, 0.7)]
    assert order("pareto", trials) == []  # a third of two is none
    assert order("pareto", [*trials, trial(2, 30, 0.65)]) == [1]
    assert order("pareto", trials, eta=2) == [1]


def test_a_cheap_trial_goes_on_beside_a_good_one() -> None:
    trials = [trial(0, 100, 0.9), trial(1, 1, 0.5), *(trial(n, 50 + n, 0.4 + n / 100) for n in range(2, 6))]
    assert order("pareto", trials) == [0, 1]  # neither is beaten; the one of the best metric first


def test_the_highest_rung_comes_first_and_who_went_on_is_not_asked_again() -> None:
    trials = [
        *(trial(n, 10 + n, 0.9 - n / 10, 0.9 - n / 10) for n in range(3)),
        *(trial(n, 30, 0.3) for n in range(3, 9)),
    ]
    assert order("pareto", trials) == [0]
    higher = [trial(0, 10, 0.9, 0.9, 0.9), *trials[1:]]
    assert order("pareto", higher) == []
    running = [replace(trials[0], state=TrialState.RUNNING), *trials[1:]]
    assert order("pareto", running) == []


def test_what_has_diverged_stays_where_it_is() -> None:
    trials = [trial(0, 10, 0.9, first_loss=0.7, last_loss=2.1), *(trial(n, 20, 0.5) for n in range(1, 3))]
    assert has_diverged(trials[0])
    assert order("pareto", trials) == order("median", trials[:1]) == []


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [(0.7, 0.8, False), (0.7, 1.6, False), (0.7, 1.8, True), (3.0, 5.9, False), (3.0, 6.1, True), (0.0, 9.0, False)],
)
def test_divergence_is_a_loss_twice_that_of_the_first_step_and_one_above(
    first: float, last: float, expected: bool
) -> None:
    assert has_diverged(trial(0, 10, 0.5, first_loss=first, last_loss=last)) is expected


def test_points_that_cover_a_front_come_first() -> None:
    points = np.array([[1.0, 5.0], [3.0, 3.0], [5.0, 1.0], [4.0, 2.0], [2.0, 4.0]])
    assert covering(points) == [2, 0, 1, 3, 4]
    assert covering(np.zeros((3, 2))) == [0, 1, 2]


def test_the_median_is_that_of_what_costs_no_more() -> None:
    trials = [*(trial(n, 10, 0.5 + n / 100) for n in range(6)), trial(6, 5, 0.1), trial(7, 20, 0.51)]
    assert order("median", trials) == [2, 3, 4, 5, 6]  # the cheapest is compared with none, the dearest with all
    assert order("median", trials, fewest=7) == [0, 1, 2, 3, 4, 5, 6]


# -- what a sampler is shown -------------------------------------------------------------------------------------


def test_a_value_is_carried_along_the_lines_between_rungs() -> None:
    """Many pairs on exact lines: the weight of the assumption of a slope of 1 fades as they grow more."""
    values = np.linspace(0.4, 0.6, 40)
    trials = [trial(n, 10, x, 0.1 + 0.8 * x, 0.3 + 0.5 * (0.1 + 0.8 * x)) for n, x in enumerate(values)]
    paused = [trial(50, 10, 0.5), trial(51, 10, 0.45, 0.46)]
    first, second = steps_between([*trials, *paused])
    assert (first.slope, second.slope) == (pytest.approx(0.8, abs=0.02), pytest.approx(0.5, abs=0.04))
    found = {t.number: t for t in extrapolated([*trials, *paused])}
    assert found[50].measurement is not None
    assert found[51].measurement is not None
    assert found[50].measurement.value == pytest.approx(0.55, abs=0.002)
    assert found[51].measurement.value == pytest.approx(0.53, abs=0.002)
    assert (found[50].state, found[50].measurement.extra["extrapolated_from"]) == (TrialState.COMPLETE, 0)
    assert found[0] == trials[0]  # what was measured stays as it is


def test_with_one_pair_the_gain_is_added_and_with_none_nothing() -> None:
    shown = extrapolated([trial(0, 10, 0.5, 0.6, 0.65), trial(1, 10, 0.45), trial(2, 10, 0.44)])
    assert [t.measurement.value for t in shown if t.measurement] == pytest.approx([0.65, 0.6, 0.59])
    (alone,) = extrapolated([trial(1, 10, 0.45)])
    assert alone.measurement is not None
    assert alone.measurement.value == 0.45


def test_selection_at_the_lower_rung_does_not_bend_the_line() -> None:
    """Only the best third at a rung goes on. The mean of 40 slopes lies near the true one and the assumed."""
    slopes = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x = rng.normal(0.5, 0.05, 60)
        y = 0.2 + 0.7 * x + rng.normal(0, 0.02, 60)
        best = set(np.argsort(-x)[:20].tolist())
        trials = [trial(n, 10, *((x[n], y[n]) if n in best else (x[n],))) for n in range(60)]
        (step,) = steps_between(trials)
        slopes.append(step.slope)
    # The assumed slope of 1 counts as three of twenty-odd trials spread more widely than these.
    error = np.std(slopes, ddof=1) / np.sqrt(len(slopes))
    assert 0.7 - 4 * error < np.mean(slopes) < 0.9 + 4 * error


def test_what_is_expected_is_never_beyond_what_was_measured() -> None:
    trials = [trial(n, 10, x, x + 0.3, x + 0.4) for n, x in enumerate((0.4, 0.5))]
    shown = extrapolated([*trials, trial(2, 10, 0.55), trial(3, 10, 0.1)])
    values = [t.measurement.value for t in shown if t.measurement]
    assert max(values) == 0.9
    assert min(values) >= 0.1


def test_running_and_failed_trials_are_shown_as_they_are() -> None:
    running = replace(trial(0, 10, 0.5), state=TrialState.RUNNING, so_far=None)
    failed = replace(trial(1, 10, 0.5), state=TrialState.FAILED, failure=Failure("nan", "made up"))
    assert extrapolated([running, failed]) == [running, failed]
    gone_on = replace(trial(2, 10, 0.5), state=TrialState.RUNNING)
    assert extrapolated([gone_on])[0].state is TrialState.COMPLETE


# -- the kind ----------------------------------------------------------------------------------------------------


def test_promotions_are_found_by_name() -> None:
    assert set(promotions.names()) >= {"all", "pareto", "median"}
    assert promotions.build("all") is None
    with pytest.raises(UnknownNameError, match="promotion"):
        promotions.lookup("asha")
    with pytest.raises(SettingsError, match="A promotion is"):
        promotions.lookup("autopeft.promotions.pareto:Pareto")


@pytest.mark.parametrize("name", [name for name in promotions.names() if name != "all"])
def test_every_promotion_is_a_function_of_the_trials(name: str) -> None:
    rng = np.random.default_rng(3)
    trials = [trial(n, 10 + n, *rng.uniform(0.4, 0.7, int(rng.integers(1, 4)))) for n in range(30)]
    found = order(name, trials)
    assert found == order(name, trials)
    assert len(found) == len(set(found))
    waiting = {t.number for t in trials if t.state is TrialState.PAUSED}
    assert set(found) <= waiting
    promotion = promotions.build(name)
    assert promotion is not None
    assert not [t for t in promotion.view(trials) if t.state is TrialState.PAUSED]
    assert promotion.settings
