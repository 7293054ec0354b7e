"""What begins a search has enough steps: where its batches rest, and what baselines and rates are tried with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autopeft.session import Session, resolved
from autopeft.session.parts import at_rest
from autopeft.settings import SpaceSettings
from autopeft.spaces.dials import with_dials, with_enough_steps
from lattice import tiny_space
from small_case import CHANGES, Case

RECIPE = {"epochs": 2, "batch_size": 8, "max_length": 16}
"""Of 32 examples: 8 steps, 16 with half of the examples a step, 32 with a quarter."""


def asked(**space: Any) -> dict[str, Any]:
    return {"recipe": RECIPE, "start": "baselines", "space": {**CHANGES["space"], **space}}


@pytest.mark.parametrize(
    ("least", "factors", "expected"),
    [
        (100, (0.25, 0.5, 1), 0.5),  # the largest batches that leave so many
        (101, (0.25, 0.5, 1), 0.25),
        (1000, (0.25, 0.5, 1), 0.25),  # none does
        (10, (0.25, 0.5, 1), 1),
        (10, (0.5, 1, 2), 1),  # fewer steps than the recipe has are tried, and no search begins with them
        (10, (2, 4), 2),  # where there are no others
    ],
)
def test_batches_rest_at_the_largest_that_leave_enough_steps(
    least: int, factors: tuple[float, ...], expected: float
) -> None:
    space = with_dials(tiny_space(), rate_factors={}, scales={}, batch_factors=factors, dropout_factors=(0, 1))
    rested = with_enough_steps(space, least, lambda factor: round(50 / factor))
    (batch, dropout) = rested.dials
    assert rested.choices[batch.choice].values[rested.resting[batch.choice]] == expected
    assert rested.choices[dropout.choice].values[rested.resting[dropout.choice]] == 1
    # Where a search begins is no part of what its points mean.
    assert (rested.fingerprint, rested) == (space.fingerprint, space)


@pytest.mark.slow
def test_baselines_and_rates_of_a_search_have_enough_steps(case: Case, tmp_path: Path) -> None:
    settings = case.settings(**asked(batch_factors=[0.25, 0.5, 1], least_steps=20), learning_rates=[1e-3, 1e-2])
    session = Session.build(settings)
    first = [session.space.candidate(point) for point in session.initial]
    assert {one.changes.batch_factor for one in first} == {0.25}
    assert at_rest(session.space, session.evaluator.recipe).batch_size == 2
    with session.begin(tmp_path) as study:
        session.proxy(study, folder=tmp_path)
        study.run(session.evaluator, session.sampler(), 2, session.initial)
        assert [trial.measurement.extra["steps"] for trial in study.trials() if trial.measurement] == [32, 32]
    assert {point.changes.batch_factor for point in _first(case, least_steps=0)} == {1}
    assert {point.changes.batch_factor for point in _first(case, least_steps=16)} == {0.5}


def _first(case: Case, **space: Any) -> Any:
    session = Session.build(case.settings(**asked(batch_factors=[0.25, 0.5, 1], **space)))
    return [session.space.candidate(point) for point in session.initial]


def test_rates_are_tried_with_the_batches_that_a_search_begins_with(case: Case, tmp_path: Path) -> None:
    told: list[int] = []
    settings = case.settings(**asked(batch_factors=[0.25, 1], least_steps=20), learning_rates=[1e-3, 1e-2])
    session = Session.build(settings)
    kept = type(session.evaluator).trained

    def trained(self: Any, *arguments: Any, **named: Any) -> Any:
        told.append(self.recipe.batch_size)
        return kept(self, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch, session.begin(tmp_path) as study:
        patch.setattr(type(session.evaluator), "trained", trained)
        session.proxy(study, folder=tmp_path)
    assert told
    assert set(told) == {2}


def test_it_is_written_out_and_only_where_there_is_a_choice_of_batches(case: Case) -> None:
    assert resolved(case.settings()).space.least_steps == 0
    assert resolved(case.settings(space={"name": "recommended"})).space.least_steps == 150
    assert resolved(case.settings(**asked(batch_factors=[0.5, 1]))).space.least_steps == 150
    own = SpaceSettings(name="recommended", least_steps=7)
    assert resolved(case.settings().with_changes(space=own)).space.least_steps == 7
    # Studies of before there was this setting had none, and are recognised.
    before = case.settings().identity()["space"]
    assert "least_steps" not in resolved(case.settings()).identity()["space"]
    assert before.get("least_steps") is None
