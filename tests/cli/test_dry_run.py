"""What `autopeft check` says of a search before it runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autopeft.cli.dry_run import forecast
from autopeft.cli.finish import FinalsAsked
from autopeft.cli.total import Total
from autopeft.session import Session
from autopeft.training.rate_card import trainings_of_card
from sample_trials import measured
from small_case import Case

MEASUREMENT = measured(0, 10, 0.5).measurement
assert MEASUREMENT is not None


def test_facts_of_the_space_and_the_data(case: Case) -> None:
    facts = forecast(Session.build(case.settings()), steps=0)
    assert (facts["choices"], facts["cardinality"], facts["valid"]) == (5, 96, 77)
    assert facts["percent"] == pytest.approx([100 * 64 / 32_032, 100 * 1152 / 32_032])
    assert (facts["train_examples"], facts["validation_examples"], facts["steps_a_trial"]) == (32, 16, 2)
    # 4,096 draws of a share of 77/96: five standard errors are 0.031, exceeded once in 1.7 million seeds.
    assert facts["share_within_budget"] == pytest.approx(77 / 96, abs=0.031)
    assert not [name for name in facts if name.startswith("seconds")]


def test_the_data_are_told_in_words(case: Case) -> None:
    facts = forecast(Session.build(case.settings()), steps=0)
    assert facts["train"].startswith("32 examples of ")
    assert facts["train"].endswith(": bad 16, good 16")
    assert facts["validation"].startswith("16 examples of ")


def test_a_sampler_that_trains_is_told_with_its_budgets(case: Case) -> None:
    options = {"budgets": ["320", "640"], "steps": 5}
    space = {"methods": {"serial": {"sizes": [0, 1, 2]}}, "layers": "all", "sharing": "placement"}
    facts = forecast(Session.build(case.settings(sampler="bipeft", sampler_options=options, space=space)), steps=1)
    assert facts["budget"] == "at most 320 stored parameters, at most 640 stored parameters"
    assert facts["not_in_the_time"] == "what bipeft itself trains before it answers a budget"
    assert "not_in_the_time" not in forecast(Session.build(case.settings()), steps=1)


def test_evaluations_are_counted_whether_the_length_is_in_steps_or_epochs(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An epoch of 32 examples has 4 steps. A step takes 2 seconds, an evaluation 10.
    found = replace(MEASUREMENT, seconds=2 * 5 + 10.0, extra={"train_seconds": 10.0})
    monkeypatch.setattr("autopeft.training.evaluator.Evaluator.__call__", lambda *call, **more: found)
    for recipe, evaluations, n_steps in (
        ({"steps": 8, "evaluate_every": 0.5}, 4, 8),
        ({"steps": 8, "evaluate_every": 0.01}, 8, 8),
        ({"epochs": 3}, 3, 12),
        ({"epochs": 0.5}, 1, 2),
    ):
        session = Session.build(case.settings(recipe={"batch_size": 8, "max_length": 16, **recipe}))
        assert forecast(session, steps=5)["seconds_a_trial"] == 2 * n_steps + 10 * evaluations


def test_time_is_counted_in_runs_of_the_sweep_and_the_search(case: Case) -> None:
    session = Session.build(case.settings(learning_rates=[1e-3, 1e-2], trials=6, workers=2))
    facts = forecast(session, steps=2)
    assert 0 < facts["seconds_a_step"] < facts["seconds_a_trial"]
    assert facts["hours_of_training"] == pytest.approx((6 + 2) * facts["seconds_a_trial"] / 2 / 3600)


def test_a_card_is_counted_by_method_and_finals_at_their_most(case: Case) -> None:
    session = Session.build(case.settings(rates="card", learning_rates=[1e-3, 1e-2, 1e-1], trials=6))
    # Two methods: three rates to a third, the better two of them to the end; or all three, and two beyond them.
    assert trainings_of_card(2, 3) == (pytest.approx(2 * (1 + 2 * 2 / 3)), 2 * 5)
    finals = FinalsAsked(each=2, baselines=("serial", "bitfit"), first=2, last=4, at=("1%",))
    total = Total.of(session, finals, Session.build(finals.after(session.settings), like=session))
    facts = forecast(session, steps=2, total=total)
    assert facts["learning_rates"] == "a card of 2 methods, 4.67 to 10 trainings"
    # Four finalists with three rates, one beyond them and a second seed; one of each side with two seeds more.
    assert facts["finals"] == f"at most {4 * 5 + 2 * 2} runs of {20 * 32} examples each"
    assert facts["hours_of_training"] == pytest.approx((6 + 10) * facts["seconds_a_trial"] / 3600)
    assert facts["hours_of_finals_at_most"] == pytest.approx(24 * facts["seconds_a_run_of_the_finals"] / 3600)
    assert facts["seconds_a_run_of_the_finals"] > facts["seconds_a_trial"]
