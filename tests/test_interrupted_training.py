"""Searches and retrainings that end in mid-training go on from there: the same results, and nothing trained twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import small_case
from autopeft.architecture import Architecture, Placement
from autopeft.fidelity import FULL, Fidelity
from autopeft.interruption import Interruption
from autopeft.objective import Measurement
from autopeft.session import Session, search
from autopeft.study.study import Study
from autopeft.training.checkpoint import Checkpoints
from autopeft.training.loop import Training
from autopeft.training.retraining import Retrained, retrain
from small_case import Case

# Processes and signals by the clock: where a busy machine makes a sound one fail, its second try is told as a rerun.
pytestmark = pytest.mark.flaky(reruns=1)

SERIAL = Architecture((Placement("encoder.0.ffn", "serial", 2),))
RECIPE = {"steps": 8, "batch_size": 8, "max_length": 16, "learning_rate": 3e-3, "dropout": 0.2}
"""Two epochs over 32 examples."""


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, end_after: int | None = None) -> Iterator[list[int]]:
    """The steps that are trained within, by their number in their run; a signal ends the process after so many."""
    step, seen = Training._step_whole, list[int]()

    def one(run: Training) -> None:
        step(run)
        seen.append(run.done)
        if len(seen) == end_after:
            raise Interruption(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step_whole", one)
        yield seen


def without_times(found: Measurement) -> Any:
    history = [(point.step, point.loss, dict(point.metrics)) for point in found.history]
    extra = {name: value for name, value in found.extra.items() if name != "train_seconds"}
    return dict(found.metrics), history, extra


def measured(folder: Path) -> list[Any]:
    """What the trials of a study came to, but for numbers and times."""
    trials = [trial for trial in small_case.trials(folder) if trial.is_complete]
    return [(trial.architecture, trial.origin, without_times(trial.measurement)) for trial in trials]


@pytest.mark.parametrize("end_after", [pytest.param(5, marks=pytest.mark.slow), 22])
def test_a_terminated_search_goes_on_at_its_very_step(
    end_after: int, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep of two rates of 8 steps each, then two trials: 32 steps, of which none is done twice."""
    settings = case.settings(recipe=RECIPE, trials=2, learning_rates=[1e-3, 3e-3])
    with counted(monkeypatch) as whole:
        search(settings, tmp_path / "whole").close()
    assert whole == [*range(1, 9)] * 4
    with counted(monkeypatch, end_after) as first, pytest.raises(Interruption):
        search(settings, tmp_path / "part")
    with counted(monkeypatch) as rest:
        search(settings, tmp_path / "part").close()
    assert first + rest == whole
    assert measured(tmp_path / "part") == measured(tmp_path / "whole")
    assert not (tmp_path / "part" / "checkpoints").exists()


def test_rungs_are_measured_stored_and_told(case: Case, tmp_path: Path) -> None:
    asked = case.write(tmp_path / "asked.yaml", recipe=RECIPE, trials=2, rungs=["25%", 1])
    assert small_case.call("search", asked, "--out", tmp_path / "run").code == 0
    for trial in small_case.trials(tmp_path / "run"):
        assert [(one.step, one.fidelity) for one in trial.reached] == [
            (2, Fidelity(0.25, "share")), (4, Fidelity(1)), (8, FULL),
        ]  # fmt: skip
        assert trial.at(FULL).value == trial.measurement.value
    with Study.open(tmp_path / "run" / "study.db") as study:
        assert [(one["lower"], one["upper"], one["n"]) for one in study.fact("rungs")] == [
            ("25%", 1.0, 2), ("25%", "100%", 2), (1.0, "100%", 2),
        ]  # fmt: skip
    assert small_case.call("report", tmp_path / "run", "--to", tmp_path / "report.json").code == 0
    told = json.loads((tmp_path / "report.json").read_text())
    assert (told["search_cost"]["trainings"], told["search_cost"]["examples"], len(told["rungs"])) == (2.0, 128, 3)


@pytest.mark.parametrize(("rungs", "why"), [([3], "lie within the run"), ([2, 1], "must increase"), (["x"], "number")])
def test_rungs_that_cannot_be_are_refused_before_any_work(
    rungs: list[Any], why: str, case: Case, tmp_path: Path
) -> None:
    asked = case.write(tmp_path / "asked.yaml", recipe=RECIPE, rungs=rungs)
    called = small_case.call("search", asked, "--out", tmp_path / "run")
    assert called.code == 2
    assert why in " ".join(called.err.split())
    assert not (tmp_path / "run").exists()


def retrained(case: Case, folder: Path) -> Retrained:
    session = Session.build(case.settings(recipe=RECIPE))
    evaluator = session.evaluator.with_checkpoints(Checkpoints(folder, is_held=True))
    return retrain(evaluator, "it", SERIAL, (40, 41), learning_rates=(1e-3, 3e-3), widen=0)


@pytest.mark.slow
@pytest.mark.parametrize("end_after", [3, 12, 19])
def test_a_terminated_retraining_trains_nothing_twice(
    end_after: int, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rates, then two seeds, the first of which at the rate that is chosen is the sweep's own run: 24 steps."""
    with counted(monkeypatch) as whole:
        expected = retrained(case, tmp_path / "whole")
    assert whole == [*range(1, 9)] * 3
    with counted(monkeypatch, end_after) as first, pytest.raises(Interruption):
        retrained(case, tmp_path / "part")
    with counted(monkeypatch) as rest:
        found = retrained(case, tmp_path / "part")
    assert first + rest == whole
    assert [without_times(item) for item in found.test] == [without_times(item) for item in expected.test]
    assert (found.validation, found.sweep, found.learning_rate) == (
        expected.validation, expected.sweep, expected.learning_rate,
    )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_train_keeps_its_runs_beside_the_results_until_all_are_done(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = case.write(tmp_path / "asked.yaml", recipe=RECIPE)
    words = ["train", asked, "--baseline", "serial:2", "--seeds", "2", "--epochs", "2", "--to", tmp_path / "to.json"]
    with counted(monkeypatch, 12) as first:
        assert small_case.call(*words).code == 128 + signal.SIGTERM
    assert (tmp_path / ".serial:2.checkpoints").is_dir()
    with counted(monkeypatch) as rest:
        called = small_case.call(*words, "--overwrite")
    assert called.code == 0, called.err
    assert first + rest == [*range(1, 9)] * 2
    assert {path.name for path in tmp_path.iterdir()} == {"asked.yaml", "to.json"}


def _started(words: Sequence[object]) -> subprocess.Popen[str]:
    source = str(Path(__file__).parents[1] / "src")
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "autopeft", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow  # a process of its own that is killed takes ten seconds to start
def test_a_search_that_is_killed_goes_on_from_its_last_evaluation(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = {**RECIPE, "steps": 600}
    asked, folder = case.write(tmp_path / "asked.yaml", trials=1, recipe=recipe), tmp_path / "part"
    with _started(["search", asked, "--out", folder]) as process:
        deadline = time.monotonic() + 120
        while not list(folder.glob("checkpoints/*.safetensors")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    with counted(monkeypatch) as rest:
        assert small_case.call("search", asked, "--out", folder).code == 0
    assert 0 < len(rest) < 600
    assert small_case.call("search", asked, "--out", tmp_path / "whole").code == 0
    assert measured(folder) == measured(tmp_path / "whole")
