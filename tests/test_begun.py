"""A search that goes on keeps the choices that it was begun with, where the command leaves them open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from autopeft.errors import StudyMismatchError
from autopeft.session import Session, as_begun, join, search
from autopeft.study.study import Study
from small_case import Case, call

THEN: dict[str, Any] = {"name": "recommended", "batch_factors": [0.25, 1], "dropout_factors": [], "least_steps": 0}
"""The recommended space with the choices of an earlier version."""
NOW = {"name": "recommended"}


def finished(folder: Path) -> int:
    with Study.open(folder / "study.db") as study:
        return sum(trial.counts_as_finished for trial in study.trials())


@pytest.fixture
def begun(case: Case, tmp_path: Path) -> Path:
    """A search of one trial with the choices of then, in a folder that lacks what came later."""
    folder = tmp_path / "run"
    search(case.settings(space=THEN, start="random", initial=1, trials=1), folder).close()
    path = folder / "settings.yaml"
    stored = yaml.safe_load(path.read_text())
    assert stored["space"].pop("least_steps") == 0
    assert stored["space"].pop("dropout_factors") == []
    path.write_text(yaml.safe_dump(stored))
    return folder


def test_it_goes_on_by_the_same_command(case: Case, begun: Path) -> None:
    now = case.settings(space=NOW, initial=None, trials=2)
    with pytest.raises(StudyMismatchError):
        Session.build(now).begin(begun).close()
    found = as_begun(now, begun)
    assert (found.start, found.initial, found.space.batch_factors) == ("random", 1, (0.25, 1))
    assert (found.space.dropout_factors, found.space.least_steps) == ((), 0)
    search(now, begun).close()
    assert finished(begun) == 2


@pytest.mark.slow
def test_so_does_the_command_line_and_a_worker(case: Case, begun: Path, tmp_path: Path) -> None:
    asked = case.write(tmp_path / "asked.yaml", space=NOW, initial=None, trials=2)
    found = call("search", asked, "--out", begun)
    assert found.code == 0, found.err
    path = begun / "settings.yaml"
    stored = yaml.safe_load(path.read_text())
    del stored["space"]["least_steps"]
    path.write_text(yaml.safe_dump({**stored, "trials": 3}))
    join(begun).close()
    assert finished(begun) == 3


@pytest.mark.parametrize(
    "asked",
    [
        {"space": {**NOW, "batch_factors": [0.5, 1]}, "initial": None},
        {"space": NOW, "initial": 2},
        {"space": NOW, "initial": None, "sampler": "evolution"},
        {},
    ],
)
def test_what_is_said_is_not_overruled(case: Case, begun: Path, asked: dict[str, Any]) -> None:
    with pytest.raises(StudyMismatchError):
        search(case.settings(**asked), begun)
    assert finished(begun) == 1


def test_where_none_has_begun_settings_are_as_they_are(case: Case, tmp_path: Path) -> None:
    settings = case.settings(space=NOW, initial=None)
    assert as_begun(settings, tmp_path) is settings
    (tmp_path / "settings.yaml").write_text("model: [")
    assert as_begun(settings, tmp_path) is settings
