"""The study: a search that is stored trial by trial, shared by any number of workers, and resumed.

A study knows nothing of training. It is given a callable, ``evaluate(architecture, seed) -> Measurement``, and a
sampler, and sees to the rest: who evaluates what, what became of it, what is tried again, when the search ends.

Workers do not talk to each other. A worker *claims* a trial by writing it, complete, as running; then it reads what was
written before its own. The trial with the lower number keeps an architecture, or the last place, and the later one is
withdrawn: it leaves a gap in the numbers and is seen nowhere. Reading again after having written is what makes it
safe: of two workers at least one sees the other. A lock (`autopeft.study.claims`) makes that rare and lets proposals
differ.

A database that goes away is waited for. What was measured meanwhile waits in a file (`autopeft.study.untold`).
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import TrialState as StoredState

from autopeft.errors import AutopeftError, InputError, ProposalFailure, SpaceExhaustedError
from autopeft.interruption import reason_of, uninterrupted
from autopeft.objective import Measurement, ParetoFront
from autopeft.spaces.lattice import Configuration, SearchSpace
from autopeft.study.claims import held
from autopeft.study.database import Store, open_store
from autopeft.study.events import Asked, Claimed, Evaluate, Event, Failed, HasEarlier, Told
from autopeft.study.failure import CrashWatch, failure_of
from autopeft.study.identity import Identity, find, find_or_make
from autopeft.study.lease import Heart, Lease, LeaseRules, Watch
from autopeft.study.ledger import Ledger
from autopeft.study.record import Candidate, Record, to_json
from autopeft.study.untold import Shelf, Untold
from autopeft.trial import Failure, Trial, front_of

_logger = logging.getLogger(__name__)

_FAILED_PROPOSALS = "failed_proposals"
_UNTOLD = "untold"
_SKEW_SECONDS = 60.0
_CLAIM_SECONDS = 20.0
"""How long another worker's claim is waited for at least."""
_TIDYING_SECONDS = 5.0
"""How long a database that is away is waited for by a worker that was asked to end."""


class Study:
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
        self._watch = Watch(rules)
        store.patience_seconds, store.on_return = rules.patience_seconds, self._watch.begin_anew
        if folder is None and store.path is not None:
            folder = store.path.parent
        self._shelf = Shelf(None if folder is None else Path(folder) / _UNTOLD)
        self._hearts: dict[int, Heart] = {}

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
            storage: path of a SQLite file on a local disk, or a database URL (see `autopeft.study.database`).
            objective: the metric to maximise; the nominal parameters in percent are minimised beside it.
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
            _warn_of_skew(store)
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
        for heart in self._hearts.values():
            heart.stop()
        self._hearts.clear()
        self._store.close()

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- facts ---------------------------------------------------------------------------------------------

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that the study was made with."""
        return self._identity.settings

    @property
    def seed(self) -> int:
        """The seed of the study, which is also that of every trial."""
        return self._identity.seed

    @property
    def objective(self) -> str:
        """The name of the metric that is maximised."""
        return self._identity.objective

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of Python and the packages at the time the study was made."""
        return self._identity.versions

    @property
    def location(self) -> str:
        """The path of the storage, or its URL without the password."""
        return self._store.label

    def note(self, key: str, value: Any) -> None:
        """Store a fact about the study, JSON-ready, in place of an earlier one of the same key."""
        self._ledger.note(f"fact.{key}", value)

    def fact(self, key: str, default: Any = None) -> Any:
        """A fact stored by `note`, by any worker; `default` when there is none."""
        return self._ledger.facts().get(f"fact.{key}", default)

    def failed_proposals(self) -> list[dict[str, Any]]:
        """What samplers failed at, oldest first: sampler, seconds, kind, message, traceback, and when."""
        return list(self.fact(_FAILED_PROPOSALS, []))

    # -- reading -------------------------------------------------------------------------------------------

    def trials(self, *, with_history: bool = True) -> tuple[Trial, ...]:
        """Every trial, read anew, in order of number. Numbers may have gaps.

        Args:
            with_history: whether learning curves are kept; they are most of a measurement.
        """
        return self._ledger.trials(with_history=with_history)

    def trial(self, number: int) -> Trial:
        """The trial of this number with its learning curve.

        Raises:
            InputError: there is no such trial.
        """
        return self._ledger.trial(number)

    def front(self) -> ParetoFront:
        """The measured trials that no other one beats in both metric and nominal parameters."""
        self._refresh()
        return front_of([record.trial for record in self._visible()])

    def n_finished(self) -> int:
        """Number of trials that count towards the total: measured, or failed for good."""
        self._refresh()
        return sum(record.trial.counts_as_finished for record in self._visible())

    def reopen(self, number: int | None = None) -> tuple[int, ...]:
        """Give failed trials another chance; returns their numbers. Who claims next repeats them, as new trials.

        What was stored stays. Workers that run already may not see it; the next ones do.

        Args:
            number: of a trial that failed for good, of whatever; None for all whose workers were lost too often.

        Raises:
            InputError: the trial is none that failed for good.
        """
        trials = self.trials()
        if number is None:
            chosen = [t.number for t in trials if t.failure is not None and t.failure.kind == "gave_up"]
        else:
            chosen = [t.number for t in trials if t.number == number and t.failure is not None and t.is_taken]
            if not chosen:
                raise InputError(f"Trial {number} cannot be reopened: it is none that failed for good.")
        self._ledger.reopen(chosen, time.time())
        return tuple(chosen)

    # -- ask and tell --------------------------------------------------------------------------------------

    def claim(self, sampler: Asked, n_trials: int, initial: Sequence[Configuration] = ()) -> Trial | None:
        """The next trial for this worker to evaluate; it must be told or failed, and its lease is renewed till then.

        First comes what lost its worker, then the configurations of `initial` in their order, then the sampler,
        which is given the trials without their learning curves and without those that lost their workers. No
        architecture is claimed that is measured, has failed for good, or is being evaluated anywhere.

        Args:
            n_trials: the total for the study, not for this call or worker: trials finished and running never
                exceed it.

        Returns:
            None when the total is reached, or will be once running trials have ended: see `n_finished`.

        Raises:
            SpaceExhaustedError: nothing is left to propose.
            ProposalFailure: the sampler ran into NaN or out of memory; that is stored, see `failed_proposals`.
            InputError: the study was opened without its space.
        """
        self._check_claim(n_trials)
        lock = self._store.claim_lock(self._key)
        with self._given_back_if_interrupted(), held(lock, max(_CLAIM_SECONDS, self._rules.stale_seconds)):
            while True:
                self._refresh()
                self._tell_waiting()
                self._give_up_lost()
                if sum(record.is_taken for record in self._records.values()) >= n_trials:
                    return None
                candidate = self._propose(sampler, initial)
                with uninterrupted():  # nobody would give back what is written and not yet known here
                    record = self._enter(candidate, n_trials)
                if record is not None:
                    return record.trial

    def tell(self, trial: Trial, measurement: Measurement) -> Trial:
        """Store the measurement of a claimed trial; returns the trial as it now stands.

        A worker that had been given up for lost and lives may still tell: its measurement is stored as the retry of
        the trial, unless somebody else has begun that.

        Raises:
            InputError: the measurement is of another objective than the study.
            AutopeftError: the storage failed, and for longer than is waited for. The measurement waits in the study's
                folder and is told by the next worker that claims; where there is no folder it is in the log.
        """
        if measurement.objective != self.objective:
            raise InputError(f"The study maximises {self.objective!r}, but the measurement {measurement.objective!r}.")
        item = Untold(self.name, trial.number, self._ledger.record(trial.number).lease, measurement)
        path = self._shelf.keep(item)
        try:
            told = self._complete(trial, measurement)
        except BaseException:
            if path is None:
                _logger.error("Trial %d was measured but not stored: %s", trial.number, to_json(measurement.as_dict()))
                raise
            self._stop_heart(trial.number)  # it is not given back: it waits to be told
            _logger.error("The measurement of trial %d waits in %s: run the same command again.", trial.number, path)
            raise
        self._shelf.drop(item)
        return told

    def fail(self, trial: Trial, failure: Failure) -> Trial:
        """Store why a claimed trial has no measurement; returns the trial as it now stands.

        The kind "preempted" gives the trial back: another worker will repeat it, however often that happens.
        """
        self._stop_heart(trial.number)
        facts: dict[str, Any] = {"failure": asdict(failure)}
        if failure.kind == "preempted":
            facts["given_back"] = True
        record = self._ledger.record(trial.number)
        if not self._ledger.end(record, facts, StoredState.FAIL):
            _logger.warning("Trial %d had been given up before it failed: %s", trial.number, failure.message)
        return self._records[trial.number].trial

    def run(
        self,
        evaluate: Evaluate,
        sampler: Asked,
        n_trials: int,
        initial: Sequence[Configuration] = (),
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        """Claim, evaluate and tell until the study has `n_trials` finished trials: the loop of one worker.

        A failure of one trial is stored and the search goes on: `TrialFailure` with its kind, lack of memory as
        "oom", `FloatingPointError` as "nan", any other exception as "crash". An interruption gives the running
        trial back. The loop also ends, with a logged message, when the space is exhausted.

        Args:
            n_trials: the total for the study.
            initial: configurations to measure before the sampler is asked.
            on_event: told of every step, for a progress bar.

        Raises:
            ProposalFailure: see `claim`.
            AutopeftError: the storage failed, or the first three trials of this call crashed at the same place,
                as from a mistake in `evaluate`.
        """
        watch = CrashWatch()
        notify = on_event or _ignore
        with self._given_back_if_interrupted():
            while (trial := self._next(sampler, n_trials, initial)) is not None:
                notify(Claimed(trial))
                try:
                    measurement = _checked(evaluate(trial.architecture, trial.seed))
                except Exception as error:
                    failure = failure_of(error)
                    _logger.warning("Trial %d failed (%s): %s", trial.number, failure.kind, failure.message)
                    notify(Failed(self.fail(trial, failure)))
                    watch.failed(failure, error)
                else:
                    with uninterrupted():  # a finished training is not lost to a signal
                        told = self.tell(trial, measurement)
                    notify(Told(told))
                    watch.measured()

    # -- inside: claiming ----------------------------------------------------------------------------------

    def _check_claim(self, n_trials: int) -> None:
        wrong = []
        if self._space is None:
            wrong.append("the study was opened without its space, which claiming needs")
        if not isinstance(n_trials, int) or n_trials < 1:
            wrong.append(f"the number of trials must be a whole number of at least 1, but is {n_trials!r}")
        if wrong:
            raise InputError(f"No trial can be claimed: {'; '.join(wrong)}.")

    def _next(self, sampler: Asked, n_trials: int, initial: Sequence[Configuration]) -> Trial | None:
        """Claim, waiting for others' last trials: they may yet lose their workers and have to be repeated."""
        while True:
            try:
                trial = self.claim(sampler, n_trials, initial)
                if trial is not None or self.n_finished() >= n_trials:
                    return trial
            except SpaceExhaustedError as error:
                if not any(record.is_running for record in self._records.values()):
                    _logger.warning("The search ends with %d of %d trials. %s", self.n_finished(), n_trials, error)
                    return None
            time.sleep(self._rules.poll_seconds)

    def _propose(self, sampler: Asked, initial: Sequence[Configuration]) -> Candidate:
        assert self._space is not None
        taken = {record.fingerprint for record in self._records.values() if record.is_taken}
        for record in self._records.values():
            if record.is_preempted and record.fingerprint not in taken:
                return self._retry(record.fingerprint)
        for configuration in initial:
            architecture = self._space.decode(configuration)
            if architecture.fingerprint not in taken:
                return Candidate(configuration, architecture, "initial")
        return self._asked(sampler, taken)

    def _retry(self, fingerprint: str) -> Candidate:
        last = [r for r in self._records.values() if r.is_preempted and r.fingerprint == fingerprint][-1].trial
        return Candidate(last.configuration, last.architecture, last.origin, retry_of=last.number)

    def _asked(self, sampler: Asked, taken: set[str]) -> Candidate:
        assert self._space is not None
        began = time.perf_counter()
        # What lost its worker is repeated: without it a sampler sees what it would have seen without the interruption.
        trials = [record.trial for record in self._visible() if record.is_taken]
        try:
            found = sampler.ask(trials, 1)
        except (SpaceExhaustedError, InputError):
            raise
        except Exception as error:
            self._proposal_failed(sampler.name, failure_of(error), time.perf_counter() - began, error)
            raise
        seconds = time.perf_counter() - began + (sampler.earlier_seconds if isinstance(sampler, HasEarlier) else 0.0)
        if not found:
            raise SpaceExhaustedError(f"The sampler {sampler.name!r} proposed nothing.")
        architecture = self._space.decode(found[0])
        if architecture.fingerprint not in taken and self._space.is_feasible(found[0]):
            return Candidate(found[0], architecture, sampler.name, seconds)
        _logger.warning("%r proposed what is taken or not allowed; a random one takes its place.", sampler.name)
        seen = {self._space.identity(trial.configuration) for trial in trials}
        drawn = self._space.unseen(seen, np.random.default_rng([self.seed, len(trials)]))
        return Candidate(drawn, self._space.decode(drawn), "random", seconds)

    def _proposal_failed(self, name: str, failure: Failure, seconds: float, error: Exception) -> None:
        """Store it beside the trials; a known kind goes on as one clear error, anything else as it is."""
        facts = {"sampler": name, "seconds": seconds, "at": time.time(), "n_trials": len(self._visible())}
        self.note(_FAILED_PROPOSALS, [*self.failed_proposals(), {**facts, **asdict(failure)}])
        if failure.kind != "crash":
            n = sum(record.trial.is_complete for record in self._records.values())
            raise ProposalFailure(
                f"The sampler {name!r} failed ({failure.kind}) after {seconds:.0f} seconds: {failure.message} "
                f"The study keeps its {n} measured trials and this failure.",
                failure.kind,
            ) from error

    def _enter(self, candidate: Candidate, n_trials: int) -> Record | None:
        """Write the proposal as a running trial, then look who was first; None when somebody else was."""
        assert self._space is not None
        now = self._store.attempt("reading the clock", self._store.now)
        lease = Lease.mine(now, self._store.clock)
        record = self._ledger.write(candidate, self._space.choices, self.seed, lease)
        before = [r for r in self._records.values() if r.trial.number < record.trial.number and r.is_taken]
        if len(before) >= n_trials or any(r.fingerprint == record.fingerprint for r in before):
            self._ledger.withdraw(record)
            return None
        self._hearts[record.trial.number] = Heart(partial(self._ledger.renew, record), self._rules.beat_seconds)
        return record

    # -- inside: leases ------------------------------------------------------------------------------------

    def _give_up_lost(self) -> None:
        others = [r for r in self._records.values() if r.is_running and r.trial.number not in self._hearts]
        if others:
            now = self._store.attempt("reading the clock", self._store.now)
            for record in others:
                if self._is_lost(record, now):
                    self._lose(record)

    def _is_lost(self, record: Record, now: float) -> bool:
        return record.lease.is_lost(lambda: self._watch.is_silent(record.lease, now, self._store.clock))

    def _tell_waiting(self) -> None:
        """Tell what was measured by workers that could not, and that are no more."""
        for item in self._shelf.waiting(self.name):
            record = self._records.get(item.number)
            if record is None or record.lease.token != item.lease.token or item.number in self._hearts:
                continue  # of a study of the same name elsewhere; or being told
            now = self._store.attempt("reading the clock", self._store.now)
            if not (record.lease.is_mine or self._is_lost(record, now)):
                continue  # whoever holds it lives and tells it
            if not record.trial.is_complete and self._complete(record.trial, item.measurement).is_complete:
                _logger.warning("Trial %d had been measured earlier; that has been stored now.", item.number)
            self._shelf.drop(item)

    def _lose(self, record: Record) -> None:
        same = [r for r in self._records.values() if r.fingerprint == record.fingerprint]
        again = max((r.trial.number for r in same if r.trial.number in self._ledger.reopened), default=-1)
        n_lost = 1 + sum(r.is_preempted and not r.is_given_back for r in same if r.trial.number > again)
        who = f"process {record.lease.pid} on {record.lease.host}"
        failure = Failure("preempted", f"The worker was lost: {who}.")
        if n_lost > self._rules.max_retries:
            failure = Failure("gave_up", f"The worker was lost {n_lost} times, lastly {who}: not tried again.")
        if self._ledger.end(record, {"failure": asdict(failure), "lost": True}, StoredState.FAIL):
            _logger.warning("Trial %d: %s", record.trial.number, failure.message)

    def _stop_heart(self, number: int) -> None:
        heart = self._hearts.pop(number, None)
        if heart is not None:
            heart.stop()

    @contextmanager
    def _given_back_if_interrupted(self) -> Iterator[None]:
        """Give back what was claimed within the block and is still held, when anything ends it early."""
        before = set(self._hearts)
        try:
            yield
        except BaseException as error:
            reason = Failure("preempted", f"The worker was interrupted: {reason_of(error)}.")
            with uninterrupted(), self._store.hurried(_TIDYING_SECONDS):
                for number in sorted(set(self._hearts) - before):
                    self._give_back(number, reason)
            raise

    def _give_back(self, number: int, reason: Failure) -> None:
        try:
            self.fail(self._ledger.record(number).trial, reason)
        except AutopeftError as error:
            _logger.error("Trial %d could not be given back: %s", number, error)

    # -- inside: storage -----------------------------------------------------------------------------------

    @property
    def _records(self) -> dict[int, Record]:
        return self._ledger.records

    def _refresh(self) -> None:
        self._ledger.refresh()

    def _visible(self) -> list[Record]:
        return self._ledger.visible()

    def _complete(self, trial: Trial, measurement: Measurement) -> Trial:
        """Store a measurement as that of its trial, or as its retry where the trial was given up; see `tell`."""
        facts = {"measurement": to_json(measurement.as_dict())}
        values = (measurement.value, measurement.percent)
        record: Record | None = self._ledger.record(trial.number)
        assert record is not None
        if not self._ledger.end(record, facts, StoredState.COMPLETE, values):
            record = self._enter_late(record)
            if record is None:
                _logger.warning("Trial %d had been given up and repeated; its measurement is dropped.", trial.number)
                self._stop_heart(trial.number)
                return self._records[trial.number].trial
            self._ledger.end(record, facts, StoredState.COMPLETE, values)
            self._stop_heart(record.trial.number)
        self._stop_heart(trial.number)
        return self._records[record.trial.number].trial

    def _enter_late(self, record: Record) -> Record | None:
        """Claim the retry of a trial of ours that was given up; None when somebody else has begun it."""
        self._refresh()
        if any(r.is_taken and r.fingerprint == record.fingerprint for r in self._records.values()):
            return None
        return self._enter(self._retry(record.fingerprint), sys.maxsize)


@contextmanager
def _closed_on_error(store: Store) -> Iterator[None]:
    try:
        yield
    except BaseException:
        store.close()
        raise


def _warn_of_skew(store: Store) -> None:
    """Leases go by the database's clock; what a trial's row says of its beginning and end goes by the host's."""
    behind = store.attempt("reading the clock", store.now) - time.time()
    if abs(behind) > _SKEW_SECONDS:
        _logger.warning(
            "The clock of this host is about %.0f seconds %s that of the database. Leases go by the database's, but "
            "the times of trials are off: set the clock.",
            abs(behind),
            "behind" if behind > 0 else "ahead of",
        )


def _checked(measurement: Measurement) -> Measurement:
    if not isinstance(measurement, Measurement):
        raise TypeError(f"evaluate must return a Measurement, but returned {type(measurement).__name__}.")
    return measurement


def _ignore(event: Event) -> None:
    """The listener of those who want no events."""
