"""The training loop: one, in plain PyTorch, for every architecture.

AdamW, linear warm-up and decay that span exactly the run, gradient clipping, early stopping, restoration of the
best evaluation. Seeds are explicit and the global generators are left as they were. A run can be stopped between any
two steps, written down, and continued elsewhere: it gives what the uninterrupted run gives, bit for bit.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from autopeft.errors import ArchitectureError, NonFiniteFailure
from autopeft.interruption import uninterrupted
from autopeft.network.dropout import quick_dropout
from autopeft.objective import Epoch
from autopeft.training.batches import Batch, Encoded, TrainingOrder, collate
from autopeft.training.checkpoint import Checkpoint, RunFile, in_order
from autopeft.training.consistency import loss_with_consistency
from autopeft.training.fitted import Fit
from autopeft.training.generators import Generators
from autopeft.training.learners import Learner
from autopeft.training.precision import autocast
from autopeft.training.recipe import Recipe
from autopeft.training.stopwatch import Stopwatch

_logger = logging.getLogger(__name__)

EVALUATION_FACTOR = 2
"""How many times the examples of a training batch an evaluation takes at once: it keeps no activations."""

_CHECK_EVERY = 50
_FORMAT = 1


Evaluate = Callable[[], Mapping[str, float]]
OnStep = Callable[[int, int], None]


def fit(
    learner: Learner,
    parameters: Sequence[nn.Parameter],
    encoded: Encoded,
    recipe: Recipe,
    evaluate: Evaluate,
    *,
    objective: str,
    seed: int,
    on_step: OnStep | None = None,
    before_step: Callable[[int], None] | None = None,
    factors: Sequence[float] | None = None,
    stops: Collection[int] = (),
    until: int | None = None,
    file: RunFile | None = None,
) -> Fit:
    """Train `parameters` on `encoded`: a `Training`, taken up where `file` left it, advanced and finished.

    Args:
        on_step: called with the steps done and the steps planned.
        until: steps after which the run is paused, one of `stops`; None for its end.
        file: where the run is written down, so that another process can go on with it; None for nowhere.

    Other arguments and what is raised are those of `Training`.
    """
    run = Training(
        learner, parameters, encoded, recipe, evaluate,
        objective=objective, seed=seed, before_step=before_step, factors=factors, stops=stops,
    )  # fmt: skip
    if file is not None:
        run.resume(file)
    run.advance(until, on_step=on_step, file=file)
    return run.finish()


class Training:
    """One training run: it is advanced to a step, may be written down between any two, and is finished once.

    Attributes:
        done: optimiser steps done.
        planned: optimiser steps of the whole run.
    """

    def __init__(
        self,
        learner: Learner,
        parameters: Sequence[nn.Parameter],
        encoded: Encoded,
        recipe: Recipe,
        evaluate: Evaluate,
        *,
        objective: str,
        seed: int,
        before_step: Callable[[int], None] | None = None,
        factors: Sequence[float] | None = None,
        stops: Collection[int] = (),
    ) -> None:
        """Prepare the run; nothing is trained yet.

        Args:
            evaluate: gives the metrics of the current parameters.
            objective: the metric by which the best evaluation is chosen; larger is better.
            seed: order of the examples and dropout.
            before_step: called with the number of the step, from 0; what it does depends on that number alone.
            factors: what the learning rate of each parameter is multiplied by; None for 1.
            stops: steps that are evaluated besides those of `recipe.evaluate_every`.

        Raises:
            ArchitectureError: there are no `parameters`.
        """
        if not parameters:
            raise ArchitectureError("There is nothing to train: the architecture is empty and the task has no head.")
        self.learner, self.recipe, self.encoded = learner, recipe, encoded
        # One group a factor and not one a parameter: each group is a call of the fused kernel.
        groups = _groups(parameters, factors or [1.0] * len(parameters))
        self.parameters: list[nn.Parameter] = [parameter for group in groups for parameter in group["params"]]
        self.device = self.parameters[0].device
        self.evaluate, self.objective, self.before_step = evaluate, objective, before_step
        self.per_epoch = math.ceil(len(encoded) / recipe.batch_size)
        self.planned, self.stops = recipe.n_steps(len(encoded)), frozenset(stops)
        # Between two steps nothing changes, so that no distance between evaluations is shorter than one.
        self.between = max(1.0, recipe.evaluate_every * self.per_epoch)  # steps, perhaps a fraction
        # A PEFT module is dozens of small tensors, for which starting a kernel each would take longer than the
        # arithmetic: the fused step takes them all at once.
        self.optimiser = torch.optim.AdamW(groups, recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
        self.order = TrainingOrder(encoded.lengths, recipe.batch_size, seed)
        self.losses, self.first_loss = (torch.zeros((), device=self.device) for _ in range(2))
        # The sum of losses stays on the device, since adding it up on the host would wait for the device at every step.
        self.done = self.n_processed = self.since = 0
        self.history, self.kept = list[Epoch](), -1
        self.best: list[Tensor] | None = None
        self._generators = Generators(self.device, seed)
        self._clock, self._evaluating, self._is_whole = Stopwatch(), 0.0, True
        self._clock.stop()

    def spend(self, seconds: float, *, is_evaluating: bool = False) -> None:
        """Count `seconds` as this run's, of work that was done for several."""
        self._clock.earlier += seconds
        self._evaluating += seconds if is_evaluating else 0.0

    # -- going on ------------------------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether all steps are done and evaluated, or patience has run out."""
        patience = self.recipe.patience
        # Patience counts from the evaluation that is kept, so evaluations at rungs count like those of the schedule.
        has_patience = patience is None or len(self.history) - 1 - self.kept < patience
        return not has_patience or (self.done == self.planned and self.since == 0)

    def advance(self, until: int | None = None, *, on_step: OnStep | None = None, file: RunFile | None = None) -> None:
        """Train until `until` steps are done, or to the end; a step that is due is evaluated before this returns.

        Args:
            until: see `fit`.
            on_step: called with the steps done and the steps planned.
            file: where the run is written down after evaluations, now and then between them, and when it is
                interrupted: by a signal it loses not even the step that it is at.

        Raises:
            NonFiniteFailure: the loss or the objective became NaN or infinite.
        """
        # A pause is no other schedule: the rate falls along the whole plan, whatever is done of it today.
        goal = self.planned if until is None else min(until, self.planned)
        with self._trains(), self._written_if_interrupted(file):
            while not self.is_over:
                if is_evaluated := self.is_evaluation_due():
                    self.evaluate_now()
                elif self.done >= goal:
                    break
                else:
                    self._step_whole()
                    if on_step is not None:
                        on_step(self.done, self.planned)
                if file is not None and file.is_due(is_evaluated=is_evaluated):
                    file.save(self.state())
            if file is not None:
                file.leave(self.state(), is_over=self.is_over)

    @contextmanager
    def _trains(self) -> Iterator[None]:
        with self._generators.installed(), quick_dropout(self.learner.model, self.recipe.dropout):
            self.learner.model.train()
            self._clock.start()
            try:
                yield
            finally:  # a failure leaves no dropout behind either
                self._clock.stop()
                self.learner.model.eval()

    @contextmanager
    def _written_if_interrupted(self, file: RunFile | None) -> Iterator[None]:
        try:
            yield
        except Exception:
            raise
        except BaseException:  # asked to end, not failed
            # In the middle of a step parameters and moments do not belong together; the last file is older, and whole.
            if file is not None and self._is_whole:
                with uninterrupted():
                    file.save(self.state())
            raise

    def _step_whole(self) -> None:
        """One step, with signals held back: an interruption finds the state before a step or after it."""
        with uninterrupted():
            self._is_whole = False
            if self.before_step is not None:
                self.before_step(self.done)
            self._step(collate(self.encoded, next(self.order), self.learner.pad, self.device))
            self._is_whole = True

    def _step(self, batch: Batch) -> None:
        with autocast(self.recipe, self.device):
            loss = loss_with_consistency(lambda: self.learner.forward(batch), self.recipe.consistency)
        loss.backward()  # type: ignore[no-untyped-call]
        self.take_step(loss, len(batch.indices))

    def take_step(self, loss: Tensor, n_examples: int) -> None:
        """The optimiser's step, once the gradients of `loss`, computed from so many examples, are there.

        Raises:
            NonFiniteFailure: the loss became NaN or infinite; it is looked at now and then.
        """
        # Not a scheduler of PyTorch: it and the optimiser refer to each other, so that the optimiser's state outlives
        # the run until the garbage collector happens to pass, and a search of many runs needs more memory.
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate * group["factor"] * self.recipe.rate_at(self.done, self.planned)
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip)
        self.optimiser.step()
        # None and not zero: AdamW passes over what has no gradient, so that a module that was left out of a step does
        # not move on by its momentum.
        self.optimiser.zero_grad(set_to_none=True)
        self.losses, self.first_loss = self.losses + loss.detach(), self.first_loss if self.done else loss.detach()
        self.done, self.since = self.done + 1, self.since + 1
        self.n_processed += n_examples
        if self.done % _CHECK_EVERY == 0:
            self._mean_loss()

    def _mean_loss(self) -> float:
        """Mean loss since the last evaluation; reading it waits for the device, so it is not read at every step."""
        loss = float(self.losses) / self.since
        if not math.isfinite(loss):
            raise NonFiniteFailure(f"The training loss is {loss} at step {self.done} of {self.planned}.")
        return loss

    def is_evaluation_due(self) -> bool:
        """Whether the step that was done last is one to evaluate at, and has not been."""
        if self.since == 0:  # done already, perhaps by another process
            return False
        # The distance may be a fraction of steps, so what counts is whether a multiple lies between two of them.
        is_crossed = self.done // self.between > (self.done - 1) // self.between
        return is_crossed or self.done == self.planned or self.done in self.stops

    def evaluate_now(self) -> None:
        """Evaluate, and remember the best.

        Raises:
            NonFiniteFailure: the loss or the objective is NaN or infinite.
        """
        loss = self._mean_loss()
        # The loss is read first: it waits for the device, whose open work belongs to the training and not to the
        # evaluation.
        before = time.perf_counter()
        metrics = dict(self.evaluate())
        # The evaluation has switched the model over, and the steps that follow need their dropout back.
        self.learner.model.train()
        self._evaluating += time.perf_counter() - before
        if not math.isfinite(metrics[self.objective]):
            raise NonFiniteFailure(f"{self.objective} is {metrics[self.objective]} at step {self.done}.")
        point = Epoch(self.done / self.per_epoch, self.done, loss, metrics, self._clock.seconds)
        with uninterrupted():
            self.history.append(point)
            self.losses, self.since = torch.zeros_like(self.losses), 0
            if self.kept < 0 or metrics[self.objective] > self.history[self.kept].metrics[self.objective]:
                self.kept = len(self.history) - 1
                # The last evaluation is in the parameters already, and a copy of it would only take memory.
                if self.recipe.keep == "best" and self.done < self.planned:
                    self.best = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def finish(self) -> Fit:
        """Give the parameters the kept evaluation's values. The run cannot be advanced or written down after that."""
        is_over, is_last = self.is_over, self._is_last_kept()
        if is_last:
            self.kept = len(self.history) - 1
        elif self.best is not None:
            for parameter, value in zip(self.parameters, self.best, strict=True):
                # Copied into place: the modules that are attached and the optimiser's groups hold these very tensors.
                parameter.copy_(value)
        # A run of another process may have evaluated, too, so both clocks hold what its file told.
        seconds = self._clock.seconds
        return Fit(
            tuple(self.history), self.kept, self.done, self.planned, self.n_processed, seconds,
            seconds - self._evaluating, is_over, float(self.first_loss),
        )  # fmt: skip

    def _is_last_kept(self) -> bool:
        return self.recipe.keep == "last" or self.kept == len(self.history) - 1

    # -- written down --------------------------------------------------------------------------------------------------

    def state(self) -> Checkpoint:
        """All that the rest of the run depends on; `restore` is the inverse.

        Tensors are the trained parameters, the best ones so far, AdamW's moments, the sum of losses since the last
        evaluation, the first loss, and PyTorch's generators; of a run that is over, the parameters that are kept alone.
        The tensors are the run's own, not copies.
        """
        tensors: dict[str, Tensor] = {"losses": self.losses, "first": self.first_loss, **self._generators.states()}
        values = [parameter.detach() for parameter in self.parameters]
        if self.is_over:
            # A run that is over goes on nowhere, so of its state only what is kept has to be written.
            values = values if self._is_last_kept() or self.best is None else self.best
        else:
            tensors |= {f"best/{number}": value for number, value in enumerate(self.best or ())}
            # A parameter that has had no gradient yet has no moments either.
            for number, parameter in enumerate(self.parameters):
                moments = self.optimiser.state.get(parameter, {})
                tensors |= {f"optimiser/{number}/{name}": value for name, value in moments.items()}
        tensors |= {f"parameter/{number}": value for number, value in enumerate(values)}
        facts = {
            # Whoever changes what is written raises the format, so that an older file begins anew instead of being
            # misread.
            "format": _FORMAT,
            "planned": self.planned,
            "done": self.done,
            "n_processed": self.n_processed,
            "since": self.since,
            "order": self.order.state(),
            "history": [asdict(point) for point in self.history],
            "kept": self.kept,
            "seconds": self._clock.seconds,
            "evaluating": self._evaluating,
        }
        return Checkpoint(tensors, facts)

    @torch.no_grad()
    def restore(self, found: Checkpoint) -> None:
        """Go on from what `state` gave, of a run with the same arguments over the same examples.

        Raises:
            ValueError, KeyError, TypeError: it is of another run. The parameters may have been changed by then.
        """
        facts = found.facts
        if (facts["format"], facts["planned"]) != (_FORMAT, self.planned):
            raise ValueError(f"it has the format {facts['format']} and {facts['planned']} steps, not {self.planned}")
        values = in_order(found.under("parameter/"), self.parameters)
        best = found.under("best/")
        self.best = [value.to(self.device) for value in in_order(best, self.parameters)] if best else None
        for number, (parameter, value) in enumerate(zip(self.parameters, values, strict=True)):
            moments = found.under(f"optimiser/{number}/")
            if moments:
                self.optimiser.state[parameter] = {name: moment.to(self.device) for name, moment in moments.items()}
            parameter.copy_(value)
        self.losses = found.tensors["losses"].to(self.device)
        self.first_loss = found.tensors.get("first", torch.zeros(())).to(self.device)  # earlier versions: not kept
        self._generators.restore(found.tensors)
        self.order.restore(facts["order"])
        self.history = [Epoch(**point) for point in facts["history"]]
        self.done, self.n_processed, self.since = facts["done"], facts["n_processed"], facts["since"]
        self.kept, self._evaluating = facts["kept"], facts["evaluating"]
        self._clock.earlier = facts["seconds"]

    def resume(self, file: RunFile) -> None:
        """Go on from what `file` holds of this run; where it holds nothing that can be used, begin at the beginning."""
        found = file.load()
        if found is None:
            return
        fresh = self.state()
        # Restoring writes as it reads, and a file that turns out to be another's must leave no trace.
        kept = Checkpoint({name: tensor.clone() for name, tensor in fresh.tensors.items()}, fresh.facts)
        try:
            self.restore(found)
        except (ValueError, KeyError, TypeError) as error:
            _logger.warning("%s does not fit this training, which begins anew: %s", file.path, error)
            self.optimiser.state.clear()
            self.restore(kept)
        else:
            _logger.info("A training goes on at step %d of %d.", self.done, self.planned)


def _groups(parameters: Sequence[nn.Parameter], factors: Sequence[float]) -> list[dict[str, Any]]:
    """The optimiser's groups: parameters of one factor together, in the order in which the factors come."""
    # A dictionary keeps the order in which it was filled: the numbers under which moments are written down depend on
    # it.
    found: dict[float, list[nn.Parameter]] = {}
    for parameter, factor in zip(parameters, factors, strict=True):
        found.setdefault(factor, []).append(parameter)
    return [{"params": together, "factor": factor} for factor, together in found.items()]
