"""How far trials are trained, who goes on, and how much may be trained in all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from autopeft.candidate import Candidate
from autopeft.objective import Measurement, Objective
from autopeft.rungs import share_of
from autopeft.trial import Trial, TrialState

MeasureUpTo = Callable[[Candidate, int, int], Measurement]
"""``measure(candidate, seed, rung) -> Measurement`` of a training that is paused at the rung of this number, from 0."""

_SLACK = 1e-9  # shares are sums of fractions of steps


class Promotes(Protocol):
    """What decides which paused trials go on; `autopeft.promotions` has them."""

    name: str

    @property
    def settings(self) -> dict[str, Any]: ...
    def order(self, trials: Sequence[Trial], cost: Objective) -> list[int]: ...
    def view(self, trials: Sequence[Trial]) -> list[Trial]: ...


@dataclass(frozen=True)
class Ladder:
    """The rungs of a study's trials.

    Args:
        shares: of the whole training at each rung; the last is 1, the end.
        promotion: who goes on from a rung; None trains every trial to its end at once.
        measure: trains up to a rung; needed with `promotion`.
        trainings: how much may be trained, in whole trainings; trials that failed before their first rung count
            nothing, as in `autopeft.rungs.search_cost`.
    """

    shares: tuple[float, ...] = (1.0,)
    promotion: Promotes | None = None
    measure: MeasureUpTo | None = None
    trainings: float = math.inf

    @property
    def first(self) -> int | None:
        """The rung up to which a new trial is trained; None for its end."""
        return None if self.promotion is None else 0

    def spent(self, trials: Sequence[Trial]) -> float:
        """What `trials` have taken in whole trainings; those that run count as if they had come where they go."""
        return math.fsum(self._share(trial) for trial in trials)

    def affords(self, trials: Sequence[Trial], rung: int | None, after: float = 0.0) -> bool:
        """Whether a training up to `rung` is within the budget beside `trials`.

        Args:
            after: the share of it that is done.
        """
        if self.trainings == math.inf:
            return True
        return self.spent(trials) + self._up_to(rung) - after <= self.trainings + _SLACK

    def affords_rest(self, trials: Sequence[Trial], begun: Trial, rung: int | None) -> bool:
        """The same of a training that goes on from where `begun`, one of `trials`, stands."""
        return self.affords(trials, rung, self._share(begun))

    def keeps(self, trials: Sequence[Trial]) -> bool:
        """Whether `trials` are within the budget."""
        return self.trainings == math.inf or self.spent(trials) <= self.trainings + _SLACK

    def climbing(self, trials: Sequence[Trial], cost: Objective) -> Trial | None:
        """The paused trial that goes on next, of those that the budget allows; None where there is none."""
        return next(self._climbing(trials, cost), None)

    def _climbing(self, trials: Sequence[Trial], cost: Objective) -> Iterator[Trial]:
        if self.promotion is None:
            return
        by_number = {trial.number: trial for trial in trials}
        for number in self.promotion.order(trials, cost):
            trial = by_number[number]
            assert trial.rung is not None  # it is paused at one
            if self.affords_rest(trials, trial, trial.rung + 1):
                yield trial

    def seen(self, trials: Sequence[Trial]) -> list[Trial]:
        """The trials as a sampler is shown them."""
        return list(trials) if self.promotion is None else self.promotion.view(trials)

    def _up_to(self, rung: int | None) -> float:
        return 1.0 if rung is None or rung >= len(self.shares) else self.shares[rung]

    def _share(self, trial: Trial) -> float:
        if trial.state is TrialState.RUNNING:
            return self._up_to(trial.rung)
        return 0.0 if trial.latest is None else share_of(trial.latest)
