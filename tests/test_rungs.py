"""What a search cost, and how well the order at a rung agrees with that at the end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from scipy.stats import spearmanr

from autopeft.architecture import Architecture, Counts
from autopeft.fidelity import FULL, Fidelity, Reached
from autopeft.objective import Measurement
from autopeft.reports.content import ReportData, sections
from autopeft.rungs import rung_correlations, search_cost
from autopeft.spaces.lattice import Configuration
from autopeft.trial import Trial, TrialState

FIRST = Fidelity(1)
COUNTS = Counts(nominal=10, stored=10, trained=10, backbone=1000)


def trial(number: int, *values: float, **extra: Any) -> Trial:
    """A trial that was worth `values` at its first rung and at its end, or at the first alone."""
    reached = [Reached(rung, 1, 1.0, value, 1.0).as_dict() for rung, value in zip((FIRST, FULL), values, strict=False)]
    extra = {"steps": 30, "planned_steps": 30, "n_processed": 900, "rungs": reached, **extra}
    found = Measurement({"accuracy": values[-1]}, "accuracy", COUNTS, 2.0, 1, 0.1, "validation", extra=extra)
    return Trial(number, Configuration((number,)), Architecture(()), TrialState.COMPLETE, "random", 1, found)


def test_a_trial_is_asked_for_its_rungs() -> None:
    found = trial(0, 0.5, 0.75)
    assert found.at(FIRST) == Reached(FIRST, 1, 1.0, 0.5, 1.0)
    assert found.at(FULL) is not None
    assert found.at(Fidelity(2)) is None
    assert replace(found, measurement=None).at(FULL) is None


def test_the_order_at_a_rung_is_compared_with_that_at_the_end() -> None:
    pairs = [(0.5, 0.6), (0.55, 0.58), (0.6, 0.7), (0.62, 0.8), (0.7, 0.75)]
    (found,) = rung_correlations([trial(number, *pair) for number, pair in enumerate(pairs)] + [trial(9, 0.9)])
    assert (found.lower, found.upper, found.n) == (FIRST, FULL, 5)  # the sixth has not come to the end
    assert found.value == pytest.approx(spearmanr(*zip(*pairs, strict=True)).statistic)
    assert found.interval is not None
    assert -1 < found.interval[0] < found.value < found.interval[1] < 1
    assert found.as_dict()["upper"] == "100%"


@pytest.mark.parametrize("pairs", [[], [(0.5, 0.6)], [(0.5, 0.6), (0.5, 0.7), (0.5, 0.8)]])
def test_where_there_is_no_order_there_is_no_correlation(pairs: list[tuple[float, float]]) -> None:
    found = rung_correlations([trial(number, *pair) for number, pair in enumerate(pairs)])
    assert [(one.n, one.value, one.interval) for one in found] == ([(len(pairs), None, None)] if pairs else [])


def test_a_cost_is_told_in_trainings_examples_and_seconds() -> None:
    trials = [trial(0, 0.5, 0.6), trial(1, 0.5, 0.6, steps=10, n_processed=300)]
    found = search_cost(trials, swept=2)
    assert found.trainings == pytest.approx(2 + 1 + 1 / 3)
    assert found.examples == 2 * 900 + 900 + 300
    assert found.seconds == 4.0
    assert str(found) == "3.333 full trainings, 3,000 examples, 4 s of training and evaluation"


def test_trials_of_an_earlier_version_count_as_full_trainings() -> None:
    old = trial(0, 0.5, 0.6)
    assert old.measurement is not None
    old = replace(old, measurement=replace(old.measurement, extra={"steps": 5}))
    found = search_cost([old, trial(1, 0.5, 0.6)])
    assert (found.trainings, found.examples) == (2.0, None)
    assert "examples" not in str(found)


def test_a_report_tells_both() -> None:
    data = ReportData("a study", {}, [trial(0, 0.5, 0.6), trial(1, 0.6, 0.7)])
    told = {section.title: section.tables[0].rows for section in sections(data) if section.title in ("Cost", "Rungs")}
    assert told["Cost"][0] == ("full trainings, the sweep's among them", "2")
    assert told["Rungs"] == (("1 epoch", "100%", "2", "1.000", ""),)
