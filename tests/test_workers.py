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
from autopeft.study.lease import LeaseRules
from autopeft.study.study import Study
from autopeft.workers import (
    PAUSES,
    available_cores,
    check_devices,
    environment_of_device,
    environment_of_workers,
    run_workers,
)
from small_case import Case, call, finished

# Processes and signals by the clock: where a busy machine makes a sound one fail, its second try is told as a rerun.
pytestmark = pytest.mark.flaky(reruns=1)

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
    code = "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES'), os.environ['AUTOPEFT_DEVICE'])"
    base = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    ends = run_workers(python(code), 4, tmp_path, environment=base, devices=["cuda:0", "cuda:1", "cpu"])
    assert [end.tail for end in ends] == ["0 cuda", "1 cuda", "None cpu", "0 cuda"]


@pytest.mark.parametrize(
    ("device", "seen", "found"),
    [
        ("cuda:1", {}, {"CUDA_VISIBLE_DEVICES": "1", "AUTOPEFT_DEVICE": "cuda"}),
        ("cuda:1", {"CUDA_VISIBLE_DEVICES": "4, GPU-5"}, {"CUDA_VISIBLE_DEVICES": "GPU-5", "AUTOPEFT_DEVICE": "cuda"}),
        ("cuda", {"CUDA_VISIBLE_DEVICES": "4"}, {"AUTOPEFT_DEVICE": "cuda"}),
        ("mps", {}, {"AUTOPEFT_DEVICE": "mps"}),
    ],
)
def test_a_worker_sees_its_own_device_alone(device: str, seen: dict[str, str], found: dict[str, str]) -> None:
    assert environment_of_device(device, seen) == found


@pytest.mark.parametrize("hidden", ["", "4", "4,"])
def test_a_device_that_is_hidden_is_refused(hidden: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no device 'cuda:1': CUDA_VISIBLE_DEVICES is"):
        run_workers(python(""), 2, tmp_path, environment={"CUDA_VISIBLE_DEVICES": hidden}, devices=["cuda:1"])


@pytest.mark.parametrize(("name", "says"), [("gpu zero", "are such as cpu"), ("cuda:4096", "There is no device")])
def test_devices_are_looked_for_before_anything_is_trained(name: str, says: str) -> None:
    check_devices(["cpu", "cpu"], {})
    with pytest.raises(InputError, match=says):
        check_devices(["cpu", name], {})


# -- workers that die ------------------------------------------------------------------------------------------


def dying(folder: Path, last: str) -> list[str]:
    """A worker that kills itself twice, and then does `last`; each time it leaves a file in `folder`."""
    (folder / "lives").mkdir()
    return python(
        "import os, pathlib, signal, sys, time\n"
        f"lives = pathlib.Path({str(folder / 'lives')!r})\n"
        "n = len(list(lives.iterdir()))\n"
        "(lives / str(n)).touch()\n"
        "print('life', n, flush=True)\n"
        "if n < 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"{last}\n"
    )


def test_a_dead_worker_is_started_again_and_it_is_said_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (end,) = run_workers(dying(tmp_path, "print('done')"), 1, tmp_path, pauses=(0.05, 0.1, 0.2))
    assert (end.code, end.n_restarts, end.tail) == (0, 2, "life 2\ndone")
    assert end.log.read_text() == "life 0\nlife 1\nlife 2\ndone\n"
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "died: signal SIGKILL, as where memory is short. It is started again in 0.05 s (1 of 3)" in told[0]
    assert "again in 0.1 s (2 of 3)" in told[1]


def test_it_is_not_started_again_for_ever(tmp_path: Path) -> None:
    with pytest.raises(AutopeftError, match=r"signal SIGKILL after 1 new starts"):
        run_workers(dying(tmp_path, ""), 1, tmp_path, pauses=(0.05,))
    assert len(list((tmp_path / "lives").iterdir())) == 2
    assert len(PAUSES) > LeaseRules().max_retries + 1  # a trial that kills its workers is given up before
    assert list(PAUSES) == sorted(set(PAUSES))


@pytest.mark.parametrize("last", ["sys.exit(1)", "sys.exit(2)", "sys.exit(143)", "os.kill(os.getpid(), 15)"])
def test_a_verdict_and_an_end_that_was_asked_for_are_final(tmp_path: Path, last: str) -> None:
    with pytest.raises(AutopeftError, match="after 2 new starts"):
        run_workers(dying(tmp_path, last), 1, tmp_path, pauses=(0.01,) * 9)
    assert len(list((tmp_path / "lives").iterdir())) == 3


def test_none_is_started_again_once_the_work_is_done(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal\n"
        f"try: pathlib.Path({str(tmp_path / 'first')!r}).mkdir()\n"
        "except FileExistsError: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # Whoever waits for the pause to end is stopped by the time that a test may take.
    ends = run_workers(python(code), 2, tmp_path, pauses=(3600.0,))
    assert sorted(end.code for end in ends) == [-9, 0]


def test_a_signal_ends_the_pause_too(tmp_path: Path) -> None:
    code = "import os; print('ready', flush=True); os.kill(os.getpid(), 9)"
    launcher = launch(tmp_path, code, 30.0, "pauses=(3600.0,)")
    launcher.send_signal(signal.SIGTERM)
    launcher.communicate(timeout=120)
    assert launcher.returncode == 143


# -- what the folder of the call holds -------------------------------------------------------------------------

SAMPLER = """
from autopeft import samplers

def build(space, seed, **options):
    return samplers.build("random", space, seed, {})
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_workers_run_nothing_that_lies_about_but_what_is_named(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "it was run"
    for name in ("queue", "yaml", "numpy"):  # Python's own, and a library's
        (tmp_path / f"{name}.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n")
    (tmp_path / "my_lab.py").write_text(SAMPLER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    monkeypatch.setenv("PYTHONPATH", str(SOURCE))
    asked = case.write(tmp_path / "asked.yaml", sampler="my_lab:build", trials=3, workers=2)
    found = call("search", asked, "--out", tmp_path / "run")
    logs = [path.read_text() for path in sorted((tmp_path / "run" / "logs").iterdir())]
    assert found.code == 0, (found.err, logs)
    assert finished(tmp_path / "run") == 3
    assert not marker.exists()


def test_all_failing_is_an_error_with_the_end_of_the_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # as on most machines
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

    with pytest.raises(RuntimeError, match="progress bar"):
        run_workers(python("import time; time.sleep(3600)"), 2, tmp_path, on_poll=broken)


WAITING = """
import signal, sys, time
def leave(number, frame):
    print("received", signal.Signals(number).name, flush=True)
    sys.exit(0)
signal.signal(signal.SIGINT, leave)
signal.signal(signal.SIGTERM, leave)
print("ready", flush=True)
time.sleep(3600)
"""

DEAF = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(3600)
"""


def launch(folder: Path, code: str, grace_seconds: float, more: str = "") -> subprocess.Popen[bytes]:
    """A launcher in a process of its own, whose workers are ready."""
    launcher = (
        "import sys; from autopeft.workers import run_workers\n"
        f"run_workers([sys.executable, '-c', {code!r}], 2, {str(folder)!r}, grace_seconds={grace_seconds}, {more})"
    )
    process = subprocess.Popen(python(launcher), env=os.environ | {"PYTHONPATH": str(SOURCE)}, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        logs = [folder / f"worker-{index}.log" for index in range(2)]
        # A line counts as a whole: a signal between its text and its end would be answered in the middle of it.
        if all(log.exists() and "ready\n" in log.read_text() for log in logs):
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
    launcher.communicate(timeout=120)
    assert launcher.returncode == code
    for index in range(2):
        assert (tmp_path / f"worker-{index}.log").read_text() == f"ready\nreceived {name}\n"


def test_what_does_not_listen_is_killed_after_the_grace(tmp_path: Path) -> None:
    launcher = launch(tmp_path, DEAF, 0.3)
    launcher.send_signal(signal.SIGTERM)
    launcher.communicate(timeout=120)
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
