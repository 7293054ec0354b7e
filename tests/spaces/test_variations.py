"""What lies around a point of a space."""

from __future__ import annotations

from autopeft.architecture import ParameterBudget
from autopeft.spaces.dials import with_dials
from autopeft.spaces.lattice import Configuration, SearchSpace
from autopeft.spaces.variations import variations
from lattice import autopeft_space

SPACE = with_dials(autopeft_space(3, 32, (0, 1, 2, 4, 8)), rate_factors={"all": (1 / 3, 1, 3)}, scales={})
SERIAL = Configuration((1, 1, 1, 3, 0, 0, 1))


def changed(space: SearchSpace, around: Configuration) -> list[tuple[str, float]]:
    """What differs from `around`, by the name of the choice and its new value."""
    found = []
    for one in variations(space, around):
        ((position, index),) = [(n, i) for n, i in enumerate(one.indices) if i != around.indices[n]]
        choice = space.choices[position]
        found.append((choice.name, choice.values[index]))
    return found


def test_methods_are_added_then_sizes_changed_then_layers_left_out() -> None:
    assert changed(SPACE, SERIAL) == [
        ("parallel", 4),
        ("prefix", 4),
        ("serial", 8),
        ("serial", 2),
        ("layer.encoder.0", 0),
        ("layer.encoder.1", 0),
        ("layer.encoder.2", 0),
    ]


def test_other_batches_come_first_the_smaller_ones_before_the_larger() -> None:
    space = with_dials(SPACE, rate_factors={}, scales={}, batch_factors=(0.25, 0.5, 1, 2))
    found = changed(space, Configuration((*SERIAL.indices, 2)))
    assert found[:3] == [("batch.all", 0.5), ("batch.all", 0.25), ("batch.all", 2)]
    assert found[3:] == changed(SPACE, SERIAL)
    both = with_dials(SPACE, rate_factors={}, scales={}, batch_factors=(0.5, 1), dropout_factors=(0, 1))
    found = changed(both, Configuration((*SERIAL.indices, 1, 1)))
    assert found[:2] == [("batch.all", 0.5), ("dropout.all", 0)]
    assert changed(both, Configuration((*SERIAL.indices, 0, 0)))[:2] == [("batch.all", 1), ("dropout.all", 1)]


def test_ends_and_budgets_leave_some_out() -> None:
    largest = Configuration((1, 0, 0, 4, 0, 0, 1))
    assert changed(SPACE, largest) == [("parallel", 4), ("prefix", 4), ("serial", 4)]
    tight = SPACE.within(ParameterBudget(SPACE.cost(SERIAL)))
    assert [name for name, _ in changed(tight, SERIAL)] == ["serial", *(f"layer.encoder.{n}" for n in range(3))]


def test_all_are_different_candidates() -> None:
    found = [SPACE.candidate(one) for one in variations(SPACE, SERIAL)]
    assert len(set(found)) == len(found)
    assert SPACE.candidate(SERIAL) not in found
