"""What a study asks of those who propose and evaluate, and what it tells those who watch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from autopeft.candidate import Candidate
from autopeft.errors import TrialFailure
from autopeft.objective import Measurement
from autopeft.spaces.lattice import Configuration
from autopeft.trial import Trial

Evaluate = Callable[[Candidate, int], Measurement]
"""``evaluate(candidate, seed) -> Measurement``; raises a `TrialFailure` where it cannot measure."""

EvaluateAll = Callable[[Sequence[Candidate], Sequence[int]], Sequence[Measurement | TrialFailure]]
"""``evaluate_all(candidates, seeds)``: a measurement, or why there is none, for each; raises what concerns all."""


class Asked(Protocol):
    """What the study asks of a sampler; `autopeft.samplers.Sampler` has it. It is not shown pre-empted trials."""

    name: str

    def ask(self, trials: Sequence[Trial], n: int = 1) -> list[Configuration]: ...


@runtime_checkable
class HasEarlier(Protocol):
    """A sampler whose last proposal took time in processes before this one, too."""

    @property
    def earlier_seconds(self) -> float: ...


@dataclass(frozen=True)
class Claimed:
    """This worker begins to evaluate `trial`."""

    trial: Trial


@dataclass(frozen=True)
class Told:
    """`trial` was measured and stored."""

    trial: Trial


@dataclass(frozen=True)
class Failed:
    """`trial` failed; `trial.failure` says why. The search goes on."""

    trial: Trial


Event = Claimed | Told | Failed
