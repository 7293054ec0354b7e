"""The training part cut in two: weights are trained on the one half, gates on the other.

BIPEFT (EMNLP Findings 2024, section 3.1) and S3Delta (arXiv 2206.07382, section 3.3) cut it in random halves. The cut
moves with the seed of the search, and nothing but the training part is touched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autopeft.errors import SettingsError
from autopeft.network.dropout import quick_dropout
from autopeft.searches._problem import TRAIN, VALIDATION, Plan
from autopeft.training.batches import collate, training_order
from autopeft.training.evaluator import Evaluator
from autopeft.training.precision import autocast


def check_halves(evaluator: Evaluator, name: str) -> None:
    """Raises:
    SettingsError: there are not two training examples, which the method called `name` needs.
    """
    if evaluator.n_train < 2:
        raise SettingsError(f"{name} cuts the training part in two halves, but it has {evaluator.n_train} examples.")


class Length(Protocol):
    """What the settings of a search say of its length and pace; None takes the recipe's."""

    @property
    def epochs(self) -> float | None: ...
    @property
    def steps(self) -> int | None: ...
    @property
    def batch_size(self) -> int | None: ...
    @property
    def learning_rate(self) -> float | None: ...


def halved_steps(evaluator: Evaluator, batch_size: int, epochs: float | None, steps: int | None) -> int:
    """How many steps a search in halves takes: what is given of the two, else what the recipe says; at least 1."""
    return _steps(evaluator, math.ceil((evaluator.n_train + 1) // 2 / batch_size), epochs, steps)


def _steps(evaluator: Evaluator, per_epoch: int, epochs: float | None, steps: int | None) -> int:
    recipe = evaluator.recipe
    if steps is not None:
        return steps
    if epochs is None and recipe.steps is not None:
        return recipe.steps
    return max(1, round((epochs or recipe.epochs) * per_epoch))


class HalvedTask:
    """The evaluator's training part, cut in two random halves, as an `EvaluatedProblem`.

    Which examples form the batch of a step depends on the seed and the number of the step alone.

    Attributes:
        examples: see `Problem`.
    """

    def __init__(self, evaluator: Evaluator, batch_size: int, seed: int, *, is_whole: bool = False) -> None:
        """Make a fresh head.

        Args:
            evaluator: with at least two training examples, see `check_halves`.
            is_whole: the first half is the whole training part, and there is no second.
        """
        n = evaluator.n_train
        self._evaluator, self._size, self._seed = evaluator, batch_size, seed
        # With a number of its own behind the seed, so that the cut and the batches of an epoch draw apart.
        order = np.random.default_rng([seed, 0]).permutation(n)
        first = n if is_whole else (n + 1) // 2
        self._halves = (order[:first], order[first:])
        self._orders: dict[int, tuple[int, list[NDArray[np.int64]]]] = {}  # the present epoch of each half
        self.head: Sequence[nn.Parameter] = evaluator.learner.reset(seed)
        self.steps_per_epoch = self._batches(TRAIN)
        self.examples: int | None = 0

    def told(self) -> dict[str, int]:
        """What a search tells of its examples; nothing where their number is not known."""
        return {} if self.examples is None else {"examples": self.examples}

    def _batches(self, half: int) -> int:
        return math.ceil(len(self._halves[half]) / self._size)

    def plan(self, settings: Length, most: int) -> Plan:
        """How a search for at most `most` parameters goes, with what `settings` leaves to the recipe."""
        rate = settings.learning_rate or self._evaluator.recipe.learning_rate
        steps = _steps(self._evaluator, self.steps_per_epoch, settings.epochs, settings.steps)
        return Plan(steps, rate, most, self._seed)

    def loss(self, half: int, step: int) -> Tensor:
        """The learner's loss on the batch of `half` at `step`."""
        evaluator, part = self._evaluator, self._evaluator.train_part
        device = evaluator.backbone.device
        chosen = self.indices(half, step)
        # A checkpoint of before they were counted does not say how many there were.
        self.examples = None if self.examples is None else self.examples + len(chosen)
        batch = collate(part, chosen, evaluator.learner.pad, device)
        with autocast(evaluator.recipe, device):
            return evaluator.learner.forward(batch).loss

    def indices(self, half: int, step: int) -> NDArray[np.int64]:
        """Which training examples form the batch of `half` at `step`."""
        # Found from the step alone: a search that goes on from a checkpoint needs no state of an order.
        epoch, position = divmod(step, self._batches(half))
        if self._orders.get(half, (-1, []))[0] != epoch:
            rng = np.random.default_rng([self._seed, 1 + half, epoch])
            lengths = self._evaluator.train_part.lengths[self._halves[half]]
            self._orders[half] = epoch, list(training_order(lengths, self._size, rng))
        return self._halves[half][self._orders[half][1][position]]

    @contextmanager
    def training(self) -> Iterator[None]:
        """The learner's model in training mode, with the recipe's dropout."""
        model = self._evaluator.learner.model
        model.train()
        try:
            with quick_dropout(model, self._evaluator.recipe.dropout):
                yield
        finally:
            model.eval()

    @torch.no_grad()
    def validation(self) -> float:
        """The mean loss over the examples of the second half, in evaluation mode."""
        model = self._evaluator.learner.model
        was_training = model.training
        model.eval()
        steps = range(self._batches(VALIDATION))
        losses = [float(self.loss(VALIDATION, step)) for step in steps]
        model.train(was_training)
        # The last batch of an epoch is smaller, and its mean would count as much as a whole one's.
        return float(np.average(losses, weights=[len(self.indices(VALIDATION, step)) for step in steps]))
