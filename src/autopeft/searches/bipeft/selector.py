"""BIPEFT's selection as it goes along: scores, triggers, and what they remove and fix. No model.

EMNLP Findings 2024, section 3.3 (removal) and 3.4 (sizes); the formulas are in `autopeft.searches._candidates`.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from autopeft.searches._candidates import (
    Bools,
    Candidates,
    Drift,
    Floats,
    Ints,
    cosine,
    expected_counts,
    indicator,
    instability,
    most_stable,
    number_fixed,
    project,
    reduction,
    removal,
    sensitivity,
    smoothed,
    stability,
)
from autopeft.searches._supernet import State
from autopeft.searches._worth import fill, kinds_of, sizes_at, within_kinds
from autopeft.searches.bipeft.averages import Averages, least_agreement
from autopeft.searches.bipeft.settings import BipeftSettings
from autopeft.training.checkpoint import Checkpoint

_log = logging.getLogger(__name__)

_MOST_OF_STEPS = 0.7


@dataclass(frozen=True)
class Pass:
    """What one pass says of the placements, ``(n,)`` each.

    Args:
        importance: the sum over a placement's parameters of ``|w · ∂L/∂w|``.
        sizes: its units in this pass, 0 where it was off.
    """

    importance: Floats
    sizes: Ints


@dataclass(frozen=True)
class Beliefs:
    """The gates as they stand: probability of "keep" ``(n,)`` and of each size ``(n, K)``, and the size logits."""

    keep: Floats
    sizes: Floats
    logits: Floats


@dataclass(frozen=True)
class Trigger:
    """One trigger: when, how far from the budget, and what it decided.

    Args:
        expected: expected parameters before it, in the units of equation 7.
        allowed: how many it could remove.
        removed, fixed: indices of placements, in the order of `Candidates`.
    """

    step: int
    stability: float
    expected: float
    allowed: float
    removed: tuple[int, ...]
    fixed: tuple[int, ...]


def scaled(settings: BipeftSettings, steps: int) -> BipeftSettings:
    """`settings` with the rules that count in shares of the search worked out for one of `steps` steps."""
    if not settings.is_scaled:
        return settings
    horizon = settings.horizon
    # What has the warm-up before it and a tenth of the steps behind it, where what is left trains together.
    share = 0.6 * steps
    triggers = min(settings.triggers, max(5, math.floor(share / horizon)))
    reach = max(1 / max(1 - settings.gamma, 1e-9), steps / 2)
    return replace(
        settings,
        triggers=triggers,
        spacing=max(settings.spacing, horizon, math.floor(share / triggers)),
        architecture_learning_rate=settings.architecture_learning_rate * min(10.0, max(1.0, 1000 / steps)),
        gamma=1 - 1 / reach if settings.gamma < 1 else 1.0,
    )


def n_triggers(wanted: int, steps: int, horizon: int, spacing: int = 1, share: float = _MOST_OF_STEPS) -> int:
    """`wanted`, or fewer when `steps` are few: `spacing` apart they take at most a `share` of the steps and leave
    `horizon` of them before the first."""
    # Not all of the steps: a ranking is not stable at every one, and triggers that never fire leave the budget missed.
    most = max(1, min(math.floor(share * steps), steps - horizon) // spacing)
    if most < wanted:
        _log.warning(
            "BIPEFT: %d steps are too few for %d triggers, so there are %d; train for more epochs to have all.",
            steps, wanted, most,
        )  # fmt: skip
    return min(wanted, most)


class Selector:
    """Removes placements and fixes sizes until the expected parameters meet the budget.

    Attributes:
        alive: which placements are left, ``(n,)``.
        fixed: the index of each placement's size once it is decided, -1 before; those with one size are decided. Where
            sizes go by worth, the index of the present size, at first the largest.
        scores: the smoothed sensitivities, ``(n,)``.
        history: every trigger so far.
    """

    def __init__(self, candidates: Candidates, settings: BipeftSettings, budget: int, triggers: int) -> None:
        """Take no step yet.

        Args:
            settings: with what depends on the number of steps filled in.

        Raises:
            BudgetError: not even the smallest placement fits the budget.
        """
        candidates.check_budget(budget)
        self.candidates, self.settings, self.budget, self.triggers = candidates, settings, budget, triggers
        n = len(candidates)
        self.alive: Bools = np.ones(n, dtype=bool)
        # A placement with one size has nothing to be fixed, and counted as open it would take the turn of another.
        self.fixed: Ints = np.where(candidates.is_sized, -1, 0)
        if settings.is_by_worth:
            self.fixed = (candidates.sizes > 0).sum(axis=1) - 1
        self.scores: Floats = np.zeros(n)
        self._kinds, self._shares = kinds_of(candidates), np.zeros(n)
        is_halved = settings.averages == "halves"
        self._averages = Averages(n, settings.gamma, settings.score) if is_halved else None
        self.history: list[Trigger] = []
        self._counts = _counts(candidates, settings)
        self._sized = np.flatnonzero(candidates.is_sized)
        # Two more than the horizon: "overrun" sums one pair more than the others, and a pair needs both ends.
        self._indicators: deque[Bools] = deque(maxlen=settings.horizon + 2)
        self._drift: Drift | None = None
        self._before: Ints | None = None  # the sizes at the last trigger
        self._unspent, self._unfixed = 0.0, 0.0

    @property
    def is_done(self) -> bool:
        """Whether all triggers have fired."""
        return len(self.history) >= self.triggers

    def decided(self) -> State:
        """What the gates need to know; it changes with a trigger."""
        return State(self.alive, self.fixed)

    # -- scores ----------------------------------------------------------------------------------------------

    def warm(self, train: Pass) -> None:
        """Take in a step of the warm-up, which has no pass on the second half; only averages by halves can use it.

        What a module gains is largest early: one that has learnt all that it can has no slope left to tell it by.
        """
        if self._averages is not None:
            nothing = Pass(np.zeros(len(self.candidates)), np.zeros(len(self.candidates), dtype=np.int64))
            self.score(train, nothing, np.zeros(len(self.candidates)))

    def score(self, train: Pass, validation: Pass, similarity: Floats) -> None:
        """Take in one step: equations 1 to 4.

        Args:
            similarity: the cosine of each placement's two gradients, ``(n,)``.
        """
        # A mean and not a sum, by which large modules would win over small ones for their size alone.
        means = tuple(part.importance / self._parameters(part.sizes) for part in (train, validation))
        if self._averages is not None:
            is_on = tuple(self.alive & (part.sizes > 0) for part in (train, validation))
            self._averages.take((means[0], means[1]), (is_on[0], is_on[1]), similarity)
            self.scores = np.where(self.alive, self._averages.scores(), self.scores)
            return
        new = sensitivity(means[0], means[1], similarity, self.settings.score)
        # What was off in a half has no gradient there; taken as nought it would be a score against the placement.
        was_on = (train.sizes > 0) & (validation.sizes > 0)
        is_measured = self.alive & (was_on | self.settings.is_off_scored)
        self.scores = smoothed(self.scores, new, self.settings.gamma, is_measured)

    def compared(self) -> Floats:
        """The scores as they are compared with each other, ``(n,)``."""
        if not self.settings.is_within_kinds:
            return self.scores
        return within_kinds(self.scores, self._kinds, self.alive, self._shares)

    def _parameters(self, sizes: Ints) -> Floats:
        """``|M_n|``: parameters of each placement at `sizes`, or at its largest; 1 where scores are sums."""
        if self.settings.counted == "none":
            return np.ones(len(self.candidates))
        largest = self.candidates.counts.max(axis=1)
        if self.settings.counted == "all":
            return np.asarray(largest, dtype=np.float64)
        is_this = self.candidates.sizes == sizes[:, None]
        # The first units alone computed, so the mean is over their parameters and not over those that were masked.
        active = np.where(is_this, self.candidates.counts, 0).max(axis=1)
        return np.asarray(np.where(active > 0, active, largest), dtype=np.float64)

    # -- triggers --------------------------------------------------------------------------------------------

    def observe(self, beliefs: Beliefs, step: int) -> Trigger | None:
        """Take in the gates after a step; a trigger when the ranking has become stable (equation 5)."""
        logits = beliefs.logits.astype(np.float64)
        if self._drift is None or self._before is None:
            self._drift, self._before = Drift.begin(logits), self._sizes(beliefs)
        else:
            self._drift = self._drift.followed_by(logits)
        settings = self.settings
        beta = self._stability(beliefs)
        # A ranking that has been stable for long stays so, and all triggers would fire within a few steps.
        is_soon = bool(self.history) and step - self.history[-1].step < settings.spacing
        if self.is_done or is_soon or beta is None or beta < self._threshold():
            return None
        # What has moved is counted from trigger to trigger, so the history begins anew after each.
        fired = self._fire(beliefs, step, beta, self._drift, self._before)
        self._drift, self._before = Drift.begin(logits), self._sizes(beliefs)
        self.history.append(fired)
        if settings.is_window_cleared:
            self._indicators.clear()
            if self._averages is not None:
                self._averages.clear()
        return fired

    def _stability(self, beliefs: Beliefs) -> float | None:
        """How stable the ranking is; None while there are too few steps to say."""
        settings = self.settings
        if settings.stability == "split":
            assert self._averages is not None  # the settings were checked
            # The horizon is a number of pairs of steps, as that of equation 5 is one of pairs of indicators.
            return self._averages.agreement(self.alive) if self._averages.window > settings.horizon else None
        self._indicators.append(self._indicator(beliefs))
        return stability(list(self._indicators), settings.horizon, settings.stability)

    def _threshold(self) -> float:
        """τ, and with "split" at least what noise hardly reaches."""
        threshold = self.settings.threshold
        return least_agreement(threshold, int(self.alive.sum())) if self.settings.stability == "split" else threshold

    def _indicator(self, beliefs: Beliefs) -> Bools:
        counts = expected_counts(beliefs.sizes, self._counts, self.fixed)
        if self.settings.indicator_counts == "staged":
            counts = counts * beliefs.keep if self.history else self._counts.max(axis=1).astype(np.float64)
        misfits = self.settings.indicator_misfits
        return indicator(self.compared(), counts, self.alive, self.candidates.rank, self.budget, misfits)

    def _fire(self, beliefs: Beliefs, step: int, beta: float, drift: Drift, before: Ints) -> Trigger:
        counts = expected_counts(beliefs.sizes, self._counts, self.fixed) * self.alive
        left = self.triggers - len(self.history)
        # At the end it is the certain count that must meet the budget, not the one that the probabilities promise.
        is_hard = self.settings.is_by_worth or left <= math.ceil(self.settings.hard_share * self.triggers)
        if not is_hard:
            counts = counts * beliefs.keep
        expected = float(counts.sum())
        allowed = reduction(expected, self.budget, self.triggers, len(self.history))
        if self.settings.is_removal_carried:
            # What could not be spent before may be spent now, but never so much that the budget is missed from below.
            allowed = min(allowed + self._unspent, expected - self.budget)
        if self.settings.is_by_worth:
            removed = self._refill(expected - max(0.0, allowed))
            return Trigger(step, beta, expected, allowed, removed, ())
        misfits = self.settings.removal_misfits
        taken = removal(self.compared(), counts, self.alive, self.candidates.rank, allowed, misfits)
        self._unspent = taken.unspent
        self._remove(taken.indices)
        fixed = self._fix(beliefs, drift, before, left)
        return Trigger(step, beta, expected, allowed, taken.indices, fixed)

    def _remove(self, indices: Sequence[int]) -> None:
        shares = self.compared() if self.settings.is_within_kinds else self._shares
        self._shares[list(indices)] = shares[list(indices)]
        self.alive[list(indices)] = False

    def _refill(self, target: float) -> tuple[int, ...]:
        """Size everything anew within `target` by worth, and remove what gets nothing; who that is, lowest first."""
        scores = self.compared()
        columns = fill(scores, self.candidates, target, self.alive)
        if (columns < 0).all():
            # Nothing that is left fits alone any more. What is removed never comes back, so the last ones stay.
            return ()
        gone = np.flatnonzero(self.alive & (columns < 0))
        gone = gone[np.lexsort((self.candidates.rank[gone], scores[gone]))]
        self.fixed = np.where(columns >= 0, columns, self.fixed)
        self._remove([int(index) for index in gone])
        return tuple(int(index) for index in gone)

    def _fix(self, beliefs: Beliefs, drift: Drift, before: Ints, left: int) -> tuple[int, ...]:
        settings = self.settings
        is_open = self.alive & (self.fixed < 0)
        similarity = cosine(before, self._sizes(beliefs))
        if settings.fixing_values == "indices" and not before.any() and not self._sizes(beliefs).any():
            similarity = 1.0  # the release divides by zero here and goes on with 1
        carried = self._unfixed if settings.is_fixing_carried else 0.0
        wanted = number_fixed(int(is_open.sum()), similarity, left - settings.is_fixing_early, carried)
        self._unfixed = wanted.carried
        unstable = np.zeros(len(self.candidates))
        valid = self.candidates.sizes[self._sized] > 0
        unstable[self._sized] = instability(drift, beliefs.logits.astype(np.float64), valid, settings.divergence)
        fixed = most_stable(unstable, is_open, self.candidates.rank, wanted.n)
        self.fixed[list(fixed)] = self._likeliest(beliefs)[list(fixed)]
        return fixed

    def _likeliest(self, beliefs: Beliefs) -> Ints:
        """The index of every placement's size: the fixed one, else the likeliest."""
        return np.where(self.fixed >= 0, self.fixed, beliefs.sizes.argmax(axis=1))

    def _sizes(self, beliefs: Beliefs) -> Ints:
        """``v`` of equation 10 over the placements with sizes."""
        chosen = self._likeliest(beliefs)[self._sized]
        if self.settings.fixing_values == "indices":
            return np.where(self.alive[self._sized], chosen, 0)
        return np.where(self.alive[self._sized], self.candidates.sizes[self._sized, chosen], 0)

    # -- the end ---------------------------------------------------------------------------------------------

    def finish(self, beliefs: Beliefs) -> Ints:
        """Fix what is open and project: sizes ``(n,)`` whose exact count is within the budget, not all 0."""
        if self.settings.is_by_worth:
            return self._filled()
        # The projection is the one rule that holds in every case: triggers may have been too few to reach the budget.
        chosen = np.where(self.alive, self._likeliest(beliefs), -1)
        return project(self.compared(), self.candidates, chosen, self.budget, self.settings.is_refilled)

    def _filled(self) -> Ints:
        """Sizes by worth within the budget, ``(n,)``: of what is left, then of what was removed."""
        scores, everyone = self.compared(), np.ones(len(self.candidates), dtype=bool)
        columns = fill(scores, self.candidates, self.budget, self.alive)
        if self.settings.is_refilled or (columns < 0).all():
            columns = fill(scores, self.candidates, self.budget, everyone, columns)
        return sizes_at(self.candidates, columns)

    # -- state -----------------------------------------------------------------------------------------------

    def state(self) -> Checkpoint:
        """Everything that a later `load` needs to go on as if nothing had happened."""
        arrays = {"alive": self.alive, "fixed": self.fixed, "scores": self.scores}
        if self._averages is not None:
            arrays |= {**self._averages.state(), "shares": self._shares}
        if self._indicators:
            arrays["indicators"] = np.stack(self._indicators)
        if self._drift is not None and self._before is not None:
            drift = self._drift
            arrays |= {"start": drift.start, "mean": drift.mean, "squares": drift.squares, "before": self._before}
        facts = {
            "unspent": self._unspent,
            "unfixed": self._unfixed,
            "drift_steps": 0 if self._drift is None else self._drift.n,
            "history": [asdict(trigger) for trigger in self.history],
        }
        return Checkpoint({name: torch.from_numpy(array.copy()) for name, array in arrays.items()}, facts)

    def load(self, checkpoint: Checkpoint) -> None:
        """Go on from what `state` gave."""
        arrays = {name: tensor.numpy().copy() for name, tensor in checkpoint.tensors.items()}
        self.alive, self.fixed, self.scores = arrays["alive"], arrays["fixed"], arrays["scores"]
        if self._averages is not None:
            self._averages.load(arrays)
            self._shares = arrays["shares"]
        # A checkpoint of the first step has none yet.
        self._indicators.extend(arrays.get("indicators", np.zeros((0, len(self.alive)), dtype=bool)))
        facts = checkpoint.facts
        if facts["drift_steps"]:
            self._drift = Drift(arrays["start"], facts["drift_steps"], arrays["mean"], arrays["squares"])
            self._before = arrays["before"]
        self._unspent, self._unfixed = facts["unspent"], facts["unfixed"]
        self.history = [trigger_from(row) for row in facts["history"]]


def trigger_from(row: Mapping[str, Any]) -> Trigger:
    """The trigger that was stored as `row`."""
    return Trigger(**{**row, "removed": tuple(row["removed"]), "fixed": tuple(row["fixed"])})


def _counts(candidates: Candidates, settings: BipeftSettings) -> Ints:
    """Parameters at each size, exact, or the release's share of those at the largest."""
    if settings.counts == "exact":
        return candidates.counts
    # As the release counts: it ignores what a module has once, such as a bias, and scales the largest count.
    largest = candidates.counts.max(axis=1, keepdims=True)
    return np.asarray(largest * candidates.sizes // candidates.sizes.max(axis=1, keepdims=True), dtype=np.int64)
