"""What a worker evaluates next: what lost its worker, then the initial design, then what the sampler proposes."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from autopeft.errors import InputError, ProposalFailure, SpaceExhaustedError
from autopeft.spaces.lattice import Configuration, SearchSpace
from autopeft.study.events import Asked, HasEarlier
from autopeft.study.failure import failure_of
from autopeft.study.ledger import Ledger
from autopeft.study.record import Proposal
from autopeft.trial import Failure

_logger = logging.getLogger(__name__)

_FAILED_PROPOSALS = "failed_proposals"


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

    def next(self, sampler: Asked, initial: Sequence[Configuration]) -> Proposal:
        """What is evaluated next; see `autopeft.study.study.Study.claim`.

        Raises:
            SpaceExhaustedError: nothing is left to propose.
            ProposalFailure: the sampler ran into NaN or out of memory; that is stored.
        """
        taken = {record.fingerprint for record in self._ledger.records.values() if record.is_taken}
        # What was lost comes first, so that a search that is stopped and resumed trains what it would have trained.
        for record in self._ledger.records.values():
            if record.is_preempted and record.fingerprint not in taken:
                return self.retry(record.fingerprint)
        # In their order, and by what they decode to: two configurations may mean one architecture.
        for configuration in initial:
            candidate = self.space.candidate(configuration)
            if candidate.fingerprint not in taken:
                return Proposal(configuration, candidate, "initial")
        return self._asked(sampler, taken)

    def retry(self, fingerprint: str) -> Proposal:
        """The candidate of this fingerprint once more, as what the last trial of it that lost its worker was."""
        found = [r for r in self._ledger.records.values() if r.is_preempted and r.fingerprint == fingerprint]
        last = found[-1].trial
        return Proposal(last.configuration, last.candidate, last.origin, retry_of=last.number)

    def failures(self) -> list[dict[str, Any]]:
        """What samplers failed at, oldest first: sampler, seconds, kind, message, traceback, and when."""
        return list(self._ledger.fact(_FAILED_PROPOSALS, []))

    def _asked(self, sampler: Asked, taken: set[str]) -> Proposal:
        began = time.perf_counter()
        # What lost its worker is repeated: without it a sampler sees what it would have seen without the interruption.
        trials = [record.trial for record in self._ledger.visible() if record.is_taken]
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
            return Proposal(found[0], candidate, sampler.name, seconds)
        _logger.warning("%r proposed what is taken or not allowed; a random one takes its place.", sampler.name)
        seen = {self.space.identity(trial.configuration) for trial in trials}
        # From the number of trials, so that a resumed search draws the same and two draws of one search differ.
        drawn = self.space.unseen(seen, np.random.default_rng([self._seed, len(trials)]))
        return Proposal(drawn, self.space.candidate(drawn), "random", seconds)

    def _failed(self, name: str, failure: Failure, seconds: float, error: Exception) -> None:
        """Store it beside the trials; a known kind goes on as one clear error, anything else as it is."""
        visible = self._ledger.visible()
        facts = {"sampler": name, "seconds": seconds, "at": time.time(), "n_trials": len(visible)}
        self._ledger.note_fact(_FAILED_PROPOSALS, [*self.failures(), {**facts, **asdict(failure)}])
        if failure.kind != "crash":
            n = sum(record.trial.is_complete for record in self._ledger.records.values())
            raise ProposalFailure(
                f"The sampler {name!r} failed ({failure.kind}) after {seconds:.0f} seconds: {failure.message} "
                f"The study keeps its {n} measured trials and this failure.",
                failure.kind,
            ) from error
