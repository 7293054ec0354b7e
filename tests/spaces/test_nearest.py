"""The point of a space that is nearest to what was found elsewhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.architecture import Architecture, ParameterBudget, Placement
from autopeft.candidate import Candidate, Changes
from autopeft.session.parts import build_space
from autopeft.settings import AxisSettings, SpaceSettings
from autopeft.spaces.dials import with_dials
from autopeft.spaces.lattice import Configuration, SearchSpace
from autopeft.spaces.nearest import nearest
from lattice import autopeft_space
from tiny import backbone

SPACE = autopeft_space(3, 32, (0, 1, 2, 4, 8, 16))


def serial(*layers: int, size: int) -> Architecture:
    return Architecture(tuple(Placement(f"encoder.{layer}.ffn", "serial", size) for layer in layers))


def found(space: SearchSpace, candidate: Candidate | Architecture) -> Candidate:
    point = nearest(space, Candidate.of(candidate))
    assert point is not None
    return space.candidate(point)


@given(st.data())
def test_what_the_space_holds_is_itself(data: st.DataObject) -> None:
    space = with_dials(SPACE, rate_factors={"all": (1 / 3, 1, 3)}, scales={"serial": (1, 2)})
    indices = tuple(data.draw(st.integers(0, len(choice.values) - 1)) for choice in space.choices)
    wanted = space.candidate(Configuration(indices))
    if not wanted.architecture.is_empty:
        assert found(space, wanted) == wanted


@pytest.mark.parametrize(("size", "expected"), [(3, 4), (5, 4), (6, 8), (11, 8), (12, 16), (1000, 16)])
def test_a_size_goes_to_the_nearest_as_a_ratio(size: int, expected: int) -> None:
    assert found(SPACE, serial(0, 2, size=size)).architecture == serial(0, 2, size=expected)


def test_a_shared_size_is_near_to_all_that_share_it() -> None:
    mixed = Architecture((*serial(0, size=2), *serial(1, size=8)))
    assert found(SPACE, mixed).architecture == serial(0, 1, size=4)


def test_what_the_space_has_no_place_for_is_left_out() -> None:
    lora = Placement("encoder.0.q", "lora", 4)
    assert found(SPACE, Architecture((lora, *serial(1, size=4)))).architecture == serial(1, size=4)
    assert nearest(SPACE, Candidate(Architecture((lora,)))) is None
    assert nearest(SPACE, Candidate(Architecture(()))) is None


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_a_budget_changes_the_sizes_and_not_the_layers(share: float) -> None:
    largest = SPACE.cost(SPACE.largest())
    space = SPACE.within(ParameterBudget(round(share * largest)))
    one = found(space, serial(0, 1, size=16)).architecture
    assert {item.site for item in one} == {"encoder.0.ffn", "encoder.1.ffn"}
    (size,) = {item.size for item in one}
    assert space.is_feasible(point := space.configuration(one) or pytest.fail("not in the space"))
    # The next size up would be too dear, unless nothing had to change.
    assert size == 16 or space.cost(point) * 4 > share * largest


def test_a_least_cost_makes_it_larger() -> None:
    small = SPACE.cost(SPACE.configuration(serial(0, 1, size=2)) or pytest.fail("not in the space"))
    space = SPACE.within(ParameterBudget(SPACE.cost(SPACE.largest()), 3 * small))
    assert {item.size for item in found(space, serial(0, 1, size=2)).architecture} == {8}


def test_nothing_within_the_budget_is_none() -> None:
    cheapest = SPACE.cost(SPACE.configuration(serial(0, size=1)) or pytest.fail("not in the space"))
    space = SPACE.within(ParameterBudget(cheapest))
    assert nearest(space, Candidate(serial(0, 1, 2, size=4))) is None


def test_dials_go_to_the_nearest_factor() -> None:
    space = with_dials(SPACE, rate_factors={"all": (1 / 3, 1, 3)}, scales={})
    assert found(space, Candidate(serial(0, size=4), Changes(rate_factor=2))).changes == Changes(rate_factor=3)
    assert found(space, Candidate(serial(0, size=4), Changes(learning_rate=0.1))).changes.is_empty


def test_methods_without_a_size_and_sizes_of_their_own() -> None:
    methods = {"bitfit": AxisSettings(), "lora": AxisSettings((0, 2, 8), ("q", "v"))}
    space = build_space(backbone("bert"), SpaceSettings(methods=methods, sharing="placement", layers="all"))
    biases = [slot for slot in space.slots if slot.method == "bitfit"][:2]
    wanted = Architecture(
        (
            *(Placement(slot.site, "bitfit", 1) for slot in biases),
            Placement("encoder.0.q", "lora", 3),
            Placement("encoder.1.v", "lora", 30),
        )
    )
    sizes = {(item.site, item.method): item.size for item in found(space, wanted).architecture}
    assert sizes == {
        **{(slot.site, "bitfit"): 1 for slot in biases},
        ("encoder.0.q", "lora"): 2,
        ("encoder.1.v", "lora"): 8,
    }
