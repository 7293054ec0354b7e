"""BIPEFT (EMNLP Findings 2024) as a sampler: for each parameter budget one search in a supernet.

A proposal is the outcome of a whole search, so `ask` takes as long as that. Several budgets, answered in their
order, give a front; evaluated like every other proposal, they can be compared with every other sampler's.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from autopeft.architecture import Architecture, ParameterBudget
from autopeft.searches._halves import HalvedTask, check_halves
from autopeft.searches._problem import Plan
from autopeft.searches._search import SearchContext, spec, supernet_of
from autopeft.searches.bipeft.search import BilevelSearch, BipeftResult
from autopeft.searches.bipeft.settings import PRESETS, BipeftSettings

_log = logging.getLogger(__name__)

NAME = "bipeft"


class BipeftSearch:
    """For each budget one search in a supernet of its own."""

    per_budget = 1
    earlier_seconds = 0.0

    def __init__(self, context: SearchContext, settings: BipeftSettings) -> None:
        """Nothing is trained yet.

        Raises:
            SettingsError: there are not two training examples.
        """
        self._context, self._settings = context, settings
        self.told: Mapping[str, Any] = {}
        check_halves(context.evaluator, "BIPEFT")

    def answer(self, limit: ParameterBudget) -> Sequence[Architecture]:
        """What the search for `limit` ended at."""
        problem = self._problem()
        found = self._search(limit, problem)
        self.earlier_seconds = found.earlier
        told = {"steps": found.steps, "triggers": len(found.history), "gates": asdict(found.movement)}
        self.told = {**told, **problem.told()}
        return (found.architecture,)

    def search(self, limit: ParameterBudget) -> BipeftResult:
        """The whole outcome of the search for `limit`."""
        return self._search(limit, self._problem())

    def _problem(self) -> HalvedTask:
        evaluator = self._context.evaluator
        return HalvedTask(evaluator, self._settings.batch_size or evaluator.recipe.batch_size, self._context.seed)

    def _search(self, limit: ParameterBudget, problem: HalvedTask) -> BipeftResult:
        evaluator, settings, seed = self._context.evaluator, self._settings, self._context.seed
        plan = self._long_enough(problem.plan(settings, limit.most))
        with supernet_of(evaluator, self._context.space, seed, limit.count, settings.starts) as supernet:
            search = BilevelSearch(supernet, problem, settings, plan)
            found = search.run(self._context.file(NAME, search.identity), self._context.checkpoint_every)
        _log.info(
            "BIPEFT: %s answered with %d modules and %d parameters after %d steps and %.0f seconds.",
            limit, len(found.architecture), found.parameters, found.steps, found.seconds,
        )  # fmt: skip
        return found

    def _long_enough(self, plan: Plan) -> Plan:
        """`plan` with the least steps that the settings ask for, where one training by the recipe has as many."""
        settings, evaluator = self._settings, self._context.evaluator
        if settings.steps is not None or settings.least_steps is None:
            return plan
        least = min(settings.least_steps, evaluator.recipe.n_steps(evaluator.n_train))
        return replace(plan, steps=max(plan.steps, least))


MEMBERS = {
    NAME: spec(
        NAME,
        PRESETS,
        BipeftSearch,
        is_budget_needed=lambda settings: settings.is_selecting,
        about="BIPEFT: bi-level search of position and rank, with triggers (Chang et al. 2024)",
    )
}
