"""Optuna's samplers in our studies, and ours in Optuna's."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import optuna
import pytest
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)

from autopeft.errors import SettingsError, SpaceExhaustedError
from autopeft.samplers import build
from autopeft.samplers.optuna import LatticeSampler, Replayed, index_distributions, suggest, value_distributions
from autopeft.samplers.random import initial_design
from autopeft.spaces.lattice import Configuration, SearchSpace
from lattice import accuracy, autopeft_space, complete, failed, history, running, tiny_space


class TestConformance(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    """Optuna's published conformance tests.

    They suggest parameters of their own, which are no choices of our lattice: they check that `LatticeSampler`
    leaves those to random draws while it proposes. `SingleOnlySamplerTestCase` does not apply: it wants an error
    for several objectives, which this sampler serves.
    """

    @pytest.fixture
    def sampler(self) -> Callable[[], LatticeSampler]:
        # Large enough for every test's number of trials.
        space = autopeft_space(3, 8)
        return lambda: LatticeSampler(space, build("random", space, 0))


def objective(space: SearchSpace) -> Callable[[optuna.Trial], float]:
    """What a user of Optuna would write."""

    def value(trial: optuna.Trial) -> float:
        configuration = space.configuration(suggest(trial, space))
        assert configuration is not None
        return accuracy(space, configuration)

    return value


def test_a_study_of_optunas_proposes_what_ours_would() -> None:
    space = autopeft_space(3, 8)
    study = optuna.create_study(direction="maximize", sampler=LatticeSampler(space, build("random", space, 4)))
    study.optimize(objective(space), n_trials=6)
    ours: list[Any] = []
    for number in range(6):
        (configuration,) = build("random", space, 4).ask(ours)
        ours.append(complete(space, number, configuration, accuracy(space, configuration)))
    names = [choice.name for choice in space.choices]
    values = [[c.values[i] for c, i in zip(space.choices, t.configuration.indices, strict=True)] for t in ours]
    assert [[t.params[name] for name in names] for t in study.trials] == values


def test_a_study_of_optunas_with_a_tiny_space_ends_with_a_clear_error() -> None:
    space = tiny_space()
    study = optuna.create_study(direction="minimize", sampler=LatticeSampler(space, build("random", space, 0)))
    study.optimize(lambda trial: float(len(suggest(trial, space).architecture)), n_trials=6)
    assert len({tuple(t.params.values()) for t in study.trials}) == 6
    with pytest.raises(SpaceExhaustedError, match="Every feasible architecture"):
        study.optimize(lambda trial: float(len(suggest(trial, space).architecture)), n_trials=1)


def test_trials_that_others_hold_are_not_proposed_again_even_before_they_suggest() -> None:
    space = tiny_space()
    study = optuna.create_study(direction="maximize", sampler=LatticeSampler(space, build("random", space, 0)))
    asked = [study.ask(value_distributions(space)) for _ in range(6)]
    assert len({tuple(trial.params.values()) for trial in asked}) == 6


def test_trials_that_suggest_in_another_order_and_in_threads_propose_apart() -> None:
    space = tiny_space()
    sampler = LatticeSampler(space, build("random", space, 0))
    study = optuna.create_study(direction="maximize", sampler=deepcopy(sampler))
    first, second = study.ask(), study.ask()
    assert suggest(second, space) != suggest(first, space)
    study.optimize(lambda trial: float(len(suggest(trial, space).architecture)), n_trials=4, n_jobs=4)
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 6


class Recorder:
    """A sampler that keeps what it was shown."""

    name = "recorder"

    def __init__(self, space: SearchSpace) -> None:
        self.space, self.shown = space, list[Any]()

    def ask(self, trials: Any, n: int = 1) -> list[Configuration]:
        self.shown = list(trials)
        return build("random", self.space, 0).ask(trials, n)


@pytest.mark.parametrize(("direction", "expected"), [("maximize", 0.25), ("minimize", -0.25)])
def test_the_metrics_position_and_direction_are_the_studys(direction: str, expected: float) -> None:
    space = tiny_space()
    recorder = Recorder(space)
    sampler = LatticeSampler(space, recorder, metric=1, backbone=1000)
    study = optuna.create_study(directions=["minimize", direction], sampler=sampler)
    first = study.ask(value_distributions(space))
    study.tell(first, [99.0, 0.25])
    lost = study.ask(value_distributions(space))
    study.tell(lost, state=optuna.trial.TrialState.FAIL)
    study.ask(value_distributions(space))
    measured, gone = recorder.shown
    assert measured.measurement.value == expected
    # One layer costs 2 * 8 * size nominal parameters of 1000.
    assert measured.measurement.percent == pytest.approx(space.cost(measured.configuration) / 10)
    assert gone.failure.kind == "crash"


def test_an_infinite_value_is_a_failed_trial() -> None:
    space = tiny_space()
    recorder = Recorder(space)
    study = optuna.create_study(sampler=LatticeSampler(space, recorder))
    study.tell(study.ask(value_distributions(space)), float("inf"))
    study.ask(value_distributions(space))
    (shown,) = recorder.shown
    assert (shown.measurement, shown.failure.kind, shown.is_taken) == (None, "nan", True)
    assert "inf" in shown.failure.message


def test_a_metric_that_the_study_does_not_have_is_an_error() -> None:
    space = tiny_space()
    study = optuna.create_study(sampler=LatticeSampler(space, build("random", space, 0), metric=1))
    study.tell(study.ask(value_distributions(space)), 1.0)
    with pytest.raises(SettingsError, match="the study's 1 objectives, but got 1"):
        study.ask(value_distributions(space))
    with pytest.raises(SettingsError, match="but got -1 and 96"):
        LatticeSampler(space, build("random", space, 0), metric=-1, backbone=96)


def test_bayesian_optimisation_drives_a_study_of_optunas() -> None:
    space = autopeft_space(3, 8)
    sampler = LatticeSampler(space, build("saas-nehvi", space, 0))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective(space), n_trials=5)
    assert len({tuple(t.params.values()) for t in study.trials}) == 5


@pytest.mark.parametrize(("name", "start"), [("tpe", "startup"), ("nsga2", "population"), ("gp", "startup")])
@pytest.mark.slow
def test_the_model_is_used_after_the_start(name: str, start: str) -> None:
    # With the model of Optuna in charge, the answer depends on the values; a random one would not.
    space = autopeft_space()
    design = initial_design(space, 1, 10)
    trials = history(space, design)
    swapped = history(space, design, lambda space, configuration: 1 - accuracy(space, configuration))
    options = {start: 5}
    assert build(name, space, 2, options).ask(trials, 2) != build(name, space, 2, options).ask(swapped, 2)


def test_replayed_trials_keep_their_state_values_and_generation() -> None:
    space = tiny_space()
    a, b, c, d, e, _ = space.enumerate()
    sampler = build("nsga2", space, 0, {"population": 2})
    assert isinstance(sampler, Replayed)
    trials = [
        complete(space, 0, a, 0.5), failed(space, 1, b), complete(space, 2, c, 0.75), complete(space, 3, d, 0.25),
        running(space, 4, e),
    ]  # fmt: skip
    replayed = sampler._study(trials, 0).trials
    assert [t.state.name for t in replayed] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "RUNNING"]
    assert replayed[2].values[0] == 0.75
    assert [t.system_attrs["NSGAIISampler:generation"] for t in replayed] == [0, 0, 0, 1, 1]
    assert replayed[0].distributions == index_distributions(space)


@pytest.mark.parametrize("name", ["tpe", "nsga2", "gp"])
def test_bad_options_are_listed_together(name: str) -> None:
    size = "population" if name == "nsga2" else "startup"
    with pytest.raises(SettingsError, match=rf"{size} .* got 0; attempts .* got 'x'"):
        build(name, tiny_space(), 0, {size: 0, "attempts": "x"})
