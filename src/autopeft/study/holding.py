"""The trials that this process holds, and those of other processes that are lost.

A worker *claims* a trial by writing it, complete, as running; then it reads what was written before its own. The trial
with the lower number keeps an architecture, or the last place, and the later one is withdrawn: it leaves a gap in the
numbers and is seen nowhere. Reading again after having written is what makes it safe: of two workers at least one sees
the other.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

from optuna.trial import TrialState as StoredState

from autopeft.errors import AutopeftError
from autopeft.interruption import reason_of, uninterrupted
from autopeft.spaces.lattice import SearchSpace
from autopeft.study.climbs import joined
from autopeft.study.database import Store
from autopeft.study.heart import Heart
from autopeft.study.ladder import Ladder
from autopeft.study.lease import Lease, LeaseRules, Watch
from autopeft.study.ledger import Ledger
from autopeft.study.record import Proposal, Record
from autopeft.trial import Failure, Trial

_logger = logging.getLogger(__name__)

_TIDYING_SECONDS = 5.0
"""How long a database that is away is waited for by a worker that was asked to end."""


class Holder:
    """Holds trials by renewing their leases, and gives up those that nobody holds any more.

    Args:
        rules: when a holder counts as lost, and how often what it held is tried again.
        seed: of every trial.
    """

    def __init__(self, store: Store, ledger: Ledger, rules: LeaseRules, seed: int) -> None:
        self._store, self._ledger, self._rules, self._seed = store, ledger, rules, seed
        self._watch = Watch(rules)
        self._hearts: dict[int, Heart] = {}
        store.patience_seconds, store.on_return = rules.patience_seconds, self._watch.begin_anew

    def is_holding(self, number: int) -> bool:
        """Whether this object renews the lease of the trial of this number."""
        return number in self._hearts

    def close(self) -> None:
        """Renew nothing any more; what is still held will be given up by other workers."""
        for number in list(self._hearts):
            self.let_go(number)

    # -- taking and giving back ------------------------------------------------------------------------------------

    def enter(self, proposal: Proposal, space: SearchSpace, n_trials: int, ladder: Ladder) -> Record | None:
        """Write the proposal as a running trial, then look who was first; None when somebody else was.

        Args:
            n_trials: trials from their beginning, at most.
            ladder: what may be trained in all.
        """
        now = self._store.attempt("reading the clock", self._store.now)
        lease = Lease.mine(now, self._store.clock)
        record = self._ledger.write(proposal, space.choices, self._seed, lease)
        if record is None:
            return None
        number = record.trial.number
        # The numbers decide, which the database gives in one order that all see, and not clocks, which differ.
        before = [r for r in self._ledger.records.values() if r.trial.number < number and r.is_taken]
        is_late = record.begins and sum(r.begins for r in before) >= n_trials
        # The sum is over what was claimed before, so that two workers who look at once agree on who was too many.
        is_dear = not ladder.keeps(joined(sorted([*before, record], key=lambda r: r.trial.number)))
        if is_late or is_dear or any(r.claim == record.claim for r in before):
            _logger.info("Trial %d is withdrawn: another worker was first.", number)
            self._ledger.withdraw(record)
            return None
        # Only now: a trial that is withdrawn has no lease to renew.
        self._hearts[number] = Heart(partial(self._ledger.renew, record), self._rules.beat_seconds)
        return record

    def let_go(self, number: int) -> None:
        """Renew the lease of a trial no longer, where that was done."""
        heart = self._hearts.pop(number, None)
        if heart is not None:
            heart.stop()

    def fail(self, number: int, failure: Failure) -> Trial:
        """Store why a trial has no measurement; one of the kind "preempted" is given back."""
        self.let_go(number)
        facts: dict[str, Any] = {"failure": asdict(failure)}
        if failure.is_preempted:
            facts["given_back"] = True
        if not self._ledger.end(self._ledger.record(number), facts, StoredState.FAIL):
            _logger.warning("Trial %d had been given up before it failed: %s", number, failure.message)
        return self._ledger.record(number).trial

    @contextmanager
    def given_back_if_interrupted(self) -> Iterator[None]:
        """Give back what was claimed within the block and is still held, when anything ends it early."""
        # What was held when the block began belongs to a block around it, which gives it back itself.
        before = set(self._hearts)
        try:
            yield
        except BaseException as error:
            reason = Failure("preempted", f"The worker was interrupted: {reason_of(error)}.")
            # A batch system soon kills what does not end at its signal, so that tidying up must not wait for long.
            with uninterrupted(), self._store.hurried(_TIDYING_SECONDS):
                for number in sorted(set(self._hearts) - before):
                    self._give_back(number, reason)
            raise

    def _give_back(self, number: int, reason: Failure) -> None:
        try:
            self.fail(number, reason)
        except AutopeftError as error:
            _logger.error("Trial %d could not be given back: %s", number, error)

    # -- what others held ------------------------------------------------------------------------------------------

    def give_up_lost(self) -> None:
        """Let the trials end whose workers are lost."""
        others = [r for r in self._ledger.records.values() if r.is_running and not self.is_holding(r.trial.number)]
        # The clock of a database is a query, which a worker that is alone need not make.
        if others:
            now = self._store.attempt("reading the clock", self._store.now)
            for record in others:
                if self.is_lost(record, now):
                    self.lose(record)

    def is_lost(self, record: Record, now: float) -> bool:
        """Whether the holder of a running trial is gone.

        Args:
            now: the present by the storage's clock, seconds since the epoch.
        """
        return record.lease.is_lost(lambda: self._watch.is_silent(record.lease, now, self._store.clock))

    def lose(self, record: Record) -> None:
        """Let a trial end whose worker is lost: to be tried again, or "gave_up" where that was done often enough."""
        same = [r for r in self._ledger.records.values() if r.claim == record.claim]
        # Losses before somebody reopened the trial are forgiven, or it would be given up again at once.
        again = max((r.trial.number for r in same if r.trial.number in self._ledger.reopened), default=-1)
        n_lost = 1 + sum(r.is_preempted and not r.is_given_back for r in same if r.trial.number > again)
        who = f"process {record.lease.pid} on {record.lease.host}"
        failure = Failure("preempted", f"The worker was lost: {who}.")
        if n_lost > self._rules.max_retries:
            failure = Failure("gave_up", f"The worker was lost {n_lost} times, lastly {who}: not tried again.")
        # Several workers notice a loss at the same time; the database lets one of them end the trial, who alone tells
        # it.
        if self._ledger.end(record, {"failure": asdict(failure), "lost": True}, StoredState.FAIL):
            _logger.warning("Trial %d: %s", record.trial.number, failure.message)
