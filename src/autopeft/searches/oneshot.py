"""The one-shot selector: a short training of everything together, one look at the gradients, and the budget is filled.

The control and the rival of searches with gates: all placements are trained together at their largest sizes for a
part of a training run. Then the weights stand still, and gradients on further batches say what each placement is worth:
``|w · ∂L/∂w|`` (the loss change without it, to first order) or ``(∂L/∂w)²`` (the diagonal of the empirical Fisher
information), a mean over its parameters. Scores are divided by the mean of their method, and the budget is filled by
worth for parameters, a size k being worth √k times the score. One run serves all budgets.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from autopeft.architecture import Architecture, ParameterBudget
from autopeft.rules import BelowOne, Count, NotNegative, Positive, Share, raise_if_any, violations
from autopeft.searches._candidates import Candidates, Floats
from autopeft.searches._halves import HalvedTask
from autopeft.searches._joint import JointTraining
from autopeft.searches._problem import LATER, Plan, Problem
from autopeft.searches._search import SearchContext, spec, supernet_of
from autopeft.searches._supernet import Starts, Supernet
from autopeft.searches._worth import filled, kinds_of, several, within_kinds

_log = logging.getLogger(__name__)

NAME = "oneshot"


@dataclass(frozen=True)
class OneShotSettings:
    """How the selection is done.

    Args:
        score: "gradient" for ``|w · ∂L/∂w|``, or "fisher" for ``(∂L/∂w)²``.
        warmup: share of a training run by the recipe for which everything is trained.
        scored: share of it whose batches are then looked at, with the weights as they are; at least one batch.
        steps: of the training run that these are shares of; None takes the recipe's.
        batch_size, learning_rate: None takes the recipe's. The learning rate is constant.
        weight_decay, clip: of the weights; `clip` limits the gradient norm, 0 does not.
        is_within_kinds: divide scores by the mean of their method before they are compared.
        starts: train modules from the start of their "method", or from "even" ones, from which a step changes about as
            much in all.
        answers: how many architectures a budget is answered with: beside the one of all methods, those of one method
            each, see `autopeft.searches._worth.several`.
    """

    score: Literal["gradient", "fisher"] = "gradient"
    warmup: BelowOne = 0.3
    scored: Share = 0.1
    steps: Count | None = None
    batch_size: Count | None = None
    learning_rate: Positive | None = None
    weight_decay: NotNegative = 1e-4
    clip: NotNegative = 2.0
    is_within_kinds: bool = True
    starts: Starts = field(default="method", metadata=LATER)
    answers: Count = field(default=1, metadata=LATER)

    def __post_init__(self) -> None:
        raise_if_any("The settings of the one-shot selector cannot be used", violations(self))


class OneShot:
    """One training of everything in one supernet, and what it says of the placements."""

    def __init__(self, supernet: Supernet, problem: Problem, settings: OneShotSettings, plan: Plan) -> None:
        self.supernet, self.settings, self.plan = supernet, settings, plan
        self._joint = JointTraining(supernet, problem, plan, weight_decay=settings.weight_decay, clip=settings.clip)

    @property
    def done(self) -> int:
        """Steps of training so far."""
        return self._joint.done

    def run(self) -> Floats:
        """Train, look, and score: ``(n,)``, the mean of every placement over its parameters and the batches.

        Raises:
            NonFiniteFailure: a loss became NaN or infinite.
        """
        steps, look = (round(share * self.plan.steps) for share in (self.settings.warmup, self.settings.scored))
        sums = np.zeros(len(self.supernet))

        def take(index: int, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
            sums[index] += self._mean(pairs)

        with self._joint.running():
            self.supernet.take([int(size) for size in self.supernet.candidates.sizes.max(axis=1)])
            self._joint.train(steps)
            self._joint.look(max(1, look), take)
        return sums / max(1, look)

    @torch.no_grad()
    def _mean(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
        is_fisher = self.settings.score == "fisher"
        sums = [float((g.square() if is_fisher else (w * g).abs()).sum()) for w, g in pairs]
        return sum(sums) / sum(w.numel() for w, _ in pairs)


def chosen(
    scores: Floats, candidates: Candidates, budget: int, is_within_kinds: bool = True, n: int = 1
) -> list[Architecture]:
    """Up to `n` architectures within `budget` that `scores`, ``(m,)``, are filled to, that of all methods first."""
    everyone = np.ones(len(candidates), dtype=bool)
    if is_within_kinds:
        scores = within_kinds(scores, kinds_of(candidates), everyone, np.zeros(len(candidates)))
    by_worth = partial(filled, scores, candidates, budget)
    return [candidates.architecture(sizes) for sizes in several(candidates, by_worth(everyone), by_worth, n)]


class OneShotSearch:
    """One short training, at the first budget; every budget is then filled from its scores."""

    earlier_seconds = 0.0

    def __init__(self, context: SearchContext, settings: OneShotSettings) -> None:
        self._context, self._settings = context, settings
        self.told: Mapping[str, Any] = MappingProxyType({})
        self._scores: Floats | None = None

    @property
    def per_budget(self) -> int:
        """The number of answers."""
        return self._settings.answers

    def answer(self, limit: ParameterBudget) -> Sequence[Architecture]:
        """What fills `limit`."""
        candidates, settings = Candidates.of(self._context.space, limit.count), self._settings
        return chosen(self.scores(), candidates, limit.most, settings.is_within_kinds, settings.answers)

    def scores(self) -> Floats:
        """Of every placement, in canonical order; trained for at most once."""
        if self._scores is None:
            evaluator, settings, seed = self._context.evaluator, self._settings, self._context.seed
            recipe = evaluator.recipe
            problem = HalvedTask(evaluator, settings.batch_size or recipe.batch_size, seed, is_whole=True)
            steps = settings.steps or recipe.n_steps(evaluator.n_train)
            plan = Plan(steps, settings.learning_rate or recipe.learning_rate, None, seed)
            with supernet_of(evaluator, self._context.space, seed, starts=self._settings.starts) as supernet:
                search = OneShot(supernet, problem, settings, plan)
                self._scores = search.run()
            self.told = problem.told()
            _log.info("One-shot: %d modules were scored after %d steps together.", len(self._scores), search.done)
        return self._scores


MEMBERS = {
    NAME: spec(
        NAME,
        {"recommended": OneShotSettings(starts="even")},
        OneShotSearch,
        about="one-shot selection: train everything briefly, fill the budget by gradient scores within methods",
    )
}
