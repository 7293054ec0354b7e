"""What `autopeft check` says of a search before it runs."""

from __future__ import annotations

import pytest

from autopeft.forecast import forecast
from autopeft.session import Session
from small_case import Case


def test_facts_of_the_space_and_the_data(case: Case) -> None:
    facts = forecast(Session.build(case.settings()), steps=0)
    assert (facts["choices"], facts["cardinality"], facts["valid"]) == (5, 96, 77)
    assert facts["percent"] == pytest.approx([100 * 64 / 32_032, 100 * 1152 / 32_032])
    assert (facts["train_examples"], facts["validation_examples"], facts["steps_a_trial"]) == (32, 16, 2)
    # 4,096 draws of a share of 77/96: five standard errors are 0.031, exceeded once in 1.7 million seeds.
    assert facts["share_within_budget"] == pytest.approx(77 / 96, abs=0.031)
    assert not [name for name in facts if name.startswith("seconds")]


def test_time_is_counted_in_runs_of_the_sweep_and_the_search(case: Case) -> None:
    session = Session.build(case.settings(learning_rates=[1e-3, 1e-2], trials=6, workers=2))
    facts = forecast(session, steps=2)
    assert 0 < facts["seconds_a_step"] < facts["seconds_a_trial"]
    assert facts["hours_of_training"] == pytest.approx((6 + 2) * facts["seconds_a_trial"] / 2 / 3600)
