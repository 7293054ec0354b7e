"""What every cost promises."""

from __future__ import annotations

import json
import math
from dataclasses import replace

from autopeft import objectives
from autopeft.architecture import Architecture
from autopeft.errors import BudgetError
from autopeft.kinds import members
from autopeft.objective import Measurement, Objective
from autopeft.spaces.lattice import Configuration
from autopeft.testing import tiny
from autopeft.testing._promise import keep, promise, promise_if, promises_in, refuses
from autopeft.training.bench import EvaluatorBench
from autopeft.training.evaluator import Evaluator
from autopeft.training.recipe import Recipe
from autopeft.trial import Trial, TrialState, front_of, lacking


def _evaluator(cost: Objective) -> Evaluator:
    """A tiny encoder that is trained for one step, under this cost."""
    parts = tiny.splits(tiny.sentiment(8), tiny.sentiment(8, seed=1))
    backbone = tiny.backbone("bert", with_tokenizer=True)
    return Evaluator(backbone, tiny.SENTIMENT, parts, Recipe(steps=1, batch_size=8, max_length=16), cost=cost)


def _placed(size: int = 2) -> Architecture:
    return tiny.everywhere(tiny.backbone("bert", with_tokenizer=True), "serial", size)


def _measured(cost: Objective) -> tuple[Measurement, float]:
    found = _evaluator(cost)(_placed(), 0)
    value = cost.of(found)
    assert value is not None, f"A trial that minimises {cost.name!r} does not store it."
    return found, value


def _trial(number: int, found: Measurement) -> Trial:
    return Trial(number, Configuration(()), _placed(), TrialState.COMPLETE, "random", 0, measurement=found)


@promise
def _it_is_minimised_and_says_what_it_is(cost: Objective) -> None:
    assert cost.direction == "minimize"
    assert cost.better(1.0, 2.0)
    assert cost.about
    assert cost.unit in cost.text(1.0)
    assert "\n" not in cost.label + cost.heading


@promise
def _its_name_is_its_own(cost: Objective) -> None:
    known = members(objectives.PACKAGE)
    assert known.get(cost.name, cost) is cost
    assert all(other.key != cost.key for name, other in known.items() if name != cost.name)


@promise
def _a_trial_that_minimises_it_stores_it(cost: Objective) -> None:
    found, value = _measured(cost)
    assert 0 < value < math.inf
    # Through JSON, as a study stores it: what does not survive that is lost when the search is resumed.
    again = Measurement.from_dict(json.loads(json.dumps(found.as_dict())))
    assert cost.of(again) == value
    record = found.costs.get(cost.name)
    assert record is None or record["unit"] == cost.unit


@promise
def _what_is_known_before_training_is_what_a_trial_stores(cost: Objective) -> None:
    evaluator = _evaluator(cost)
    bench = EvaluatorBench(evaluator)
    # Two sizes, since a price that does not look at the architecture at all is right for one.
    price, larger = (cost.priced(bench, _placed(size)) for size in (2, 8))
    assert (price is not None) == (cost.known == "before training")
    if price is not None and larger is not None:
        assert math.isclose(price, _measured(cost)[1], rel_tol=1e-9)
        assert price <= larger
    assert evaluator.backbone.occupant is None


@promise
def _limits_are_read_in_its_unit(cost: Objective) -> None:
    counts = _evaluator(cost).counts(_placed())
    least, most = cost.limits("5-20", counts)
    assert 0 <= least < most
    if cost.counted is None:
        assert (least, most) == (5.0, 20.0)
        assert cost.limits(f"20 {cost.unit}", counts) == (0.0, 20.0)
        assert cost.limits(f"0.5{cost.unit}-20{cost.unit}", counts) == (0.5, 20.0)


@promise
def _a_front_keeps_the_cheaper_of_equals(cost: Objective) -> None:
    found, value = _measured(cost)
    # The metrics are equal, so that the cost alone decides.
    dearer = replace(found, costs={**found.costs, cost.name: {"value": value * 2}})
    front = front_of([_trial(0, dearer), _trial(1, found)], cost)
    assert [(point.key, point.cost) for point in front.points] == [(1, value)]
    with refuses(BudgetError, cost.text(value)):
        front.at(value / 2)


@promise_if(lambda cost: cost.counted is None)
def _a_trial_that_did_not_store_it_is_left_out_and_named(cost: Objective) -> None:
    found, _ = _measured(cost)
    # As an earlier version has stored it: the fields of its own are there and empty.
    old = _trial(0, replace(found, costs={}, peak_memory=0, latency=0.0))
    assert lacking([old, _trial(1, found)], cost) == (0,)
    assert [point.key for point in front_of([old, _trial(1, found)], cost).points] == [1]


PROMISES = promises_in(dict(vars()))
"""What is promised of a cost."""


def check_cost(name: str) -> list[str]:
    """Check what a cost promises; the names of the promises.

    Args:
        name: of a member, or the dotted path of one of your own, such as ``my_lab.costs:ENERGY``.

    Raises:
        ExceptionGroup: some promises are not kept.
        UnknownNameError, SettingsError: there is no such cost.
    """
    return keep(name, PROMISES, objectives.lookup(name))
