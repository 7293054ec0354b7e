"""Fronts and hypervolumes against brute force and BoTorch; measurements and their orientation."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from botorch.utils.multi_objective.box_decompositions.dominated import DominatedPartitioning
from botorch.utils.multi_objective.hypervolume import Hypervolume
from hypothesis import given
from hypothesis import strategies as st

from autopeft.architecture import Counts
from autopeft.errors import BudgetError, NonFiniteFailure
from autopeft.objective import (
    Epoch,
    FrontPoint,
    Measurement,
    Objective,
    ParetoFront,
    hypervolume,
    hypervolume_curve,
    reference_point,
)
from autopeft.objectives import NOMINAL

# Few distinct values, so that ties and repeats are common.
COORDINATE = st.integers(0, 8).map(lambda n: n / 8)
POINTS = st.lists(st.tuples(COORDINATE, COORDINATE), max_size=12)
REFERENCE = (1.25, -0.25)


def points(pairs: list[tuple[float, float]]) -> list[FrontPoint]:
    return [FrontPoint(key, cost, value) for key, (cost, value) in enumerate(pairs)]


def dominates(a: FrontPoint, b: FrontPoint) -> bool:
    """At least as good in both and better in one; of equal ones the first."""
    if (a.cost, a.value) == (b.cost, b.value):
        return a.key < b.key
    return a.cost <= b.cost and a.value >= b.value


@given(POINTS)
def test_the_front_is_what_nothing_dominates(pairs: list[tuple[float, float]]) -> None:
    given_points = points(pairs)
    wanted = {p for p in given_points if not any(dominates(q, p) for q in given_points)}
    front = ParetoFront.of(given_points)
    assert set(front.points) == wanted
    assert len(front) == len(wanted)
    assert all(a.cost < b.cost and a.value < b.value for a, b in itertools.pairwise(front.points))


@given(POINTS, st.randoms())
def test_the_front_is_idempotent_and_free_of_order(pairs: list[tuple[float, float]], random: Any) -> None:
    given_points = points(pairs)
    front = ParetoFront.of(given_points)
    assert ParetoFront.of(front.points) == front
    random.shuffle(given_points)
    assert ParetoFront.of(given_points) == front


@given(POINTS, POINTS)
def test_the_front_of_fronts_is_the_front_of_all(
    first: list[tuple[float, float]], second: list[tuple[float, float]]
) -> None:
    everything = points(first + second)
    parts = [ParetoFront.of(everything[: len(first)]), ParetoFront.of(everything[len(first) :])]
    assert ParetoFront.of([*parts[0].points, *parts[1].points]) == ParetoFront.of(everything)


@given(POINTS, COORDINATE)
def test_at_a_budget_is_the_best_affordable(pairs: list[tuple[float, float]], budget: float) -> None:
    front = ParetoFront.of(points(pairs))
    affordable = [point for point in points(pairs) if point.cost <= budget]
    if affordable:
        best = max(point.value for point in affordable)
        assert front.at(budget).value == best
        assert front.at(budget).cost == min(point.cost for point in affordable if point.value == best)
    else:
        with pytest.raises(BudgetError, match="No point of the front costs at most"):
            front.at(budget)


def test_at_a_budget_says_what_the_cheapest_costs() -> None:
    with pytest.raises(BudgetError, match=r"at most 0\.1 %: the cheapest costs 0\.25 %"):
        ParetoFront.of(points([(0.25, 0.5)]), NOMINAL).at(0.1)
    with pytest.raises(BudgetError, match="the front is empty"):
        ParetoFront(()).at(1.0)


def test_hypervolume_by_hand() -> None:
    # Boxes to the reference (10, 0): (8 high 1 wide from 2 to ...) 2..5 at 0.5, 5..10 at 0.8.
    assert hypervolume([(2, 0.5), (5, 0.8)], (10, 0)) == pytest.approx(3 * 0.5 + 5 * 0.8)
    assert hypervolume([(2, 0.5), (5, 0.4)], (10, 0)) == pytest.approx(8 * 0.5)
    assert hypervolume([(10, 0.5), (5, 0.0), (11, 1.0)], (10, 0)) == 0.0
    assert hypervolume([], (10, 0)) == 0.0


@given(st.lists(st.tuples(st.floats(0, 1.5), st.floats(-0.5, 1)), min_size=1, max_size=15))
def test_hypervolume_agrees_with_botorch(pairs: list[tuple[float, float]]) -> None:
    maximised = torch.tensor([(-cost, value) for cost, value in pairs], dtype=torch.float64)
    reference = torch.tensor([-REFERENCE[0], REFERENCE[1]], dtype=torch.float64)
    boxes = float(DominatedPartitioning(ref_point=reference, Y=maximised).compute_hypervolume())
    mine = hypervolume(pairs, REFERENCE)
    assert mine == pytest.approx(boxes, abs=1e-9)
    assert ParetoFront.of(points(pairs)).hypervolume(REFERENCE) == pytest.approx(mine, abs=1e-12)
    front = torch.tensor([(-p.cost, p.value) for p in ParetoFront.of(points(pairs)).points], dtype=torch.float64)
    assert mine == pytest.approx(Hypervolume(ref_point=reference).compute(front), abs=1e-9)


@given(POINTS, st.tuples(COORDINATE, COORDINATE))
def test_another_point_never_lowers_hypervolume(pairs: list[tuple[float, float]], other: tuple[float, float]) -> None:
    before, after = hypervolume(pairs, REFERENCE), hypervolume([*pairs, other], REFERENCE)
    assert after >= before - 1e-12
    front = ParetoFront.of(points([*pairs, other]))
    is_new = any(p.key == len(pairs) for p in front.points)
    assert (after > before + 1e-12) == is_new


@given(POINTS)
def test_the_curve_is_the_hypervolume_of_every_beginning(pairs: list[tuple[float, float]]) -> None:
    curve = hypervolume_curve(pairs, REFERENCE)
    assert curve.shape == (len(pairs),)
    assert (np.diff(curve) >= -1e-12).all()
    assert curve.tolist() == [hypervolume(pairs[: n + 1], REFERENCE) for n in range(len(pairs))]


def test_the_reference_is_beyond_everything_by_a_tenth_of_the_range() -> None:
    cost, value = reference_point([(0.1, 0.5), (3.0, 0.7)], 38.8)
    assert cost == pytest.approx(38.8)
    assert cost > 38.8
    assert value == pytest.approx(0.5 - 0.02)
    assert reference_point([(0.1, 0.5)], 1.0)[1] == pytest.approx(0.5 - 1e-6, abs=1e-9)


def test_one_owner_of_the_sign() -> None:
    metric, cost = Objective("accuracy", "maximize"), NOMINAL
    assert metric.better(0.8, 0.7)
    assert not metric.better(0.7, 0.7)
    assert cost.better(0.1, 0.2)
    for objective in (metric, cost, Objective("loss", "minimize")):
        assert objective.maximised(objective.maximised(0.3)) == 0.3


def measured(metrics: dict[str, float], objective: str = "accuracy") -> Measurement:
    history = (Epoch(0.5, 3, 0.7, {"accuracy": 0.5}, 1.0), Epoch(1.0, 6, 0.6, {"accuracy": 0.75}, 2.0))
    return Measurement(
        metrics, objective, Counts(500, 510, 900, 100_000), 2.0, 10, 0.1, "validation", history, {"n_train": 4}
    )


def test_a_measurement_makes_the_round_trip_through_json() -> None:
    found = measured({"accuracy": 0.75, "f1": 0.7})
    assert (found.value, found.percent) == (0.75, 0.5)
    assert Measurement.from_dict(json.loads(json.dumps(found.as_dict()))) == found


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_measurement_is_finite(value: float) -> None:
    with pytest.raises(NonFiniteFailure, match=f"'accuracy' is {value}"):
        measured({"accuracy": value})


def test_a_measurement_holds_its_objective() -> None:
    with pytest.raises(NonFiniteFailure, match=r"'accuracy' was not measured; there are \['f1'\]"):
        measured({"f1": 0.5})
