"""The training part cut in two: what is in each half, in which batches, and how long a search is."""

from __future__ import annotations

import numpy as np
import pytest

import tiny
from autopeft.searches._halves import HalvedTask
from autopeft.searches.bipeft.settings import BipeftSettings
from autopeft.training.evaluator import Evaluator
from autopeft.training.recipe import Recipe


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    parts = tiny.splits(tiny.sentiment(160), tiny.sentiment(40, seed=1))
    recipe = Recipe(epochs=2, batch_size=8, max_length=16)
    return Evaluator(tiny.backbone("bert", with_tokenizer=True), tiny.SENTIMENT, parts, recipe)


def test_the_halves_are_disjoint_complete_and_seen_once_an_epoch(evaluator: Evaluator) -> None:
    problem = HalvedTask(evaluator, 7, seed=5)
    seen = []
    for half in (0, 1):
        steps = -(-80 // 7)
        for epoch in range(2):
            indices = np.concatenate([problem.indices(half, epoch * steps + step) for step in range(steps)])
            assert len(set(indices.tolist())) == len(indices) == 80
        seen.append(set(indices.tolist()))
    assert seen[0] | seen[1] == set(range(160))
    assert not seen[0] & seen[1]
    assert problem.steps_per_epoch == 12


def test_the_cut_of_the_data_moves_with_the_seed(evaluator: Evaluator) -> None:
    """Two random halves of 160 share 40 examples on average, with a deviation of 3.2: never 60 (6 deviations)."""
    halves = [
        set(np.concatenate([HalvedTask(evaluator, 8, seed).indices(0, step) for step in range(10)]).tolist())
        for seed in (1, 1, 2)
    ]
    assert halves[0] == halves[1]
    assert 20 < len(halves[0] & halves[2]) < 60


def test_a_search_is_as_long_as_its_settings_or_else_the_recipe_say(evaluator: Evaluator) -> None:
    def steps(problem: HalvedTask, epochs: float | None = None, steps: int | None = None) -> int:
        return problem.plan(BipeftSettings(epochs=epochs, steps=steps), 600).steps

    problem = HalvedTask(evaluator, 8, 1)  # 80 examples in the first half: 10 steps an epoch
    assert [steps(problem), steps(problem, 0.5), steps(problem, 0.5, 3)] == [20, 5, 3]
    short = HalvedTask(evaluator.with_recipe(steps=7), 8, 1)
    assert [steps(short), steps(short, 0.5), steps(short, 0.01)] == [7, 5, 1]


def test_a_plan_has_the_settings_rate_or_else_the_recipe_s_and_the_seed(evaluator: Evaluator) -> None:
    problem = HalvedTask(evaluator, 8, 3)
    own = problem.plan(BipeftSettings(learning_rate=0.5), 600)
    assert (own.learning_rate, own.budget, own.seed) == (0.5, 600, 3)
    assert problem.plan(BipeftSettings(), 600).learning_rate == evaluator.recipe.learning_rate


def test_the_batch_of_a_step_does_not_depend_on_what_was_asked_before(evaluator: Evaluator) -> None:
    forward, backward = (HalvedTask(evaluator, 16, seed=5) for _ in range(2))
    ordered = [forward.indices(1, step).tolist() for step in range(12)]
    turned = [backward.indices(1, step).tolist() for step in reversed(range(12))]
    assert ordered == turned[::-1]
    assert ordered != [HalvedTask(evaluator, 16, seed=6).indices(1, step).tolist() for step in range(12)]


def test_validation_is_the_mean_over_the_second_half(evaluator: Evaluator) -> None:
    """160 examples: the second half has 80, in batches of 48 and 32, or all at once."""
    split, whole = HalvedTask(evaluator, 48, 5), HalvedTask(evaluator, 100, 5)
    whole_loss = whole.validation()  # the second task's fresh head is the one in place
    assert split.validation() == pytest.approx(whole_loss, rel=1e-5)
