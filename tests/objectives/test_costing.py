"""Costs by name, in samplers and in what they know beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autopeft import objectives, samplers
from autopeft.architecture import Architecture, ParameterBudget
from autopeft.errors import InputError, SettingsError, UnknownNameError
from autopeft.objective import Measurement, Objective
from autopeft.objectives import NOMINAL, Costing
from autopeft.samplers._bayes.costs import LatticeCosts
from autopeft.samplers._bayes.outcome import CostAxis
from autopeft.samplers.random import initial_design
from autopeft.samplers.saas_nehvi import SaasNehvi
from autopeft.spaces.lattice import SearchSpace
from autopeft.study.study import Study
from autopeft.trial import Trial
from lattice import autopeft_space, history

LAYERS = Objective("layers", unit="layers", about="layers in use", read=lambda _: None)
"""A cost that trials say and nothing else does."""

READING = tuple(name for name in samplers.names() if samplers.lookup(name).reads_cost)


def space(budget: ParameterBudget | None = None) -> SearchSpace:
    return autopeft_space(3, 48, sizes=(0, 1, 6, 48), budget=budget)


def n_layers(architecture: Architecture) -> float:
    return float(len({placement.site for placement in architecture}))


def told(trials: Sequence[Trial], cost: Any) -> list[Trial]:
    """The same trials, which say `cost` of their architecture under the name of `LAYERS`."""

    def with_cost(found: Measurement, value: float) -> Measurement:
        return replace(found, costs={LAYERS.name: {"value": value}})

    return [
        replace(trial, measurement=with_cost(trial.measurement, cost(trial.architecture)))
        for trial in trials
        if trial.measurement is not None
    ]


def test_a_cost_is_found_by_name_or_by_a_dotted_path() -> None:
    assert objectives.lookup("nominal") is NOMINAL
    assert objectives.lookup("autopeft.objectives.parameters:NOMINAL") is NOMINAL
    with pytest.raises(UnknownNameError, match=r"Did you mean 'operations'"):
        objectives.lookup("operation")
    with pytest.raises(SettingsError, match=r"A cost is an `Objective`, but 'math:pi' is 3\.14"):
        objectives.lookup("math:pi")


def test_what_is_to_be_maximised_is_no_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autopeft.objectives.parameters.NOMINAL", Objective("speed", "maximize"))
    with pytest.raises(SettingsError, match=r"A cost is minimised, but the direction .* is 'maximize'"):
        objectives.lookup("autopeft.objectives.parameters:NOMINAL")


@pytest.mark.parametrize("text", ["", "fast", "-3", "20 s", "9-5", "1e999"])
def test_a_limit_that_cannot_be_read_is_refused(text: str) -> None:
    from autopeft.architecture import Counts
    from autopeft.errors import BudgetError

    with pytest.raises(BudgetError, match="A limit on layers is '20 layers' or '5-20'"):
        LAYERS.limits(text, Counts(1, 1, 1, 100))


def test_every_sampler_that_compares_trials_reads_the_cost() -> None:
    assert set(READING) == {"evolution", "gp", "nsga2", "saas-nehvi", "tpe"}


@pytest.mark.slow
@pytest.mark.parametrize("name", READING)
def test_another_cost_changes_what_is_proposed(name: str) -> None:
    # 30 trials are more than any start-up; the costs of the second history are those of the first, upside down.
    own = space()
    trials = history(own, initial_design(own, 9, 30))
    asked = []
    for cost in (n_layers, lambda architecture: 10.0 - n_layers(architecture)):
        sampler = samplers.build(name, own, 7, {}, Costing(LAYERS))
        asked.append([own.identity(one) for one in sampler.ask(told(trials, cost), 4)])
    assert asked[0] != asked[1]


def test_trials_that_have_not_stored_the_cost_are_not_learned_from() -> None:
    own = space()
    trials = history(own, initial_design(own, 9, 8))
    sampler = samplers.build("saas-nehvi", own, 7, {}, Costing(LAYERS))
    assert len(sampler.ask(trials, 2)) == 2
    with pytest.raises(ValueError, match="at least 2 measured trials, but there are 0"):
        sampler.score(trials, [trials[0].configuration])  # type: ignore[attr-defined]


def test_samplers_that_answer_budgets_say_that_they_know_parameters_alone() -> None:
    for name in samplers.names():
        if not samplers.lookup(name).reads_trials:
            samplers.check_cost(name, objectives.lookup("stored"))
            with pytest.raises(SettingsError, match=f"'{name}' answers budgets of parameters and of nothing else"):
                samplers.check_cost(name, LAYERS)
        else:
            samplers.check_cost(name, LAYERS)


def test_a_cost_that_is_not_known_beforehand_is_modelled() -> None:
    own = space()
    found = samplers.settings_of(samplers.build("saas-nehvi", own, 7, {}, Costing(LAYERS)))
    assert (found["cost_model"], found["integration"]) == ("gp", "sampled")
    for known in (None, Costing(objectives.lookup("stored")), Costing(LAYERS, n_layers)):
        exact = samplers.settings_of(samplers.build("saas-nehvi", own, 7, {}, known))
        assert (exact["cost_model"], exact["integration"]) == ("exact", "closed")


def test_nominal_parameters_lie_where_they_did_before_there_were_other_costs() -> None:
    own = space(ParameterBudget(most=30_000, least=100))
    configurations = initial_design(own, 3, 12)
    counts = np.array([own.cost(one) for one in configurations])
    costs = LatticeCosts(own, "log", Costing())
    assert costs.positions(configurations).tolist() == CostAxis.of(own, "log")(counts).tolist()
    assert (costs.axis.low, costs.axis.high) == (100, 30_000)


@pytest.mark.parametrize("scale", ["linear", "log", "rank"])
def test_a_priced_cost_lies_between_its_cheapest_and_its_dearest(scale: Any) -> None:
    own = space()
    asked: list[Architecture] = []

    def price(architecture: Architecture) -> float:
        asked.append(architecture)
        return 100.0 + n_layers(architecture)

    costs = LatticeCosts(own, scale, Costing(LAYERS, price))
    configurations = [*initial_design(own, 3, 12), own.largest()]
    found = costs.positions(configurations)
    order = np.argsort([n_layers(own.decode(one)) for one in configurations], kind="stable")
    assert (np.diff(found[order]) >= 0).all()
    assert found.max() == found[-1] == 1.0
    n_asked = len(asked)
    costs.positions(configurations)
    assert len(asked) == n_asked  # every architecture is priced once


def test_the_search_looks_where_a_priced_cost_is_low() -> None:
    own = space()
    trials = told(history(own, initial_design(own, 9, 12)), n_layers)
    sampler = samplers.build("saas-nehvi", own, 7, {}, Costing(LAYERS, n_layers))
    assert isinstance(sampler, SaasNehvi)
    (one,) = sampler.ask(trials, 1)
    assert own.is_feasible(one)


def test_a_study_takes_no_measurement_without_its_cost(tmp_path: Path) -> None:
    own = space()
    settings = {"cost": "bytes"}
    with Study.create_or_resume(tmp_path / "study.db", "mine", own, "metric", settings, 0) as study:
        trial = study.claim(samplers.build("random", own, 7), 3)
        assert trial is not None
        (made,) = history(own, [trial.configuration])
        assert made.measurement is not None
        bare = replace(made.measurement, metrics={"metric": 0.5}, objective="metric")
        with pytest.raises(InputError, match="The study minimises 'bytes', but the measurement does not say it"):
            study.tell(trial, bare)
        told_one = study.tell(trial, replace(bare, costs={"bytes": {"value": 4.0}}))
        assert [(point.key, point.cost) for point in study.front().points] == [(told_one.number, 4.0)]
        assert [point.cost for point in study.front(NOMINAL).points] == [bare.percent]
