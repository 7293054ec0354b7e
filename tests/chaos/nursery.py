"""Workers by the hundred: one process imports everything, and each worker is a fork of it, begun within milliseconds.

Run as a program it is that process: it reads jobs as lines of JSON and answers each with the id of a process. A worker
can be made to believe that it is on another machine, that its clock is wrong, or that files may not grow.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from autopeft.architecture import Architecture
from autopeft.interruption import signals_interrupt
from autopeft.objective import Measurement
from autopeft.study import lease
from formulas import Blind, formula, made, two_methods

SPACE = two_methods(7)
"""3,048 architectures."""


@dataclass(frozen=True)
class Job:
    """What a worker does.

    Attributes:
        where: a file or a URL.
        n_trials: the total for the study.
        seconds: of processor time that a trial takes.
        log: a file for what it logs.
        max_retries: how often a trial that loses its worker is tried again.
        place: another machine's, for its leases; empty for this one's.
        clock: seconds by which its clock is ahead.
        file_bytes: how large a file may grow; 0 for any size.
        patience: seconds for which a database that is away is waited for.
        beat, stale: seconds between two signs of life, and after which a worker on another machine is lost.
    """

    where: str
    n_trials: int
    seconds: float
    log: str
    max_retries: int = 10_000
    place: str = ""
    clock: float = 0.0
    file_bytes: int = 0
    patience: float = 60.0
    beat: float = 0.2
    stale: float = 2.0

    @property
    def rules(self) -> lease.LeaseRules:
        return lease.LeaseRules(self.beat, self.stale, self.max_retries, 0.02, self.patience)

    @property
    def storage(self) -> str | Path:
        return self.where if "://" in self.where else Path(self.where)


class Worker:
    """A process that is no child of this one."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._process = psutil.Process(pid)

    @property
    def is_alive(self) -> bool:
        try:
            return self._process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def used(self) -> float:
        """Seconds of processor time."""
        try:
            times = self._process.cpu_times()
        except psutil.NoSuchProcess:
            return 0.0
        return float(times.user + times.system)

    def send(self, number: int) -> None:
        if self.is_alive:
            self._process.send_signal(number)


class Nursery:
    """Starts workers and waits for them."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.workers: list[Worker] = []

    def start(self, job: Job) -> Worker:
        worker = Worker(int(self._ask(asdict(job))))
        self.workers.append(worker)
        return worker

    def end(self, worker: Worker, seconds: float = 120.0) -> int:
        """Wait for the end of a worker and return its exit code; minus the number of the signal that ended it."""
        deadline = time.monotonic() + seconds
        while worker.is_alive:
            assert time.monotonic() < deadline, f"worker {worker.pid} does not end"
            time.sleep(0.005)
        self.workers.remove(worker)
        return int(self._ask({"end": worker.pid}))

    def _ask(self, question: dict[str, Any]) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()


@contextmanager
def nursery() -> Iterator[Nursery]:
    """A nursery whose workers do not outlive the block."""
    script = Path(__file__)
    paths = [str(script.parents[1]), str(script.parents[2] / "src"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    pipe = subprocess.PIPE
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        here = Nursery(process)
        try:
            yield here
        finally:
            for worker in here.workers:
                worker.send(signal.SIGKILL)
            assert process.stdin is not None
            process.stdin.close()


# -- in the processes ------------------------------------------------------------------------------------------


def work(job: Job) -> None:
    """Be one worker."""

    def train(architecture: Architecture, seed: int) -> Measurement:
        end = time.process_time() + job.seconds
        while time.process_time() < end:
            sum(range(1000))
        return formula(architecture, seed)

    with signals_interrupt(), made(job.storage, SPACE, rules=job.rules) as study:
        study.run(train, Blind(SPACE), job.n_trials)


def prepare(job: Job) -> None:
    """Make this process what the job says it believes to be."""
    logging.basicConfig(filename=job.log, level=logging.INFO, format="%(asctime)s %(process)d %(name)s %(message)s")
    if job.place:
        lease._place = lambda: job.place
    if job.clock:
        right = time.time
        time.time = lambda: right() + job.clock
    if job.file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job.file_bytes, job.file_bytes))


def fork(job: Job) -> int:
    """The id of a new process that does the job."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        prepare(job)
        work(job)
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException as error:
        logging.exception("%s", error)
    os._exit(code)


def main() -> None:
    for line in sys.stdin:
        question = json.loads(line)
        if "end" in question:
            _, status = os.waitpid(question["end"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = fork(Job(**question))
        print(answer, flush=True)


if __name__ == "__main__":
    main()
