"""BIPEFT (EMNLP Findings 2024) as a sampler: for each parameter budget one search in a supernet.

A proposal is the outcome of a whole search, so `ask` takes as long as that. Several budgets, answered in their
order, give a front; evaluated like every other proposal, they can be compared with every other sampler's.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from autopeft.architecture import Architecture, ParameterBudget
from autopeft.searches._halves import HalvedTask, check_halves, halved_steps
from autopeft.searches._search import SearchContext, spec, supernet_of
from autopeft.searches.bipeft.search import BilevelSearch, BipeftResult
from autopeft.searches.bipeft.settings import PRESETS, BipeftSettings

_log = logging.getLogger(__name__)

NAME = "bipeft"


_LEAST_BATCH = 4
"""Examples a step below which batches are not made smaller: a gradient of fewer says little of any half."""


@dataclass(frozen=True)
class Pace:
    """How long a search is.

    Args:
        steps: of the whole search.
        batch_size: examples in each pass of a step.
    """

    steps: int
    batch_size: int

    def within(self, most: float, settings: BipeftSettings) -> Pace:
        """As many steps of smaller batches, so that a pass a step takes at most `most` examples; then fewer steps.

        What `settings` ask for by number stays.
        """
        # Gates need many steps before they decide, and less of each: so batches give way first.
        batch, steps = self.batch_size, self.steps
        if settings.batch_size is None:
            batch = min(batch, max(_LEAST_BATCH, math.floor(most / steps)))
        if settings.steps is None:
            steps = max(1, min(steps, math.floor(most / batch)))
        return Pace(steps, batch)


class BipeftSearch:
    """For each budget one search in a supernet of its own."""

    earlier_seconds = 0.0

    def __init__(self, context: SearchContext, settings: BipeftSettings) -> None:
        """Nothing is trained yet.

        Raises:
            SettingsError: there are not two training examples.
        """
        self._context, self._settings = context, settings
        self.told: Mapping[str, Any] = {}
        check_halves(context.evaluator, "BIPEFT")

    @property
    def per_budget(self) -> int:
        """The number of answers."""
        return self._settings.answers

    def answer(self, limit: ParameterBudget) -> Sequence[Architecture]:
        """What the search for `limit` ended at."""
        problem = self._problem()
        found = self._search(limit, problem)
        self.earlier_seconds = found.earlier
        told = {"steps": found.steps, "triggers": len(found.history), "gates": asdict(found.movement)}
        self.told = {**told, **problem.told()}
        return (found.architecture, *found.others)

    def search(self, limit: ParameterBudget) -> BipeftResult:
        """The whole outcome of the search for `limit`."""
        return self._search(limit, self._problem())

    def _problem(self) -> HalvedTask:
        return HalvedTask(self._context.evaluator, self._pace().batch_size, self._context.seed)

    def _pace(self) -> Pace:
        """How many steps of how many examples the search takes."""
        evaluator, settings = self._context.evaluator, self._settings
        recipe, batch = evaluator.recipe, settings.batch_size or evaluator.recipe.batch_size
        steps = halved_steps(evaluator, batch, settings.epochs, settings.steps)
        if settings.steps is None and settings.least_steps is not None:
            steps = max(steps, min(settings.least_steps, recipe.n_steps(evaluator.n_train)))
        if settings.most_of_a_training is None:
            return Pace(steps, batch)
        most = settings.most_of_a_training * recipe.n_processed(evaluator.n_train)
        # Weights see the first half at every step, gates the second at every one after the warm-up.
        passes = 2 - settings.warmup if settings.is_warmup_whole else 2
        return Pace(steps, batch).within(most / passes, settings)

    def _search(self, limit: ParameterBudget, problem: HalvedTask) -> BipeftResult:
        evaluator, settings, seed = self._context.evaluator, self._settings, self._context.seed
        plan = replace(problem.plan(settings, limit.most), steps=self._pace().steps)
        with supernet_of(evaluator, self._context.space, seed, limit.count, settings.starts) as supernet:
            search = BilevelSearch(supernet, problem, settings, plan)
            found = search.run(self._context.file(NAME, search.identity), self._context.checkpoint_every)
        _log.info(
            "BIPEFT: %s answered with %d modules and %d parameters after %d steps and %.0f seconds.",
            limit, len(found.architecture), found.parameters, found.steps, found.seconds,
        )  # fmt: skip
        return found


MEMBERS = {
    NAME: spec(
        NAME,
        PRESETS,
        BipeftSearch,
        is_budget_needed=lambda settings: settings.is_selecting,
        about="BIPEFT: bi-level search of position and rank, with triggers (Chang et al. 2024)",
    )
}
