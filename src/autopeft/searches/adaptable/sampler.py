"""The Adaptable Adapter (Moosavi et al. 2022, arXiv 2205.01549) as a sampler: layers chosen by switches."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from autopeft.architecture import Architecture, ParameterBudget
from autopeft.searches._candidates import Candidates
from autopeft.searches._halves import HalvedTask
from autopeft.searches._search import SearchContext, spec, supernet_of
from autopeft.searches.adaptable.search import PRESETS, AdaptableResult, AdaptableSettings, SwitchSearch
from autopeft.searches.s3delta.sampler import one_size

_log = logging.getLogger(__name__)

NAME = "adaptable"


class AdaptableSearch:
    """For each budget one search; what the switches keep beyond the budget is left out, least preferred first."""

    per_budget = 1
    earlier_seconds = 0.0

    def __init__(self, context: SearchContext, settings: AdaptableSettings) -> None:
        """Raises:
        BudgetError: the smallest module, at the size that it would have, is above a budget.
        """
        self._context, self._settings = context, settings
        self.told: Mapping[str, Any] = MappingProxyType({})
        self._space = one_size(context.space, settings.size)
        for limit in context.limits:
            Candidates.of(self._space, limit.count).check_budget(limit.most)

    def answer(self, limit: ParameterBudget) -> Sequence[Architecture]:
        """What the search for `limit` ended at."""
        return (self.search(limit).architecture,)

    def search(self, limit: ParameterBudget) -> AdaptableResult:
        """The whole outcome of the search for `limit`."""
        evaluator, settings, seed = self._context.evaluator, self._settings, self._context.seed
        size = settings.batch_size or evaluator.recipe.batch_size
        problem = HalvedTask(evaluator, size, seed, is_whole=True)
        plan = problem.plan(settings, limit.most)
        with supernet_of(evaluator, self._space, seed, limit.count) as supernet:
            found = SwitchSearch(supernet, problem, settings, plan).run()
        self.told = problem.told()
        _log.info(
            "Adaptable Adapter: %d of %d modules and %d parameters after %d steps and %.0f seconds.",
            len(found.architecture), len(found.preference), found.parameters, plan.steps, found.seconds,
        )  # fmt: skip
        return found


MEMBERS = {
    NAME: spec(
        NAME,
        PRESETS,
        AdaptableSearch,
        is_budget_needed=lambda settings: False,
        space="SA-Switch",
        about="The Adaptable Adapter: switches choose the layers (Moosavi et al. 2022)",
    )
}
