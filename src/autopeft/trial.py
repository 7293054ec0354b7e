"""One evaluation of one architecture, as everybody but the storage sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from autopeft.architecture import Architecture
from autopeft.candidate import Candidate, Changes
from autopeft.fidelity import Fidelity, Reached
from autopeft.objective import FrontPoint, Measurement, Objective, ParetoFront
from autopeft.objectives import NOMINAL
from autopeft.spaces.choices import Configuration

FailureKind = Literal["oom", "nan", "preempted", "gave_up", "infeasible", "crash"]


class TrialState(StrEnum):
    """Where a trial stands: one that is COMPLETE or FAILED never changes again, one that is PAUSED may go on."""

    RUNNING = "running"
    PAUSED = "paused"
    COMPLETE = "complete"
    FAILED = "failed"


@dataclass(frozen=True)
class Failure:
    """Why a trial has no measurement.

    A "preempted" trial lost its worker and is retried as a new trial; a "gave_up" one lost its worker more often than
    is retried, which says nothing sure about its architecture: `Study.reopen` gives it another chance.
    """

    kind: FailureKind
    message: str
    traceback: str = ""

    @property
    def is_preempted(self) -> bool:
        """Whether the worker was lost, and the trial is to be repeated."""
        return self.kind == "preempted"

    @property
    def is_given_up(self) -> bool:
        """Whether the worker was lost too often."""
        return self.kind == "gave_up"

    @property
    def is_crash(self) -> bool:
        """Whether an exception of no known kind ended it: as likely a mistake of the program as the architecture's."""
        return self.kind == "crash"


@dataclass(frozen=True)
class Trial:
    """One evaluation: what was proposed, by whom, and what came of it.

    Args:
        number: position in the study, from 0.
        origin: who proposed it: "initial" or the name of a sampler.
        seed: the seed of its training run.
        proposal_seconds: wall-clock time that the sampler took to propose it.
        started: seconds since the epoch.
        finished: seconds since the epoch, or None while running; the worker's last sign of life if that was lost.
        retry_of: number of the pre-empted trial that this one repeats.
        changes: what it changed about the recipe of the search.
        measurement: of the whole training; None before its end.
        so_far: what a training that has not come to its end was worth at the last rung that it reached.
        rung: the rung, from 0, to which it is or was trained last; None in a study whose trials are not paused.
        continues: number of the trial whose training this one goes on with, where it stands for a part of that alone:
            while it is worked on, and when it lost its worker. `autopeft.study.climbs.joined` puts parts together.
    """

    number: int
    configuration: Configuration
    architecture: Architecture
    state: TrialState
    origin: str
    seed: int
    measurement: Measurement | None = None
    failure: Failure | None = None
    proposal_seconds: float = 0.0
    started: float = 0.0
    finished: float | None = None
    retry_of: int | None = None
    changes: Changes = field(default_factory=Changes)
    so_far: Measurement | None = None
    rung: int | None = None
    continues: int | None = None

    @property
    def latest(self) -> Measurement | None:
        """What it was worth when last looked at: at its end, or at the last rung that it reached."""
        return self.so_far if self.measurement is None else self.measurement

    @property
    def root(self) -> int:
        """The number by which people know it: that of the trial that it is a part of, or its own."""
        return self.number if self.continues is None else self.continues

    @property
    def candidate(self) -> Candidate:
        """What was trained: the architecture and the changes. Trials are of the same when their candidates are."""
        return Candidate(self.architecture, self.changes)

    def at(self, fidelity: Fidelity) -> Reached | None:
        """What it was worth at a rung of its study (`FULL` for the end); None where it was not measured there."""
        return next((one for one in self.reached if one.fidelity == fidelity), None)

    @property
    def reached(self) -> tuple[Reached, ...]:
        """The rungs that its training passed, in order, the end where it came there; empty in a study without rungs."""
        told = () if self.latest is None else self.latest.extra.get("rungs", ())
        return tuple(Reached.from_dict(one) for one in told)

    @property
    def is_complete(self) -> bool:
        """Whether it was measured at its end."""
        return self.state is TrialState.COMPLETE

    @property
    def is_taken(self) -> bool:
        """Whether its architecture is not to be proposed again: measured, running, or failed for good."""
        # Only the loss of a worker says nothing of the architecture: any other failure would most likely come again.
        return self.failure is None or not self.failure.is_preempted

    @property
    def counts_as_finished(self) -> bool:
        """Whether it counts towards the number of trials asked for: measured, paused, or failed for good."""
        return self.state is not TrialState.RUNNING and self.is_taken


def front_of(trials: Sequence[Trial], cost: Objective = NOMINAL) -> ParetoFront:
    """The non-dominated measured trials; the keys of its points are trial numbers. See `with_cost`."""
    return ParetoFront.of((FrontPoint(t.number, value, m.value) for t, m, value in with_cost(trials, cost)), cost)


def with_cost(trials: Sequence[Trial], cost: Objective = NOMINAL) -> list[tuple[Trial, Measurement, float]]:
    """The measured trials with their measurement and cost; those that have not stored this cost are left out."""
    measured = ((trial, trial.measurement) for trial in trials if trial.measurement is not None)
    costed = ((trial, found, cost.of(found)) for trial, found in measured)
    return [(trial, found, value) for trial, found, value in costed if value is not None]


def lacking(trials: Sequence[Trial], cost: Objective) -> tuple[int, ...]:
    """Numbers of the measured trials that have not stored this cost."""
    return tuple(t.number for t in trials if t.measurement is not None and cost.of(t.measurement) is None)
