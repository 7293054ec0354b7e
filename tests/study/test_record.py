"""What a trial looks like in Optuna's storage, and that it comes back unharmed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest

from autopeft.objective import Epoch
from autopeft.study.record import object_of, read_facts
from autopeft.study.study import Study
from formulas import SPACE, Blind, formula, made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "study.db"


@pytest.fixture
def study(path: Path) -> Iterator[Study]:
    with made(path) as opened:
        yield opened


def test_optuna_sees_parameters_directions_and_values(path: Path, study: Study) -> None:
    study.run(formula, Blind(SPACE), 4)
    seen = optuna.load_study(study_name="search", storage=f"sqlite:///{path}")
    assert [d.name for d in seen.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert seen.metric_names == ["accuracy", "percent"]
    for stored, trial in zip(seen.trials, study.trials(), strict=True):
        assert trial.measurement is not None
        assert stored.values == [trial.measurement.value, trial.measurement.percent]
        wanted = {c.name: c.values[i] for c, i in zip(SPACE.choices, trial.configuration.indices, strict=True)}
        assert stored.params == wanted
        assert isinstance(stored.distributions["layer.0"], optuna.distributions.IntDistribution)
        assert stored.distributions["lora"] == optuna.distributions.CategoricalDistribution((0, 1, 2, 4, 8))
    fronts = {t.number for t in seen.best_trials}
    assert {point.key for point in study.front().points} <= fronts


def test_numbers_of_other_libraries_and_odd_text_are_stored(study: Study) -> None:
    trial = study.claim(Blind(SPACE), 2)
    assert trial is not None
    odd = {"array": np.array([1.5, 2.5]), "path": Path("a"), "text": "nul \x00 and \ud800"}
    study.tell(trial, replace(formula(trial.architecture, 0), extra=odd))
    read = study.trial(0).measurement
    assert read is not None
    assert read.extra == {"array": [1.5, 2.5], "path": "a", "text": "nul \x00 and \ud800"}


def test_a_curve_is_cut_out_of_the_text_before_it_is_read() -> None:
    told = '{"split": "a", "history": [{"epoch": 1.0, "metrics": {"f1": 0.5}}], "extra": {"history": [1]}}'
    texts = {"origin": '"initial"', "measurement": told}
    whole, brief = (read_facts(object_of(texts), with_history) for with_history in (True, False))
    assert len(whole["measurement"]["history"]) == 1
    assert brief == {**whole, "measurement": {**whole["measurement"], "history": []}}


def test_a_curve_that_cannot_be_cut_out_is_read_whole() -> None:
    texts = {"measurement": '{"history": [{"metrics": {"f1]": 0.5}}], "split": "a"}'}
    assert read_facts(object_of(texts), False) == read_facts(object_of(texts), True)
    assert read_facts(object_of({}), False) == {}


@pytest.mark.parametrize("with_history", [True, False])
def test_a_trial_without_its_curve_lacks_nothing_else(study: Study, with_history: bool) -> None:
    trial = study.claim(Blind(SPACE), 2)
    assert trial is not None
    curve = (Epoch(1.0, 3, 0.5, {"accuracy": 0.25, "odd]": 1.0}, 1.5),)
    study.tell(trial, replace(formula(trial.architecture, 0), history=curve))
    (read,) = study.trials(with_history=with_history)
    whole = study.trial(0)
    assert whole.measurement is not None
    assert whole.measurement.history == curve
    kept = whole.measurement if with_history else replace(whole.measurement, history=())
    assert read == replace(whole, measurement=kept)
