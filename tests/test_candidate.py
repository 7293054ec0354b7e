"""Candidates: what is the same, what is not, and what a recipe becomes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.architecture import Architecture, Placement
from autopeft.candidate import Candidate, Changes
from autopeft.errors import ArchitectureError
from autopeft.training.recipe import Recipe

SERIAL = Architecture((Placement("encoder.0.ffn", "serial", 4),))
MIXED = Architecture((Placement("encoder.0.q", "lora", 2), *SERIAL))

factors = st.sampled_from([1 / 3, 0.5, 1.0, 3.0])
changes = st.builds(
    lambda rate, overall, by_method, *whole: Changes(rate, overall, tuple(by_method.items()), *whole),
    st.none() | st.sampled_from([1e-4, 3e-3]),
    factors,
    st.dictionaries(st.sampled_from(["serial", "lora", "prefix"]), factors),
    st.sampled_from([0.25, 0.5, 1.0]),
    st.sampled_from([0, 1.0]),
)
candidates = st.builds(Candidate, st.sampled_from([Architecture(), SERIAL, MIXED]), changes)


@given(candidates)
def test_what_is_written_is_read_back(candidate: Candidate) -> None:
    assert Candidate.from_dict(json.loads(json.dumps(candidate.as_dict()))) == candidate
    assert Changes.from_dict(candidate.changes.as_dict()) == candidate.changes


@given(candidates, candidates)
def test_candidates_have_one_fingerprint_exactly_when_they_are_equal(one: Candidate, other: Candidate) -> None:
    assert (one.fingerprint == other.fingerprint) == (one == other) == (one.as_dict() == other.as_dict())
    assert hash(one) == hash(one.of(one))


def test_an_architecture_without_changes_is_what_it_was() -> None:
    # The fingerprint stands in every stored study; it was computed before there were candidates.
    assert Candidate(SERIAL).fingerprint == SERIAL.fingerprint == "2156dea201691bff"
    assert Candidate(SERIAL).as_dict() == {"architecture": SERIAL.as_dict()}
    assert Candidate(SERIAL, Changes(rate_factor=1, rate_factors=(("serial", 1.0),))) == Candidate.of(SERIAL)


@given(candidates)
def test_a_recipe_gets_the_changes_and_nothing_else(candidate: Candidate) -> None:
    recipe = Recipe(learning_rate=1e-3, rate_factors={"serial": 2.0}, epochs=3, dropout=0.1)
    changed, changes = candidate.recipe_for(recipe), candidate.changes
    assert changed.learning_rate == (changes.learning_rate or 1e-3) * changes.rate_factor
    by_method = dict(changes.rate_factors)
    assert changed.rate_factors.get("serial") == 2.0 * by_method.get("serial", 1.0)
    assert changed.rate_factors.get("lora", 1.0) == by_method.get("lora", 1.0)
    assert changed.batch_size == 32 * changes.batch_factor
    assert changed.dropout == 0.1 * changes.dropout_factor
    own = {"learning_rate": 1e-3, "rate_factors": {"serial": 2.0}, "batch_size": 32, "dropout": 0.1}
    assert {**changed.as_dict(), **own} == recipe.as_dict()
    assert (changed is recipe) == changes.is_empty


@pytest.mark.parametrize(
    ("steps", "size", "factor"), [(None, 32, 0.25), (30, 32, 0.25), (30, 10, 0.25), (7, 4, 0.1), (9, 3, 3)]
)
def test_with_smaller_batches_there_are_more_steps_and_as_many_examples(
    steps: int | None, size: int, factor: float
) -> None:
    recipe = Recipe(steps=steps, batch_size=size, epochs=2)
    changed = Changes(batch_factor=factor).recipe_for(recipe)
    assert changed.batch_size == max(1, round(size * factor))
    assert changed.n_processed(1000) == pytest.approx(recipe.n_processed(1000), abs=changed.batch_size)
    if factor < 1:
        assert changed.n_steps(1000) > recipe.n_steps(1000)


def test_factors_of_methods_that_are_not_there_change_nothing() -> None:
    assert Candidate(SERIAL, Changes(rate_factors=(("lora", 3.0),))) == Candidate(SERIAL)
    assert Candidate(SERIAL, Changes(rate_factors=(("lora", 3.0), ("serial", 3.0)))).changes.rate_factors == (
        ("serial", 3.0),
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {"rate_factor": 0},
        {"rate_factor": float("nan")},
        {"rate_factor": True},
        {"learning_rate": -1e-3},
        {"learning_rate": "1e-3"},
        {"rate_factors": (("serial", float("inf")),)},
        {"batch_factor": 0},
        {"batch_factor": "a quarter"},
    ],
)
def test_a_rate_that_is_none_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ArchitectureError, match="finite and above 0"):
        Changes(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("factor", [0.5, True, "0", float("nan"), None])
def test_dropout_is_there_or_not(factor: object) -> None:
    with pytest.raises(ArchitectureError, match="The factor of dropout is 0 or 1, but got"):
        Changes(dropout_factor=factor)  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [None, [], {"rate": 3}, {"rate_factors": [["serial", 3]]}])
def test_changes_that_cannot_be_read_are_refused(data: object) -> None:
    with pytest.raises(ArchitectureError, match="Changes of a recipe are an object with"):
        Candidate.from_dict({**Candidate(SERIAL).as_dict(), "changes": data})


def test_a_method_has_one_factor() -> None:
    with pytest.raises(ArchitectureError, match="A method has one factor"):
        Changes(rate_factors=(("serial", 2.0), ("serial", 3.0)))


def test_a_file_of_an_architecture_is_read_with_its_changes(tmp_path: Path) -> None:
    SERIAL.save(tmp_path / "plain.json")
    assert Candidate.load(tmp_path / "plain.json") == Candidate(SERIAL)
    changed = Candidate(SERIAL, Changes(rate_factor=3))
    (tmp_path / "changed.json").write_text(json.dumps({"value": 0.8, **changed.as_dict()}))
    assert Candidate.load(tmp_path / "changed.json") == changed
    assert Architecture.load(tmp_path / "changed.json") == SERIAL


def test_changes_are_told_in_a_few_words() -> None:
    told = str(Candidate(MIXED, Changes(1e-3, 1 / 3, (("lora", 3.0),))))
    assert told == "lora=2@q[1] serial=4@ffn[1] rate 0.001 rate×0.333 rate.lora×3"
    assert str(Candidate(SERIAL)) == str(SERIAL)
