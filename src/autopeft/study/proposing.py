"""What is evaluated next: what lost its worker, what goes on from a rung, the initial design, then the sampler's."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from autopeft.errors import InputError, ProposalFailure, SpaceExhaustedError
from autopeft.objective import Objective
from autopeft.spaces.lattice import Configuration, SearchSpace
from autopeft.study.climbs import joined
from autopeft.study.events import Asked, HasEarlier
from autopeft.study.facts import FAILED_PROPOSALS
from autopeft.study.failure import failure_of
from autopeft.study.ladder import Ladder
from autopeft.study.ledger import Ledger
from autopeft.study.record import Claim, Proposal
from autopeft.trial import Failure, Trial

_logger = logging.getLogger(__name__)


class Proposer:
    """Chooses candidates by what the ledger has read.

    Args:
        space: None for a study that is only read.
        seed: of the study.
    """

    def __init__(self, ledger: Ledger, space: SearchSpace | None, seed: int) -> None:
        self._ledger, self._space, self._seed = ledger, space, seed

    @property
    def space(self) -> SearchSpace:
        """The space of the study.

        Raises:
            InputError: the study was opened without it.
        """
        if self._space is None:
            raise InputError("The study was opened without its space, which claiming needs.")
        return self._space

    def next(
        self, sampler: Asked, n_trials: int, initial: Sequence[Configuration], ladder: Ladder, cost: Objective
    ) -> Proposal | None:
        """What is evaluated next, None where nothing may be; see `autopeft.study.study.Study.claim`.

        Raises:
            SpaceExhaustedError: nothing is left to propose.
            ProposalFailure: the sampler ran into NaN or out of memory; that is stored.
        """
        records = self._ledger.records.values()
        # What lost its worker is repeated: without it a sampler sees what it would have seen without the interruption.
        trials = joined(record for record in self._ledger.visible() if record.is_taken)
        has_room = sum(record.begins for record in records) < n_trials and ladder.affords(trials, ladder.first)
        again = self._again(trials, ladder, has_room)
        if again is not None:
            return again
        # Nothing new is begun while something is worth going on with: that is what was learned so far.
        if (trial := ladder.climbing(trials, cost)) is not None and trial.rung is not None:
            known = trial.configuration, trial.candidate, trial.origin
            return Proposal(*known, rung=trial.rung + 1, continues=trial.number)
        if not has_room:
            return None
        taken = {record.fingerprint for record in records if record.is_taken}
        # In their order, and by what they decode to: two configurations may mean one architecture.
        for configuration in initial:
            candidate = self.space.candidate(configuration)
            if candidate.fingerprint not in taken:
                return Proposal(configuration, candidate, "initial", rung=ladder.first)
        return self._asked(sampler, taken, ladder.seen(trials), ladder.first)

    def _again(self, trials: Sequence[Trial], ladder: Ladder, has_room: bool) -> Proposal | None:
        """The first that lost its worker and that nobody has taken up since; None where there is none."""
        taken = {record.claim for record in self._ledger.records.values() if record.is_taken}
        reached = {trial.number: trial for trial in trials}
        for record in self._ledger.records.values():
            if not record.is_preempted or record.claim in taken:
                continue
            before = None if record.trial.continues is None else reached.get(record.trial.continues)
            is_within = has_room if before is None else ladder.affords_rest(trials, before, record.trial.rung)
            if is_within:
                return self.retry(record.claim)
        return None

    def retry(self, claim: Claim) -> Proposal:
        """What was claimed once more, as what the last trial of it that lost its worker was."""
        last = [r for r in self._ledger.records.values() if r.is_preempted and r.claim == claim][-1].trial
        known = last.configuration, last.candidate, last.origin
        return Proposal(*known, retry_of=last.number, rung=last.rung, continues=last.continues)

    def failures(self) -> list[dict[str, Any]]:
        """What samplers failed at, oldest first: sampler, seconds, kind, message, traceback, and when."""
        return list(self._ledger.fact(FAILED_PROPOSALS, []))

    def _asked(self, sampler: Asked, taken: set[str], trials: list[Trial], rung: int | None) -> Proposal:
        began = time.perf_counter()
        try:
            found = sampler.ask(trials, 1)
        except (SpaceExhaustedError, InputError):
            raise
        except Exception as error:
            self._failed(sampler.name, failure_of(error), time.perf_counter() - began, error)
            raise
        seconds = time.perf_counter() - began + (sampler.earlier_seconds if isinstance(sampler, HasEarlier) else 0.0)
        if not found:
            raise SpaceExhaustedError(f"The sampler {sampler.name!r} proposed nothing.")
        candidate = self.space.candidate(found[0])
        if candidate.fingerprint not in taken and self.space.is_feasible(found[0]):
            return Proposal(found[0], candidate, sampler.name, seconds, rung=rung)
        _logger.warning("%r proposed what is taken or not allowed; a random one takes its place.", sampler.name)
        seen = {self.space.identity(trial.configuration) for trial in trials}
        # From the number of trials, so that a resumed search draws the same and two draws of one search differ.
        drawn = self.space.unseen(seen, np.random.default_rng([self._seed, len(trials)]))
        return Proposal(drawn, self.space.candidate(drawn), "random", seconds, rung=rung)

    def _failed(self, name: str, failure: Failure, seconds: float, error: Exception) -> None:
        """Store it beside the trials; a known kind goes on as one clear error, anything else as it is."""
        visible = self._ledger.visible()
        facts = {"sampler": name, "seconds": seconds, "at": time.time(), "n_trials": len(visible)}
        self._ledger.note_fact(FAILED_PROPOSALS, [*self.failures(), {**facts, **asdict(failure)}])
        if not failure.is_crash:
            n = sum(record.trial.is_complete for record in self._ledger.records.values())
            raise ProposalFailure(
                f"The sampler {name!r} failed ({failure.kind}) after {seconds:.0f} seconds: {failure.message} "
                f"The study keeps its {n} measured trials and this failure.",
                failure.kind,
            ) from error
