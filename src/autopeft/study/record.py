"""A trial as it stands in the storage, and how it is read: from plain values, whoever has fetched them.

Nothing of Optuna's is imported here, which takes longer than to read a thousand trials; how a trial is written is told
by `autopeft.study.stored`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from autopeft.candidate import Candidate
from autopeft.objective import Measurement
from autopeft.spaces.choices import Configuration
from autopeft.study.lease import Lease
from autopeft.trial import Failure, Trial, TrialState

Claim = tuple[str, int | None]
"""The fingerprint of a candidate, and the rung up to which it is trained; see `Record.claim`."""


@dataclass(frozen=True)
class Record:
    """A stored trial, with what only the study needs to know.

    Args:
        key: Optuna's identifier of the trial, unique in the whole storage; the number is unique in the study.
        trial: what everybody else sees.
        fingerprint: of the candidate.
        lease: who holds it, or held it.
        is_withdrawn: another worker had claimed the architecture, or the last place, a moment before.
        is_given_back: its worker was interrupted on purpose, which is no sign that the architecture kills workers.
    """

    key: int
    trial: Trial
    fingerprint: str
    lease: Lease
    is_withdrawn: bool = False
    is_given_back: bool = False

    @property
    def claim(self) -> Claim:
        """What nobody else may work on: of one candidate each part, from rung to rung, is claimed by itself."""
        return self.fingerprint, self.trial.rung

    @property
    def begins(self) -> bool:
        """Whether it is a trial from its beginning and takes one of the places of the study."""
        return self.is_taken and self.trial.continues is None

    @property
    def is_running(self) -> bool:
        """Whether it is being evaluated, as far as the storage knows."""
        return not self.is_withdrawn and self.trial.state is TrialState.RUNNING

    @property
    def is_taken(self) -> bool:
        """Whether its architecture is not to be proposed again."""
        return not self.is_withdrawn and self.trial.is_taken

    @property
    def is_preempted(self) -> bool:
        """Whether it lost its worker and ended without a verdict on the architecture."""
        return not self.is_withdrawn and not self.trial.is_taken


@dataclass(frozen=True)
class Proposal:
    """A configuration about to be claimed, and what it decodes to; the other fields are those of `Trial`."""

    configuration: Configuration
    candidate: Candidate
    origin: str
    proposal_seconds: float = 0.0
    retry_of: int | None = None
    rung: int | None = None
    continues: int | None = None

    @property
    def claim(self) -> Claim:
        """That of its record."""
        return self.candidate.fingerprint, self.rung


@dataclass(frozen=True)
class Row:
    """A row of the storage, as whoever fetched it gives it on.

    Args:
        key: Optuna's identifier of the trial.
        state: the name of Optuna's state: RUNNING, COMPLETE, PRUNED, FAIL or WAITING.
        started, ended: seconds since the epoch, or None.
        facts: the attributes, read from their JSON texts; see `read_facts`.
    """

    key: int
    number: int
    state: str
    started: float | None
    ended: float | None
    facts: Mapping[str, Any]


def read_trial(row: Row, *, with_history: bool = True) -> Record | None:
    """The record of a stored trial, or None when another program put it there.

    Args:
        with_history: whether the learning curve is kept; it is most of a measurement, and no sampler reads it.
    """
    facts = row.facts
    # The dashboard, and Optuna itself, may add trials to a study; they are theirs.
    if "architecture" not in facts or "lease" not in facts or row.state == "WAITING":
        return None
    state, lease, candidate = _state(row), Lease.from_dict(facts["lease"]), Candidate.from_dict(facts)
    failure = _failure(facts) if state is TrialState.FAILED else None
    # A worker that was given up while it wrote leaves a measurement behind in a trial that has failed.
    is_measured = state in (TrialState.COMPLETE, TrialState.PAUSED)
    latest = _measurement(facts["measurement"], with_history) if is_measured else None
    trial = Trial(
        number=row.number,
        configuration=Configuration(tuple(facts["configuration"])),
        architecture=candidate.architecture,
        state=state,
        origin=facts["origin"],
        seed=facts["seed"],
        measurement=latest if state is TrialState.COMPLETE else None,
        so_far=latest if state is TrialState.PAUSED else None,
        failure=failure,
        proposal_seconds=facts["proposal_seconds"],
        started=row.started or 0.0,
        finished=_finished(row, lease, failure),
        retry_of=facts["retry_of"],
        changes=candidate.changes,
        rung=facts.get("rung"),
        continues=facts.get("continues"),
    )
    return Record(
        key=row.key,
        trial=trial,
        fingerprint=facts["fingerprint"],
        lease=lease,
        is_withdrawn=facts.get("withdrawn", False),
        is_given_back=facts.get("given_back", False),
    )


_HISTORY = re.compile(r'"history": \[[^\[\]]*\]')


def read_facts(text: str, with_history: bool) -> dict[str, Any]:
    """The attributes of a trial out of one JSON object, see `object_of`.

    Args:
        with_history: whether the learning curve is kept; otherwise it is cut out of the text, for it is most of a
            measurement and takes longest to read.
    """
    brief = text if with_history else _HISTORY.sub('"history": []', text, count=1)
    try:
        found: dict[str, Any] = json.loads(brief)
    except ValueError:  # a bracket in the name of a metric: the text was cut at the wrong place
        found = json.loads(text)
    return found


def object_of(texts: Mapping[str, str]) -> str:
    """One JSON object of attributes that are stored as a JSON text each."""
    # To begin anew for each of a trial's dozen short values takes longer than to read them.
    return f"{{{', '.join(f'{json.dumps(name)}: {text}' for name, text in texts.items())}}}"


def as_it_stands(record: Record | None, again: frozenset[int]) -> Record | None:
    """The record, as if it had been given back where it failed and is to be tried again; others as they are.

    Args:
        again: the numbers of these trials, see `autopeft.study.facts.reopened_in`.
    """
    failure = None if record is None or record.trial.number not in again else record.trial.failure
    if record is None or failure is None or record.is_withdrawn:
        return record
    told = Failure("preempted", f"Reopened after {failure.kind}: {failure.message}", failure.traceback)
    return replace(record, trial=replace(record.trial, failure=told), is_given_back=True)


def to_json(data: Any) -> Any:
    """`data` as JSON gives it back: tuples become lists, array scalars numbers, anything unknown its text."""
    return json.loads(json.dumps(data, default=_plain_value))


def _plain_value(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    # Sorted, as the order of a set differs between processes and a study would differ from itself.
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)


def _state(row: Row) -> TrialState:
    if row.state == "RUNNING":
        return TrialState.RUNNING
    if row.state == "PRUNED" and "measurement" in row.facts:
        return TrialState.PAUSED
    return TrialState.COMPLETE if row.state == "COMPLETE" else TrialState.FAILED


def _measurement(told: Mapping[str, Any], with_history: bool) -> Measurement:
    return Measurement.from_dict(told if with_history else {**told, "history": ()})


def _failure(facts: Mapping[str, Any]) -> Failure:
    told = facts.get("failure")
    if not told:
        return Failure("crash", "The trial was ended by another program.")
    if facts.get("lost") and told["kind"] == "crash":  # what "gave_up" was called in earlier versions
        told = {**told, "kind": "gave_up"}
    return Failure(**told)


def _finished(row: Row, lease: Lease, failure: Failure | None) -> float | None:
    """When work on it ended. Of a lost worker that is its last sign of life: nobody worked until it was missed."""
    if row.ended is None or failure is None or row.facts.get("given_back"):
        return row.ended
    if not failure.is_preempted and not row.facts.get("lost"):
        return row.ended
    return min(row.ended, max(lease.beat, row.started or 0.0))
