"""Several worker processes on one machine: start them, watch them, pass signals on, report what they left.

Workers coordinate through the study alone, so that the launcher need not understand what they do. What a lost worker
had begun is repeated by whoever claims next. A worker that dies is started again; one that ends with a verdict of its
own (0 done, 1 failed, 2 cannot be served) or because it was asked to is not: the same would happen again, or is wanted.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from autopeft.errors import AutopeftError, InputError
from autopeft.interruption import SIGNALS

_logger = logging.getLogger(__name__)

_THREAD_LIMITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_MAX_THREADS")
DEVICE_VARIABLE = "AUTOPEFT_DEVICE"
"""The environment variable by which a worker is told its device."""

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Seconds before a dead worker is started again; as often as there are pauses, in a row.

More than the losses after which a trial is given up: otherwise one trial that kills workers would end the search.
"""

_HEALTHY_SECONDS = 600.0
"""A worker that lived that long did not die of how it was started: its pauses begin anew."""

_VERDICTS = range(3)
_POLL_SECONDS = 0.1
_TAIL_LINES = 15
_TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class WorkerEnd:
    """How a worker ended.

    Args:
        pid: its process id.
        code: its exit code; -n when signal n ended it.
        log: the file that holds its output.
        tail: the last lines that it wrote, without those of earlier calls.
        n_restarts: how often it had been started again.
    """

    pid: int
    code: int
    log: Path
    tail: str
    n_restarts: int = 0

    @property
    def reason(self) -> str:
        """Its exit code, or the name of the signal that ended it; and how often it had been started again."""
        again = f" after {self.n_restarts} new starts" if self.n_restarts else ""
        return (f"exit code {self.code}" if self.code >= 0 else f"signal {_signal_name(-self.code)}") + again

    @property
    def is_death(self) -> bool:
        """Whether it neither came to a verdict nor was asked to end."""
        # A process that a signal ends has its negative number, one that caught it and left the customary code.
        asked = {code for number in SIGNALS for code in (-number, 128 + number)}
        return self.code not in _VERDICTS and self.code not in asked


class _Worker:
    """A process, and what it takes to start it again.

    Attributes:
        again_at: when it is started again, on the monotonic clock; None while that is open, infinite for never.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._command, self._log, self._environment = command, log, environment
        self._n_in_a_row = self._n_restarts = 0
        self._start()

    def _start(self) -> None:
        self.again_at: float | None = None
        self._began = time.monotonic()
        self.process, self._offset = _started(self._command, self._log, self._environment)

    @property
    def is_at_work(self) -> bool:
        """Whether it runs or will be started again, or that is not decided yet."""
        return self.again_at is None or self.again_at < math.inf

    def end(self) -> WorkerEnd:
        """How it ended; waits for that."""
        # Before waiting: the log is complete when the process has ended, which whoever asks has seen.
        tail = _tail(self._log, self._offset)
        return WorkerEnd(self.process.pid, self.process.wait(), self._log, tail, self._n_restarts)

    def plan(self, pauses: Sequence[float]) -> None:
        """Decide whether a process that has ended is started again, and say why it died."""
        end = self.end()
        if time.monotonic() > self._began + _HEALTHY_SECONDS:
            self._n_in_a_row = 0
        if not end.is_death or self._n_in_a_row >= len(pauses):
            self.again_at = math.inf
            return
        pause = pauses[self._n_in_a_row]
        self._n_in_a_row += 1
        self.again_at = time.monotonic() + pause
        _logger.warning(
            "A worker (process %d) died: %s%s. It is started again in %g s (%d of %d). Its output is in %s.",
            *(end.pid, end.reason, ", as where memory is short" if end.code == -signal.SIGKILL else "", pause),
            *(self._n_in_a_row, len(pauses), self._log),
        )

    def start_again(self) -> None:
        """A new process of the same command, whose output follows that of the one before."""
        self._n_restarts += 1
        self._start()


class _Signals:
    """Receives SIGINT, SIGTERM and SIGHUP while workers run, and passes them on."""

    def __init__(self, workers: Sequence[_Worker]) -> None:
        self.workers = workers
        self.received: list[int] = []

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)
        # Whoever asks twice does not want to wait.
        gentle = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM  # a closed terminal ends workers too
        _send(self.workers, gentle if len(self.received) == 1 else signal.SIGKILL)


def run_workers(
    command: Sequence[str],
    n: int,
    folder: str | Path,
    *,
    environment: Mapping[str, str] | None = None,
    devices: Sequence[str] = (),
    grace_seconds: float = 30.0,
    pauses: Sequence[float] = PAUSES,
    on_poll: Callable[[], None] | None = None,
) -> tuple[WorkerEnd, ...]:
    """Run `command` in `n` processes and return when all have ended; what dies is started again.

    Each process has its share of the cores (`OMP_NUM_THREADS` and its like, at least 1, unless the environment
    already sets them), and writes its output to ``worker-<i>.log`` in `folder`, after what is there. SIGINT and
    SIGTERM are passed on, a hang-up as SIGTERM; what has not ended `grace_seconds` later, or at a second signal, is
    killed.

    Args:
        environment: of the processes; by default that of this one.
        devices: dealt out in turn, see `environment_of_device`; empty leaves that to the command.
        pauses: before a worker that died is started again, as often as there are pauses in a row. None is once
            another has ended well: then the work is done.
        on_poll: called about ten times a second while workers run, for a progress bar.

    Returns:
        One entry a worker, in the order of their numbers. Where some workers failed and others did not, a warning is
        logged.

    Raises:
        InputError: `n` is not at least 1, the command is empty, or it cannot be started.
        AutopeftError: all workers failed; the message shows the end of their logs.
        KeyboardInterrupt: after SIGINT was passed on and all workers have ended.
        SystemExit: likewise after SIGTERM or a hang-up, with the customary code 143 or 129.
    """
    if n < 1 or not command:
        raise InputError(f"Workers need a command and a number of at least 1, but got {list(command)} and {n}.")
    base = os.environ if environment is None else environment
    limits = environment_of_workers(n, base)
    Path(folder).mkdir(parents=True, exist_ok=True)
    workers: list[_Worker] = []
    # Handlers are installed before the first process: a signal in between would leave processes without a launcher.
    with _all_ended(workers), _signals(workers) as signals:
        for index in range(n):
            device = environment_of_device(devices[index % len(devices)], base) if devices else {}
            workers.append(_Worker(command, Path(folder) / f"worker-{index}.log", {**limits, **device}))
            _pass_on_early(signals, workers[-1])
        _watch(signals, grace_seconds, pauses, on_poll or _ignore)
        ends = tuple(worker.end() for worker in workers)
    if signals.received:
        _raise_received(signals.received[0])
    _check(ends)
    return ends


def environment_of_workers(n: int, base: Mapping[str, str]) -> dict[str, str]:
    """`base` with limits for the threads of one of `n` processes; limits that `base` sets are kept."""
    share = str(max(1, available_cores() // n))
    return {**dict.fromkeys(_THREAD_LIMITS, share), "TOKENIZERS_PARALLELISM": "false", **base}


def threads_of_workers(n: int, base: Mapping[str, str]) -> int:
    """The threads that each of `n` processes computes with, as `environment_of_workers` limits them."""
    limit = environment_of_workers(n, base)[_THREAD_LIMITS[0]]
    # Whatever else stands there, such as a number for each level of nesting, PyTorch reads in a way of its own.
    return int(limit) if limit.isdecimal() and int(limit) else max(1, available_cores() // n)


def environment_of_device(device: str, base: Mapping[str, str]) -> dict[str, str]:
    """What tells a worker its device: the variable `DEVICE_VARIABLE`, and of several GPUs none but its own is seen.

    Args:
        device: as PyTorch names it. ``cuda:1`` is the second of those that `base` lets a process see.

    Raises:
        InputError: `base` hides it.
    """
    backend, _, number = device.partition(":")
    if backend != "cuda" or not number.isdecimal():
        return {DEVICE_VARIABLE: device}
    # The variable renumbers what a process sees, so that the worker's own device is number 0 to it, whichever it is.
    hidden = base.get("CUDA_VISIBLE_DEVICES")
    seen = None if hidden is None else [name.strip() for name in hidden.split(",") if name.strip()]
    if seen is not None and int(number) >= len(seen):
        raise InputError(f"There is no device {device!r}: CUDA_VISIBLE_DEVICES is {hidden!r}.")
    return {"CUDA_VISIBLE_DEVICES": number if seen is None else seen[int(number)], DEVICE_VARIABLE: "cuda"}


def check_devices(devices: Sequence[str], environment: Mapping[str, str]) -> None:
    """Look for devices before anything is trained; none is used, which would take memory of each.

    Raises:
        InputError: one is no name of a device, or this machine does not have it.
    """
    if not devices:
        return
    import torch

    for name in devices:
        try:
            device = torch.device(name)
        except RuntimeError:
            raise InputError(f"`devices` are such as cpu, cuda:0 or cuda:1, but got {name!r}.") from None
        environment_of_device(name, environment)
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise InputError(f"There is no device {name!r}: this process sees {torch.cuda.device_count()} GPUs.")


def available_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _started(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], int]:
    """A process, and where its output begins in the log.

    What it prints is written at once: Python would keep it back until it has enough, so that a message of a worker that
    fails came before the lines that led to it, and the lines of one that is killed never.
    """
    with log.open("ab") as output:
        offset = output.tell()
        try:
            # A session of its own, so that the terminal's Ctrl-C reaches a worker once: from the launcher.
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={"PYTHONUNBUFFERED": "1", **environment},
                start_new_session=True,
            )
        except OSError as error:
            raise InputError(f"The command of the workers cannot be started: {command[0]}: {error}.") from error
    return process, offset


def _watch(signals: _Signals, grace_seconds: float, pauses: Sequence[float], on_poll: Callable[[], None]) -> None:
    """Wait until all have ended; start dead ones again; kill what outlives the grace after a signal."""
    deadline = None
    while True:
        if not signals.received:
            _tend(signals, pauses)
        elif deadline is None:
            deadline = time.monotonic() + grace_seconds
        elif time.monotonic() > deadline:
            _send(signals.workers, signal.SIGKILL)
        is_waiting = not signals.received  # after a signal nobody is started again
        if not any(w.is_at_work if is_waiting else w.process.poll() is None for w in signals.workers):
            return
        on_poll()
        time.sleep(_POLL_SECONDS)


def _tend(signals: _Signals, pauses: Sequence[float]) -> None:
    """Plan what becomes of workers that have ended, and start those whose pause is over."""
    # Asked of all before one is started again, or a worker could be started although another has just finished the
    # work.
    codes = [worker.process.poll() for worker in signals.workers]
    for worker, code in zip(signals.workers, codes, strict=True):
        if code is None:
            continue
        if 0 in codes:  # somebody found that nothing is left to do
            worker.again_at = math.inf
        elif worker.again_at is None:
            worker.plan(pauses)
        elif time.monotonic() >= worker.again_at:
            worker.start_again()
            _pass_on_early(signals, worker)


def _pass_on_early(signals: _Signals, worker: _Worker) -> None:
    """A signal that came while `worker` was being started did not reach it."""
    if signals.received:
        _send([worker], signals.received[0])


def _send(workers: Sequence[_Worker], number: int) -> None:
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.send_signal(number)


@contextmanager
def _signals(workers: Sequence[_Worker]) -> Iterator[_Signals]:
    handler = _Signals(workers)
    # Only the main thread may install handlers. Elsewhere, the caller's own thread is the one that is interrupted.
    if threading.current_thread() is not threading.main_thread():
        yield handler
        return
    with ExitStack() as stack:
        for number in SIGNALS:
            # The handler that was there is put back, whoever had installed it.
            stack.callback(signal.signal, number, signal.signal(number, handler))
        yield handler


@contextmanager
def _all_ended(workers: Sequence[_Worker]) -> Iterator[None]:
    """Leave no process behind, whatever happens in the launcher."""
    try:
        yield
    finally:
        _send(workers, signal.SIGKILL)
        for worker in workers:
            worker.process.wait()


def _check(ends: Sequence[WorkerEnd]) -> None:
    failed = [end for end in ends if end.code]
    if failed and len(failed) == len(ends):
        parts = [f"--- {end.log} ({end.reason}):\n{end.tail or '(it wrote nothing)'}" for end in failed]
        raise AutopeftError(f"All {len(ends)} workers failed:\n" + "\n".join(parts))
    for end in failed:
        _logger.warning("A worker failed with %s; the others went on. Its output is in %s.", end.reason, end.log)


def _raise_received(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _tail(log: Path, offset: int) -> str:
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        # A log may be large, and what earlier calls wrote into it is not this worker's end.
        file.seek(max(offset, size - _TAIL_BYTES))
        text = file.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-_TAIL_LINES:])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _ignore() -> None:
    """The listener of those who want no progress."""
