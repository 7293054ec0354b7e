"""BIPEFT's search (EMNLP Findings 2024, algorithm 1): weights on one half of the data, gates on the other.

Every random number of a step is drawn from the seed and the number of the step, so a search that goes on from a
checkpoint ends bit for bit as it would have without the interruption.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autopeft.architecture import Architecture
from autopeft.searches._candidates import Ints, project
from autopeft.searches._problem import TRAIN, VALIDATION, Plan, Problem
from autopeft.searches._supernet import Gates, State, Supernet, hard_sizes, temperature
from autopeft.searches._worth import filled, several
from autopeft.searches.bipeft.movement import Movement, told
from autopeft.searches.bipeft.selector import Beliefs, Pass, Selector, Trigger, n_triggers, scaled
from autopeft.searches.bipeft.settings import BipeftSettings
from autopeft.searches.bipeft.weights import Weights, restored
from autopeft.training.checkpoint import Checkpoint, read, write
from autopeft.training.stopwatch import Stopwatch

_log = logging.getLogger(__name__)

Kind = Literal["binary", "size", "joint"]


@dataclass(frozen=True)
class BipeftResult:
    """The outcome of a search.

    Args:
        parameters: its count, in the supernet's kind.
        steps: done; fewer than planned when all triggers fired before.
        seconds: wall-clock time, that of interrupted runs before this one included.
        earlier: seconds of those before.
        history: every trigger.
        movement: of the gates, those of removed placements as they were left.
        others: further answers, where they were asked for.
    """

    architecture: Architecture
    parameters: int
    steps: int
    seconds: float
    earlier: float
    history: tuple[Trigger, ...]
    movement: Movement
    others: tuple[Architecture, ...] = ()


class BilevelSearch:
    """One search in one supernet.

    Attributes:
        done: steps so far.
        selector: scores and triggers; None in the variants without selection.
    """

    def __init__(self, supernet: Supernet, problem: Problem, settings: BipeftSettings, plan: Plan) -> None:
        """Raises:
        BudgetError: there is no budget to select for, or not even the smallest placement fits it.
        """
        self.supernet, self.problem, self.plan = supernet, problem, plan
        self._asked, self.settings = settings, scaled(settings, plan.steps)
        settings = self.settings
        self.done, self.candidates, self._watch = 0, supernet.candidates, Stopwatch()
        self._warm = math.floor(settings.warmup * plan.steps)
        self.selector = self._make_selector()
        if plan.budget is not None:
            self.candidates.check_budget(plan.budget)
        device = supernet.device
        self.gates = Gates(
            self.candidates,
            seed=plan.derived(0, 0),
            device=device,
            is_entangled=settings.variant == "entangled",
        )
        self._weights = Weights(supernet, problem.head, settings)
        self._adam = torch.optim.Adam(
            [self.gates.keep, self.gates.size],
            lr=settings.architecture_learning_rate,
            # As in DARTS: a shorter memory than that of the weights' optimiser.
            betas=(0.5, 0.999),
            weight_decay=settings.architecture_weight_decay,
        )
        n = len(self.candidates)
        self._state = State(np.ones(n, dtype=bool), np.full(n, -1, dtype=np.int64))
        if self.selector is not None:
            self._state = self.selector.decided()

    def _make_selector(self) -> Selector | None:
        if not self.settings.is_selecting:
            return None
        budget, left = self.plan.limit(self.candidates), self.plan.steps - self._warm
        # Only what is left after the warm-up can hold triggers.
        wanted, spacing = self.settings.triggers, self.settings.spacing
        # Where rules scale with the steps, they leave the end of the search to what has survived themselves.
        share = {"share": 1.0} if self.settings.is_scaled else {}
        triggers = n_triggers(wanted, left, self.settings.horizon, spacing, **share)
        return Selector(self.candidates, self.settings, budget, triggers)

    # -- the loop ----------------------------------------------------------------------------------------------

    def run(self, path: Path | None = None, every: int = 300) -> BipeftResult:
        """Search to the end.

        Args:
            path: where to keep the checkpoint; a search that finds its own there goes on from it.
            every: steps between checkpoints; each trigger writes one too, at most one in `every` / 10 steps.

        Raises:
            NonFiniteFailure: a loss became NaN or infinite; the last checkpoint stays.
            StudyMismatchError: the checkpoint belongs to another search.
        """
        self._watch.start()
        written = self._resume(path)
        # Draws inside are made from seeds of their own, and whoever calls must find the generators as they were.
        devices = [self.supernet.device] if self.supernet.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), self.problem.training():
            self.supernet.train()
            while not self.is_over:
                has_fired = self.step()
                since = self.done - written
                # A trigger changes what is attached, which is worth writing early, though not at every one of a
                # hundred.
                if path is not None and (since >= every or (has_fired and since >= every / 10) or self.is_over):
                    write(path, self.state())
                    written = self.done
        self.supernet.train(False)
        return self._found()

    def _resume(self, path: Path | None) -> int:
        found = None if path is None else read(path)
        if found is not None:
            self.load(found)
            _log.info("BIPEFT: going on from step %d of %d.", self.done, self.plan.steps)
        return self.done

    @property
    def is_over(self) -> bool:
        """Whether all steps are done or all triggers have fired."""
        return self.done >= self.plan.steps or (self.selector is not None and self.selector.is_done)

    def step(self) -> bool:
        """One step of algorithm 1; whether it triggered."""
        if self.settings.is_warmup_whole and self.selector is not None and self.done < self._warm:
            self.selector.warm(self._weight_pass(is_whole=True))
            self.done += 1
            return False
        if self.settings.first == "weights":
            train = self._weight_pass()
            validation = self._architecture_passes()
        else:
            validation = self._architecture_passes()
            train = self._weight_pass()
        self.done += 1
        return self.selector is not None and self._select(self.selector, train, validation)

    def _select(self, selector: Selector, train: Pass, validation: Pass) -> bool:
        selector.score(train, validation, self._weights.similarity())
        if self.done <= self._warm:
            return False
        fired = selector.observe(self._beliefs(), self.done)
        if fired is None:
            return False
        # Taken off the model and not merely masked: from here on every step is cheaper, which is half of the method.
        self.supernet.remove(fired.removed)
        self._weights.remove(fired.removed)
        self._state = selector.decided()
        _log.debug("BIPEFT: step %d of %d, trigger %d of %d: %d removed, %d fixed, %.0f parameters expected.",
                   self.done, self.plan.steps, len(selector.history), selector.triggers,
                   len(fired.removed), len(fired.fixed), fired.expected)  # fmt: skip
        return True

    # -- passes ------------------------------------------------------------------------------------------------

    def _weight_pass(self, *, is_whole: bool = False) -> Pass:
        """Update the weights on the first half, with gates drawn as in a binary pass, or with everything on."""
        keep, sizes = (part.detach() for part in self._draw(self._weight_kind(), 1))
        whole = np.array(hard_sizes(self.candidates, keep, sizes), dtype=np.int64)
        if is_whole:
            whole = self.candidates.sizes.max(axis=1)
        # Hard draws are whole numbers of units: what is off is then not computed at all.
        if self.settings.gumbel or is_whole:
            self.supernet.take([int(size) for size in whole])
        else:
            self.supernet.gate(keep, sizes)
        # Along the whole plan, though the search may end before: a rate that ended with the triggers would need to know
        # when.
        rate = self.plan.learning_rate * (1 - self.done / self.plan.steps)
        importance = self._weights.train(self._loss(TRAIN), rate)
        return Pass(importance, self._on(whole))

    def _architecture_passes(self) -> Pass:
        """Update the gates on the second half; what the first pass of the step says of the placements."""
        passes = [self._architecture_pass(kind) for kind in self._kinds()]
        # Scores come from one pass a step, so that every step counts once in the moving average, whichever gates it
        # updates.
        return passes[0]

    def _architecture_pass(self, kind: Kind) -> Pass:
        keep, sizes = self._draw(kind, 2 + (kind == "size"))
        self.supernet.gate(keep, sizes)
        loss = self._loss(VALIDATION)
        own = {"binary": [self.gates.keep], "size": [self.gates.size]}.get(kind, [self.gates.keep, self.gates.size])
        is_scored = self.selector is not None and kind == self._kinds()[0]
        gradients, importance = self._weights.validate(loss + self._regulariser(own), own, is_scored)
        for parameter in (self.gates.keep, self.gates.size):
            # One optimiser holds both; without a gradient it leaves a tensor alone, with one of zeros it still decays
            # it.
            parameter.grad = torch.zeros_like(parameter) if self.settings.is_idle_updated else None
        for parameter, gradient in zip(own, gradients, strict=True):
            parameter.grad = gradient
        self._adam.step()
        whole = np.array(hard_sizes(self.candidates, keep, sizes), dtype=np.int64)
        return Pass(importance, self._on(whole))

    def _on(self, sizes: Ints) -> Ints:
        """The units of each placement in a pass; where gates are soft, all of them."""
        return sizes if self.settings.gumbel else self.candidates.sizes.max(axis=1)

    def _loss(self, half: int) -> Tensor:
        # Of the step and the half, so that an interrupted search draws the dropout that the uninterrupted one would
        # have.
        torch.manual_seed(self.plan.derived(self.done, 10 + half))
        loss = self.problem.loss(half, self.done)
        self.plan.check(float(loss.detach()), "training" if half == TRAIN else "architecture", self.done)
        return loss

    def _regulariser(self, tensors: Sequence[Tensor]) -> Tensor | float:
        if not self.settings.regulariser:
            return 0.0
        return self.settings.regulariser * sum((torch.softmax(a, -1) - a).abs().mean() for a in tensors)

    # -- gates -------------------------------------------------------------------------------------------------

    def _kinds(self) -> tuple[Kind, ...]:
        """Which gates this step updates, in this order."""
        if self.settings.variant == "entangled":
            return ("joint",)
        if self._stage() is not None:
            return (self._weight_kind(),)
        if self.settings.is_by_worth:
            return ("binary",)
        if self.settings.updates == "both":
            return ("binary", "size")
        return ("binary",) if self.done % 2 == 0 else ("size",)

    def _stage(self) -> Kind | None:
        """What the present half of a two-stage variant is about."""
        is_late = 2 * self.done >= self.plan.steps
        if self.settings.variant == "binary_then_size":
            return "size" if is_late else "binary"
        if self.settings.variant == "size_then_binary":
            return "binary" if is_late else "size"
        return None

    def _weight_kind(self) -> Kind:
        if self.settings.variant == "entangled":
            return "joint"
        return self._stage() or "binary"

    def _draw(self, kind: Kind, salt: int) -> tuple[Tensor, Tensor]:
        """``keep`` ``(n,)`` and ``sizes`` ``(n, K)`` of one pass, with gradients to the gates of `kind` alone."""
        generator = torch.Generator().manual_seed(self.plan.derived(self.done, salt))
        sampling: Literal["gumbel", "mixture"] = "gumbel" if self.settings.gumbel else "mixture"
        epoch, epochs = self.done // self.problem.steps_per_epoch, self.plan.steps / self.problem.steps_per_epoch
        heat = temperature(epoch, max(1, math.ceil(epochs)))
        if self.settings.temperature_by == "step":
            heat = temperature(self.done, self.plan.steps)
        keep = self._idle_keep(generator) if kind == "size" else self.gates.draw_keep(heat, generator, sampling)
        sizes = self._idle_sizes() if kind == "binary" else self.gates.draw_sizes(heat, generator, sampling)
        return self.gates.combine(keep, sizes, self._state)

    def _idle_keep(self, generator: torch.Generator) -> Tensor:
        """Who is on while sizes are drawn."""
        variant, everyone = self.settings.variant, torch.ones_like(self.gates.keep[:, 1]).detach()
        if variant == "size_then_binary" or self.settings.size_pass_keep == "survivors":
            return everyone
        if variant == "binary_then_size":
            return everyone * (self.gates.keep.detach().argmax(-1) == 1)
        return self.gates.draw_keep(1.0, generator, "gumbel" if self.settings.gumbel else "mixture").detach()

    def _idle_sizes(self) -> Tensor:
        """The sizes while presence is drawn: the likeliest, or the largest before any was looked at."""
        if self.settings.variant == "binary_then_size":
            return self.gates.largest_sizes()
        return self.gates.best_sizes()

    def _beliefs(self) -> Beliefs:
        with torch.no_grad():
            keep, sizes = self.gates.probabilities()
        as_array: Callable[[Tensor], NDArray[np.float64]] = lambda t: t.detach().cpu().double().numpy()  # noqa: E731
        return Beliefs(as_array(keep), as_array(sizes), as_array(self.gates.size))

    # -- the end -----------------------------------------------------------------------------------------------

    def sizes(self) -> Ints:
        """What the gates say now: the size of every placement ``(n,)``, within the budget if there is one."""
        if self.selector is not None:
            return self.selector.finish(self._beliefs())
        keep = (self.gates.keep.detach().argmax(-1) == 1).float()
        likeliest = np.array(
            hard_sizes(self.candidates, *self.gates.combine(keep, self.gates.best_sizes(), self._state)), dtype=np.int64
        )
        beliefs = self._beliefs()
        scores = beliefs.keep * beliefs.sizes.sum(axis=1)  # the second factor is below 1 where gates are entangled
        if not likeliest.any():
            # An architecture without a module trains the head alone, and is no answer to a budget.
            likeliest[scores.argmax()] = self.candidates.sizes[scores.argmax(), 0]
        if self.plan.budget is None:
            return likeliest
        chosen = np.where(likeliest > 0, (self.candidates.sizes == likeliest[:, None]).argmax(axis=1), -1)
        return project(scores, self.candidates, chosen, self.plan.budget, self.settings.is_refilled)

    def _found(self) -> BipeftResult:
        sizes = self.sizes()
        parameters = int(
            np.where(self.candidates.sizes == sizes[:, None], self.candidates.counts, 0).max(axis=1) @ (sizes > 0)
        )
        history = () if self.selector is None else tuple(self.selector.history)
        if self.selector is not None and not self.selector.is_done:
            _log.warning("BIPEFT: only %d of %d triggers fired in %d steps; the rest was projected to the budget.",
                         len(history), self.selector.triggers, self.done)  # fmt: skip
        if history:
            stable = [trigger.stability for trigger in history]
            _log.info("BIPEFT: %d triggers in %d of %d steps, at stabilities from %.2f to %.2f.",
                      len(history), self.done, self.plan.steps, min(stable), max(stable))  # fmt: skip
        architecture, movement = self.supernet.architecture(sizes), told(self._beliefs(), self.done)
        watch, others = self._watch, self._others(sizes)
        return BipeftResult(
            architecture, parameters, self.done, watch.seconds, watch.earlier, history, movement, others
        )

    def _others(self, sizes: Ints) -> tuple[Architecture, ...]:
        if self.selector is None or self.settings.answers == 1:
            return ()
        # Of all placements: what was removed lost against other methods, whose absence makes room for it.
        scores, most = self.selector.compared(), self.selector.budget
        found = several(self.candidates, sizes, partial(filled, scores, self.candidates, most), self.settings.answers)
        return tuple(map(self.candidates.architecture, found[1:]))

    # -- state -------------------------------------------------------------------------------------------------

    @property
    def identity(self) -> str:
        """What a checkpoint must share with this search."""
        return self.plan.identity(self._asked, self.candidates)

    def state(self) -> Checkpoint:
        """Everything that `load` needs to go on as if nothing had happened."""
        tensors = {"gates/keep": self.gates.keep, "gates/size": self.gates.size, **self._weights.state()}
        for name, parameter in (("keep", self.gates.keep), ("size", self.gates.size)):
            tensors |= {f"adam/{name}/{key}": value for key, value in self._adam.state[parameter].items()}
        facts = {"identity": self.identity, "done": self.done, "seconds": self._watch.seconds, "selector": None}
        facts["examples"] = self.problem.examples
        if self.selector is not None:
            selector = self.selector.state()
            tensors |= {f"selector/{name}": value for name, value in selector.tensors.items()}
            facts["selector"] = dict(selector.facts)
        return Checkpoint(tensors, facts)

    @torch.no_grad()
    def load(self, found: Checkpoint) -> None:
        """Go on from what `state` gave; this search must be fresh.

        Raises:
            StudyMismatchError: it belongs to another search.
        """
        found.check(self.identity)
        self.problem.examples = found.facts.get("examples")
        parts = found.tensors
        self.done, self._watch.earlier = int(found.facts["done"]), float(found.facts["seconds"])
        for name, parameter in (("keep", self.gates.keep), ("size", self.gates.size)):
            parameter.copy_(parts[f"gates/{name}"])
            moments = found.under(f"adam/{name}/")
            if moments:
                self._adam.state[parameter] = restored(moments, parameter)
        if self.selector is not None:
            self.selector.load(Checkpoint(found.under("selector/"), found.facts["selector"]))
            self._state = self.selector.decided()
            # The supernet was built whole, and what had been removed before must go again.
            gone = [int(index) for index in np.flatnonzero(~self.selector.alive)]
            self.supernet.remove(gone)
            self._weights.remove(gone)
        self._weights.load(parts)
