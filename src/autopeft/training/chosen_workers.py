"""How many processes share the trials of a search on a CPU, by measurement: one with all threads, or one a core.

Small models leave a second thread waiting for the first, and two processes with a thread each then train more in the
same time. Whether that is so depends on model, batch and machine, so that steps are timed. The decision reads numbers
alone.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol

import torch

from autopeft.errors import TrialFailure
from autopeft.training.chosen_precision import StepBench
from autopeft.training.memory import Memory, let_go
from autopeft.training.precision_choice import Precision
from autopeft.training.worker_choice import WorkerChoice

_PAYS = 1.1
"""How many times as much all workers must train as one process with all threads."""

_SAVED_SECONDS = 60.0
"""What a search must save by them: each imports and loads what the first one has loaded already."""

_SHARE_OF_MEMORY = 0.8
"""Of the memory that is free, what all workers may take."""

_TIMED = 3
"""Steps that are timed each way, after one that is not; the quickest counts."""


class WorkerBench(Protocol):
    """What gives the numbers."""

    def alone(self) -> float:
        """Seconds of a training step of one process with all its threads."""
        ...

    def beside(self, n: int, threads: int) -> float:
        """Seconds of that step with `threads` threads while ``n - 1`` other processes compute as well."""
        ...

    def peak_bytes(self) -> int:
        """What this process has held at most while it was timed."""
        ...


def choose_workers(
    bench: WorkerBench,
    *,
    cores: int,
    threads: Callable[[int], int],
    free_bytes: int,
    planned: float,
    tell: Callable[[str], None] | None = None,
) -> WorkerChoice:
    """One process, or as many as there are cores and memory for, if these train more by over a tenth.

    Args:
        cores: that this process may use.
        threads: of each of so many workers.
        free_bytes: of memory, what this process holds by now left out.
        planned: training steps that the search has before it.
        tell: told in a line before the measurement, which takes seconds.
    """
    if cores < 2:
        return WorkerChoice(1, "there is one core")
    try:
        (tell or _ignore)(f"steps of one process and of {cores} show whether workers pay")
        return _measured(bench, cores, threads, free_bytes, planned)
    except (TrialFailure, RuntimeError, OSError) as failure:
        # One process is always right; what it cannot do either, its first training tells.
        let_go(failure)
        return WorkerChoice(1, f"the measurement failed: {failure}")


def _measured(
    bench: WorkerBench, cores: int, threads: Callable[[int], int], free_bytes: int, planned: float
) -> WorkerChoice:
    alone, each = bench.alone(), max(1, bench.peak_bytes())
    # The process that starts them stays, with all that it holds.
    n = min(cores, int(_SHARE_OF_MEMORY * free_bytes / each))
    if n < 2:
        why = f"each would need {each / 2**30:.1f} GiB, and {free_bytes / 2**30:.1f} GiB are free"
        return WorkerChoice(1, why, alone)
    if planned * alone * (1 - 1 / cores) < _SAVED_SECONDS:
        why = f"{planned:,.0f} steps of {alone:.3g} s are too few for workers to save what they take to start"
        return WorkerChoice(1, why, alone)
    beside = bench.beside(n, threads(n))
    gain = n * alone / beside
    told = (
        f"a step takes {alone:.3g} s in one process and {beside:.3g} s in each of {n}, {gain:.2f} times as many steps"
    )
    if not (math.isfinite(gain) and gain > _PAYS):
        return WorkerChoice(1, told, alone, beside, n)
    saved = planned * alone * (1 - 1 / gain)
    if saved < _SAVED_SECONDS:
        told += f", which saves {saved:.0f} s of this search, less than their start is worth"
        return WorkerChoice(1, told, alone, beside, n)
    return WorkerChoice(n, told, alone, beside, n)


def _ignore(line: str) -> None:
    """The listener of those who want no lines."""


class StepWorkerBench:
    """Training steps of an evaluator's own beside other processes that multiply matrices: a `WorkerBench`."""

    def __init__(self, steps: StepBench, precision: Precision, device: torch.device, width: int) -> None:
        self._steps, self._precision, self._width = steps, precision, width
        self._memory = Memory(device)

    def alone(self) -> float:
        """See `WorkerBench.alone`."""
        return self._quickest()

    def beside(self, n: int, threads: int) -> float:
        """See `WorkerBench.beside`. The others multiply without a pause, which a training does not quite."""
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with ExitStack() as stack:
                for _ in range(n - 1):
                    stack.enter_context(_multiplying(self._width, threads))
                return self._quickest()
        finally:
            torch.set_num_threads(before)

    def peak_bytes(self) -> int:
        """See `WorkerBench.peak_bytes`."""
        return self._memory.peak()

    def _quickest(self) -> float:
        return min([self._steps.seconds(self._precision) for _ in range(1 + _TIMED)][1:])


_MULTIPLY = """
import os, torch
torch.set_num_threads({threads})
left, right = torch.ones(1024, {width}), torch.ones({width}, 4 * {width})
print("ready", flush=True)
while os.getppid() == {parent}:
    left @ right
"""
"""It ends by itself when the process that began it is gone, which may be killed and then ends nobody."""


@contextmanager
def _multiplying(width: int, threads: int) -> Iterator[None]:
    """Within it another process multiplies matrices of this width.

    Raises:
        RuntimeError: it did not begin.
    """
    words = [sys.executable, "-P", "-c", _MULTIPLY.format(width=width, threads=threads, parent=os.getpid())]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    try:
        with process.stdout as output:  # type: ignore[union-attr]  # it was asked for
            if output.readline().strip() != b"ready":
                raise RuntimeError("a process to measure beside did not begin")
            time.sleep(0.1)
            yield
    finally:
        process.kill()
        process.wait()
