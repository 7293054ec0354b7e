"""What goes wrong in a search, as scenes that a study must come out of whole, and what became of it.

``python tests/chaos/scenes.py`` plays them all in their long form and prints the table of the documentation, or with
``--short`` in their short one; names after it are those of the scenes that are played.
"""

from __future__ import annotations

import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from nursery import SPACE, Job, Nursery, Worker, nursery

import postgres
from autopeft.study.study import Study
from formulas import made

HOUR = 3600.0
_LIFE_SECONDS = 1.2
"""Of processor time, at the most, until a worker is killed: it opens the study and does a few trials."""


@dataclass(frozen=True)
class Length:
    """How much of a scene is played.

    Attributes:
        kills: SIGKILLs of one scene.
        in_trial: how many of them, at the least, hit a worker that holds a trial.
        stops: how often a worker is stopped for longer than its lease.
        trials: asked for where nothing is killed.
    """

    kills: int
    in_trial: int
    stops: int
    trials: int


SHORT, LONG = Length(kills=12, in_trial=1, stops=1, trials=12), Length(kills=100, in_trial=30, stops=3, trials=60)


@dataclass(frozen=True)
class Outcome:
    """What became of a study.

    Attributes:
        signals: how often a worker, or the server, was hit.
        lost: trials whose worker was lost while it held them.
        given_back: trials that a worker gave back when it was asked to end.
        asked, measured: trials.
        doubled: architectures that were measured twice.
        left: trials that still run, or that failed for good.
        withdrawn: rows written in vain because another worker was first.
        rows: all that were written.
    """

    signals: int
    lost: int
    given_back: int
    asked: int
    measured: int
    doubled: int
    left: int
    withdrawn: int
    rows: int

    @property
    def is_whole(self) -> bool:
        return self.asked == self.measured and not self.doubled and not self.left


def outcome(job: Job, signals: int) -> Outcome:
    """Look at a study in which nobody works any more."""
    with Study.open(job.storage, space=SPACE) as study:
        study._ledger.refresh()
        records = list(study._ledger.records.values())
    trials = [record.trial for record in records if not record.is_withdrawn]
    counts = Counter(trial.architecture.fingerprint for trial in trials if trial.is_complete)
    failed = [trial.failure for trial in trials if trial.failure is not None]
    return Outcome(
        signals=signals,
        lost=sum(failure.message.startswith("The worker was lost") for failure in failed),
        given_back=sum(failure.message.startswith("The worker was interrupted") for failure in failed),
        asked=job.n_trials,
        measured=sum(trial.is_complete for trial in trials),
        doubled=sum(n > 1 for n in counts.values()),
        left=sum(trial.is_taken and not trial.is_complete for trial in trials),
        withdrawn=sum(record.is_withdrawn for record in records),
        rows=len(records),
    )


# -- scenes ----------------------------------------------------------------------------------------------------


@dataclass
class Stage:
    """What a scene has: workers, a storage of its own, and a server where there is one."""

    workers: Nursery
    job: Job
    length: Length
    server: postgres.Server | None
    chance: random.Random

    def finish(self, n: int = 2) -> None:
        """Let undisturbed workers do what is left."""
        for worker in [self.workers.start(self.job) for _ in range(n)]:
            assert self.workers.end(worker) == 0, Path(self.job.log).read_text()[-3000:]

    def end_all(self) -> None:
        for worker in list(self.workers.workers):
            assert self.workers.end(worker) == 0, Path(self.job.log).read_text()[-3000:]

    def n_done(self) -> int:
        with Study.open(self.job.storage, space=SPACE) as study:
            return study.n_finished()

    def wait_for(self, is_so: Callable[[], bool], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < deadline, Path(self.job.log).read_text()[-3000:]
            time.sleep(0.02)

    def holds(self, worker: Worker) -> bool:
        """Whether a worker holds a trial."""
        with Study.open(self.job.storage, space=SPACE) as study:
            study._ledger.refresh()
            return any(r.is_running and r.lease.pid == worker.pid for r in study._ledger.records.values())


def kills(stage: Stage) -> int:
    """Three workers, each of which is killed after a random processor time, until that was done often enough."""
    due: dict[int, float] = {}
    n_killed = 0
    stage.job = replace(stage.job, n_trials=stage.length.kills // 2, seconds=0.4)
    while n_killed < stage.length.kills:
        for worker in list(stage.workers.workers):
            if not worker.is_alive:  # all trials are measured: ask for more
                assert stage.workers.end(worker) == 0, Path(stage.job.log).read_text()[-3000:]
                stage.job = replace(stage.job, n_trials=stage.n_done() + 10)
                continue
            if worker.used() > due[worker.pid]:
                worker.send(signal.SIGKILL)
                assert stage.workers.end(worker) == -signal.SIGKILL
                n_killed += 1
        while len(stage.workers.workers) < 3:
            due[stage.workers.start(stage.job).pid] = stage.chance.uniform(0.0, _LIFE_SECONDS)
        time.sleep(0.001)
    stage.end_all()
    return n_killed


def terminations(stage: Stage) -> int:
    """One worker at a time, four of which are asked to end in mid-trial; more losses than are forgiven."""
    job, stage.job = replace(stage.job, seconds=30.0, max_retries=3), replace(stage.job, max_retries=3)
    for _ in range(4):
        worker = stage.workers.start(job)
        stage.wait_for(lambda worker=worker: stage.holds(worker))  # type: ignore[misc]
        worker.send(signal.SIGTERM)
        assert stage.workers.end(worker) == 128 + signal.SIGTERM
    stage.finish(1)
    return 4


def restarts(stage: Stage) -> int:
    """Three workers while all connections are dropped, three times, and the server is away for a second, once."""
    assert stage.server is not None
    for _ in range(3):
        stage.workers.start(stage.job)
    for part in (1, 2, 3):
        stage.wait_for(lambda part=part: stage.n_done() >= part * stage.job.n_trials // 5)  # type: ignore[misc]
        stage.server.drop_connections()
    stage.wait_for(lambda: stage.n_done() >= 4 * stage.job.n_trials // 5)
    stage.server.stop()
    time.sleep(1.0)
    stage.server.start()
    stage.end_all()
    return 4


def full_disk(stage: Stage) -> int:
    """No file may grow beyond what the study has when a third is done; later there is room again."""
    job = stage.job
    assert stage.workers.end(stage.workers.start(replace(job, n_trials=job.n_trials // 3))) == 0
    room = Path(job.where).stat().st_size + 16_384
    hindered = replace(job, file_bytes=room, patience=0.5)
    assert stage.workers.end(stage.workers.start(hindered)) == 1
    stage.finish()
    return 1


def stopped(stage: Stage) -> int:
    """A worker on another machine is stopped for longer than its lease, and goes on when its trial is repeated."""
    job = replace(stage.job, place="elsewhere", seconds=0.5)
    for _ in range(stage.length.stops):
        worker = stage.workers.start(job)
        stage.wait_for(lambda worker=worker: stage.holds(worker))  # type: ignore[misc]
        worker.send(signal.SIGSTOP)
        other = stage.workers.start(stage.job)
        n = stage.n_done()
        stage.wait_for(lambda n=n: stage.n_done() > n + 1)  # type: ignore[misc]
        time.sleep(2 * stage.job.rules.stale_seconds)
        worker.send(signal.SIGCONT)
        stage.workers.end(other)
        assert stage.workers.end(worker) == 0
        stage.job = replace(stage.job, n_trials=stage.job.n_trials + 5)
        job = replace(job, n_trials=stage.job.n_trials)
    stage.finish()
    return stage.length.stops


def wrong_clocks(stage: Stage) -> int:
    """Four workers on four machines; the clocks of two are an hour behind and an hour ahead. No trial is taken away."""
    # Where the machine that plays all this is busy, a worker may well be silent for two seconds.
    job = replace(stage.job, seconds=0.3, n_trials=max(8, stage.length.trials // 3), beat=1.0, stale=20.0)
    stage.job = job
    for index, clock in enumerate((0.0, 0.0, -HOUR, HOUR)):
        stage.workers.start(replace(job, place=f"machine {index}", clock=clock))
    stage.end_all()
    return 2


SCENES: tuple[tuple[Callable[[Stage], int], tuple[str, ...]], ...] = (
    (kills, ("SQLite", "PostgreSQL")),
    (terminations, ("SQLite", "PostgreSQL")),
    (restarts, ("PostgreSQL",)),
    (full_disk, ("SQLite",)),
    (stopped, ("SQLite", "PostgreSQL")),
    (wrong_clocks, ("SQLite", "PostgreSQL")),
)


def play(scene: Callable[[Stage], int], length: Length, server: postgres.Server | None, folder: Path) -> Outcome:
    """Play a scene in a storage of its own: a database of the server, or where there is none a file in `folder`."""
    where = str(folder / "study.db") if server is None else server.database()
    job = Job(where, length.trials, 0.05, str(folder / "log.txt"))
    made(job.storage, SPACE, rules=job.rules).close()
    with nursery() as workers:
        stage = Stage(workers, job, length, server, random.Random(11))
        n_signals = scene(stage)
    return outcome(stage.job, n_signals)


HEAD = (
    "| what happens | database | times | lost in mid-trial | asked | measured | twice | rows withdrawn | seconds |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def table(length: Length, only: Sequence[str] = ()) -> Iterator[str]:
    """Lines of Markdown: one a scene and database; of the scenes called as in `only`, or of all where it is empty."""
    yield HEAD
    with ExitStack() as stack:
        server = None if postgres.reason_to_skip() else stack.enter_context(postgres.running())
        for scene, databases in SCENES:
            for database in databases if not only or scene.__name__ in only else ():
                if database == "PostgreSQL" and server is None:
                    continue
                began = time.monotonic()
                with tempfile.TemporaryDirectory() as folder:
                    found = play(scene, length, server if database == "PostgreSQL" else None, Path(folder))
                cells = (found.signals, found.lost + found.given_back, found.asked, found.measured, found.doubled)
                words = (scene.__name__.replace("_", " "), database, *cells, f"{found.withdrawn} of {found.rows}")
                yield f"| {' | '.join(map(str, words))} | {time.monotonic() - began:.0f} |"
                assert found.is_whole, found


if __name__ == "__main__":
    names = [name for name in sys.argv[1:] if name != "--short"]
    for line in table(SHORT if "--short" in sys.argv else LONG, names):
        print(line, flush=True)
