"""The study: a search that is stored trial by trial, shared by any number of workers, and resumed.

A study knows nothing of training. It is given a callable, ``evaluate(architecture, seed) -> Measurement``, and a
sampler, and sees to the rest: who evaluates what, what became of it, what is tried again, when the search ends.

Workers do not talk to each other and hold no lock. A worker *claims* a trial by writing it, complete, as running;
then it reads what was written before its own. The trial with the lower number keeps an architecture, or the last
place, and the later one is withdrawn: it leaves a gap in the numbers and is seen nowhere. Reading again after having
written is what makes it safe: of two workers at least one sees the other.
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
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState as StoredState

from autopeft.errors import AutopeftError, InputError, ProposalFailure, SpaceExhaustedError
from autopeft.interruption import reason_of, uninterrupted
from autopeft.objective import Measurement, ParetoFront
from autopeft.spaces.lattice import Configuration, SearchSpace
from autopeft.study.database import Store, open_store, storage_errors
from autopeft.study.events import Asked, Claimed, Evaluate, Event, Failed, HasEarlier, Told
from autopeft.study.failure import CrashWatch, failure_of
from autopeft.study.identity import Identity, find, find_or_make
from autopeft.study.lease import Heart, Lease, LeaseRules
from autopeft.study.record import Candidate, Record, plain, read_trial, reopened, write_trial
from autopeft.trial import Failure, Trial, TrialState, front_of

_logger = logging.getLogger(__name__)

_FAILED_PROPOSALS = "failed_proposals"
_REOPENED = "reopened."


class Study:
    """A stored search. Make one with `create_or_resume` or `open`.

    One object serves one thread; several objects, processes and machines may work on the same study.
    """

    def __init__(
        self, store: Store, key: int, name: str, identity: Identity, space: SearchSpace | None, rules: LeaseRules
    ) -> None:
        self._store, self._key, self._identity = store, key, identity
        self._space, self._rules = space, rules
        self.name = name
        self._records: dict[int, Record] = {}  # what has ended is kept without learning curves: it never changes
        self._n_read = 0
        self._reopened: frozenset[int] = frozenset()
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
    ) -> Study:
        """The study called `name`; it is made when there is none.

        Args:
            storage: path of a SQLite file on a local disk, or a database URL (see `autopeft.study.database`).
            objective: the metric to maximise; the nominal parameters in percent are minimised beside it.
            settings: what must not change when the study is resumed, JSON-ready. The caller leaves out what may,
                such as the number of trials or of workers.
            seed: of the study, and of the training run of every trial: architectures are compared under the same
                initialisation and order of the data (common random numbers), which lowers the noise of differences.

        Raises:
            StudyMismatchError: the stored study has another space, objective, seed or settings. The message lists
                every difference; nothing has been written.
            InputError: the storage cannot be used.
            SettingsError: a setting cannot be written as JSON.
        """
        asked = Identity.of(space, objective, settings, seed)
        store = open_store(storage, is_new_allowed=True)
        with _closed_on_error(store), storage_errors(store, f"opening the study {name!r}"):
            key, stored = find_or_make(store, name, asked)
        return cls(store, key, name, stored, space, rules or LeaseRules())

    @classmethod
    def open(
        cls,
        storage: str | Path,
        name: str | None = None,
        *,
        space: SearchSpace | None = None,
        rules: LeaseRules | None = None,
    ) -> Study:
        """A study that exists, for reading; with its `space` also for claiming trials.

        Args:
            name: may be left out where the storage holds one study only.

        Raises:
            InputError: there is no such storage (no file is made), it holds no study or several and no name is
                given, or the study was not made by this package.
            UnknownNameError: the storage holds no study called `name`.
            StudyMismatchError: the study has another space than `space`.
        """
        store = open_store(storage, is_new_allowed=False)
        with _closed_on_error(store), storage_errors(store, "opening a study"):
            key, found, stored = find(store, name, space)
        return cls(store, key, found, stored, space, rules or LeaseRules())

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
        with storage_errors(self._store, f"noting {key!r}"):
            self._store.backend.set_study_user_attr(self._key, f"fact.{key}", plain(value))

    def fact(self, key: str, default: Any = None) -> Any:
        """A fact stored by `note`, by any worker; `default` when there is none."""
        with storage_errors(self._store, f"reading {key!r}"):
            return self._store.backend.get_study_user_attrs(self._key).get(f"fact.{key}", default)

    def failed_proposals(self) -> list[dict[str, Any]]:
        """What samplers failed at, oldest first: sampler, seconds, kind, message, traceback, and when."""
        return list(self.fact(_FAILED_PROPOSALS, []))

    # -- reading -------------------------------------------------------------------------------------------

    def trials(self) -> tuple[Trial, ...]:
        """Every trial with its learning curve, read anew, in order of number. Numbers may have gaps."""
        with storage_errors(self._store, "reading trials"):
            stored = self._store.backend.get_all_trials(self._key, deepcopy=False)
            again = self._read_reopened()
        records = (_as_it_stands(read_trial(item), again) for item in stored)
        return tuple(sorted((r.trial for r in records if r and not r.is_withdrawn), key=lambda trial: trial.number))

    def trial(self, number: int) -> Trial:
        """The trial of this number with its learning curve.

        Raises:
            InputError: there is no such trial.
        """
        backend = self._store.backend
        try:
            with storage_errors(self._store, f"reading trial {number}"):
                key = backend.get_trial_id_from_study_id_trial_number(self._key, number)
                record = _as_it_stands(read_trial(backend.get_trial(key)), self._read_reopened())
        except KeyError:
            record = None
        if record is None or record.is_withdrawn:
            raise InputError(f"The study {self.name!r} has no trial {number}.")
        return record.trial

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
        with storage_errors(self._store, "reopening trials"):
            for each in chosen:  # a fact each, so that two who do this at once keep both
                self._store.backend.set_study_user_attr(self._key, f"{_REOPENED}{each}", time.time())
        self._n_read = 0  # read all anew
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
        with self._given_back_if_interrupted(), storage_errors(self._store, "claiming a trial"):
            while True:
                self._refresh()
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
            AutopeftError: the storage failed; the measurement is written to the log.
        """
        if measurement.objective != self.objective:
            raise InputError(f"The study maximises {self.objective!r}, but the measurement {measurement.objective!r}.")
        facts = plain(measurement.as_dict())
        try:
            with storage_errors(self._store, f"storing the measurement of trial {trial.number}"):
                return self._complete(trial, measurement, facts)
        except AutopeftError:
            _logger.error("Trial %d was measured but not stored: %s", trial.number, facts)
            raise

    def fail(self, trial: Trial, failure: Failure) -> Trial:
        """Store why a claimed trial has no measurement; returns the trial as it now stands.

        The kind "preempted" gives the trial back: another worker will repeat it, however often that happens.
        """
        self._stop_heart(trial.number)
        facts: dict[str, Any] = {"failure": asdict(failure)}
        if failure.kind == "preempted":
            facts["given_back"] = True
        with storage_errors(self._store, f"storing the failure of trial {trial.number}"):
            record = self._record(trial.number)
            if not self._end(record, facts, StoredState.FAIL):
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
        lease = Lease.mine(time.time())
        stored = write_trial(candidate, self._space.choices, self.seed, lease)
        key = self._store.backend.create_new_trial(self._key, stored)
        self._refresh()
        record = next(item for item in self._records.values() if item.key == key)
        before = [r for r in self._records.values() if r.trial.number < record.trial.number and r.is_taken]
        if len(before) >= n_trials or any(r.fingerprint == record.fingerprint for r in before):
            self._end(record, {"withdrawn": True}, StoredState.FAIL)
            return None
        self._hearts[record.trial.number] = Heart(partial(self._renew, record), self._rules.beat_seconds)
        return record

    # -- inside: leases ------------------------------------------------------------------------------------

    def _renew(self, record: Record) -> bool:
        backend = self._store.backend
        try:
            backend.set_trial_user_attr(record.key, "lease", record.lease.renewed(time.time()).as_dict())
            return True
        except UpdateFinishedTrialError:
            _logger.info("Trial %d has ended; its lease is not renewed.", record.trial.number)
            return False
        finally:
            backend.remove_session()  # each thread has its own connection

    def _give_up_lost(self) -> None:
        for record in list(self._records.values()):
            is_held = record.trial.number in self._hearts
            if record.is_running and not is_held and record.lease.is_lost(time.time(), self._rules.stale_seconds):
                self._lose(record)

    def _lose(self, record: Record) -> None:
        same = [r for r in self._records.values() if r.fingerprint == record.fingerprint]
        again = max((r.trial.number for r in same if r.trial.number in self._reopened), default=-1)
        n_lost = 1 + sum(r.is_preempted and not r.is_given_back for r in same if r.trial.number > again)
        who = f"process {record.lease.pid} on {record.lease.host}"
        failure = Failure("preempted", f"The worker was lost: {who}.")
        if n_lost > self._rules.max_retries:
            failure = Failure("gave_up", f"The worker was lost {n_lost} times, lastly {who}: not tried again.")
        if self._end(record, {"failure": asdict(failure), "lost": True}, StoredState.FAIL):
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
            with uninterrupted():
                for number in sorted(set(self._hearts) - before):
                    self._give_back(number, reason)
            raise

    def _give_back(self, number: int, reason: Failure) -> None:
        try:
            self.fail(self._record(number).trial, reason)
        except AutopeftError as error:
            _logger.error("Trial %d could not be given back: %s", number, error)

    # -- inside: storage -----------------------------------------------------------------------------------

    def _visible(self) -> list[Record]:
        return [record for record in self._records.values() if not record.is_withdrawn]

    def _read_reopened(self) -> frozenset[int]:
        facts = self._store.backend.get_study_user_attrs(self._key)
        return frozenset(int(key.removeprefix(_REOPENED)) for key in facts if key.startswith(_REOPENED))

    def _record(self, number: int) -> Record:
        if number not in self._records:
            self._refresh()
        if number not in self._records:
            raise InputError(f"The study {self.name!r} has no trial {number}.")
        return self._records[number]

    def _refresh(self) -> None:
        """Read what may have changed: running trials, and those that were written since the last time."""
        backend = self._store.backend
        with storage_errors(self._store, "reading trials"):
            if not self._n_read:
                self._reopened = self._read_reopened()
                stored = backend.get_all_trials(self._key, deepcopy=False)
                self._n_read = len(stored)
            else:
                running = [r for r in self._records.values() if r.trial.state is TrialState.RUNNING]
                stored = [backend.get_trial(record.key) for record in running]
                while (key := self._key_of(self._n_read)) is not None:
                    stored.append(backend.get_trial(key))
                    self._n_read += 1
        for item in stored:
            record = _as_it_stands(read_trial(item, with_history=False), self._reopened)
            if record is not None:
                self._records[record.trial.number] = record

    def _key_of(self, number: int) -> int | None:
        try:
            return self._store.backend.get_trial_id_from_study_id_trial_number(self._key, number)
        except KeyError:
            return None

    def _end(
        self, record: Record, facts: Mapping[str, Any], state: StoredState, values: Sequence[float] | None = None
    ) -> bool:
        """Let a running trial end; False when another worker had ended it before."""
        backend = self._store.backend
        try:
            with self._store.exclusive():
                for name, value in facts.items():
                    backend.set_trial_user_attr(record.key, name, plain(value))
                is_ended = backend.set_trial_state_values(record.key, state, values)
        except UpdateFinishedTrialError:
            is_ended = False
        now = read_trial(backend.get_trial(record.key), with_history=False)
        assert now is not None
        self._records[now.trial.number] = now
        return is_ended

    def _complete(self, trial: Trial, measurement: Measurement, facts: Mapping[str, Any]) -> Trial:
        record: Record | None = self._record(trial.number)
        values = (measurement.value, measurement.percent)
        assert record is not None
        if not self._end(record, {"measurement": facts}, StoredState.COMPLETE, values):
            record = self._enter_late(record)
            if record is None:
                _logger.warning("Trial %d had been given up and repeated; its measurement is dropped.", trial.number)
                self._stop_heart(trial.number)
                return self._records[trial.number].trial
            self._end(record, {"measurement": facts}, StoredState.COMPLETE, values)
            self._stop_heart(record.trial.number)
        self._stop_heart(trial.number)
        return self._records[record.trial.number].trial

    def _enter_late(self, record: Record) -> Record | None:
        """Claim the retry of a trial of ours that was given up; None when somebody else has begun it."""
        self._refresh()
        if any(r.is_taken and r.fingerprint == record.fingerprint for r in self._records.values()):
            return None
        return self._enter(self._retry(record.fingerprint), sys.maxsize)


def _as_it_stands(record: Record | None, again: frozenset[int]) -> Record | None:
    return reopened(record) if record is not None and record.trial.number in again else record


@contextmanager
def _closed_on_error(store: Store) -> Iterator[None]:
    try:
        yield
    except BaseException:
        store.close()
        raise


def _checked(measurement: Measurement) -> Measurement:
    if not isinstance(measurement, Measurement):
        raise TypeError(f"evaluate must return a Measurement, but returned {type(measurement).__name__}.")
    return measurement


def _ignore(event: Event) -> None:
    """The listener of those who want no events."""
