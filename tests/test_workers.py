"""Worker processes: environment, logs, exit codes and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from autopeft.errors import AutopeftError, InputError
from autopeft.study.study import Study
from autopeft.workers import available_cores, environment_of_workers, run_workers

SOURCE = Path(__file__).parent.parent / "src"
BARE = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_each_worker_writes_to_its_own_log(tmp_path: Path) -> None:
    code = "import os, sys; print('out', os.environ['OMP_NUM_THREADS']); print('err', file=sys.stderr)"
    ends = run_workers(python(code), 2, tmp_path / "logs", environment=BARE)
    assert [end.code for end in ends] == [0, 0]
    assert [end.log.name for end in ends] == ["worker-0.log", "worker-1.log"]
    share = max(1, available_cores() // 2)
    for end in ends:
        assert sorted(end.log.read_text().split("\n")) == ["", "err", f"out {share}"]


def test_a_worker_has_at_least_one_thread_and_keeps_what_the_user_set() -> None:
    limits = environment_of_workers(10_000, {"MKL_NUM_THREADS": "3", "HOME": "/root"})
    assert limits["OMP_NUM_THREADS"] == "1"
    assert limits["MKL_NUM_THREADS"] == "3"
    assert limits["HOME"] == "/root"
    assert environment_of_workers(1, {})["OMP_NUM_THREADS"] == str(available_cores())


def test_devices_are_dealt_out_in_turn(tmp_path: Path) -> None:
    code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    ends = run_workers(python(code), 3, tmp_path, devices=["0", "1"])
    assert [end.tail for end in ends] == ["0", "1", "0"]


def test_all_failing_is_an_error_with_the_end_of_the_logs(tmp_path: Path) -> None:
    (tmp_path / "worker-0.log").write_text("of an earlier call\n")
    code = "import sys; [print('line', i) for i in range(100)]; sys.exit('the model is missing')"
    with pytest.raises(AutopeftError, match="All 2 workers failed") as caught:
        run_workers(python(code), 2, tmp_path)
    text = str(caught.value)
    assert text.count("the model is missing") == 2
    assert "exit code 1" in text
    assert "line 99" in text
    assert "line 50" not in text
    assert "of an earlier call" not in text
    assert (tmp_path / "worker-0.log").read_text().startswith("of an earlier call\n")


def test_some_failing_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    code = (
        "import os, pathlib, signal\n"
        f"try: pathlib.Path({str(tmp_path / 'first')!r}).mkdir()\n"
        "except FileExistsError: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ends = run_workers(python(code), 2, tmp_path)
    assert sorted(end.code for end in ends) == [-9, 0]
    assert "signal SIGKILL" in caplog.text


@pytest.mark.parametrize(("command", "n"), [([], 1), (["python"], 0), (["/there/is/no/such/program"], 2)])
def test_what_cannot_be_started_is_an_input_error(tmp_path: Path, command: list[str], n: int) -> None:
    with pytest.raises(InputError):
        run_workers(command, n, tmp_path)


def test_a_failing_launcher_leaves_no_process(tmp_path: Path) -> None:
    def broken() -> None:
        raise RuntimeError("the progress bar broke")

    began = time.monotonic()
    with pytest.raises(RuntimeError, match="progress bar"):
        run_workers(python("import time; time.sleep(60)"), 2, tmp_path, on_poll=broken)
    assert time.monotonic() - began < 30


WAITING = """
import signal, sys, time
def leave(number, frame):
    print("received", signal.Signals(number).name, flush=True)
    sys.exit(0)
signal.signal(signal.SIGINT, leave)
signal.signal(signal.SIGTERM, leave)
print("ready", flush=True)
time.sleep(60)
"""

DEAF = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""


def launch(folder: Path, code: str, grace_seconds: float) -> subprocess.Popen[bytes]:
    """A launcher in a process of its own, whose workers are ready."""
    launcher = (
        "import sys; from autopeft.workers import run_workers\n"
        f"run_workers([sys.executable, '-c', {code!r}], 2, {str(folder)!r}, grace_seconds={grace_seconds})"
    )
    process = subprocess.Popen(python(launcher), env=os.environ | {"PYTHONPATH": str(SOURCE)}, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        logs = [folder / f"worker-{index}.log" for index in range(2)]
        if all(log.exists() and "ready" in log.read_text() for log in logs):
            return process
        time.sleep(0.02)
    raise AssertionError("the workers did not start")


PASSED_ON = [
    (signal.SIGINT, -signal.SIGINT, "SIGINT"),
    (signal.SIGTERM, 143, "SIGTERM"),
    (signal.SIGHUP, 129, "SIGTERM"),
]


@pytest.mark.parametrize(("number", "code", "name"), PASSED_ON)
def test_signals_are_passed_on(tmp_path: Path, number: signal.Signals, code: int, name: str) -> None:
    launcher = launch(tmp_path, WAITING, 30.0)
    launcher.send_signal(number)
    launcher.communicate(timeout=30)
    assert launcher.returncode == code
    for index in range(2):
        assert (tmp_path / f"worker-{index}.log").read_text() == f"ready\nreceived {name}\n"


def test_what_does_not_listen_is_killed_after_the_grace(tmp_path: Path) -> None:
    launcher = launch(tmp_path, DEAF, 0.3)
    launcher.send_signal(signal.SIGTERM)
    launcher.communicate(timeout=30)
    assert launcher.returncode == 143


def test_it_runs_outside_the_main_thread(tmp_path: Path) -> None:
    codes: list[int] = []
    thread = threading.Thread(
        target=lambda: codes.extend(end.code for end in run_workers(python("print('hello')"), 1, tmp_path))
    )
    thread.start()
    thread.join(30)
    assert codes == [0]


def test_workers_finish_a_study_together(tmp_path: Path) -> None:
    script, path = Path(__file__).parent / "formulas.py", tmp_path / "study.db"
    command = [sys.executable, "-W", "error", str(script), str(path), "10", "0.05"]
    run_workers(command, 2, tmp_path, environment=os.environ | {"PYTHONPATH": str(SOURCE)})
    with Study.open(path) as study:
        assert len({trial.architecture for trial in study.trials() if trial.is_complete}) == 10
