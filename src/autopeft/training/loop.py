"""The training loop: one, in plain PyTorch, for every architecture.

AdamW, linear warm-up and decay that span exactly the run, gradient clipping, early stopping, restoration of the
best evaluation. Seeds are explicit and the global generators are left as they were.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autopeft.errors import ArchitectureError, NonFiniteFailure
from autopeft.network.dropout import quick_dropout
from autopeft.objective import Epoch
from autopeft.training.batches import Batch, Encoded, collate, training_order
from autopeft.training.consistency import loss_with_consistency
from autopeft.training.learners import Learner
from autopeft.training.recipe import Recipe

_CHECK_EVERY = 50


@dataclass(frozen=True)
class Fit:
    """What a training run left behind. The parameters hold the kept evaluation's values.

    Args:
        history: one point an evaluation.
        kept: index into `history` of the evaluation whose parameters were kept.
        steps: optimiser steps done, fewer than planned after early stopping.
        seconds: wall-clock time of training, evaluations included.
        train_seconds: the same without evaluations.
    """

    history: tuple[Epoch, ...]
    kept: int
    steps: int
    seconds: float
    train_seconds: float


Evaluate = Callable[[], Mapping[str, float]]


def fit(
    learner: Learner,
    parameters: Sequence[nn.Parameter],
    encoded: Encoded,
    recipe: Recipe,
    evaluate: Evaluate,
    *,
    objective: str,
    seed: int,
    on_step: Callable[[int, int], None] | None = None,
    before_step: Callable[[int], None] | None = None,
    factors: Sequence[float] | None = None,
) -> Fit:
    """Train `parameters` on `encoded`.

    Args:
        factors: what the learning rate of each parameter is multiplied by; None for 1.
        evaluate: gives the metrics of the current parameters.
        objective: the metric by which the best evaluation is chosen; larger is better.
        seed: order of the examples and dropout.
        on_step: called with the steps done and the steps planned.
        before_step: called with the number of the step, from 0.

    Raises:
        ArchitectureError: there are no `parameters`.
        NonFiniteFailure: the loss or the objective became NaN or infinite.
    """
    if not parameters:
        raise ArchitectureError("There is nothing to train: the architecture is empty and the task has no head.")
    device = parameters[0].device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), quick_dropout(learner.model, recipe.dropout):
        torch.manual_seed(seed)
        groups = _groups(parameters, factors or [1.0] * len(parameters))
        run = _Run(learner, groups, recipe, evaluate, objective, len(encoded))
        try:
            for batch in _batches(encoded, recipe, run.planned, learner.pad, device, np.random.default_rng(seed)):
                if before_step is not None:
                    before_step(run.done)
                run.step(batch)
                if on_step is not None:
                    on_step(run.done, run.planned)
                if run.is_evaluation_due() and run.evaluate_and_stop():
                    break
            return run.finish()
        finally:  # a failure leaves no dropout behind either
            learner.model.eval()


class _Run:
    """The state of one training run."""

    def __init__(
        self,
        learner: Learner,
        groups: list[dict[str, Any]],
        recipe: Recipe,
        evaluate: Evaluate,
        objective: str,
        n_examples: int,
    ) -> None:
        self.learner, self.recipe = learner, recipe
        self.parameters: list[nn.Parameter] = [parameter for group in groups for parameter in group["params"]]
        self.evaluate, self.objective = evaluate, objective
        self.per_epoch = math.ceil(n_examples / recipe.batch_size)
        self.planned = recipe.n_steps(n_examples)
        self.between = max(1.0, recipe.evaluate_every * self.per_epoch)  # steps, perhaps a fraction
        self.optimiser = torch.optim.AdamW(
            groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        self.done, self.losses = 0, torch.zeros((), device=self.parameters[0].device)
        self.since, self.history, self.kept = 0, list[Epoch](), -1
        self.best: list[Tensor] | None = None
        self.started, self.evaluating = time.perf_counter(), 0.0
        learner.model.train()

    def _factor(self, step: int) -> float:
        warm = self.recipe.warmup * self.planned
        if step < warm:
            return (step + 1) / (warm + 1)
        return max(0.0, (self.planned - step) / max(1.0, self.planned - warm))

    def step(self, batch: Batch) -> None:
        # Not a scheduler of PyTorch: it and the optimiser refer to each other, so that the optimiser's state outlives
        # the run until the garbage collector happens to pass, and a search of many runs needs more memory.
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate * group["factor"] * self._factor(self.done)
        with autocast(self.recipe, self.parameters[0].device):
            loss = loss_with_consistency(lambda: self.learner.forward(batch), self.recipe.consistency)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.losses += loss.detach()
        self.done, self.since = self.done + 1, self.since + 1
        if self.done % _CHECK_EVERY == 0:
            self._mean_loss()

    def _mean_loss(self) -> float:
        """Mean loss since the last evaluation; reading it waits for the device, so it is not read at every step."""
        loss = float(self.losses) / self.since
        if not math.isfinite(loss):
            raise NonFiniteFailure(f"The training loss is {loss} at step {self.done} of {self.planned}.")
        return loss

    def is_evaluation_due(self) -> bool:
        return self.done // self.between > (self.done - 1) // self.between or self.done == self.planned

    def evaluate_and_stop(self) -> bool:
        """Evaluate, remember the best, and say whether patience has run out."""
        loss = self._mean_loss()
        before = time.perf_counter()
        metrics = dict(self.evaluate())
        self.learner.model.train()
        self.evaluating += time.perf_counter() - before
        if not math.isfinite(metrics[self.objective]):
            raise NonFiniteFailure(f"{self.objective} is {metrics[self.objective]} at step {self.done}.")
        seconds = time.perf_counter() - self.started
        self.history.append(Epoch(self.done / self.per_epoch, self.done, loss, metrics, seconds))
        self.losses, self.since = torch.zeros_like(self.losses), 0
        if self.kept < 0 or metrics[self.objective] > self.history[self.kept].metrics[self.objective]:
            self.kept = len(self.history) - 1
            if self.recipe.keep == "best" and self.done < self.planned:
                self.best = [parameter.detach().clone() for parameter in self.parameters]
        patience = self.recipe.patience
        return patience is not None and len(self.history) - 1 - self.kept >= patience

    @torch.no_grad()
    def finish(self) -> Fit:
        last = len(self.history) - 1
        if self.recipe.keep == "last":
            self.kept = last
        elif self.kept < last and self.best is not None:
            for parameter, value in zip(self.parameters, self.best, strict=True):
                parameter.copy_(value)
        seconds = time.perf_counter() - self.started
        return Fit(tuple(self.history), self.kept, self.done, seconds, seconds - self.evaluating)


def _groups(parameters: Sequence[nn.Parameter], factors: Sequence[float]) -> list[dict[str, Any]]:
    """The optimiser's groups: parameters of one factor together, in the order in which the factors come."""
    found: dict[float, list[nn.Parameter]] = {}
    for parameter, factor in zip(parameters, factors, strict=True):
        found.setdefault(factor, []).append(parameter)
    return [{"params": together, "factor": factor} for factor, together in found.items()]


def autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager[Any]:
    """Automatic mixed precision in bf16, or nothing."""
    if recipe.precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def _batches(
    encoded: Encoded, recipe: Recipe, planned: int, pad: int, device: torch.device, rng: np.random.Generator
) -> Iterator[Batch]:
    """Exactly `planned` batches, epoch after epoch."""
    given = 0
    while True:
        for indices in training_order(encoded.lengths, recipe.batch_size, rng):
            if given == planned:
                return
            given += 1
            yield collate(encoded, indices, pad, device)
