"""BIPEFT (EMNLP Findings 2024) as a sampler: for each parameter budget one search in a supernet.

A proposal is the outcome of a whole search, so `ask` takes as long as that. Several budgets, answered in their
order, give a front; evaluated like every other proposal, they can be compared with every other sampler's.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from autopeft.architecture import CountKind, ParameterBudget
from autopeft.batches import collate, training_order
from autopeft.bilevel import TRAIN, BilevelSearch, Found, Plan
from autopeft.bilevel_settings import PRESETS, BilevelSettings
from autopeft.errors import BudgetError, SettingsError, SpaceExhaustedError, UnknownNameError
from autopeft.evaluate import Evaluator
from autopeft.proposal import check_seed, taken, with_options
from autopeft.samplers import Sampler
from autopeft.selection import Candidates
from autopeft.space import Configuration, SearchSpace
from autopeft.supernet import Supernet
from autopeft.train import autocast
from autopeft.trial import Trial

_log = logging.getLogger(__name__)

NAME = "bipeft"


class HalvedTask:
    """The evaluator's training part, cut in two random halves, as a `bilevel.Problem`.

    Which examples form the batch of a step depends on the seed and the number of the step alone.
    """

    def __init__(self, evaluator: Evaluator, batch_size: int, seed: int) -> None:
        """Raises:
        SettingsError: there are not two training examples.
        """
        n = evaluator.n_train
        if n < 2:
            raise SettingsError(f"BIPEFT cuts the training part in two halves, but it has {n} examples.")
        self._evaluator, self._size, self._seed = evaluator, batch_size, seed
        order = np.random.default_rng([seed, 0]).permutation(n)
        self._halves = (order[: (n + 1) // 2], order[(n + 1) // 2 :])
        self._orders: dict[int, tuple[int, list[NDArray[np.int64]]]] = {}  # the present epoch of each half
        self.head: Sequence[nn.Parameter] = evaluator.learner.reset(seed)
        self.steps_per_epoch = math.ceil(len(self._halves[TRAIN]) / batch_size)

    def loss(self, half: int, step: int) -> Tensor:
        """The learner's loss on the batch of `half` at `step`."""
        evaluator, part = self._evaluator, self._evaluator.train_part
        device = evaluator.backbone.device
        batch = collate(part, self.indices(half, step), evaluator.learner.pad, device)
        with autocast(evaluator.recipe, device):
            return evaluator.learner.loss(batch)

    def indices(self, half: int, step: int) -> NDArray[np.int64]:
        """Which training examples form the batch of `half` at `step`."""
        epoch, position = divmod(step, math.ceil(len(self._halves[half]) / self._size))
        if self._orders.get(half, (-1, []))[0] != epoch:
            rng = np.random.default_rng([self._seed, 1 + half, epoch])
            lengths = self._evaluator.train_part.lengths[self._halves[half]]
            self._orders[half] = epoch, list(training_order(lengths, self._size, rng))
        return self._halves[half][self._orders[half][1][position]]

    @contextmanager
    def training(self) -> Iterator[None]:
        """The learner's model in training mode."""
        model = self._evaluator.learner.model
        model.train()
        try:
            yield
        finally:
            model.eval()


@dataclass(frozen=True)
class _Budgets:
    """The budgets to answer, in order; None stands for "no limit" in the variants that need none."""

    limits: tuple[ParameterBudget | None, ...]

    @classmethod
    def of(
        cls,
        space: SearchSpace,
        wanted: Sequence[str | int | ParameterBudget],
        count: CountKind | None,
        backbone: int,
        is_needed: bool,
    ) -> _Budgets:
        kind = count or (space.budget.count if space.budget is not None else "stored")
        limits: list[ParameterBudget | None] = [
            b if isinstance(b, ParameterBudget) else ParameterBudget.parse(b, backbone, kind) for b in wanted
        ]
        if not limits and (space.budget is not None or not is_needed):
            limits = [space.budget]
        if not limits:
            raise BudgetError(
                "BIPEFT searches for a parameter budget: give the option `budgets`, for example ('1.39‱',), or the "
                "space a budget."
            )
        _check_limits(space, [limit for limit in limits if limit is not None])
        return cls(tuple(limits))


def _check_limits(space: SearchSpace, limits: Sequence[ParameterBudget]) -> None:
    wrong = [f"{limit}: it must be an upper limit alone" for limit in limits if limit.least]
    if space.budget is not None:
        whole = space.budget
        if whole.least:
            wrong.append(f"the space's {whole}: it must be an upper limit alone")
        for limit in limits:
            # What is stored is never less than what is nominal, so a limit on it is at least as tight.
            if limit.most > whole.most or (limit.count, whole.count) == ("nominal", "stored"):
                wrong.append(f"{limit}: the space allows {whole}")
    if wrong:
        raise BudgetError(f"BIPEFT cannot answer these budgets: {'; '.join(wrong)}.")
    for limit in limits:
        Candidates.of(space, limit.count).check_budget(limit.most)


class BilevelSampler:
    """Proposes, budget by budget, what BIPEFT finds. Its only state is a memory of searches already done."""

    name = NAME

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        evaluator: Evaluator,
        settings: BilevelSettings,
        budgets: _Budgets,
        checkpoint: tuple[Path | None, int],
    ) -> None:
        self._space, self._seed, self._evaluator = space, check_seed(seed), evaluator
        self._settings, self._budgets, self._checkpoint = settings, budgets, checkpoint
        self._done: dict[int, Found] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved options, JSON-ready."""
        return {**self._settings.as_dict(), "budgets": [str(limit) for limit in self._budgets.limits]}

    def ask(self, trials: Sequence[Trial], n: int = 1) -> list[Configuration]:
        """The architectures found for the next `n` budgets that no trial has answered yet. See `Sampler.ask`.

        A budget whose search ends at an architecture that is taken is passed over, with a line in the log.

        Raises:
            NonFiniteFailure: the loss of a search became NaN or infinite.
        """
        answered = sum(trial.origin == self.name and trial.is_taken for trial in trials)
        known, found = taken(self._space, trials), list[Configuration]()
        for position in range(answered, len(self._budgets.limits)):
            if len(found) == n:
                break
            configuration = self._configuration(position)
            identity = self._space.identity(configuration)
            if identity in known:
                _log.info("BIPEFT: the search for %s ended at a known architecture.", self._budgets.limits[position])
                continue
            known.add(identity)
            found.append(configuration)
        if not found:
            raise SpaceExhaustedError(f"All {len(self._budgets.limits)} budgets of BIPEFT have been answered.")
        return found

    def _configuration(self, position: int) -> Configuration:
        configuration = self._space.configuration(self.search(position).architecture)
        assert configuration is not None  # it was made of the space's own placements and sizes
        return configuration

    def search(self, position: int) -> Found:
        """The outcome of the search for the budget at `position`; searched at most once."""
        if position not in self._done:
            self._done[position] = self._search(self._budgets.limits[position])
        return self._done[position]

    def _search(self, limit: ParameterBudget | None) -> Found:
        evaluator, settings = self._evaluator, self._settings
        kind: CountKind = "stored" if limit is None else limit.count
        problem = HalvedTask(evaluator, settings.batch_size or evaluator.recipe.batch_size, self._seed)
        plan = Plan(
            steps=settings.steps or self._steps(problem),
            learning_rate=settings.learning_rate or evaluator.recipe.learning_rate,
            budget=None if limit is None else limit.most,
            seed=self._seed,
        )
        with Supernet(evaluator.backbone, self._space, seed=self._seed, kind=kind) as supernet:
            search = BilevelSearch(supernet, problem, settings, plan)
            found = search.run(self._path(search), self._checkpoint[1])
        _log.info(
            "BIPEFT: %s answered with %d modules and %d parameters after %d steps and %.0f seconds.",
            limit or "no limit", len(found.architecture), found.parameters, found.steps, found.seconds,
        )  # fmt: skip
        return found

    def _steps(self, problem: HalvedTask) -> int:
        recipe = self._evaluator.recipe
        if self._settings.epochs is None and recipe.steps is not None:
            return recipe.steps
        return max(1, round((self._settings.epochs or recipe.epochs) * problem.steps_per_epoch))

    def _path(self, search: BilevelSearch) -> Path | None:
        if self._checkpoint[0] is None:
            return None
        text = json.dumps([search.identity, self._evaluator.recipe.as_dict(), self._evaluator.n_train])
        return self._checkpoint[0] / f"bipeft-{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"


class BilevelFactory:
    """BIPEFT (EMNLP Findings 2024): a supernet search for each parameter budget, with presets and ablations."""

    needs_evaluator = True
    """Whoever builds the sampler passes the `Evaluator` of the search."""

    def __call__(
        self,
        space: SearchSpace,
        seed: int,
        *,
        evaluator: Evaluator | None = None,
        budgets: Sequence[str | int | ParameterBudget] | str | int = (),
        count: CountKind | None = None,
        preset: str = "recommended",
        checkpoint: str | Path | None = None,
        checkpoint_every: int = 300,
        **options: Any,
    ) -> Sampler:
        """The sampler.

        Args:
            space: every placement needs a size of its own and must be able to be absent (spaces S1 and S2).
            evaluator: what is searched with: backbone, training part and recipe.
            budgets: upper limits, "1.39‱", "0.5%", or counts; the space's own when empty.
            count: which count the budgets limit; that of the space's budget, else "stored".
            preset: "paper", "released" or "recommended".
            checkpoint: a folder where interrupted searches are kept and found again.
            checkpoint_every: steps between checkpoints.
            options: fields of `BilevelSettings`, in place of the preset's.

        Raises:
            InputError: an option is unknown or cannot be used, or nothing satisfies a budget.
        """
        check_seed(seed)
        if preset not in PRESETS:
            raise UnknownNameError("preset", preset, PRESETS)
        settings = with_options(PRESETS[preset], options, NAME)
        if evaluator is None:
            raise SettingsError("The sampler 'bipeft' trains a supernet, so it needs an `evaluator`.")
        wanted = (budgets,) if isinstance(budgets, str | int) else tuple(budgets)
        Candidates.of(space)
        limits = _Budgets.of(space, wanted, count, evaluator.backbone.n_parameters, settings.is_selecting)
        folder = None if checkpoint is None else Path(checkpoint)
        return BilevelSampler(space, seed, evaluator, settings, limits, (folder, checkpoint_every))


MEMBERS = {NAME: BilevelFactory()}
