"""Experiment trackers: what they are told, and that they cost no trial."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from accelerate import tracking as theirs
from accelerate.utils import LoggerType

from autopeft.errors import SettingsError
from autopeft.session import search
from autopeft.study.events import Claimed
from autopeft.tracking import check, names, tracked
from formulas import SPACE, Blind, formula, made
from small_case import Case


class Recorder(theirs.GeneralTracker):
    """Stands for a tracker whose package is installed."""

    name = "mlflow"
    requires_logging_directory = True
    made: list[Recorder] = []  # noqa: RUF012

    def __init__(self, run_name: str, logging_dir: Path, **_: Any) -> None:
        super().__init__()
        self.run_name, self.folder, self.told, self.is_finished = run_name, logging_dir, dict[int, Any](), False
        self.settings: dict[str, Any] = {}
        self.made.append(self)

    @property
    def tracker(self) -> None: ...

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.settings = values

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        assert step is not None
        self.told[step] = values

    def finish(self) -> None:
        self.is_finished = True


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    monkeypatch.setitem(theirs.LOGGER_TYPE_TO_CLASS, "mlflow", Recorder)
    monkeypatch.setattr(theirs, "_available_trackers", [LoggerType("mlflow")])
    Recorder.made = []
    return Recorder


def test_a_search_tells_every_trial(recorder: type[Recorder], case: Case, tmp_path: Path) -> None:
    settings = case.settings(trackers=["mlflow"])
    with search(settings, tmp_path / "mine") as study:
        trials = study.trials()
    (one,) = recorder.made
    assert one.run_name.startswith("mine-")
    assert one.folder == tmp_path / "mine" / "logs"
    assert one.is_finished
    assert (one.settings["trials"], one.settings["recipe.batch_size"], one.settings["task"]) == (3, 8, "None")
    assert set(one.told) == {0, 1, 2}
    for trial in trials:
        assert trial.measurement is not None
        told = one.told[trial.number]
        assert told["validation/accuracy"] == trial.measurement.value
        assert told["parameters/nominal"] == trial.measurement.counts.nominal
        assert told["parameters/percent"] == trial.measurement.percent
    with search(case.settings(trials=4), tmp_path / "mine") as study:  # without a tracker the same study goes on
        assert len(study.trials()) == 4
    assert len(recorder.made) == 1


def test_a_tracker_that_fails_costs_nothing(
    recorder: type[Recorder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Recorder, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        raise ConnectionError("no server")

    monkeypatch.setattr(recorder, "log", fail)
    seen: list[Any] = []
    with (
        caplog.at_level(logging.WARNING),
        made(tmp_path / "study.db") as study,
        tracked(["mlflow"], tmp_path, {}, seen.append) as tell,
    ):
        study.run(formula, Blind(SPACE), 2, on_event=tell)
        assert all(trial.is_complete for trial in study.trials())
    assert "The tracker 'mlflow' failed: ConnectionError: no server" in caplog.text
    assert [type(event) is Claimed for event in seen] == [True, False, True, False]


def test_unknown_and_missing_trackers_are_refused(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "wandb" in names()
    monkeypatch.setattr(theirs, "_available_trackers", [])
    with pytest.raises(SettingsError, match=r"`trackers` are some of .*tensorboard.*, but got pony"):
        check(["pony"])
    with pytest.raises(SettingsError, match="not installed: wandb"):
        search(case.settings(trackers=["wandb"]), tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_without_a_tracker_nothing_stands_between(tmp_path: Path) -> None:
    with tracked([], tmp_path, {}, print) as tell:
        assert tell is print
