"""Several worker processes on one machine: start them, watch them, pass signals on, report what they left.

Workers coordinate through the study alone, so that the launcher need not understand what they do. It restarts none:
what a lost worker had begun is repeated by the others, or by the next call of the same command.
"""

from __future__ import annotations

import logging
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

_logger = logging.getLogger(__name__)

_THREAD_LIMITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_MAX_THREADS")
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
    """

    pid: int
    code: int
    log: Path
    tail: str

    @property
    def reason(self) -> str:
        """Its exit code, or the name of the signal that ended it."""
        return f"exit code {self.code}" if self.code >= 0 else f"signal {_signal_name(-self.code)}"


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    log: Path
    offset: int

    def end(self) -> WorkerEnd:
        return WorkerEnd(self.process.pid, self.process.wait(), self.log, _tail(self.log, self.offset))


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
    on_poll: Callable[[], None] | None = None,
) -> tuple[WorkerEnd, ...]:
    """Run `command` in `n` processes and return when all have ended.

    Each process has its share of the cores (`OMP_NUM_THREADS` and its like, at least 1, unless the environment
    already sets them), and writes its output to ``worker-<i>.log`` in `folder`, after what is there. SIGINT and
    SIGTERM are passed on, a hang-up as SIGTERM; what has not ended `grace_seconds` later, or at a second signal, is
    killed.

    Args:
        environment: of the processes; by default that of this one.
        devices: values of ``CUDA_VISIBLE_DEVICES``, dealt out in turn; empty leaves it as it is.
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
    limits = environment_of_workers(n, os.environ if environment is None else environment)
    Path(folder).mkdir(parents=True, exist_ok=True)
    workers: list[_Worker] = []
    with _all_ended(workers), _signals(workers) as signals:
        for index in range(n):
            device = {"CUDA_VISIBLE_DEVICES": devices[index % len(devices)]} if devices else {}
            workers.append(_start(command, Path(folder) / f"worker-{index}.log", {**limits, **device}))
            if signals.received:  # it came too early for this one
                _send(workers[-1:], signals.received[0])
        _watch(signals, grace_seconds, on_poll or _ignore)
        ends = tuple(worker.end() for worker in workers)
    if signals.received:
        _raise_received(signals.received[0])
    _check(ends)
    return ends


def environment_of_workers(n: int, base: Mapping[str, str]) -> dict[str, str]:
    """`base` with limits for the threads of one of `n` processes; limits that `base` sets are kept."""
    share = str(max(1, available_cores() // n))
    return {**dict.fromkeys(_THREAD_LIMITS, share), "TOKENIZERS_PARALLELISM": "false", **base}


def available_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> _Worker:
    with log.open("ab") as output:
        offset = output.tell()
        try:
            # A session of its own, so that the terminal's Ctrl-C reaches a worker once: from the launcher.
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )
        except OSError as error:
            raise InputError(f"The command of the workers cannot be started: {command[0]}: {error}.") from error
    return _Worker(process, log, offset)


def _watch(signals: _Signals, grace_seconds: float, on_poll: Callable[[], None]) -> None:
    """Wait until all have ended; kill what outlives the grace after a signal."""
    deadline = None
    while any(worker.process.poll() is None for worker in signals.workers):
        if signals.received and deadline is None:
            deadline = time.monotonic() + grace_seconds
        if deadline is not None and time.monotonic() > deadline:
            _send(signals.workers, signal.SIGKILL)
        on_poll()
        time.sleep(_POLL_SECONDS)


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
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
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
