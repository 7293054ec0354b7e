"""BIPEFT (EMNLP Findings 2024) as a sampler: for each parameter budget one search in a supernet.

A proposal is the outcome of a whole search, so `ask` takes as long as that. Several budgets, answered in their
order, give a front; evaluated like every other proposal, they can be compared with every other sampler's.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autopeft.architecture import Architecture, ParameterBudget
from autopeft.bilevel import BilevelSearch, Found, Plan
from autopeft.bilevel_settings import PRESETS, BilevelSettings
from autopeft.budgeted import BudgetedFactory, Question, supernet_of
from autopeft.errors import SettingsError
from autopeft.halves import HalvedTask, check_halves
from autopeft.rules import COUNT
from autopeft.samplers import Sampler
from autopeft.space import SearchSpace

_log = logging.getLogger(__name__)

NAME = "bipeft"


class BilevelAnswers:
    """For each budget one search in a supernet of its own."""

    per_budget = 1

    def __init__(
        self, question: Question, settings: BilevelSettings, folder: Path | None = None, every: int = 300
    ) -> None:
        """Nothing is trained yet.

        Args:
            folder: where interrupted searches are kept and found again, or None.
            every: steps between checkpoints.

        Raises:
            SettingsError: there are not two training examples.
        """
        self._question, self._settings, self._folder, self._every = question, settings, folder, every
        check_halves(question.evaluator, "BIPEFT")

    def answer(self, limit: ParameterBudget) -> Sequence[Architecture]:
        """What the search for `limit` ended at."""
        return (self.search(limit).architecture,)

    def search(self, limit: ParameterBudget) -> Found:
        """The whole outcome of the search for `limit`."""
        evaluator, settings, seed = self._question.evaluator, self._settings, self._question.seed
        problem = HalvedTask(evaluator, settings.batch_size or evaluator.recipe.batch_size, seed)
        rate = settings.learning_rate or evaluator.recipe.learning_rate
        plan = Plan(problem.steps(settings.epochs, settings.steps), rate, limit.most, seed)
        with supernet_of(evaluator, self._question.space, seed, limit.count) as supernet:
            search = BilevelSearch(supernet, problem, settings, plan)
            found = search.run(self._path(search), self._every)
        _log.info(
            "BIPEFT: %s answered with %d modules and %d parameters after %d steps and %.0f seconds.",
            limit, len(found.architecture), found.parameters, found.steps, found.seconds,
        )  # fmt: skip
        return found

    def _path(self, search: BilevelSearch) -> Path | None:
        if self._folder is None:
            return None
        evaluator = self._question.evaluator
        text = json.dumps([search.identity, evaluator.recipe.as_dict(), evaluator.n_train])
        return self._folder / f"bipeft-{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"


class BilevelFactory:
    """A `BudgetedFactory` whose searches can be interrupted."""

    space = "S2"
    needs_evaluator = True

    def __call__(
        self,
        space: SearchSpace,
        seed: int,
        *,
        checkpoint: str | Path | None = None,
        checkpoint_every: int = 300,
        **options: Any,
    ) -> Sampler:
        """The sampler.

        Args:
            checkpoint: a folder where interrupted searches are kept and found again.
            checkpoint_every: steps between checkpoints.
            options: those of `BudgetedFactory`: `evaluator`, `budgets` (not needed by the variants that do not
                select), `count`, `preset` ("paper", "released" or "recommended"), and fields of `BilevelSettings`.

        Raises:
            InputError: an option is unknown or cannot be used, or nothing satisfies a budget.
        """
        if not COUNT[1](checkpoint_every):
            raise SettingsError(f"`checkpoint_every` is {COUNT[0]}, but got {checkpoint_every!r}.")
        folder = None if checkpoint is None else Path(checkpoint)

        def start(question: Question, settings: BilevelSettings) -> BilevelAnswers:
            return BilevelAnswers(question, settings, folder, checkpoint_every)

        factory = BudgetedFactory(NAME, PRESETS, start, lambda settings: settings.is_selecting, self.space)
        return factory(space, seed, **options)


MEMBERS: Mapping[str, BilevelFactory] = {NAME: BilevelFactory()}
