"""Rival samplers in numbers, on searches written by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from autopeft.errors import DataError
from autopeft.experiments._comparison import Comparison, compare, trial_from_cell, trials_of
from autopeft.objectives import lookup
from autopeft.paired import Paired, paired
from autopeft.trial import TrialState

Points = list[tuple[float, float] | None]


def cell(points: Points, reference: tuple[float, float] = (10.0, 0.0), seed: int = 0) -> dict[str, Any]:
    """A finished search whose trials have these costs in percent and metrics; None is a failed trial."""
    rows: list[dict[str, Any]] = []
    for number, point in enumerate(points):
        row: dict[str, Any] = {
            "number": number,
            "indices": [number],
            "origin": "initial" if number < 1 else "own",
            "architecture": {"placements": [["serial", "encoder.0.ffn", number + 1]]},
            "failure": "nan" if point is None else None,
            "proposal_seconds": 0.5,
        }
        if point is not None:
            nominal = round(point[0] * 1000)
            counts = {"nominal": nominal, "stored": nominal, "trained": nominal, "backbone": 100_000}
            row |= {"value": point[1], "percent": point[0], "counts": counts, "seconds": 2.0, "latency": 0.1}
        rows.append(row)
    settings = {"seed": seed}
    return {"objective": "accuracy", "reference": list(reference), "trials": rows, "settings": settings}


def found(**runs: dict[int, Points]) -> Comparison:
    cells = {(name, seed): cell(points, seed=seed) for name, seeds in runs.items() for seed, points in seeds.items()}
    return compare(cells, against="random")


def test_a_trial_comes_back_from_its_cell() -> None:
    data = cell([(2.0, 0.7), None], seed=5)
    first, second = trials_of(data)
    assert (first.number, first.origin, first.seed, first.state) == (0, "initial", 5, TrialState.COMPLETE)
    assert first.measurement is not None
    assert (first.measurement.percent, first.measurement.value) == (2.0, 0.7)
    assert (first.measurement.objective, first.measurement.split) == ("accuracy", "validation")
    assert first.configuration.indices == (0,)
    assert [str(item) for item in first.architecture] == ["serial@encoder.0.ffn:1"]
    assert second.failure is not None
    assert (second.state, second.failure.kind, second.counts_as_finished) == (TrialState.FAILED, "nan", True)
    running = {**data["trials"][1], "failure": None}
    assert trial_from_cell(running, data).is_taken is False  # it never ended: not an evaluation


def test_curves_use_one_reference_for_all_cells() -> None:
    cells = {("random", 0): cell([(2.0, 0.5)], (10.0, 0.2)), ("own", 0): cell([(4.0, 0.5)], (8.0, 0.1))}
    result = compare(cells, against="random")
    assert result.reference == (10.0, 0.1)
    assert result.finals("random")[0] == pytest.approx((10 - 2) * (0.5 - 0.1))
    assert result.finals("own")[0] == pytest.approx((10 - 4) * (0.5 - 0.1))
    assert result.finals("absent") == {}


def test_the_logarithm_of_the_cost_weighs_every_halving_alike() -> None:
    cells = {("random", 0): cell([(1.0, 0.5), (0.1, 0.3)], (10.0, 0.1))}
    # From 0.1 to 1 % the front is at 0.3, from 1 to 10 % at 0.5: a decade each.
    assert compare(cells, against="random").finals("random", "log")[0] == pytest.approx(0.2 + 0.4)


def test_a_failed_trial_is_an_evaluation_that_adds_nothing() -> None:
    curve = found(random={0: [(5.0, 0.5), None, (5.0, 0.7)]}).curve("random", 0)
    np.testing.assert_allclose(curve, [2.5, 2.5, 3.5])


def test_evaluations_until_the_final_hypervolume_of_the_other() -> None:
    result = found(
        random={0: [(5.0, 0.5), (5.0, 0.6)], 1: [(5.0, 0.9)]},
        own={0: [(5.0, 0.4), (5.0, 0.6), (1.0, 0.6)], 1: [(5.0, 0.8)], 2: [(5.0, 0.8)]},
    )
    assert result.reached("own", 0) == 2
    assert result.reached("own", 1) is None
    assert result.reached("random", 0) == 2
    with pytest.raises(DataError, match=r"no finished search with seed 2, only \[0, 1\]"):
        result.reached("own", 2)


def test_differences_are_taken_seed_by_seed() -> None:
    result = found(random={0: [(5.0, 0.5)], 1: [(5.0, 0.2)]}, own={1: [(5.0, 0.4)], 0: [(5.0, 0.6)], 7: [(5.0, 1.0)]})
    pairs = result.difference("own")
    assert pairs.seeds == (0, 1)
    assert pairs.values == pytest.approx((0.5, 1.0))
    assert result.difference("random").values == (0.0, 0.0)


def test_the_best_within_a_budget_leaves_out_seeds_that_have_none() -> None:
    result = found(random={0: [(5.0, 0.5), (1.0, 0.4), None], 1: [(5.0, 0.9)]})
    assert result.best_within("random", 1.0) == {0: 0.4}
    assert result.best_within("random", math.inf) == {0: 0.5, 1: 0.9}


def test_the_interval_is_student_s() -> None:
    values = (0.3, 0.1, 0.5, 0.2)
    pairs = Paired((0, 1, 2, 3), values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert pairs.interval == pytest.approx((low, high))
    assert pairs.standard_error == pytest.approx(stats.sem(values))
    assert pairs.mean == pytest.approx(0.275)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((), "no seed in common"),
        ((0.5,), "one seed allows no statement"),
        ((0.5, 0.6), "no difference shown"),  # 0.55 with a standard error of 0.05, and t of one degree is 12.7
        ((0.5, 0.5001), "better"),
        ((-0.5, -0.5001), "worse"),
        ((0.5, -0.4, 0.3), "no difference shown"),
    ],
)
def test_a_verdict_is_given_only_where_the_interval_leaves_out_zero(values: tuple[float, ...], expected: str) -> None:
    assert paired(dict(enumerate(values)), dict.fromkeys(range(9), 0.0)).verdict == expected


def test_searches_of_different_objectives_are_not_compared() -> None:
    other = {**cell([(5.0, 0.5)]), "objective": "f1"}
    with pytest.raises(DataError, match=r"one objective, but got \['accuracy', 'f1'\]"):
        compare({("random", 0): cell([(5.0, 0.5)]), ("own", 0): other}, against="random")
    with pytest.raises(DataError, match="but got none"):
        compare({}, against="random")


def test_a_lead_that_rests_on_one_tiny_point_is_gone_when_the_other_is_given_it() -> None:
    result = found(
        random={0: [(5.0, 0.5)], 1: [(5.0, 0.5)]},
        own={0: [(5.0, 0.5), (0.005, 0.4), None], 1: [(5.0, 0.5), (0.005, 0.4), (2.5, 0.6)]},
    )
    assert all(value > 1 for value in result.difference("own", "log").values)  # three decades of 0.4
    left = result.left("own", "log")
    assert left.seeds == (0, 1)
    # What is left of the second seed is the point at 2.5: 0.2 more than the front from there to 5, 0.1 from 5 to 10.
    assert left.values == pytest.approx((0.0, 0.2 * math.log10(2) + 0.1 * math.log10(2)))
    assert result.left("absent").values == ()


def test_what_is_left_of_a_lead_is_by_the_cost_that_was_minimised() -> None:
    points: dict[str, Points] = {"random": [(5.0, 0.5)], "own": [(5.0, 0.5), (0.005, 0.4), (2.5, 0.6)]}
    nominal = found(**{name: {0: own} for name, own in points.items()})
    cells = {(name, 0): cell(own, (20.0, 0.0)) for name, own in points.items()}
    for row in (row for one in cells.values() for row in one["trials"]):
        row["counts"] = {**row["counts"], "stored": 2 * row["counts"]["nominal"]}
    stored = replace(compare(cells, against="random"), cost=lookup("stored"))
    # All costs and the reference are twice as large, which an axis of their logarithms does not see.
    assert stored.left("own", "log").values == pytest.approx(nominal.left("own", "log").values)


def test_how_many_proposals_a_best_within_a_budget_was_taken_from() -> None:
    result = found(own={0: [(0.5, 0.5), (0.5, 0.6), (2.0, 0.7), None], 1: [(0.1, 0.5), (0.2, 0.5)]}, random={})
    assert result.proposals_within("own", 1.0) == (2, 3)  # without the initial trial of each, and what failed
