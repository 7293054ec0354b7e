"""APET: random assignment at a count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from autopeft import samplers
from autopeft.errors import SettingsError, SpaceExhaustedError
from autopeft.searches._candidates import Candidates
from autopeft.searches.apet import draw_sizes
from autopeft.spaces import papers as spaces
from autopeft.spaces.lattice import SearchSpace
from autopeft.training.evaluator import Evaluator
from autopeft.training.recipe import Recipe
from lattice import complete

COSTS = (7, 11, 30)  # parameters a unit


def candidates(sizes: tuple[int, ...] = (1, 4, 8)) -> Candidates:
    keys = tuple((f"encoder.{n}.q", "lora") for n in range(len(COSTS)))
    table = np.tile(np.array(sizes), (len(COSTS), 1))
    return Candidates(keys, table, table * np.array(COSTS)[:, None])


def count(of: Candidates, sizes: np.ndarray) -> int:
    return int(np.where(of.sizes == sizes[:, None], of.counts, 0).sum())


@given(budget=st.integers(7, 600), seed=st.integers(0, 10_000), is_filled=st.booleans())
@settings(max_examples=200)
def test_a_draw_is_within_any_budget_never_empty_and_filled_up(budget: int, seed: int, is_filled: bool) -> None:
    of = candidates()
    sizes = draw_sizes(of, budget, np.random.default_rng(seed), is_filled)
    used = count(of, sizes)
    assert sizes.any()
    assert used <= budget
    assert all(size in (0, 1, 4, 8) for size in sizes)
    if is_filled:
        smallest_left_out = min((cost for cost, size in zip(COSTS, sizes, strict=True) if size == 0), default=10**9)
        assert used + smallest_left_out > budget


def test_without_a_limit_every_size_is_equally_likely() -> None:
    """600 draws of three sizes at three places: each count is within 5 standard deviations of its mean.

    A standard deviation is sqrt(600 · 1/3 · 2/3) = 11.5; nine counts fail with probability below 9 · 6e-7.
    """
    of, rng = candidates(), np.random.default_rng(4)
    found = np.array([draw_sizes(of, 10_000, rng, is_filled=False) for _ in range(600)])
    for size in (1, 4, 8):
        assert np.abs((found == size).sum(axis=0) - 200).max() < 58


def test_all_places_are_equally_likely_to_be_the_only_one() -> None:
    """Room for one module of size 1 of three of equal price: each is taken 200 ± 58 times of 600, see above."""
    of = Candidates(candidates().keys, np.ones((3, 1), dtype=np.int64), np.full((3, 1), 10, dtype=np.int64))
    rng = np.random.default_rng(5)
    found = np.array([draw_sizes(of, 19, rng) for _ in range(600)])
    assert (found.sum(axis=1) == 1).all()
    assert np.abs(found.sum(axis=0) - 200).max() < 58


# -- as a sampler ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    parts = tiny.splits(tiny.sentiment(8), tiny.sentiment(8, seed=1))
    recipe = Recipe(steps=1, batch_size=8, max_length=16)
    return Evaluator(tiny.backbone("bert", with_tokenizer=True), tiny.SENTIMENT, parts, recipe)


def build(evaluator: Evaluator, over: SearchSpace, seed: int = 3, **options: object) -> samplers.Sampler:
    return samplers.build("apet", over, seed, {"evaluator": evaluator, **options})


def test_every_budget_has_its_draws_all_different_and_about_as_large(evaluator: Evaluator) -> None:
    over = spaces.named("S2", evaluator.backbone)
    found = build(evaluator, over, budgets=(2000, 4000), draws=4).ask([], 99)
    costs = [over.cost(configuration, "stored") for configuration in found]
    assert len(set(found)) == 8
    # A bias or a norm of 32 parameters always fits in what is left, unless all are taken.
    assert all(2000 - 32 < cost <= 2000 for cost in costs[:4])
    assert all(4000 - 32 < cost <= 4000 for cost in costs[4:])
    trials = [complete(over, n, configuration, 0.5, "apet") for n, configuration in enumerate(found[:5])]
    assert build(evaluator, over, budgets=(2000, 4000), draws=4).ask(trials, 2) == found[5:7]
    assert build(evaluator, over, seed=4, budgets=2000).ask([]) != found[:1]


@pytest.mark.slow
def test_a_budget_with_few_architectures_gives_fewer_draws(evaluator: Evaluator) -> None:
    over = spaces.named("S1", evaluator.backbone)
    # Prefixes of one position cost 2 · 32 = 64; serial and parallel adapters of width 1 cost 32 + 65 = 97.
    smallest = {over.cost(c, "stored") for c in build(evaluator, over, budgets=64, draws=9).ask([], 99)}
    assert smallest == {64}
    layers = sum(slot.method == "prefix_direct" for slot in over.slots)
    assert len(build(evaluator, over, budgets=64, draws=99).ask([], 99)) == layers


def test_others_first_place_does_not_cost_a_draw(evaluator: Evaluator) -> None:
    over = spaces.named("S2", evaluator.backbone)
    sampler = build(evaluator, over, budgets=2000, draws=3)
    first, second, third = sampler.ask([], 3)
    trials = [complete(over, 0, first, 0.5, "random")]
    assert sampler.ask(trials, 9) == [second, third]
    trials += [complete(over, 1, second, 0.5, "apet"), complete(over, 2, third, 0.5, "apet")]
    with pytest.raises(SpaceExhaustedError, match="All 1 budgets of apet"):
        sampler.ask(trials)


def test_settings_are_resolved_and_checked(evaluator: Evaluator) -> None:
    over = spaces.named("S2", evaluator.backbone)
    resolved = getattr(build(evaluator, over, budgets="2%"), "settings")  # noqa: B009
    limit = int(0.02 * evaluator.backbone.n_parameters)
    assert resolved == {"draws": 1, "is_filled": True, "budgets": [f"at most {limit:,} stored parameters"]}
    for wrong in (0, 1.5, True):
        with pytest.raises(SettingsError, match="draws must be a whole number of at least 1"):
            build(evaluator, over, budgets=2000, draws=wrong)
