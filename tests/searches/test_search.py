"""Samplers that answer budgets: places, what is kept of answers, and their seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import tiny
from autopeft import samplers
from autopeft.architecture import Architecture, ParameterBudget
from autopeft.errors import BudgetError, SettingsError, SpaceExhaustedError
from autopeft.searches._search import BudgetedSampler, SearchContext
from autopeft.spaces import papers as spaces
from autopeft.spaces.lattice import SearchSpace
from autopeft.training.evaluator import Evaluator
from autopeft.training.recipe import Recipe
from autopeft.trial import Trial
from lattice import complete

LIMITS = tuple(ParameterBudget(most, count="stored") for most in (600, 700, 2000))


class Scripted:
    """Answers the first two budgets alike; notes what it was asked."""

    per_budget = 1
    earlier_seconds = 7.0

    def __init__(self, answers: Sequence[Architecture]) -> None:
        self.answers_, self.asked = answers, list[int]()
        self.told = dict[str, Any]()

    def answer(self, limit: ParameterBudget) -> Sequence[Architecture]:
        self.asked.append(limit.most)
        return (self.answers_[LIMITS.index(limit)],)


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    parts = tiny.splits(tiny.sentiment(8), tiny.sentiment(8, seed=1))
    recipe = Recipe(steps=1, batch_size=8, max_length=16)
    return Evaluator(tiny.backbone("bert", with_tokenizer=True), tiny.SENTIMENT, parts, recipe)


@pytest.fixture(scope="module")
def space(evaluator: Evaluator) -> SearchSpace:
    return spaces.named("S1", evaluator.backbone)


def found(space: SearchSpace) -> list[Architecture]:
    first, second = space.neighbours(space.configuration(Architecture(())) or space.largest())[:2]
    return [space.decode(first), space.decode(first), space.decode(second)]


def test_a_budget_that_left_no_trial_is_not_searched_again(
    evaluator: Evaluator, space: SearchSpace, tmp_path: Path
) -> None:
    answers, trials, asked = found(space), list[Trial](), list[list[int]]()
    question = SearchContext(evaluator, space, 0, LIMITS, tmp_path)
    for number in range(2):  # a process each
        search = Scripted(answers)
        sampler = BudgetedSampler("scripted", question, {}, search)
        (configuration,) = sampler.ask(trials)
        assert sampler.earlier_seconds == 7.0
        trials.append(complete(space, number, configuration, 0.5, origin="scripted"))
        asked.append(search.asked)
    search = Scripted(answers)
    with pytest.raises(SpaceExhaustedError, match="All 3 budgets of scripted have been answered"):
        BudgetedSampler("scripted", question, {}, search).ask(trials)
    assert [*asked, search.asked] == [[600], [700, 2000], []]


def test_an_answer_that_no_trial_has_yet_brings_its_seconds(
    evaluator: Evaluator, space: SearchSpace, tmp_path: Path
) -> None:
    question = SearchContext(evaluator, space, 0, LIMITS, tmp_path)
    expected = BudgetedSampler("scripted", question, {}, Scripted(found(space))).ask([])  # killed before its trial
    search = Scripted(found(space))
    again = BudgetedSampler("scripted", question, {}, search)
    assert again.ask([]) == expected
    assert search.asked == []
    assert again.earlier_seconds > 7.0  # what the killed process took is in it too


def test_answers_belong_to_their_settings(evaluator: Evaluator, space: SearchSpace, tmp_path: Path) -> None:
    for seed, settings in ((0, {}), (1, {}), (0, {"epochs": 2})):
        search = Scripted(found(space))
        BudgetedSampler("scripted", SearchContext(evaluator, space, seed, LIMITS, tmp_path), settings, search).ask([])
        assert search.asked == [600]


def test_budgets_are_numbers_texts_or_lists_of_them(evaluator: Evaluator, space: SearchSpace) -> None:
    for budgets in (2000, 2e3, "2000", ["2000"], [2e3], ParameterBudget(2000, count="stored")):
        sampler = samplers.build("apet", space, 0, {"evaluator": evaluator, "budgets": budgets})
        assert sampler.settings["budgets"] == ["at most 2,000 stored parameters"]
    with pytest.raises(SettingsError, match=r"`budgets` is a budget or a list of budgets, but got \{1\}"):
        samplers.build("apet", space, 0, {"evaluator": evaluator, "budgets": {1}})
    with pytest.raises(BudgetError, match="A budget is a share"):
        samplers.build("apet", space, 0, {"evaluator": evaluator, "budgets": "many"})
