"""Pruning after Lawton et al. (2023, arXiv 2305.16597): train everything once, keep what the loss depends on most.

BIPEFT calls it PrunePEFT.

All placements are trained together at their largest sizes. In the last epoch every weight gathers the first-order
estimate of how the loss would change without it, ``I(w) = Σ_batches |w · ∂L/∂w|``, and what has most of it for its
parameters is kept within the budget. An architecture says how large each module is and not which weights it holds, so
what is kept starts afresh when it is trained. BIPEFT (EMNLP Findings 2024, table 3) gives the search the time of one
training run: one shot, no second look. One run serves all budgets.

This is not the iterative method that was published as PrunePEFT in 2025.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autopeft.architecture import Architecture, ParameterBudget
from autopeft.rules import Count, Positive, raise_if_any, violations
from autopeft.searches._candidates import Bools, Candidates, Floats, Ints, indicator, project
from autopeft.searches._search import SearchContext, spec, supernet_of
from autopeft.searches._supernet import Supernet
from autopeft.training.batches import Encoded
from autopeft.training.learners import Learner
from autopeft.training.loop import fit
from autopeft.training.recipe import Recipe

_log = logging.getLogger(__name__)

NAME = "prune-lawton"

FORMER = "prunepeft"
"""What it was called until another method was published under that name (Yu et al. 2025, arXiv 2506.07587)."""

Variant = Literal["unstructured", "structured", "element"]


@dataclass(frozen=True)
class PruneSettings:
    """How the search is done.

    Args:
        variant: what is kept or not. "unstructured": single units (a row of LoRA's A with its column of B; a bias or
            a norm is one unit), so many that each module has one of the space's sizes. "structured": whole modules
            at their largest size. "element": single weights; a mask over them is no architecture, so each module
            gets the size whose count is nearest to the weights it kept.
        scored_epochs: length of the end of training in which importance is gathered, in epochs.
        epochs: of training; None takes the recipe's.
        steps: instead of `epochs`, or None.
        learning_rate: None takes the recipe's.
    """

    variant: Variant = "unstructured"
    scored_epochs: Positive = 1.0
    epochs: Positive | None = None
    steps: Count | None = None
    learning_rate: Positive | None = None

    def __post_init__(self) -> None:
        raise_if_any("The settings of prune-lawton cannot be used", violations(self))


# -- what is kept ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Importance:
    """What training said of one placement at its largest size.

    Args:
        once: the importance of what it has once, whatever its size (an up-projection's bias); 0 where all is one unit.
        units: of each unit, ``(size,)``.
        elements: of every single weight, in no particular order.
    """

    once: float
    units: Floats
    elements: Floats


def unit_wise(importance: Sequence[Importance], candidates: Candidates, budget: int) -> Ints:
    """Sizes within `budget` from the most important units of all placements, ``(n,)``, 0 where absent, not all 0.

    A placement's units come in order of importance. It grows from one of its sizes to the next by as many units,
    and brings what it has once with the first; the growth of most importance for its parameters goes first. One that
    does not fit ends the growth of its placement, and that of no other.
    """
    gains, column = _gains(importance, candidates), np.full(len(candidates), -1, dtype=np.int64)
    steps = np.diff(candidates.counts, axis=1, prepend=0)
    is_open, left = np.ones(len(candidates), dtype=bool), budget
    rows = np.arange(len(candidates))
    while True:
        is_open &= column + 1 < (candidates.sizes > 0).sum(1)
        if not is_open.any():
            return np.where(column >= 0, candidates.sizes[rows, np.maximum(column, 0)], 0)
        following = np.minimum(column + 1, gains.shape[1] - 1)
        price = steps[rows, following]
        # By the importance a parameter and not a unit, since a unit of a wide module costs many times one of a bias.
        density = gains[rows, following] / np.maximum(price, 1)
        best = int(np.lexsort((candidates.rank, np.where(is_open, -density, np.inf)))[0])
        if price[best] <= left:
            column[best] += 1
            left -= int(price[best])
        else:
            is_open[best] = False


def _gains(importance: Sequence[Importance], candidates: Candidates) -> Floats:
    """What growing to each size adds, ``(n, K)``, the most important units first."""
    gains = np.zeros(candidates.sizes.shape)
    for row, (one, sizes) in enumerate(zip(importance, candidates.sizes, strict=True)):
        total = one.once + np.concatenate([[0.0], np.cumsum(np.sort(one.units)[::-1])])
        totals = np.array([total[size] for size in sizes if size])
        gains[row, : len(totals)] = np.diff(totals, prepend=0.0)
    return gains


def module_wise(importance: Sequence[Importance], candidates: Candidates, budget: int) -> Ints:
    """Sizes within `budget`, ``(n,)``: whole placements of most importance for their parameters.

    When none fits at its largest size, the best one that fits at a smaller.
    """
    largest = (candidates.sizes > 0).sum(1) - 1
    counts = candidates.counts[np.arange(len(candidates)), largest]
    scores = np.array([one.once + one.units.sum() for one in importance]) / np.maximum(counts, 1)
    everyone: Bools = np.ones(len(candidates), dtype=bool)
    chosen = indicator(scores, counts.astype(np.float64), everyone, candidates.rank, budget, "skip")
    if chosen.any():
        return np.where(chosen, candidates.sizes.max(1), 0)
    return project(scores, candidates, largest, budget, is_refilled=False)


def element_wise(importance: Sequence[Importance], candidates: Candidates, budget: int) -> Ints:
    """Sizes within `budget`, ``(n,)``: as near as they can be to a mask that keeps the best `budget` weights.

    Each placement takes the size, or absence, whose count is nearest to the number of its weights that are kept, the
    smaller of two. Then those with the smallest share of kept weights make room until the count fits.
    """
    every = np.concatenate([one.elements for one in importance])
    owners = np.repeat(np.arange(len(candidates)), [len(one.elements) for one in importance])
    best = np.lexsort((candidates.rank[owners], -every))[:budget]
    kept = np.bincount(owners[best], minlength=len(candidates))
    # Sizes that do not exist are put out of reach; half of the largest number leaves room for a difference.
    counts = np.where(candidates.sizes > 0, candidates.counts, np.iinfo(np.int64).max // 2)
    options = np.concatenate([np.zeros((len(candidates), 1), dtype=np.int64), counts], axis=1)
    chosen = np.abs(options - kept[:, None]).argmin(axis=1) - 1
    shares = kept / np.maximum(candidates.counts.max(axis=1), 1)
    return project(shares, candidates, chosen, budget, is_refilled=False)


Keep = Callable[[Sequence[Importance], Candidates, int], Ints]


def keep_of(variant: Variant) -> Keep:
    """The rule by which `variant` keeps."""
    rules: Mapping[str, Keep] = {"unstructured": unit_wise, "structured": module_wise, "element": element_wise}
    return rules[variant]


# -- training ----------------------------------------------------------------------------------------------


class Gatherer:
    """Sums ``|w · ∂L/∂w|`` of parameters over backward passes while it is on.

    Attributes:
        is_on: whether passes count.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.is_on = False
        self._sums = {id(parameter): torch.zeros_like(parameter) for parameter in parameters}
        # Called when a parameter's gradient is complete: before clipping, and before the optimiser takes it away.
        self._handles = [p.register_post_accumulate_grad_hook(self._add) for p in parameters]  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _add(self, parameter: Tensor) -> None:
        if self.is_on and parameter.grad is not None:
            self._sums[id(parameter)] += (parameter * parameter.grad).abs()

    def of(self, parameter: nn.Parameter) -> Tensor:
        """The sum so far, in the shape of `parameter`."""
        return self._sums[id(parameter)]

    def stop(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()


def gathered(
    supernet: Supernet, learner: Learner, encoded: Encoded, recipe: Recipe, scored_epochs: float, seed: int
) -> list[Importance]:
    """Train the whole supernet and a fresh head on `encoded`; the importance of every placement, in canonical order.

    Args:
        recipe: its schedule is followed to the end; nothing is evaluated on the way.

    Raises:
        NonFiniteFailure: the loss became NaN or infinite.
    """
    own = [parameter for index in range(len(supernet)) for parameter in supernet.parameters_of(index)]
    planned = recipe.n_steps(len(encoded))
    scored = max(1, round(scored_epochs * math.ceil(len(encoded) / recipe.batch_size)))
    gatherer = Gatherer(own)
    # A run shorter than the scored end is scored from its first step, before which nobody is told of a step.
    gatherer.is_on = planned <= scored

    def on_step(done: int, planned: int) -> None:
        gatherer.is_on = planned - done <= scored

    # The loop evaluates at the end at least, and takes whatever it is told.
    blind = replace(recipe, patience=None, keep="last", evaluate_every=float(planned), consistency=0.0)
    head, nothing = learner.reset(seed), {"none": 0.0}
    supernet.train()
    try:
        fit(learner, [*own, *head], encoded, blind, lambda: nothing, objective="none", seed=seed, on_step=on_step)
    finally:
        gatherer.stop()
        supernet.train(False)
    return _importance(supernet, gatherer)


@torch.no_grad()
def _importance(supernet: Supernet, gatherer: Gatherer) -> list[Importance]:
    """Shares the sums out to the units.

    Which weights belong to which unit is known to a module's `cut` alone, so the sums are put in the place of the
    weights and cut. What does not change from one unit to two is there once.
    """
    placements = range(len(supernet))
    parameters = [supernet.parameters_of(index) for index in placements]
    elements = [np.concatenate([_array(gatherer.of(p)).ravel() for p in own]) for own in parameters]
    values = [[parameter.detach().clone() for parameter in own] for own in parameters]
    _put(parameters, [[gatherer.of(parameter) for parameter in own] for own in parameters])
    largest = supernet.candidates.sizes.max(axis=1)
    cuts = [_cut(supernet, np.minimum(largest, size)) for size in range(1, int(largest.max()) + 1)]
    _put(parameters, values)
    found = []
    for index, (key, size) in enumerate(zip(supernet.candidates.keys, largest, strict=True)):
        first, second = cuts[0][key], cuts[min(1, int(size) - 1)][key]
        once = sum(first[name].total for name in first if size > 1 and first[name].n == second[name].n)
        totals = [sum(part.total for part in cuts[n][key].values()) for n in range(size)]
        found.append(Importance(float(once), np.diff(totals, prepend=once), elements[index]))
    return found


@dataclass(frozen=True)
class _Part:
    """A parameter at some size: how many numbers it has, and their sum."""

    n: int
    total: float


def _cut(supernet: Supernet, sizes: Ints) -> dict[tuple[str, str], dict[str, _Part]]:
    """What the supernet's modules hold at `sizes`, by site and method, by parameter."""
    found: dict[tuple[str, str], dict[str, _Part]] = {}
    for path, value in supernet.weights(supernet.architecture(sizes)).items():
        site, method, name = path.split("/", 2)
        found.setdefault((site, method), {})[name] = _Part(value.numel(), float(value.double().sum()))
    return found


def _put(parameters: Sequence[Sequence[nn.Parameter]], values: Sequence[Sequence[Tensor]]) -> None:
    for own, others in zip(parameters, values, strict=True):
        for parameter, value in zip(own, others, strict=True):
            parameter.copy_(value)


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return np.asarray(tensor.detach().double().cpu().numpy())


# -- the sampler -------------------------------------------------------------------------------------------


class PruneSearch:
    """One training run, at the first budget; every budget then takes its share."""

    per_budget = 1
    earlier_seconds = 0.0

    def __init__(self, context: SearchContext, settings: PruneSettings) -> None:
        self._context, self._settings = context, settings
        self.told: Mapping[str, Any] = MappingProxyType({})
        self._importance: list[Importance] | None = None

    def answer(self, limit: ParameterBudget) -> Sequence[Architecture]:
        """What is left within `limit`."""
        candidates = Candidates.of(self._context.space, limit.count)
        sizes = keep_of(self._settings.variant)(self.importance(), candidates, limit.most)
        return (candidates.architecture(sizes),)

    def importance(self) -> Sequence[Importance]:
        """Of every placement, in canonical order; trained for at most once."""
        if self._importance is None:
            evaluator, seed = self._context.evaluator, self._context.seed
            recipe = self._recipe(evaluator.recipe)
            with supernet_of(evaluator, self._context.space, seed) as supernet:
                learner, part = evaluator.learner, evaluator.train_part
                self._importance = gathered(supernet, learner, part, recipe, self._settings.scored_epochs, seed)
            self.told = {"examples": recipe.n_processed(evaluator.n_train)}
            _log.info("Pruning: %d modules were trained together and scored.", len(self._importance))
        return self._importance

    def _recipe(self, own: Recipe) -> Recipe:
        """The evaluator's recipe with what the settings change."""
        settings = self._settings
        epochs, steps = own.epochs, own.steps
        if settings.epochs is not None:
            epochs, steps = settings.epochs, None
        rate = settings.learning_rate or own.learning_rate
        return replace(own, epochs=epochs, steps=settings.steps or steps, learning_rate=rate)


_ABOUT = "train everything once, keep what matters most (Lawton et al. 2023)"
_PRESETS = MappingProxyType({"recommended": PruneSettings()})

MEMBERS = {
    NAME: spec(NAME, _PRESETS, PruneSearch, about=_ABOUT),
    # Studies and files of before name it so, and their trials say that it proposed them.
    FORMER: spec(FORMER, _PRESETS, PruneSearch, about=_ABOUT, instead=NAME),
}
