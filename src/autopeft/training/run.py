"""A training run that has come to its end or to a rung, while its architecture is still attached: what it is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from autopeft.architecture import Architecture
from autopeft.errors import SettingsError
from autopeft.fidelity import FULL, Reached
from autopeft.network.attach import Attached, attach
from autopeft.objective import Epoch, Measurement
from autopeft.objectives import recorded
from autopeft.tasks._examples import Examples
from autopeft.training.bench import readings
from autopeft.training.fitted import Fit
from autopeft.training.kept_texts import kept_texts
from autopeft.training.memory import Memory

if TYPE_CHECKING:
    from autopeft.training.evaluator import Evaluator

_LATENCY = "latency"
"""The objective whose reading every measurement holds in seconds, too, as measurements did before there were others."""


class Run:
    """A trained architecture on its backbone; valid inside `Evaluator.trained`."""

    def __init__(self, evaluator: Evaluator, attached: Attached, fitted: Fit, memory: Memory) -> None:
        self.evaluator, self.attached, self.fitted = evaluator, attached, fitted
        self._memory = memory

    @cached_property
    def _costs(self) -> Mapping[str, Mapping[str, Any]]:
        """What is attached costs, which does not depend on the examples of a measurement; the clock takes seconds."""
        return readings(self.evaluator, self.attached, recorded(self.evaluator.cost), self.fitted.train_seconds)

    def _constant(self) -> float | None:
        """What the best constant answer measures on the validation part; None where it measures nothing finite."""
        task = self.evaluator.task
        found = float(task.baseline(self.evaluator.validation)[task.objective])
        return found if math.isfinite(found) else None

    def reached(self) -> tuple[Reached, ...]:
        """What the run was worth at every rung that it has passed, and at its end; early stopping passes them all."""
        evaluator, objective = self.evaluator, self.evaluator.task.metrics[0]
        steps, found = evaluator.rung_steps(), []
        # A rung that falls onto the end of the run is its end.
        for fidelity, step in zip((*evaluator.rungs[: len(steps) - 1], FULL), steps, strict=True):
            if step > self.fitted.steps and not self.fitted.is_over:
                break
            # The best until there and not the value at the rung: that is what the run would have given had it ended
            # there.
            until = [point for point in self.fitted.history if point.step <= step]
            values = [point.metrics[objective] for point in until]
            value = max(values) if evaluator.recipe.keep == "best" else values[-1]
            found.append(Reached(fidelity, until[-1].step, until[-1].epoch, float(value), until[-1].seconds))
        return tuple(found)

    def measure(self, split: str = "validation", examples: Examples | None = None) -> Measurement:
        """The measurement of this run.

        Args:
            split: the name of what is measured on.
            examples: what to measure on; the validation part of the search when None.
        """
        evaluator, texts = self.evaluator, list[dict[str, Any]]()
        if examples is None:
            # The parameters are those of this evaluation again, so measuring once more would give the same at the price
            # of a pass.
            metrics = self.fitted.history[self.fitted.kept].metrics
        else:
            outputs = evaluator.outputs(evaluator.encode(examples))
            metrics = evaluator.learner.score(outputs, examples)
            texts = kept_texts(evaluator.task, outputs, examples)
        costs = self._costs
        return Measurement(
            metrics=dict(metrics),
            objective=evaluator.task.metrics[0],
            counts=evaluator.counts(self.attached.architecture),
            seconds=self.fitted.seconds,
            peak_memory=self._memory.peak(),
            latency=float(costs[_LATENCY]["value"]) / 1000,
            split=split,
            history=self.fitted.history,
            extra={
                "n_train": evaluator.n_train,
                "n_scored": len(evaluator.splits.validation if examples is None else examples),
                # A search that reads the trials must know below which value they say no more than that all failed.
                **({"constant": self._constant()} if examples is None else {}),
                "steps": self.fitted.steps,
                "planned_steps": self.fitted.planned,
                "n_processed": self.fitted.n_processed,
                "first_loss": self.fitted.first_loss,
                "last_loss": self.fitted.history[-1].loss,
                **({"rungs": [rung.as_dict() for rung in self.reached()]} if evaluator.rungs else {}),
                # A figure of what was written says little to whoever has not read some of it.
                **({"texts": texts} if texts else {}),
                "train_seconds": self.fitted.train_seconds,
                "kept_epoch": self.fitted.history[self.fitted.kept].epoch,
                "learning_rate": evaluator.recipe.learning_rate,
                "peak_memory_of": "this run" if self._memory.is_own else "the process so far",
            },
            costs=costs,
        )


def check_untrained(evaluator: Evaluator) -> None:
    """Make sure that the model says something before it is trained.

    Raises:
        SettingsError: the task is answered by a head, which does not.
    """
    if evaluator.learner.n_head:
        raise SettingsError("A head that is not trained says nothing: have the model answer in words, see `answer`.")


def measure_untrained(evaluator: Evaluator, split: str = "validation", examples: Examples | None = None) -> Measurement:
    """The measurement of the backbone as it is, with no step taken: of models that answer in words, zero-shot.

    Its history has one point, at step 0, whose loss is 0 as nothing was trained.

    Args:
        split, examples: as for `Run.measure`.

    Raises:
        SettingsError: see `check_untrained`.
    """
    check_untrained(evaluator)
    memory = Memory(evaluator.backbone.device)
    with attach(evaluator.backbone, Architecture()) as attached:
        attached.train(False)
        metrics = evaluator.score(evaluator.validation_part, evaluator.validation)
        fitted = Fit((Epoch(0.0, 0, 0.0, metrics, 0.0),), 0, 0, 0, 0, 0.0, 0.0)
        return Run(evaluator, attached, fitted, memory).measure(split, examples)
