"""S3Delta (Hu et al. 2022, arXiv 2206.07382) as a sampler: for each parameter budget one search."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal

from autopeft.architecture import Architecture, ParameterBudget
from autopeft.searches._candidates import Candidates
from autopeft.searches._halves import HalvedTask, check_halves
from autopeft.searches._search import SearchContext, spec, supernet_of
from autopeft.searches.s3delta.search import S3DeltaResult, SparseSearch
from autopeft.searches.s3delta.settings import PRESETS, S3DeltaSettings
from autopeft.spaces.lattice import Choice, SearchSpace

_log = logging.getLogger(__name__)

NAME = "s3delta"


def one_size(space: SearchSpace, size: Literal["smallest", "largest"]) -> SearchSpace:
    """`space` without its budget, where every module is absent or has the smallest, or the largest, of its sizes."""
    column = 1 if size == "smallest" else -1
    choices = tuple(Choice(choice.name, (0, choice.values[column])) for choice in space.choices)
    # Without its budget, which the search meets by itself and which the reduced space may not be able to reach from
    # below.
    return replace(space, choices=choices, budget=None)


class S3DeltaSearch:
    """For each budget one search: the shift of the gates depends on it."""

    earlier_seconds = 0.0

    def __init__(self, context: SearchContext, settings: S3DeltaSettings) -> None:
        """Raises:
        BudgetError: the smallest module, at the size that it would have, is above a budget.
        SettingsError: there are not two training examples.
        """
        self._context, self._settings = context, settings
        self.told: Mapping[str, Any] = MappingProxyType({})
        # Checked again below, because the smallest module of the reduced space may be larger than that of the whole.
        self._space = one_size(context.space, settings.size)
        check_halves(context.evaluator, "S3Delta")
        for limit in context.limits:
            Candidates.of(self._space, limit.count).check_budget(limit.most)

    @property
    def per_budget(self) -> int:
        """The number of answers."""
        return self._settings.answers

    def answer(self, limit: ParameterBudget) -> Sequence[Architecture]:
        """What the search for `limit` ended at."""
        problem = self._problem()
        found = self._search(limit, problem)
        self.earlier_seconds, self.told = found.earlier, problem.told()
        return (found.architecture, *found.others)

    def search(self, limit: ParameterBudget) -> S3DeltaResult:
        """The whole outcome of the search for `limit`."""
        return self._search(limit, self._problem())

    def _problem(self) -> HalvedTask:
        evaluator = self._context.evaluator
        return HalvedTask(evaluator, self._settings.batch_size or evaluator.recipe.batch_size, self._context.seed)

    def _search(self, limit: ParameterBudget, problem: HalvedTask) -> S3DeltaResult:
        evaluator, settings, seed = self._context.evaluator, self._settings, self._context.seed
        plan = problem.plan(settings, limit.most)
        with supernet_of(evaluator, self._space, seed, limit.count) as supernet:
            search = SparseSearch(supernet, problem, settings, plan)
            found = search.run(self._context.file(NAME, search.identity), self._context.checkpoint_every)
        _log.info(
            "S3Delta: %s answered with %d modules and %d parameters after %d steps and %.0f seconds.",
            limit, len(found.architecture), found.parameters, plan.steps, found.seconds,
        )  # fmt: skip
        return found


MEMBERS = {
    NAME: spec(NAME, PRESETS, S3DeltaSearch, about="S3Delta: soft gates under one global shift (Hu et al. 2022)")
}
