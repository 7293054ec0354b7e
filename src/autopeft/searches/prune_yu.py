"""Iterative hybrid pruning (Yu et al. 2025, arXiv 2506.07587, who call it PrunePEFT).

All modules are trained together for a short while, the ones that matter least go, what is left is trained afresh, and
so on until the budget holds. No single rule says what matters: magnitudes, gradients, activations and the loss change
without a module prefer different methods at different depths. So the modules of one method are cut into blocks by
depth, and a warm-up lets every rule prune by itself and counts what it takes from which block. A rule speaks for a
block with the weight of its count, and a module goes by ``p(m) = Σ_k p(m | rule k) p(rule k | block)``.

The borders of the blocks, the rules, and rounds that begin with fresh weights are the authors' release's. Its votes are
multiplied by a function of the rank, which its own order turns round for gradients; here a vote is the probability
above. A module there is all that one method has in one layer, at one size; here it may also be a single placement. How
many modules go is theirs to choose; here a parameter budget says it, and each round removes the same share of the
parameters that are left.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from autopeft.architecture import Architecture, ParameterBudget
from autopeft.rules import Count, NotNegative, Positive, Share, raise_if_any, violations
from autopeft.searches._candidates import Bools, Candidates, Floats, Ints
from autopeft.searches._halves import HalvedTask
from autopeft.searches._hybrid import Groups, kept, removed_first
from autopeft.searches._joint import JointTraining
from autopeft.searches._problem import Plan, Problem
from autopeft.searches._search import SearchContext, spec, supernet_of
from autopeft.searches._supernet import Supernet
from autopeft.searches._worth import fill, sizes_at

_log = logging.getLogger(__name__)

NAME = "prune-yu"

RULES = ("magnitude", "small", "gradient", "activation", "loss")
"""Mean ``w²``; the share of weights that are not tiny; mean ``|∂L/∂w|``; mean ``|Δ|`` of what a module adds; mean
``|w · ∂L/∂w|``. Of each, what has least of it goes first."""

_TINY = 1e-6
"""Below it a weight counts as small (of the authors' release)."""

_WARMUP = 1000
"""Numbers of the warm-up's trainings begin here, out of the way of the rounds'."""


@dataclass(frozen=True)
class PruneYuSettings:
    """How the search is done.

    Args:
        rounds: of training and removing.
        round_share: length of each, as a share of a training run by the recipe.
        warmup_rounds: that every rule prunes by itself before the first; in the first of them all look at one
            training, in the others each trains what it left. 0 lets all rules speak alike everywhere.
        warmup_share: length of each of those.
        looked: batches after a training on which gradients and activations are measured.
        modules: what goes at once: a "placement", or all of one method in one "layer".
        size: at which of its candidate sizes a module stands: the "smallest" or the "largest".
        is_grown: whether what is left of the budget at the end goes into larger sizes of what is left, by the
            loss change for parameters.
        steps: of the training run that shares are of; None takes the recipe's.
        batch_size, learning_rate: None takes the recipe's. The learning rate is constant.
        weight_decay, clip: of the weights; `clip` limits the gradient norm, 0 does not.
    """

    rounds: Count = 3
    round_share: Share = 1 / 3
    warmup_rounds: int = 1
    warmup_share: Share = 1 / 3
    looked: Count = 4
    modules: Literal["placement", "layer"] = "layer"
    size: Literal["smallest", "largest"] = "smallest"
    is_grown: bool = False
    steps: Count | None = None
    batch_size: Count | None = None
    learning_rate: Positive | None = None
    weight_decay: NotNegative = 1e-4
    clip: NotNegative = 2.0

    def __post_init__(self) -> None:
        wrong = violations(self)
        if isinstance(self.warmup_rounds, int) and self.warmup_rounds < 0:
            wrong.append(f"warmup_rounds is at least 0, but got {self.warmup_rounds}")
        raise_if_any("The settings of prune-yu cannot be used", wrong)


# -- training ----------------------------------------------------------------------------------------------


class _Activations:
    """Mean ``|Δ|`` of what every living placement adds to its site, while it is on; not a number where it adds none."""

    def __init__(self, supernet: Supernet) -> None:
        self._sums, self._n = np.zeros(len(supernet)), np.zeros(len(supernet))
        self._handles = [
            supernet.module_of(index).register_forward_hook(self._taker(index))
            for index in range(len(supernet))
            if supernet.alive[index]
        ]

    def _taker(self, index: int) -> Callable[[Any, Sequence[Tensor], Tensor], None]:
        def take(module: Any, inputs: Sequence[Tensor], output: Tensor) -> None:
            # A delta is given what it reads and what it changes, and returns the latter changed.
            self._sums[index] += float((output.detach() - inputs[1].detach()).abs().mean())
            self._n[index] += 1

        return take

    def stop(self) -> Floats:
        """Take the hooks away; the means, ``(n,)``."""
        for handle in self._handles:
            handle.remove()
        means: Floats = np.divide(self._sums, self._n, out=np.full(len(self._n), np.nan), where=self._n > 0)
        return means


def measured(supernet: Supernet, problem: Problem, settings: PruneYuSettings, plan: Plan, columns: Ints) -> Floats:
    """Train what is alive for as long as `plan` says, and what every rule sees of each placement: ``(r, n)``.

    Args:
        columns: of the sizes at which placements stand, ``(n,)``.

    Raises:
        NonFiniteFailure: a loss became NaN or infinite.
    """
    n = len(supernet)
    joint = JointTraining(supernet, problem, plan, weight_decay=settings.weight_decay, clip=settings.clip)
    found = np.full((len(RULES), n), np.nan)
    found[:, list(joint.owned)] = 0.0

    @torch.no_grad()
    def take(index: int, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        total = sum(w.numel() for w, _ in pairs)
        # All but the gradients stand still while batches are looked at, so that a sum over them is as many times it.
        sums = (
            sum(float(w.square().sum()) for w, _ in pairs),
            sum(float((w.abs() >= _TINY).sum()) for w, _ in pairs),
            sum(float(g.abs().sum()) for _, g in pairs),
            0.0,
            sum(float((w * g).abs().sum()) for w, g in pairs),
        )
        found[:, index] += np.array(sums) / total

    with joint.running():
        sizes = sizes_at(supernet.candidates, columns)
        supernet.take([int(size) if supernet.alive[index] else 0 for index, size in enumerate(sizes)])
        joint.train(plan.steps)
        activations = _Activations(supernet)
        joint.look(settings.looked, take)
        found[RULES.index("activation")] = activations.stop()
    return found


class PruneYuSearch:
    """A warm-up at the first budget; rounds of training and removing for every budget."""

    per_budget = 1
    earlier_seconds = 0.0

    def __init__(self, context: SearchContext, settings: PruneYuSettings) -> None:
        self._context, self._settings = context, settings
        self._weights: Floats | None = None
        self._trained = self._examples = 0
        self.told: Mapping[str, Any] = MappingProxyType({})

    def answer(self, limit: ParameterBudget) -> Sequence[Architecture]:
        """What is left within `limit`."""
        pruned = _Pruned.of(self._context, self._settings, limit)
        weights = self.weights()
        alive, scores = np.ones(len(pruned.counts), dtype=bool), np.empty(0)
        for round_ in range(self._settings.rounds):
            scores = self._look(pruned, alive, self._settings.round_share, 1 + round_)
            alive = pruned.after(round_, scores, alive, weights)
            _log.info("prune-yu: %d of %d modules are left after round %d.", alive.sum(), len(alive), round_ + 1)
        told = {"rules": list(RULES), "weights": weights.tolist(), "trained_steps": self._trained}
        told |= {"examples": self._examples}
        self.told = MappingProxyType(told)
        return (pruned.architecture(scores, alive, self._settings.is_grown),)

    def weights(self) -> Floats:
        """How much each rule says in each block, ``(r, b)``, each column summing to 1; warmed up for at most once."""
        if self._weights is None:
            # At the first budget of all, whichever is asked for first: an interrupted search must go on with the same.
            pruned = _Pruned.of(self._context, self._settings, self._context.limits[0])
            # One for everybody beforehand: a rule that took nothing in a short warm-up may have something to say yet.
            counted = 1.0 + self._taken(pruned)
            self._weights = counted / counted.sum(axis=0, keepdims=True)
        return self._weights

    def _taken(self, pruned: _Pruned) -> Floats:
        """How many modules every rule takes from every block when it prunes by itself, ``(r, b)``."""
        n, share = len(RULES), self._settings.warmup_share
        taken = np.zeros((n, int(pruned.groups.block.max()) + 1))
        alive = np.ones((n, len(pruned.counts)), dtype=bool)
        for round_ in range(self._settings.warmup_rounds):
            # Before anything is removed all rules would train the same.
            shared = self._look(pruned, alive[0], share, _WARMUP) if round_ == 0 else None
            for rule in range(n):
                salt = _WARMUP + round_ * n + rule
                scores = self._look(pruned, alive[rule], share, salt) if shared is None else shared
                alone = np.zeros_like(taken)
                alone[rule] = 1.0
                left = pruned.after(round_, scores, alive[rule], alone)
                np.add.at(taken[rule], pruned.groups.block[alive[rule] & ~left], 1)
                alive[rule] = left
        return taken

    def _look(self, pruned: _Pruned, alive: Bools, share: float, salt: int) -> Floats:
        """Fresh weights, trained for `share` of a run with the modules that are `alive`: what every rule sees."""
        evaluator, settings, seed = self._context.evaluator, self._settings, self._context.seed
        recipe = evaluator.recipe
        # Each training has a seed of its own, or every round would see the batches of the first.
        own = Plan(1, 1.0, None, seed).derived(0, salt)
        problem = HalvedTask(evaluator, settings.batch_size or recipe.batch_size, own, is_whole=True)
        steps = max(1, round(share * (settings.steps or recipe.n_steps(evaluator.n_train))))
        plan = Plan(steps, settings.learning_rate or recipe.learning_rate, None, own)
        with supernet_of(evaluator, self._context.space, seed) as supernet:
            supernet.remove(int(index) for index in np.flatnonzero(~alive[pruned.groups.module]))
            found = measured(supernet, problem, settings, plan, pruned.columns)
        self._trained += steps
        self._examples += problem.examples or 0
        return found


@dataclass(frozen=True)
class _Pruned:
    """What is pruned, for one budget.

    Args:
        columns: of the sizes at which placements stand, ``(n,)``.
        counts: parameters of every module, ``(m,)``.
        most: parameters that the budget allows.
    """

    candidates: Candidates
    groups: Groups
    columns: Ints
    counts: Floats
    most: int
    rounds: int

    @classmethod
    def of(cls, context: SearchContext, settings: PruneYuSettings, limit: ParameterBudget) -> _Pruned:
        candidates = Candidates.of(context.space, limit.count)
        sites = context.evaluator.backbone.sites
        layers = {key: (site.stack, site.layer) for key, site in sites.items()}
        groups = Groups.of(candidates, layers, settings.modules)
        largest = (candidates.sizes > 0).sum(axis=1) - 1
        columns = largest if settings.size == "largest" else np.zeros_like(largest)
        counts = groups.sums(candidates.counts[np.arange(len(candidates)), columns])
        return cls(candidates, groups, columns, counts, limit.most, settings.rounds)

    def after(self, round_: int, scores: Floats, alive: Bools, weights: Floats) -> Bools:
        """Which modules are left, ``(m,)``, after the round of that number, by what rules saw of the placements."""
        wish = removed_first(self.groups.means(scores), alive, self.groups.block, weights)
        total = float(self.counts.sum())
        share = min(1.0, self.most / total)
        return kept(wish, self.counts, alive, total * share ** min(1.0, (round_ + 1) / self.rounds))

    def architecture(self, scores: Floats, alive: Bools, is_grown: bool) -> Architecture:
        """The placements that are left, within the budget even where the last module alone is above it."""
        candidates, left = self.candidates, alive[self.groups.module]
        worth = np.nan_to_num(scores[RULES.index("loss")], nan=0.0)
        start, rows = np.where(left, self.columns, -1), np.flatnonzero(left)
        if candidates.counts[rows, self.columns[rows]].sum() > self.most:
            nothing = np.full(len(candidates), -1, dtype=np.int64)
            chosen = fill(worth, candidates, self.most, left, nothing)
            # Where none of the last module's placements fits by itself, whatever does.
            chosen = chosen if (chosen >= 0).any() else fill(worth + 1, candidates, self.most, np.ones_like(left))
        else:
            chosen = fill(worth, candidates, self.most, left, start) if is_grown else start
        return candidates.architecture(sizes_at(candidates, chosen))


_PRESETS = MappingProxyType(
    {
        "paper": PruneYuSettings(warmup_rounds=3),
        "recommended": PruneYuSettings(round_share=0.15, warmup_share=0.15, modules="placement", is_grown=True),
    }
)

MEMBERS = {
    NAME: spec(
        NAME,
        _PRESETS,
        PruneYuSearch,
        about="iterative hybrid pruning: train, remove by rules weighed block by block, train again (Yu et al. 2025)",
    )
}
