"""What every sampler that is given an evaluator promises, for every such member: each budget is answered within it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

import tiny
from autopeft.architecture import ParameterBudget
from autopeft.errors import BudgetError, SettingsError, SpaceExhaustedError
from autopeft.network.build import count
from autopeft.samplers import Sampler, build, lookup, names
from autopeft.spaces import papers as spaces
from autopeft.spaces.lattice import Configuration, SearchSpace
from autopeft.training.evaluator import Evaluator
from autopeft.training.recipe import Recipe
from lattice import complete

SAMPLERS = tuple(name for name in names() if not lookup(name).reads_trials)
BUDGETS = (600, 3000)


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    parts = tiny.splits(tiny.sentiment(64), tiny.sentiment(16, seed=1))
    recipe = Recipe(steps=6, batch_size=8, max_length=16, learning_rate=3e-3)
    return Evaluator(tiny.backbone("bert", with_tokenizer=True), tiny.SENTIMENT, parts, recipe)


def made(evaluator: Evaluator, name: str, over: SearchSpace, **options: object) -> Sampler:
    return build(name, over, 3, {"evaluator": evaluator, **options})


def counts(evaluator: Evaluator, over: SearchSpace, found: Sequence[Configuration]) -> list[int]:
    return [count(evaluator.backbone, over.decode(configuration)).stored for configuration in found]


@pytest.mark.parametrize("name", SAMPLERS)
def test_budgets_are_answered_in_order_within_them_and_then_no_more(evaluator: Evaluator, name: str) -> None:
    over = spaces.named("S2", evaluator.backbone)
    before = {key: value.clone() for key, value in evaluator.backbone.model.state_dict().items()}
    state = torch.get_rng_state()
    sampler = made(evaluator, name, over, budgets=BUDGETS)
    assert sampler.name == name
    together = sampler.ask([], 5)
    for most, used in zip(BUDGETS, counts(evaluator, over, together), strict=True):
        assert 0 < used <= most
    (first,) = sampler.ask([])
    trials = [complete(over, 0, first, 0.5, name)]
    (second,) = made(evaluator, name, over, budgets=BUDGETS).ask(trials)  # as after an interruption
    assert [first, second] == together
    with pytest.raises(SpaceExhaustedError, match="All 2 budgets"):
        sampler.ask([*trials, complete(over, 1, second, 0.5, name)])
    assert evaluator.backbone.occupant is None
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in evaluator.backbone.model.state_dict().items())


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("kind", ["nominal", "stored"])
def test_the_budget_of_the_space_is_taken_when_none_is_given(evaluator: Evaluator, name: str, kind: str) -> None:
    over = spaces.named("S2", evaluator.backbone, budget=ParameterBudget(1000, count=kind))  # type: ignore[arg-type]
    (configuration,) = made(evaluator, name, over).ask([])
    assert over.is_feasible(configuration)


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_answer_that_others_gave_before_is_passed_over(evaluator: Evaluator, name: str) -> None:
    over = spaces.named("S1", evaluator.backbone)
    first, second = made(evaluator, name, over, budgets=(600, 3000)).ask([], 2)
    others = [complete(over, 0, first, 0.5, "initial")]
    assert made(evaluator, name, over, budgets=(600, 3000)).ask(others, 2) == [second]


@pytest.mark.parametrize("name", SAMPLERS)
def test_mistakes_are_found_before_any_work(evaluator: Evaluator, name: str) -> None:
    over = spaces.named("S2", evaluator.backbone)
    with pytest.raises(SettingsError, match="needs an `evaluator`"):
        build(name, over, 0, {"budgets": 2000})
    with pytest.raises(SettingsError, match="no_such_option"):
        made(evaluator, name, over, budgets=2000, no_such_option=1)
    with pytest.raises(SettingsError, match="seed must be a whole number of at least 0, but got -1"):
        build(name, over, -1, {"evaluator": evaluator, "budgets": 2000})
    factory: Any = lookup(name).build
    if factory.is_budget_needed(factory.presets["recommended"]):
        with pytest.raises(BudgetError, match="give the option `budgets`"):
            made(evaluator, name, over)
    with pytest.raises(BudgetError, match="smallest module of this space has 32 parameters; the budget is 31"):
        made(evaluator, name, over, budgets=(2000, 31))
    with pytest.raises(SettingsError, match="placements share a size"):
        made(evaluator, name, spaces.named("SA-PA-Layer", evaluator.backbone), budgets=2000)
    limited = over.within(ParameterBudget(3000, count="stored"))
    with pytest.raises(BudgetError, match=r"upper limit alone; at most 4,000 .*the space allows at most 3,000"):
        made(evaluator, name, limited, budgets=(4000, ParameterBudget(2000, 1000, "stored")))
