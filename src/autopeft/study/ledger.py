"""The rows of one study: read, written and ended. Each step is repeated while the database is away.

Rows are read as two plain queries. Optuna's own reading builds parameters, distributions and values of every trial as
well, which only its dashboard shows; that takes ten times as long, and a study of thousands of trials is read often.
Everything is written by Optuna's public methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState as StoredState
from sqlalchemy import column, table

from autopeft.collecting import uncollected
from autopeft.errors import InputError
from autopeft.spaces.lattice import Choice
from autopeft.study.climbs import joined, trials_of
from autopeft.study.database import Store
from autopeft.study.facts import REOPENED, fact_in, named, reopened_in
from autopeft.study.lease import Lease
from autopeft.study.record import (
    Claim,
    Proposal,
    Record,
    Row,
    as_it_stands,
    object_of,
    read_facts,
    read_trial,
    to_json,
)
from autopeft.study.stored import write_trial
from autopeft.trial import Trial, TrialState

_TRIALS = table(
    "trials",
    *map(column, ("trial_id", "study_id", "number", "state")),
    column("datetime_start", sqlalchemy.DateTime),
    column("datetime_complete", sqlalchemy.DateTime),
)
_FACTS = table("trial_user_attributes", *map(column, ("trial_id", "key", "value_json")))


class Ledger:
    """What a study has written into its storage.

    Args:
        key: Optuna's identifier of the study.
        name: of the study, for messages.

    Attributes:
        records: by number, what was read so far, without learning curves; what has ended never changes.
        reopened: numbers of failed trials that are to be tried again.
    """

    def __init__(self, store: Store, key: int, name: str) -> None:
        self._store, self._key, self._name = store, key, name
        self.records: dict[int, Record] = {}
        self.reopened: frozenset[int] = frozenset()
        self._n_read = 0

    # -- facts of the study ----------------------------------------------------------------------------------------

    def note(self, key: str, value: Any) -> None:
        """Store a fact about the study, JSON-ready, in place of an earlier one of the same key."""
        backend = self._store.backend
        self._store.attempt(f"noting {key!r}", lambda: backend.set_study_user_attr(self._key, key, to_json(value)))

    def facts(self) -> dict[str, Any]:
        """Everything that was noted."""
        return self._store.attempt("reading facts", lambda: self._store.backend.get_study_user_attrs(self._key))

    def note_fact(self, key: str, value: Any) -> None:
        """`note`, under a name that nothing else of the study's uses."""
        self.note(named(key), value)

    def fact(self, key: str, default: Any = None) -> Any:
        """What `note_fact` stored, by any worker; `default` when there is none."""
        return fact_in(self.facts(), key, default)

    def reopen(self, number: int | None, now: float) -> tuple[int, ...]:
        """Let failed trials be tried again, see `Study.reopen`: a fact each, so that two who do this at once keep both.

        Raises:
            InputError: the trial of this number is none that failed for good.
        """
        self._n_read = 0  # read all anew, now and when it is read next
        self.refresh()
        found = [record.trial for record in self.visible()]
        failed = [trial for trial in found if trial.failure is not None and trial.is_taken]
        if number is None:
            chosen = [trial for trial in failed if trial.failure is not None and trial.failure.is_given_up]
        else:
            chosen = [trial for trial in failed if trial.root == number]
            if not chosen:
                raise InputError(f"Trial {number} cannot be reopened: it is none that failed for good.")
        for trial in chosen:
            # Of a training that failed after a rung the part that failed is repeated, and not what was told before.
            self.note(f"{REOPENED}{trial.number}", now)
        self._n_read = 0
        return tuple(trial.root for trial in chosen)

    # -- reading ---------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Read what may have changed: running trials, and those that were written since the last time."""
        # Asked once: what was reopened is noted by a person between two searches, not while one runs.
        if not self._n_read:
            self.reopened = reopened_in(self.facts())
        self._take_in(self._store.attempt("reading trials", self._changed))

    def trials(self, *, with_history: bool = True) -> tuple[Trial, ...]:
        """Every trial that was not withdrawn, read anew, by number."""
        return self._trials(sqlalchemy.true(), with_history)

    def _trials(self, where: sqlalchemy.ColumnElement[bool], with_history: bool = True) -> tuple[Trial, ...]:
        again = reopened_in(self.facts())
        with uncollected():
            rows = self._store.attempt("reading trials", lambda: self._rows(where, with_history))
            return trials_of(rows, again, with_history=with_history)

    def trial(self, number: int) -> Trial:
        """The trial of this number, read anew.

        Raises:
            InputError: there is no such trial.
        """
        found = self._trials(_TRIALS.c.number == number)
        if found and found[0].rung is not None:  # other rows may be parts of it
            self.refresh()
            parts = [one.trial.number for one in self.visible() if one.trial.root == found[0].root]
            found = tuple(one for one in self._trials(_TRIALS.c.number.in_(parts)) if one.number == number)
        if not found:
            raise self._unknown(number)
        return found[0]

    def record(self, number: int) -> Record:
        """The record of this number, read when it is not known yet.

        Raises:
            InputError: there is no such trial.
        """
        if number not in self.records:
            self.refresh()
        if number not in self.records:
            raise self._unknown(number)
        return self.records[number]

    def joined(self) -> list[Trial]:
        """The trials that were read so far and not withdrawn, parts of one training put together."""
        return joined(self.visible())

    def visible(self) -> list[Record]:
        """What was read so far and has not been withdrawn."""
        return [record for record in self.records.values() if not record.is_withdrawn]

    def newest(self) -> int:
        """The number of rows that the storage holds; one try."""
        of_study = sqlalchemy.select(sqlalchemy.func.count()).where(_TRIALS.c.study_id == self._key)
        with self._store.backend.engine.connect() as connection:
            return int(connection.execute(of_study).scalar_one())

    def _unknown(self, number: int) -> InputError:
        return InputError(f"The study {self._name!r} has no trial {number}.")

    def _changed(self) -> list[Row]:
        # What has ended never changes, so a study of thousands of trials is read once and then by its news alone.
        running = [r.key for r in self.records.values() if r.trial.state is TrialState.RUNNING]
        is_news = sqlalchemy.or_(_TRIALS.c.number >= self._n_read, _TRIALS.c.trial_id.in_(running))
        return self._rows(is_news, with_history=False)

    def _take_in(self, rows: Sequence[Row]) -> None:
        for row in rows:
            # Rows that are not ours count, too, or they would be read again every time.
            self._n_read = max(self._n_read, row.number + 1)
            record = as_it_stands(read_trial(row, with_history=False), self.reopened)
            if record is not None:
                self.records[record.trial.number] = record

    def _rows(self, where: sqlalchemy.ColumnElement[bool], with_history: bool = True) -> list[Row]:
        """The study's rows for which `where` holds, by number: state, times and attributes, and nothing else."""
        chosen = sqlalchemy.and_(_TRIALS.c.study_id == self._key, where)
        # Joined instead of listing the trials' keys, of which a database takes only so many in one query.
        texts: dict[int, dict[str, str]] = {}
        joined = _FACTS.join(_TRIALS, _TRIALS.c.trial_id == _FACTS.c.trial_id)
        of_facts = sqlalchemy.select(_FACTS).select_from(joined).where(chosen)
        with self._store.backend.engine.connect() as connection:
            # First the states: an attribute that is written in between is seen too early, never too late.
            rows = connection.execute(sqlalchemy.select(_TRIALS).where(chosen).order_by(_TRIALS.c.number)).all()
            for key, name, value in connection.execute(of_facts):
                texts.setdefault(key, {})[name] = value
        return [_row(row, read_facts(object_of(texts.get(row.trial_id, {})), with_history)) for row in rows]

    # -- writing ---------------------------------------------------------------------------------------------------

    def write(self, proposal: Proposal, choices: tuple[Choice, ...], seed: int, lease: Lease) -> Record | None:
        """Write a running trial, complete, and read what others have written meanwhile.

        Should a connection break between the writing and its answer, the row is found by the token of its lease. Of
        several rows with that token the first one counts; the others are withdrawn. None when the writing failed and
        somebody else has claimed the architecture before it was tried again.
        """
        stored = write_trial(proposal, choices, seed, lease)
        n_tries = 0

        def step() -> None:
            nonlocal n_tries
            n_tries += 1
            if n_tries > 1:
                self._take_in(self._changed())
                # The first try may have arrived although its answer did not, and a second row would be a second
                # training.
                if self._of(lease.token) or self._is_taken(proposal.claim):
                    return
            self._store.backend.create_new_trial(self._key, stored)
            self._take_in(self._changed())

        self._store.attempt("claiming a trial", step)
        mine = self._of(lease.token)
        # Of two rows of one claim the lower number counts, as it does between workers.
        for record in mine[1:]:
            self.withdraw(record)
        return mine[0] if mine else None

    def withdraw(self, record: Record) -> None:
        """Let a row be seen nowhere any more."""
        self.end(record, {"withdrawn": True}, StoredState.FAIL)

    def renew(self, record: Record) -> bool:
        """Show that the holder lives; False when there is nothing left to renew. One try, for a thread of its own."""
        backend = self._store.backend
        try:
            lease = record.lease.renewed(self._store.now())
            backend.set_trial_user_attr(record.key, "lease", lease.as_dict())
        except UpdateFinishedTrialError:
            return False
        finally:
            backend.remove_session()  # each thread has its own connection
        return True

    def end(
        self,
        record: Record,
        facts: Mapping[str, Any],
        state: StoredState,
        values: Sequence[float] | None = None,
    ) -> bool:
        """Let a running trial end; False when it had ended before, by another worker's word.

        Only its holder completes a trial, so that one found complete was told by an earlier try or process.
        """
        backend = self._store.backend

        def step() -> tuple[bool, list[Row]]:
            try:
                # Facts and state in one transaction: a trial that is complete without its measurement could not be
                # read.
                with self._store.exclusive():
                    for name, value in facts.items():
                        backend.set_trial_user_attr(record.key, name, to_json(value))
                    is_ended = backend.set_trial_state_values(record.key, state, values)
            except UpdateFinishedTrialError:
                is_ended = False
            return is_ended, self._rows(_TRIALS.c.trial_id == record.key)

        is_told = state is not StoredState.FAIL
        doing = f"storing {'the measurement' if is_told else 'the end'} of trial {record.trial.number}"
        is_ended, rows = self._store.attempt(doing, step, is_space_awaited=is_told)
        self._take_in(rows)
        return is_ended or (is_told and self.records[record.trial.number].trial.latest is not None)

    def _is_taken(self, claim: Claim) -> bool:
        return any(record.is_taken and record.claim == claim for record in self.records.values())

    def _of(self, token: str) -> list[Record]:
        found = [record for record in self.records.values() if record.lease.token == token]
        return sorted(found, key=lambda record: record.trial.number)


def _row(found: Any, facts: dict[str, Any]) -> Row:
    ends = _seconds(found.datetime_start), _seconds(found.datetime_complete)
    return Row(found.trial_id, found.number, found.state, *ends, facts)


def _seconds(stored: datetime | None) -> float | None:
    """Optuna keeps times as UTC without saying so."""
    return None if stored is None else stored.replace(tzinfo=UTC).timestamp()
