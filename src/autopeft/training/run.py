"""A training run that has come to its end or to a rung, while its architecture is still attached: what it is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from autopeft.fidelity import FULL, Reached
from autopeft.network.attach import Attached
from autopeft.objective import Measurement
from autopeft.objectives import recorded
from autopeft.tasks._examples import Examples
from autopeft.training.bench import readings
from autopeft.training.fitted import Fit
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
        return readings(self.evaluator, self.attached, recorded(self.evaluator.cost))

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
        evaluator = self.evaluator
        if examples is None:
            # The parameters are those of this evaluation again, so measuring once more would give the same at the price
            # of a pass.
            metrics = self.fitted.history[self.fitted.kept].metrics
        else:
            encoded = evaluator.encode(examples)
            metrics = evaluator.score(encoded, examples)
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
                "train_seconds": self.fitted.train_seconds,
                "kept_epoch": self.fitted.history[self.fitted.kept].epoch,
                "learning_rate": evaluator.recipe.learning_rate,
                "peak_memory_of": "this run" if self._memory.is_own else "the process so far",
            },
            costs=costs,
        )
