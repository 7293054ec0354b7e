"""Random search and the shared initial design."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopeft.architecture import ParameterBudget
from autopeft.errors import SettingsError, SpaceExhaustedError
from autopeft.samplers import build
from autopeft.samplers._bayes.settings import BayesSettings
from autopeft.samplers._propose import generator, taken, with_options
from autopeft.samplers.random import initial_design, random_unseen
from lattice import autopeft_space, failed, history, running, tiny_space


def test_the_default_lattice_has_the_size_it_claims() -> None:
    space = autopeft_space()
    assert space.cardinality == 2**6 * 10**3
    # Valid: some layer on and some size above 0.
    assert space.n_valid == (2**6 - 1) * (10**3 - 1)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), first=st.integers(0, 40), more=st.integers(0, 200))
def test_the_initial_design_is_a_prefix_of_every_longer_one(seed: int, first: int, more: int) -> None:
    space = autopeft_space(2, 8)
    assert initial_design(space, seed, first) == initial_design(space, seed, first + more)[:first]


def test_the_initial_design_is_distinct_and_depends_on_the_seed() -> None:
    space = autopeft_space()
    design = initial_design(space, 42, 100)
    assert len({space.identity(c) for c in design}) == 100
    assert all(space.is_feasible(c) for c in design)
    assert design != initial_design(space, 43, 100)


def test_the_initial_design_is_uniform_within_a_budget_that_one_point_in_twenty_satisfies() -> None:
    """Mean number of layers that are on: within 5 standard errors of what plain rejection draws."""
    free = autopeft_space(12, 768)
    budget = ParameterBudget(109_000)
    rows = np.random.default_rng(0).integers(0, [len(choice.values) for choice in free.choices], (100_000, 15))
    fitting = rows[free.within(budget).feasible(rows)]
    assert 0.02 < len(fitting) / len(rows) < 0.1
    expected = fitting[:, :12].sum(axis=1)
    design = initial_design(free.within(budget), 3, 400)
    found = np.array([configuration.indices[:12] for configuration in design]).sum(axis=1)
    assert abs(found.mean() - expected.mean()) < 5 * expected.std() / np.sqrt(400)


def test_the_initial_design_is_not_what_random_search_proposes_first() -> None:
    # numpy seeds [42] and [42, 0] alike, so a careless seed would propose the design a second time.
    space = autopeft_space()
    assert initial_design(space, 42, 3) != build("random", space, 42).ask([], 3)


def test_the_initial_design_holds_the_whole_space_when_it_is_small() -> None:
    space = tiny_space()
    assert {*initial_design(space, 0, 100)} == {*space.enumerate()}
    assert len(initial_design(space, 0, 100)) == 6
    assert initial_design(space, 0, 0) == []


def test_the_design_is_uniform_over_indices() -> None:
    # 2000 draws from valid points: a layer bit is on in a share of 32/63 of them (one layer at least must be on).
    # The standard error is 0.0112; a deviation of 5 of them has probability 6e-7, 5e-6 over all eight tests.
    space = autopeft_space()
    rows = np.array([c.indices for c in initial_design(space, 5, 2000)])
    names = [choice.name for choice in space.choices]
    layers = [i for i, name in enumerate(names) if name.startswith("layer.")]
    assert np.abs(rows[:, layers].mean(0) - 32 / 63).max() < 5 * np.sqrt(0.25 / 2000)
    # A size index is uniform on 0..9 except that all three cannot be 0: mean 4.5 * 1000 / 999.
    sizes = [i for i in range(len(names)) if i not in layers]
    assert np.abs(rows[:, sizes].mean(0) - 4.5 * 1000 / 999).max() < 5 * np.sqrt(8.25 / 2000)


def test_random_unseen_finds_the_last_point() -> None:
    space = tiny_space()
    points = [*space.enumerate()]
    for missing in points:
        seen = {space.identity(c) for c in points if c != missing}
        assert random_unseen(space, seen, np.random.default_rng(0), 3) == [missing]
    with pytest.raises(SpaceExhaustedError, match="widen the space or the budget"):
        random_unseen(space, {space.identity(c) for c in points}, np.random.default_rng(0), 1)


def test_the_generator_depends_on_seed_and_number_of_trials_only() -> None:
    space = autopeft_space(2, 8)
    two, other = (history(space, initial_design(space, seed, 2)) for seed in (0, 1))
    assert generator(3, two).random() == generator(3, other).random()
    assert generator(3, two).random() != generator(3, two[:1]).random()
    assert generator(3, two).random() != generator(4, two).random()


def test_taken_counts_everything_but_preempted_trials() -> None:
    space = tiny_space()
    a, b, c, d, *_ = space.enumerate()
    trials = [*history(space, [a]), running(space, 1, b), failed(space, 2, c), failed(space, 3, d, "preempted")]
    assert taken(space, trials) == {space.identity(x) for x in (a, b, c)}


def test_unknown_options_are_listed_together_with_the_nearest() -> None:
    both = r"'move' \(did you mean 'moves'\?\), 'surogate' \(did you mean 'surrogate'"
    with pytest.raises(SettingsError, match=both):
        with_options(BayesSettings(), {"surogate": "gp", "move": 3}, "saas-nehvi")
