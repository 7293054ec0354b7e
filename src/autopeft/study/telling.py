"""How a measurement is stored: at once, as the retry of a trial that was given up, or later, by another process."""

from __future__ import annotations

import logging
import sys

from autopeft.errors import InputError
from autopeft.objective import Measurement
from autopeft.study.database import Store
from autopeft.study.holding import Holder
from autopeft.study.identity import Identity
from autopeft.study.ladder import Ladder
from autopeft.study.ledger import Ledger
from autopeft.study.proposing import Proposer
from autopeft.study.record import Record, to_json
from autopeft.study.stored import told_as
from autopeft.study.untold import Shelf, Untold
from autopeft.trial import Trial

_logger = logging.getLogger(__name__)


class Teller:
    """Stores measurements, and keeps what the storage has not taken.

    Args:
        name: of the study.
        shelf: where measurements wait.
    """

    def __init__(
        self,
        name: str,
        identity: Identity,
        store: Store,
        ledger: Ledger,
        holder: Holder,
        proposer: Proposer,
        shelf: Shelf,
    ) -> None:
        self._name, self._identity, self._store, self._ledger = name, identity, store, ledger
        self._holder, self._proposer, self._shelf = holder, proposer, shelf

    def tell(self, trial: Trial, measurement: Measurement) -> Trial:
        """Store the measurement of a trial that this process holds; see `autopeft.study.study.Study.tell`.

        Raises:
            InputError: the measurement is of another objective than the study, or lacks its cost.
            AutopeftError: the storage failed, and for longer than is waited for.
        """
        asked = self._identity
        if measurement.objective != asked.objective:
            raise InputError(f"The study maximises {asked.objective!r}, but the measurement {measurement.objective!r}.")
        if asked.cost.of(measurement) is None:
            raise InputError(f"The study minimises {asked.cost.name!r}, but the measurement does not say it.")
        item = Untold(self._name, trial.number, self._ledger.record(trial.number).lease, measurement)
        # Written down before the database is asked, which may take the measurement and break before it says so.
        path = self._shelf.keep(item)
        try:
            told = self.complete(trial, measurement)
        except BaseException:
            if path is None:
                _logger.error("Trial %d was measured but not stored: %s", trial.number, to_json(measurement.as_dict()))
                raise
            self._holder.let_go(trial.number)  # it is not given back: it waits to be told
            _logger.error("The measurement of trial %d waits in %s: run the same command again.", trial.number, path)
            raise
        self._shelf.drop(item)
        return told

    def tell_waiting(self) -> None:
        """Tell what was measured by workers that could not, and that are no more."""
        for item in self._shelf.waiting(self._name):
            record = self._ledger.records.get(item.number)
            if record is None or record.lease.token != item.lease.token or self._holder.is_holding(item.number):
                continue  # of a study of the same name elsewhere; or being told
            now = self._store.attempt("reading the clock", self._store.now)
            if not (record.lease.is_mine or self._holder.is_lost(record, now)):
                continue  # whoever holds it lives and tells it
            is_told = record.trial.latest is not None
            if not is_told and self.complete(record.trial, item.measurement).latest is not None:
                _logger.warning("Trial %d had been measured earlier; that has been stored now.", item.number)
            self._shelf.drop(item)

    def complete(self, trial: Trial, measurement: Measurement) -> Trial:
        """Store a measurement as that of its trial, or as its retry where the trial was given up."""
        facts = {"measurement": to_json(measurement.as_dict())}
        record: Record | None = self._ledger.record(trial.number)
        assert record is not None
        state = told_as(record.trial, measurement)
        # Optuna keeps no values of what has not come to its end: they would stand in its fronts.
        values = (measurement.value, self._identity.cost.told(measurement)) if state.name == "COMPLETE" else None
        # The trial may have been given up while it trained, as happens to a machine that sleeps.
        if not self._ledger.end(record, facts, state, values):
            record = self._enter_late(record)
            if record is None:
                _logger.warning("Trial %d had been given up and repeated; its measurement is dropped.", trial.number)
                self._holder.let_go(trial.number)
                return self._ledger.record(trial.number).trial
            self._ledger.end(record, facts, state, values)
            self._holder.let_go(record.trial.number)
        self._holder.let_go(trial.number)
        return self._ledger.record(record.trial.number).trial

    def _enter_late(self, record: Record) -> Record | None:
        """Claim the retry of a trial of ours that was given up; None when somebody else has begun it."""
        self._ledger.refresh()
        if any(r.is_taken and r.claim == record.claim for r in self._ledger.records.values()):
            return None
        # Whatever the total: the training has been paid for, and its trial counted before it was given up.
        return self._holder.enter(self._proposer.retry(record.claim), self._proposer.space, sys.maxsize, Ladder())
