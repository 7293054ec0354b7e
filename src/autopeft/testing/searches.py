"""What every search of its own promises: each budget is answered within it, and the model is left as it was."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from autopeft.architecture import CountKind, ParameterBudget
from autopeft.errors import BudgetError, SettingsError, SpaceExhaustedError
from autopeft.network.build import count
from autopeft.samplers import Sampler, build, lookup
from autopeft.spaces import papers as spaces
from autopeft.spaces.lattice import Configuration, SearchSpace
from autopeft.testing import tiny
from autopeft.testing._promise import keep, promise, promises_in, refuses
from autopeft.testing.lattice import complete
from autopeft.training.evaluator import Evaluator
from autopeft.training.recipe import Recipe

BUDGETS = (600, 3000)
COUNTED: tuple[CountKind, ...] = ("nominal", "stored")


@cache
def evaluator() -> Evaluator:
    """Of a tiny model and a task that one word decides."""
    parts = tiny.splits(tiny.sentiment(64), tiny.sentiment(16, seed=1))
    recipe = Recipe(steps=6, batch_size=8, max_length=16, learning_rate=3e-3)
    return Evaluator(tiny.backbone("bert", with_tokenizer=True), tiny.SENTIMENT, parts, recipe)


def _made(evaluator: Evaluator, name: str, over: SearchSpace, **options: object) -> Sampler:
    return build(name, over, 3, {"evaluator": evaluator, **options})


def _counts(evaluator: Evaluator, over: SearchSpace, found: Sequence[Configuration]) -> list[int]:
    return [count(evaluator.backbone, over.decode(configuration)).stored for configuration in found]


@promise
def _budgets_are_answered_in_order_within_them_and_then_no_more(name: str, evaluator: Evaluator) -> None:
    over = spaces.named("S2", evaluator.backbone)
    # A search trains a supernet on the backbone, and whoever measures its answers needs it as it was.
    before = {key: value.clone() for key, value in evaluator.backbone.model.state_dict().items()}
    # A search draws much, and whoever called it must find the generator where it was.
    state = torch.get_rng_state()
    sampler = _made(evaluator, name, over, budgets=BUDGETS)
    assert sampler.name == name
    together = sampler.ask([], 5)
    for most, used in zip(BUDGETS, _counts(evaluator, over, together), strict=True):
        assert 0 < used <= most
    (first,) = sampler.ask([])
    trials = [complete(over, 0, first, 0.5, name)]
    (second,) = _made(evaluator, name, over, budgets=BUDGETS).ask(trials)  # as after an interruption
    assert [first, second] == together
    # A study ends by that: a search that answered again and again would fill it with copies.
    with refuses(SpaceExhaustedError, "All 2 budgets"):
        sampler.ask([*trials, complete(over, 1, second, 0.5, name)])
    assert evaluator.backbone.occupant is None
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in evaluator.backbone.model.state_dict().items())


@promise
def _the_budget_of_the_space_is_taken_when_none_is_given(name: str, evaluator: Evaluator) -> None:
    for kind in COUNTED:
        over = spaces.named("S2", evaluator.backbone, budget=ParameterBudget(1000, count=kind))
        (configuration,) = _made(evaluator, name, over).ask([])
        assert over.is_feasible(configuration)


@promise
def _an_answer_that_others_gave_before_is_passed_over(name: str, evaluator: Evaluator) -> None:
    over = spaces.named("S1", evaluator.backbone)
    # An initial design may have met the answer by chance, and what is known need not be trained again.
    first, second = _made(evaluator, name, over, budgets=(600, 3000)).ask([], 2)
    others = [complete(over, 0, first, 0.5, "initial")]
    assert _made(evaluator, name, over, budgets=(600, 3000)).ask(others, 2) == [second]


@promise
def _mistakes_are_found_before_any_work(name: str, evaluator: Evaluator) -> None:
    over = spaces.named("S2", evaluator.backbone)
    with refuses(SettingsError, "needs an `evaluator`"):
        build(name, over, 0, {"budgets": 2000})
    with refuses(SettingsError, "no_such_option"):
        _made(evaluator, name, over, budgets=2000, no_such_option=1)
    with refuses(SettingsError, "seed must be a whole number of at least 0, but got -1"):
        build(name, over, -1, {"evaluator": evaluator, "budgets": 2000})
    factory: Any = lookup(name).build
    if factory.is_budget_needed(factory.presets["recommended"]):
        with refuses(BudgetError, "give the option `budgets`"):
            _made(evaluator, name, over)
    with refuses(BudgetError, "smallest module of this space has 32 parameters; the budget is 31"):
        _made(evaluator, name, over, budgets=(2000, 31))
    # Gates are drawn for a placement each, and a size of all of them is no answer to that.
    with refuses(SettingsError, "placements share a size"):
        _made(evaluator, name, spaces.named("SA-PA-Layer", evaluator.backbone), budgets=2000)
    limited = over.within(ParameterBudget(3000, count="stored"))
    with refuses(BudgetError, "upper limit alone; at most 4,000", "the space allows at most 3,000"):
        _made(evaluator, name, limited, budgets=(4000, ParameterBudget(2000, 1000, "stored")))


PROMISES = promises_in(dict(vars()))
"""What is promised of a search of its own, by its name and the evaluator that it trains with."""


def check_search(name: str) -> list[str]:
    """Check what a sampler promises that answers budgets by a search of its own; the names of the promises.

    Args:
        name: of a member, or the dotted path of one of your own.

    Raises:
        ExceptionGroup: some promises are not kept.
        AssertionError: it reads trials: `check_sampler` is for those.
        UnknownNameError, SettingsError: there is no such sampler.
    """
    assert not lookup(name).reads_trials, f"{name} reads trials: check_sampler is for those."
    return keep(name, PROMISES, name, evaluator())
