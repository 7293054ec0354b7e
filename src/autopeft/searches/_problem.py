"""What the searches in a supernet share: the problem that they minimise, and the plan of a search."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch import Tensor, nn

from autopeft.errors import BudgetError, NonFiniteFailure
from autopeft.searches._candidates import Candidates

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

TRAIN, VALIDATION = 0, 1
"""The halves of the training part: the weights are trained on the first, the gates on the second."""


LATER: Mapping[str, bool] = MappingProxyType({"is_later": True})
"""Metadata of a field of settings that came after the first studies: at its default it is what there was before."""


def facts_of(settings: DataclassInstance) -> dict[str, Any]:
    """What makes two searches the same: every setting, but those that came later only where they say something."""
    # Studies and checkpoints of before do not know the newer fields, and must stay the same searches.
    found = {item.name: (item.metadata.get("is_later", False), item.default) for item in fields(settings)}
    return {name: value for name, value in asdict(settings).items() if found[name] != (True, value)}


class Problem(Protocol):
    """What is minimised.

    Attributes:
        head: parameters that are trained besides the supernet's.
        steps_per_epoch: batches of the first half.
        examples: that went through the model so far, repetitions counted, those of processes before this one too; None
            where that is not known.
    """

    examples: int | None

    @property
    def head(self) -> Sequence[nn.Parameter]: ...
    @property
    def steps_per_epoch(self) -> int: ...
    def loss(self, half: int, step: int) -> Tensor:
        """The mean loss on the batch of `half` that belongs to `step`, which it alone determines; a scalar."""
        ...

    def training(self) -> AbstractContextManager[None]:
        """A context in which the model is in training mode."""
        ...


class EvaluatedProblem(Problem, Protocol):
    """What is minimised, and how well it went."""

    def validation(self) -> float:
        """The loss on the second half in evaluation mode; the lower the better."""
        ...


@dataclass(frozen=True)
class Plan:
    """How long, how fast, how much.

    Args:
        steps: of the whole search, if it is not over before.
        learning_rate: of the weights, at the start.
        budget: the most parameters in the supernet's count; None only where nothing is selected.
        seed: of initial values, gates and dropout.
    """

    steps: int
    learning_rate: float
    budget: int | None
    seed: int

    def limit(self, candidates: Candidates) -> int:
        """The budget.

        Raises:
            BudgetError: there is none, or not even the smallest of `candidates` fits it.
        """
        if self.budget is None:
            raise BudgetError("This search selects for a parameter budget, but none was given.")
        candidates.check_budget(self.budget)
        return self.budget

    def derived(self, step: int, salt: int) -> int:
        """An independent seed for one purpose at one step."""
        # Not seed + step: neighbouring seeds would share most of their draws, one step apart.
        return int(np.random.SeedSequence([self.seed, step, salt]).generate_state(1, np.uint32)[0])

    def check(self, loss: float, name: str, step: int) -> None:
        """Raises:
        NonFiniteFailure: `loss` is NaN or infinite; `name` and `step` say which it is.
        """
        if not math.isfinite(loss):
            raise NonFiniteFailure(f"The {name} loss is {loss} at step {step} of {self.steps}.")

    def identity(self, settings: DataclassInstance, candidates: Candidates) -> str:
        """What a checkpoint must share with this search: sixteen hexadecimal digits."""
        text = json.dumps([facts_of(settings), repr(self), candidates.keys, candidates.counts.tolist()])
        return hashlib.sha256(text.encode()).hexdigest()[:16]
