"""What a trial looks like in Optuna's storage, and that it comes back unharmed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest

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
