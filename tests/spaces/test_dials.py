"""Rates and scales as choices of a space: what they decode to, and what they leave as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autopeft.architecture import Architecture, ParameterBudget, Placement
from autopeft.candidate import Candidate, Changes
from autopeft.errors import SettingsError
from autopeft.searches._candidates import Candidates
from autopeft.session import build_space
from autopeft.settings import AxisSettings, SpaceSettings
from autopeft.spaces.dials import with_dials
from autopeft.spaces.lattice import Configuration, SearchSpace
from autopeft.spaces.nearest import nearest
from autopeft.training.rate_sweep import middle
from autopeft.training.recipe import Recipe
from lattice import autopeft_space, tiny_space
from tiny import backbone

THIRDS = (1 / 3, 1, 3)


def space_of(**dials: Any) -> SearchSpace:
    return with_dials(tiny_space(), **{"rate_factors": {}, "scales": {}, **dials})


def test_without_factors_a_space_is_what_it_was() -> None:
    # The fingerprint stands in stored studies; it was computed before there were dials.
    assert space_of() == tiny_space()
    assert space_of().as_dict().keys() == {"choices", "slots", "budget"}
    assert tiny_space().fingerprint == "22e7638154c6016c"


def test_factors_are_choices_behind_those_of_the_space() -> None:
    space = space_of(rate_factors={"all": THIRDS, "serial": (3, 1)}, scales={"serial": (0.5, 2)})
    assert [choice.name for choice in space.choices[-3:]] == ["rate.all", "rate.serial", "scale.serial"]
    assert space.cardinality == tiny_space().cardinality * 3 * 2 * 2
    assert space.n_valid == tiny_space().n_valid * 12
    (first, *_), n = space.enumerate(), tiny_space().n_choices
    found = space.candidate(Configuration((*first.indices[:n], 2, 1, 1)))
    assert found.changes == Changes(rate_factor=3, rate_factors=(("serial", 3),))
    assert {placement.scale for placement in found.architecture} == {2.0}
    assert found.recipe_for(Recipe(learning_rate=1e-3)).learning_rate == pytest.approx(3e-3)


def test_the_examples_a_step_are_a_choice_behind_all_others() -> None:
    space = space_of(rate_factors={"all": THIRDS}, batch_factors=(1, 0.25))
    assert [choice.name for choice in space.choices[-2:]] == ["rate.all", "batch.all"]
    assert space.n_valid == tiny_space().n_valid * 6
    (first, *_), n = space.enumerate(), tiny_space().n_choices
    found = space.candidate(Configuration((*first.indices[:n], 1, 0)))
    assert found.changes == Changes(batch_factor=0.25)
    assert found.recipe_for(Recipe(batch_size=32)).batch_size == 8
    point = space.configuration(found)
    assert point is not None
    assert space.candidate(point) == found
    assert nearest(space, Candidate(found.architecture, Changes(batch_factor=0.3))) == point
    assert space.candidate(space.largest()).changes.is_empty


def test_dropout_is_a_choice_that_rests_with_it() -> None:
    space = space_of(batch_factors=(1, 0.5), dropout_factors=(0, 1))
    assert [choice.name for choice in space.choices[-2:]] == ["batch.all", "dropout.all"]
    assert space.n_valid == tiny_space().n_valid * 4
    assert space.candidate(space.largest()).changes.is_empty
    (first, *_), n = space.enumerate(), tiny_space().n_choices
    found = space.candidate(Configuration((*first.indices[:n], 1, 0)))
    assert found.changes == Changes(dropout_factor=0)
    assert found.recipe_for(Recipe()).dropout == 0
    assert nearest(space, found) == space.configuration(found) == Configuration((*first.indices[:n], 1, 0))
    near = nearest(space, Candidate(found.architecture, Changes(batch_factor=0.3, dropout_factor=0)))
    assert near == Configuration((*first.indices[:n], 0, 0))


def test_a_factor_of_what_is_not_there_makes_no_other_candidate() -> None:
    space = with_dials(autopeft_space(1, 8, (0, 1)), rate_factors={"prefix": (1, 3)}, scales={"parallel": (1, 2)})
    found = [space.candidate(point) for point in space.enumerate()]
    # Of 7 sets of modules 4 have a prefix, and of those and of the others half have a parallel adapter.
    assert len(found) == 7 * 4
    assert len(set(found)) == len({space.identity(point) for point in space.enumerate()}) == 1 + 2 + 2 + 4 + 2 + 2 + 4


def test_dials_cost_nothing() -> None:
    plain, space = tiny_space(), space_of(rate_factors={"all": THIRDS}, scales={"all": (1, 2)})
    assert space.cost_range() == plain.cost_range()
    assert space.cost(space.largest()) == plain.cost(plain.largest())
    points = [*space.enumerate()]
    assert [space.cost(p) for p in points] == [plain.cost(Configuration(p.indices[:-2])) for p in points]
    assert space.within(ParameterBudget(plain.cost_range()[0])).n_choices == space.n_choices


def test_a_budget_that_few_points_meet_turns_no_dial() -> None:
    space = with_dials(autopeft_space(), rate_factors={"all": THIRDS}, scales={})
    tight = space.within(ParameterBudget(space.cost_range()[0]))
    drawn = {point.indices[-1] for point in tight.sample(np.random.default_rng(0), 60)}
    assert drawn == {0, 1, 2}


def test_the_sweep_s_architecture_has_dials_at_rest() -> None:
    space = space_of(rate_factors={"all": (0.1, 0.5, 1, 3)}, scales={"serial": (0.25, 0.9)})
    assert space.candidate(space.largest()).changes.is_empty
    assert {placement.scale for placement in middle(space)} == {0.9}
    assert {p.site: p.size for p in middle(space)} == {p.site: p.size for p in middle(tiny_space())}


@pytest.mark.parametrize(
    ("dials", "message"),
    [
        ({"rate_factors": {"serail": THIRDS}}, "has 'serail', which is none of the space's methods, which are serial"),
        ({"scales": {"prefix": (1, 2)}}, "has 'prefix', which is none of the space's methods with a scale"),
        ({"scales": {"serial": (0, 2)}}, "`space.scales.serial` holds 0, but factors are finite and above 0"),
        ({"scales": {"serial": 2}}, "`space.scales.serial` must be a list of factors, but got 2"),
        ({"rate_factors": {"all": ()}}, "`space.rate_factors.all` must be a list of factors"),
        ({"rate_factors": {"all": "abc"}}, "must be a list of factors, but got 'abc'"),
        ({"scales": {"all": (1, 2), "serial": (1, 2)}}, "has 'all' and methods by name"),
        ({"dropout_factors": (0, 0.5)}, "`space.dropout_factors` holds 0.5, but has 0 for none and 1 for the recipe's"),
        ({"batch_factors": (1, 0)}, "`space.batch_factors` holds 0, but factors are finite and above 0"),
    ],
)
def test_what_cannot_be_turned_is_refused(dials: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        space_of(**dials)


def test_all_that_is_wrong_is_told_together() -> None:
    with pytest.raises(SettingsError, match=r"serail.*`space.scales.serial` holds nan"):
        space_of(rate_factors={"serail": THIRDS}, scales={"serial": (float("nan"),)})


def test_settings_build_dials_of_own_and_of_named_spaces() -> None:
    methods = {"lora": AxisSettings((0, 2), ("q",)), "prefix": AxisSettings((0, 2))}
    own = build_space(backbone(), SpaceSettings(methods=methods, scales={"all": (1.0, 4.0)}))
    assert [dial.methods for dial in own.dials] == [("lora",)]
    named = build_space(backbone(), SpaceSettings(name="SA", rate_factors={"all": THIRDS}, batch_factors=(0.5, 1)))
    assert [choice.name for choice in named.choices] == ["serial", "rate.all", "batch.all"]
    wanted = Candidate(Architecture((Placement("encoder.0.q", "lora", 2, 4.0),)))
    found = own.configuration(wanted)
    assert found is not None
    assert own.candidate(found) == wanted


def test_a_search_in_a_supernet_refuses_dials_in_one_sentence() -> None:
    space = build_space(backbone(), SpaceSettings(name="S2", scales={"lora": (1, 2)}))
    with pytest.raises(SettingsError, match=r"rates and scales, or .* \(scale.lora\).*leave out `space.rate_factors`"):
        Candidates.of(space)
