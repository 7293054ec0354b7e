"""Regularised evolution: ranks, crowding, mutation, ageing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopeft.errors import SettingsError
from autopeft.samplers import build
from autopeft.samplers.evolution import Evolution, EvolutionSettings, fitness_order, non_dominated_ranks, one_change
from autopeft.samplers.random import initial_design
from autopeft.spaces.lattice import Configuration
from lattice import autopeft_space, complete, history


def test_ranks_by_hand() -> None:
    # (3, 1) and (1, 3) are beaten by none; (2, 1) by (3, 1); (1, 1) by (2, 1); the twin of (1, 3) shares its rank.
    values = np.array([[3.0, 1.0], [1.0, 3.0], [2.0, 1.0], [1.0, 1.0], [1.0, 3.0]])
    assert non_dominated_ranks(values).tolist() == [0, 0, 1, 2, 0]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_a_rank_is_one_more_than_the_worst_rank_that_beats_it(points: list[tuple[int, int]]) -> None:
    ranks = non_dominated_ranks(np.array(points, dtype=np.float64))
    for i, (a, b) in enumerate(points):
        beaten_by = [ranks[j] for j, (c, d) in enumerate(points) if c >= a and d >= b and (c, d) != (a, b)]
        assert ranks[i] == (max(beaten_by) + 1 if beaten_by else 0)


def test_fitness_prefers_low_ranks_then_room() -> None:
    # A front of four: the ends have infinite room. Room of (1, 3): 2/4 + 2/4 = 1; of (2, 2): 3/4 + 3/4 = 1.5.
    keys = fitness_order([(0.0, 4.0), (1.0, 3.0), (2.0, 2.0), (4.0, 0.0), (0.0, 0.0)])
    assert keys == [(0, -np.inf), (0, -1.0), (0, -1.5), (0, -np.inf), (1, -np.inf)]


def test_a_child_differs_from_an_alive_parent_in_one_choice() -> None:
    space = autopeft_space()
    trials = history(space, initial_design(space, 0, 30))
    alive = [trial.configuration for trial in trials[-20:]]
    for child in build("evolution", space, 1).ask(trials, 10):
        apart = [sum(a != b for a, b in zip(child.indices, parent.indices, strict=True)) for parent in alive]
        assert min(apart) == 1


def test_the_oldest_die_however_good() -> None:
    # The first architecture beats all others in both objectives. While it is alive, a tournament of everybody picks
    # it; one measurement later it is dead.
    space = autopeft_space()
    cheapest = Configuration(tuple(int(c.name in ("layer.encoder.0", "serial")) for c in space.choices))
    assert space.cost(cheapest) == space.cost_range()[0]
    others = [c for c in initial_design(space, 0, 6) if c != cheapest]
    sampler = Evolution(space, 3, EvolutionSettings(population=4, tournament=4))
    trials = [complete(space, 0, cheapest, 0.99), *(complete(space, 1 + i, c, 0.5) for i, c in enumerate(others[:3]))]
    (child,) = sampler.ask(trials)
    assert child in space.neighbours(cheapest)
    (grandchild,) = sampler.ask([*trials, complete(space, 4, others[3], 0.5)])
    assert grandchild not in space.neighbours(cheapest)


def test_proposals_are_random_until_the_population_is_full() -> None:
    space = autopeft_space()
    trials = history(space, initial_design(space, 0, 19))
    assert build("evolution", space, 5).ask(trials, 2) == build("random", space, 5).ask(trials, 2)


def test_every_choice_changes_equally_often() -> None:
    # 9 choices of very different numbers of values. 900 draws, 100 expected each, standard deviation 9.4: five of
    # them, on either side of nine counts, has probability below 6e-6.
    space = autopeft_space()
    here = initial_design(space, 11, 1)[0]
    rng = np.random.default_rng(0)
    counts = np.zeros(space.n_choices)
    for _ in range(900):
        there = one_change(here, space.neighbours(here), rng)
        counts += [a != b for a, b in zip(here.indices, there.indices, strict=True)]
    assert counts.sum() == 900
    assert np.abs(counts - 100).max() < 5 * 9.43


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"population": 0, "tournament": 2.5}, r"population .* got 0; tournament .* got 2.5"),
        ({"population": 3, "tournament": 4}, "tournament is at most population, but got 4 > 3"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        build("evolution", autopeft_space(2, 8), 0, options)
