"""Searches as processes of their own: interrupted, killed, and watched while they run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from autopeft.study.study import Study
from autopeft.trial import Trial, TrialState
from formulas import check_finished, finish, made, start
from small_case import Case, call, finished, trials

# Processes and signals by the clock: where a busy machine makes a sound one fail, its second try is told as a rerun.
pytestmark = pytest.mark.flaky(reruns=1)


@contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """The command line as a process of its own, which does not outlive the test."""
    words = [sys.executable, "-m", "autopeft", *map(str, arguments)]
    source = str(Path(__file__).parents[2] / "src")
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    pipe = subprocess.PIPE
    # A shell starts what it puts in the background with interrupts ignored, and so would be all processes from there.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        signal.signal(signal.SIGINT, before)
        try:
            yield process
        finally:
            process.kill()


def wait_until_finished(folder: Path, process: subprocess.Popen[str], least: int) -> None:
    deadline = time.monotonic() + 120
    while not (folder / "settings.yaml").exists() or finished(folder) < least:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_search_gives_its_trial_back_and_continues(
    case: Case, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    recipe = {"steps": 300, "batch_size": 8, "max_length": 16}  # a second or more a trial, so that one is running
    asked, folder = case.write(tmp_path / "asked.yaml", trials=40, recipe=recipe), tmp_path / "run"
    with started("search", asked, "--out", folder) as process:
        wait_until_finished(folder, process, 1)
        while not any(trial.state == "running" for trial in trials(folder)):  # between trials, none is given back
            time.sleep(0.02)
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "goes on with the same command" in err
    assert "Traceback" not in err
    left = trials(folder)
    assert not [trial for trial in left if trial.state == "running"]
    given_back = [trial for trial in left if trial.failure is not None]
    assert [trial.failure.kind for trial in given_back] == ["preempted"]
    total = finished(folder) + 1
    assert call("search", asked, "--out", folder, "--trials", total).code == 0
    assert finished(folder) == total
    assert trials(folder)[-1].retry_of == given_back[0].number


@pytest.mark.slow
def test_a_search_that_is_terminated_again_and_again_loses_nothing(tmp_path: Path) -> None:
    """Each of five terminations is in mid-trial; none counts as a loss, and all five trials are measured at last."""
    path = tmp_path / "study.db"
    made(path).close()
    for n in range(1, 6):
        worker = start(path, 5, 30.0)
        running: list[Trial] = []
        while not running:
            assert worker.poll() is None, worker.communicate()
            time.sleep(0.05)
            with Study.open(path) as study:
                running = [trial for trial in study.trials() if trial.state is TrialState.RUNNING]
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=120)
        assert worker.returncode == 143
        with Study.open(path) as study:
            failures = [trial.failure for trial in study.trials()]
        assert [(failure.kind, failure.message) for failure in failures if failure] == [
            ("preempted", "The worker was interrupted: SIGTERM.")
        ] * n
    finish(start(path, 5, 0.0))
    assert len(check_finished(path, 5)) == 10


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_worker_costs_no_trial(case: Case, tmp_path: Path) -> None:
    recipe = {"steps": 100, "batch_size": 8, "max_length": 16}
    asked, folder = case.write(tmp_path / "asked.yaml", trials=12, recipe=recipe), tmp_path / "run"
    with started("search", asked, "--out", folder, "--workers", 2) as process:
        wait_until_finished(folder, process, 2)
        children = psutil.Process(process.pid).children()
        assert len(children) == 2
        children[0].kill()
        _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    found = trials(folder)
    assert finished(folder) == 12
    assert not [trial for trial in found if trial.state == "running"]
    assert len({trial.architecture.fingerprint for trial in found if trial.is_complete}) == 12
    assert call("search", asked, "--out", folder).code == 0
    assert trials(folder) == found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_memory_does_not_grow_with_trials(case: Case, tmp_path: Path) -> None:
    """A trial's modules and data are freed: 20 trials need at most 5 % more than 5."""
    peaks = []
    for n in (5, 20):
        folder = tmp_path / f"run{n}"
        with started("search", case.write(tmp_path / "asked.yaml", trials=n), "--out", folder) as process:
            _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        peaks.append(max(trial.measurement.peak_memory for trial in trials(folder)))
    assert peaks[1] <= 1.05 * peaks[0]
