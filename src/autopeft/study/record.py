"""How a trial is written into Optuna's storage, and read back.

Everything of ours is a JSON attribute, so that a trial can be read without the space that it came from. What Optuna
and its dashboard show beside it (parameters, two objective values) is written as well, and never read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as StoredState

from autopeft.candidate import Candidate
from autopeft.fidelity import FULL
from autopeft.objective import Measurement
from autopeft.spaces.lattice import Choice, Configuration
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


def write_trial(proposal: Proposal, choices: tuple[Choice, ...], seed: int, lease: Lease) -> FrozenTrial:
    """A running trial, complete with all attributes, so that it appears in the storage in one step."""
    pairs = list(zip(choices, proposal.configuration.indices, strict=True))
    attributes = {
        "configuration": list(proposal.configuration.indices),
        **proposal.candidate.as_dict(),
        "fingerprint": proposal.candidate.fingerprint,
        "origin": proposal.origin,
        "seed": seed,
        "proposal_seconds": proposal.proposal_seconds,
        "retry_of": proposal.retry_of,
        "lease": lease.as_dict(),
        **({} if proposal.rung is None else {"rung": proposal.rung, "continues": proposal.continues}),
    }
    return FrozenTrial(
        number=-1,  # the storage gives the number
        trial_id=-1,
        state=StoredState.RUNNING,
        value=None,
        datetime_start=datetime.now(),
        datetime_complete=None,
        # For Optuna's dashboard alone, which plots by parameters.
        params={choice.name: choice.values[index] for choice, index in pairs},
        distributions={choice.name: distribution(choice) for choice in choices},
        user_attrs=attributes,
        system_attrs={},
        intermediate_values={},
    )


def read_trial(stored: FrozenTrial, *, with_history: bool = True) -> Record | None:
    """The record of a stored trial, or None when another program put it there.

    Args:
        with_history: whether the learning curve is kept; it is most of a measurement, and no sampler reads it.
    """
    facts = stored.user_attrs
    # The dashboard, and Optuna itself, may add trials to a study; they are theirs.
    if "architecture" not in facts or "lease" not in facts or stored.state is StoredState.WAITING:
        return None
    lease, candidate = Lease.from_dict(facts["lease"]), Candidate.from_dict(facts)
    trial = Trial(
        number=stored.number,
        configuration=Configuration(tuple(facts["configuration"])),
        architecture=candidate.architecture,
        state=_state(stored),
        origin=facts["origin"],
        seed=facts["seed"],
        measurement=_measurement(stored, with_history, TrialState.COMPLETE),
        so_far=_measurement(stored, with_history, TrialState.PAUSED),
        failure=_failure(stored),
        proposal_seconds=facts["proposal_seconds"],
        started=_seconds(stored.datetime_start) or 0.0,
        finished=_finished(stored, lease),
        retry_of=facts["retry_of"],
        changes=candidate.changes,
        rung=facts.get("rung"),
        continues=facts.get("continues"),
    )
    return Record(
        key=stored._trial_id,
        trial=trial,
        fingerprint=facts["fingerprint"],
        lease=lease,
        is_withdrawn=facts.get("withdrawn", False),
        is_given_back=facts.get("given_back", False),
    )


_HISTORY = re.compile(r'"history": \[[^\[\]]*\]')


def read_facts(texts: Mapping[str, str], with_history: bool) -> dict[str, Any]:
    """The attributes of a trial, each of which is stored as a JSON text of its own.

    Args:
        with_history: whether the learning curve is kept; otherwise it is cut out of the text, for it is most of a
            measurement and takes longest to read.
    """
    # One text a trial: to begin anew for each of its dozen short values takes longer than to read them.
    try:
        found: dict[str, Any] = json.loads(_object(texts if with_history else _without_history(texts)))
    except ValueError:  # a bracket in the name of a metric: the text was cut at the wrong place
        found = json.loads(_object(texts))
    return found


def _object(texts: Mapping[str, str]) -> str:
    return f"{{{', '.join(f'{json.dumps(name)}: {text}' for name, text in texts.items())}}}"


def _without_history(texts: Mapping[str, str]) -> Mapping[str, str]:
    told = texts.get("measurement")
    return texts if told is None else {**texts, "measurement": _HISTORY.sub('"history": []', told, count=1)}


def reopened(record: Record) -> Record:
    """The record of a failed trial that is to be tried again, as if it had been given back; others as they are."""
    failure = record.trial.failure
    if failure is None or record.is_withdrawn:
        return record
    again = Failure("preempted", f"Reopened after {failure.kind}: {failure.message}", failure.traceback)
    return replace(record, trial=replace(record.trial, failure=again), is_given_back=True)


def distribution(choice: Choice) -> BaseDistribution:
    """A choice as Optuna shows it: whole numbers where its values are consecutive, categories otherwise."""
    first, last = choice.values[0], choice.values[-1]
    # A category for each would lose their order in the dashboard's plots.
    if all(isinstance(value, int) for value in choice.values) and last - first + 1 == len(choice.values):
        return IntDistribution(int(first), int(last))
    return CategoricalDistribution(choice.values)


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


def told_as(trial: Trial, measurement: Measurement) -> StoredState:
    """How a measured trial is stored: one that stands at a rung is what Optuna calls pruned, which no front of its has.

    A training that patience has ended at a rung is over, and has its measurement at the end.
    """
    reached = measurement.extra.get("rungs", ())
    is_over = trial.rung is None or not reached or reached[-1]["fidelity"] == FULL.to_json()
    return StoredState.COMPLETE if is_over else StoredState.PRUNED


def _state(stored: FrozenTrial) -> TrialState:
    if stored.state is StoredState.RUNNING:
        return TrialState.RUNNING
    if stored.state is StoredState.PRUNED and "measurement" in stored.user_attrs:
        return TrialState.PAUSED
    return TrialState.COMPLETE if stored.state is StoredState.COMPLETE else TrialState.FAILED


def _measurement(stored: FrozenTrial, with_history: bool, wanted: TrialState) -> Measurement | None:
    # A worker that was given up while it wrote leaves a measurement behind in a trial that has failed.
    if _state(stored) is not wanted:
        return None
    facts = stored.user_attrs["measurement"]
    return Measurement.from_dict(facts if with_history else {**facts, "history": ()})


def _failure(stored: FrozenTrial) -> Failure | None:
    if _state(stored) is not TrialState.FAILED:
        return None
    facts = stored.user_attrs.get("failure")
    if not facts:
        return Failure("crash", "The trial was ended by another program.")
    if stored.user_attrs.get("lost") and facts["kind"] == "crash":  # what "gave_up" was called in earlier versions
        facts = {**facts, "kind": "gave_up"}
    return Failure(**facts)


def _finished(stored: FrozenTrial, lease: Lease) -> float | None:
    """When work on it ended. Of a lost worker that is its last sign of life: nobody worked until it was missed."""
    ended, failure = _seconds(stored.datetime_complete), _failure(stored)
    if ended is None or failure is None or stored.user_attrs.get("given_back"):
        return ended
    if not failure.is_preempted and not stored.user_attrs.get("lost"):
        return ended
    return min(ended, max(lease.beat, _seconds(stored.datetime_start) or 0.0))


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
