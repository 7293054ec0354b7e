"""The study: a search that is stored trial by trial, shared by any number of workers, and resumed.

A study knows nothing of training. It is given a callable, ``evaluate(candidate, seed) -> Measurement``, and a
sampler, and sees to the rest: who evaluates what, what became of it, what is tried again, when the search ends.

Workers do not talk to each other: what they do is settled by what they write and read (`autopeft.study.holding`). A
lock (`autopeft.study.claims`) makes collisions rare and lets proposals differ.

A database that goes away is waited for. What was measured meanwhile waits in a file (`autopeft.study.untold`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from autopeft.errors import InputError, ProposalFailure, SpaceExhaustedError
from autopeft.interruption import uninterrupted
from autopeft.objective import Measurement, Objective, ParetoFront
from autopeft.spaces.lattice import Configuration, SearchSpace
from autopeft.study.claims import turn
from autopeft.study.database import Store
from autopeft.study.evaluating import results_of
from autopeft.study.events import Asked, Claimed, Evaluate, EvaluateAll, Event, Failed, Told
from autopeft.study.failure import CrashWatch, failure_of
from autopeft.study.finding import find, find_or_make
from autopeft.study.holding import Holder
from autopeft.study.identity import Identified, Identity
from autopeft.study.ladder import Ladder
from autopeft.study.lease import LeaseRules
from autopeft.study.ledger import Ledger
from autopeft.study.opening import open_store, warn_of_skew
from autopeft.study.proposing import Proposer
from autopeft.study.telling import Teller
from autopeft.study.untold import Shelf
from autopeft.trial import Failure, Trial, front_of

_logger = logging.getLogger(__name__)

_UNTOLD = "untold"
_CLAIM_SECONDS = 20.0
"""How long another worker that claims nothing is waited for at least."""


class Study(Identified):
    """A stored search. Make one with `create_or_resume` or `open`.

    One object serves one thread; several objects, processes and machines may work on the same study.
    """

    def __init__(
        self,
        store: Store,
        key: int,
        name: str,
        identity: Identity,
        space: SearchSpace | None,
        rules: LeaseRules,
        folder: str | Path | None = None,
    ) -> None:
        self._store, self._key, self._identity = store, key, identity
        self._space, self._rules = space, rules
        self.name = name
        self._ledger = Ledger(store, key, name)
        self._holder = Holder(store, self._ledger, rules, identity.seed)
        self._proposer = Proposer(self._ledger, space, identity.seed)
        if folder is None and store.path is not None:
            folder = store.path.parent
        shelf = Shelf(None if folder is None else Path(folder) / _UNTOLD)
        self._teller = Teller(name, identity, store, self._ledger, self._holder, self._proposer, shelf)

    # -- opening -------------------------------------------------------------------------------------------

    @classmethod
    def create_or_resume(
        cls,
        storage: str | Path,
        name: str,
        space: SearchSpace,
        objective: str,
        settings: Mapping[str, Any],
        seed: int,
        *,
        rules: LeaseRules | None = None,
        folder: str | Path | None = None,
    ) -> Study:
        """The study called `name`; it is made when there is none.

        Args:
            storage: path of a SQLite file on a local disk, or a database URL (see `autopeft.study.location`).
            objective: the metric to maximise; ``cost`` among `settings` is minimised, or nominal parameters.
            settings: what must not change when the study is resumed, JSON-ready. The caller leaves out what may,
                such as the number of trials or of workers.
            seed: of the study, and of the training run of every trial: architectures are compared under the same
                initialisation and order of the data (common random numbers), which lowers the noise of differences.
            folder: where measurements wait that the storage has not taken yet; by default beside a SQLite file, and
                nowhere for a database server.

        Raises:
            StudyMismatchError: the stored study has another space, objective, seed or settings. The message lists
                every difference; nothing has been written.
            InputError: the storage cannot be used.
            SettingsError: a setting cannot be written as JSON.
        """
        asked = Identity.of(space, objective, settings, seed)
        store = open_store(storage, is_new_allowed=True)
        with _closed_on_error(store):
            key, stored = store.attempt(f"opening the study {name!r}", partial(find_or_make, store, name, asked))
            warn_of_skew(store)
        return cls(store, key, name, stored, space, rules or LeaseRules(), folder)

    @classmethod
    def open(
        cls,
        storage: str | Path,
        name: str | None = None,
        *,
        space: SearchSpace | None = None,
        rules: LeaseRules | None = None,
        folder: str | Path | None = None,
    ) -> Study:
        """A study that exists, for reading; with its `space` also for claiming trials.

        Args:
            name: may be left out where the storage holds one study only.
            folder: see `create_or_resume`.

        Raises:
            InputError: there is no such storage (no file is made), it holds no study or several and no name is
                given, or the study was not made by this package.
            UnknownNameError: the storage holds no study called `name`.
            StudyMismatchError: the study has another space than `space`.
        """
        store = open_store(storage, is_new_allowed=False)
        with _closed_on_error(store):
            key, found, stored = store.attempt("opening a study", partial(find, store, name, space))
        return cls(store, key, found, stored, space, rules or LeaseRules(), folder)

    def close(self) -> None:
        """Stop renewing leases and close the connections. Trials still claimed will be given up by other workers."""
        self._holder.close()
        self._store.close()

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- facts ---------------------------------------------------------------------------------------------

    @property
    def seed(self) -> int:
        """The seed of the study, which is also that of every trial."""
        return self._identity.seed

    @property
    def location(self) -> str:
        """The path of the storage, or its URL without the password."""
        return self._store.label

    def note(self, key: str, value: Any) -> None:
        """Store a fact about the study, JSON-ready, in place of an earlier one of the same key."""
        self._ledger.note_fact(key, value)

    def fact(self, key: str, default: Any = None) -> Any:
        """A fact stored by `note`, by any worker; `default` when there is none."""
        return self._ledger.fact(key, default)

    def failed_proposals(self) -> list[dict[str, Any]]:
        """What samplers failed at, oldest first: sampler, seconds, kind, message, traceback, and when."""
        return self._proposer.failures()

    # -- reading -------------------------------------------------------------------------------------------

    def trials(self, *, with_history: bool = True) -> tuple[Trial, ...]:
        """Every trial, read anew, in order of number, which may have gaps; learning curves are most of it."""
        return self._ledger.trials(with_history=with_history)

    def trial(self, number: int) -> Trial:
        """The trial of this number with its learning curve.

        Raises:
            InputError: there is no such trial.
        """
        return self._ledger.trial(number)

    def front(self, cost: Objective | None = None) -> ParetoFront:
        """The measured trials that no other one beats in both metric and `cost`, the study's own when it is None."""
        self._ledger.refresh()
        return front_of(self._ledger.joined(), cost or self.cost)

    def n_finished(self) -> int:
        """Number of trials that count towards the total: measured, paused at a rung, or failed for good."""
        self._ledger.refresh()
        return sum(trial.counts_as_finished for trial in self._ledger.joined() if trial.continues is None)

    def reopen(self, number: int | None = None) -> tuple[int, ...]:
        """Give failed trials another chance; returns their numbers. Who claims next repeats them, as new trials.

        What was stored stays. Workers that run already may not see it; the next ones do.

        Args:
            number: of a trial that failed for good, of whatever; None for all whose workers were lost too often.

        Raises:
            InputError: the trial is none that failed for good.
        """
        return self._ledger.reopen(number, time.time())

    # -- ask and tell --------------------------------------------------------------------------------------

    def claim(
        self, sampler: Asked, n_trials: int, initial: Sequence[Configuration] = (), ladder: Ladder | None = None
    ) -> Trial | None:
        """The next trial for this worker to evaluate; it must be told or failed, and its lease is renewed till then.

        First comes what lost its worker, then what goes on from a rung, then the configurations of `initial` in their
        order, then the sampler, which is given the trials without their learning curves and without those that lost
        their workers. No architecture is claimed that is measured, has failed for good, or is being evaluated anywhere.

        Args:
            n_trials: the total for the study, not for this call or worker: trials finished and running never
                exceed it.
            ladder: whether trials are paused and which go on, and a budget of trainings; None for none of these.

        Returns:
            None when the total is reached and nothing goes on, or the budget is spent; running trials may change that.

        Raises:
            SpaceExhaustedError: nothing is left to propose.
            ProposalFailure: the sampler ran into NaN or out of memory; that is stored, see `failed_proposals`.
            InputError: the study was opened without its space.
        """
        self._check_claim(n_trials)
        ladder = ladder or Ladder()
        lock = self._store.claim_lock(self._key)
        patience = max(_CLAIM_SECONDS, self._rules.stale_seconds)
        with self._holder.given_back_if_interrupted(), turn(lock, patience, self._ledger.newest) as mine:
            while True:
                self._ledger.refresh()
                # Before anything is given up: what was measured and not told is a result, not a loss.
                self._teller.tell_waiting()
                self._holder.give_up_lost()
                proposal = self._proposer.next(sampler, n_trials, initial, ladder, self.cost)
                if proposal is None:
                    return None
                if not mine.lasts():
                    continue  # somebody may have claimed meanwhile
                with uninterrupted():  # nobody would give back what is written and not yet known here
                    record = self._holder.enter(proposal, self._proposer.space, n_trials, ladder)
                if record is not None:
                    return record.trial

    def tell(self, trial: Trial, measurement: Measurement) -> Trial:
        """Store the measurement of a claimed trial; returns the trial as it now stands.

        A worker that had been given up for lost and lives may still tell: its measurement is stored as the retry of
        the trial, unless somebody else has begun that.

        Raises:
            InputError: the measurement is of another objective than the study, or lacks its cost.
            AutopeftError: the storage failed, and for longer than is waited for. The measurement waits in the study's
                folder and is told by the next worker that claims; where there is no folder it is in the log.
        """
        return self._teller.tell(trial, measurement)

    def fail(self, trial: Trial, failure: Failure) -> Trial:
        """Store why a claimed trial has no measurement; returns the trial as it now stands.

        The kind "preempted" gives the trial back: another worker will repeat it, however often that happens.
        """
        return self._holder.fail(trial.number, failure)

    def run(
        self,
        evaluate: Evaluate,
        sampler: Asked,
        n_trials: int,
        initial: Sequence[Configuration] = (),
        on_event: Callable[[Event], None] | None = None,
        *,
        evaluate_all: EvaluateAll | None = None,
        batch: int = 1,
        ladder: Ladder | None = None,
    ) -> None:
        """Claim, evaluate and tell until the study has `n_trials` finished trials: the loop of one worker.

        A failure of one trial is stored and the search goes on: `TrialFailure` with its kind, lack of memory as
        "oom", `FloatingPointError` as "nan", any other exception as "crash". An interruption gives the running
        trial back. The loop also ends, with a logged message, when the space is exhausted.

        Args:
            n_trials: the total for the study.
            initial: configurations to measure before the sampler is asked.
            on_event: told of every step, for a progress bar.
            evaluate_all: evaluates several at once, where `batch` is above 1; what fails for all of them is tried one
                by one with `evaluate`.
            batch: how many trials are claimed at most before they are evaluated. The sampler knows those of the same
                batch as running, as it knows those of other workers.
            ladder: see `claim`; what it pauses is measured by it, and not by `evaluate`.

        Raises:
            ProposalFailure: see `claim`.
            AutopeftError: the storage failed, or the first three trials of this call crashed at the same place,
                as from a mistake in `evaluate`.
        """
        watch = CrashWatch()
        notify = on_event or _ignore
        with self._holder.given_back_if_interrupted():
            claim = partial(self.claim, sampler, n_trials, initial, ladder)
            while trials := self._next_batch(claim, n_trials, batch if evaluate_all is not None else 1):
                for trial in trials:
                    notify(Claimed(trial))
                for trial, result in zip(trials, results_of(trials, evaluate, evaluate_all, ladder), strict=True):
                    if isinstance(result, Exception):
                        failure = failure_of(result)
                        _logger.warning("Trial %d failed (%s): %s", trial.number, failure.kind, failure.message)
                        notify(Failed(self.fail(trial, failure)))
                        watch.failed(failure, result)
                    else:
                        with uninterrupted():  # a finished training is not lost to a signal
                            told = self.tell(trial, result)
                        notify(Told(told))
                        watch.measured()

    # -- inside ----------------------------------------------------------------------------------

    def _check_claim(self, n_trials: int) -> None:
        wrong = ["the study was opened without its space, which claiming needs"] if self._space is None else []
        if not isinstance(n_trials, int) or n_trials < 1:
            wrong.append(f"the number of trials must be a whole number of at least 1, but is {n_trials!r}")
        if wrong:
            raise InputError(f"No trial can be claimed: {'; '.join(wrong)}.")

    def _next_batch(self, claim: Callable[[], Trial | None], n_trials: int, batch: int) -> list[Trial]:
        """The next trials, as many as there are and at most `batch`; nobody is waited for but for the first."""
        first = self._next(claim, n_trials)
        found = [] if first is None else [first]
        while found and len(found) < batch:
            try:
                trial = claim()
            except (SpaceExhaustedError, ProposalFailure):
                break  # what is claimed is evaluated; the next claim meets the same again if it is still so
            if trial is None:
                break
            found.append(trial)
        return found

    def _next(self, claim: Callable[[], Trial | None], n_trials: int) -> Trial | None:
        """Claim, waiting for others' last trials: they may yet lose their workers, or let one go on from its rung."""
        while True:
            trial, why = None, ""
            try:
                trial = claim()
            except SpaceExhaustedError as error:
                why = str(error)
            if trial is not None or not any(record.is_running for record in self._ledger.records.values()):
                if why:
                    _logger.warning("The search ends with %d of %d trials. %s", self.n_finished(), n_trials, why)
                return trial
            time.sleep(self._rules.poll_seconds)


@contextmanager
def _closed_on_error(store: Store) -> Iterator[None]:
    try:
        yield
    except BaseException:
        store.close()
        raise


def _ignore(event: Event) -> None:
    """The listener of those who want no events."""
