"""The arithmetic of BIPEFT's selection (EMNLP Findings 2024, sections 3.3 and 3.4), without a model.

Scores rank the placements; when the ranking is stable, some placements are removed and some sizes are fixed, so that
the expected number of parameters falls to the budget in a given number of such triggers. All functions are pure.
Ties are broken by the placements' keys, so that the order of the placements never matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autopeft.architecture import Architecture, CountKind, Placement
from autopeft.errors import BudgetError, SettingsError
from autopeft.spaces.lattice import SearchSpace

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

ScoreRule = Literal["train", "validation", "sum", "cosine", "cosine_sum"]
StabilityRule = Literal["consecutive", "overrun", "lagged", "split"]
Misfits = Literal["stop", "skip"]


@dataclass(frozen=True)
class Candidates:
    """The placements of a space, one size each, in canonical order.

    Args:
        keys: site and method of each.
        sizes: candidate sizes above 0, increasing, filled up with 0: ``(n, K)``.
        counts: parameters at each of them, 0 where there is none: ``(n, K)``.
    """

    keys: tuple[tuple[str, str], ...]
    sizes: Ints
    counts: Ints

    @classmethod
    def of(cls, space: SearchSpace, kind: CountKind = "stored") -> Candidates:
        """The placements of `space`.

        Raises:
            SettingsError: a size is shared by several placements, or a placement cannot be absent.
        """
        _check_space(space)
        slots = sorted(space.slots, key=lambda slot: (slot.site, slot.method))
        values = [[size for size in space.choices[slot.size].sizes if size] for slot in slots]
        longest = max(map(len, values))
        sizes = np.array([v + [0] * (longest - len(v)) for v in values], dtype=np.int64)
        counts = [[slot.cost.line(kind).at(int(size)) for size in row] for slot, row in zip(slots, sizes, strict=True)]
        return cls(tuple((slot.site, slot.method) for slot in slots), sizes, np.array(counts, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def is_sized(self) -> Bools:
        """Which placements have more than one size above 0."""
        return np.asarray((self.sizes > 0).sum(1) > 1)

    @cached_property
    def rank(self) -> Ints:
        """The position of each placement when sorted by key."""
        order = sorted(range(len(self.keys)), key=lambda index: self.keys[index])
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        return rank

    @property
    def least(self) -> int:
        """The count of the smallest module of the space."""
        return int(self.counts[:, 0].min())

    def architecture(self, sizes: Sequence[int] | Ints) -> Architecture:
        """The architecture of these sizes, one a placement, 0 being absence."""
        return Architecture(tuple(Placement(*key, int(n)) for key, n in zip(self.keys, sizes, strict=True) if n))

    def check_budget(self, most: int) -> None:
        """Raises:
        BudgetError: not even the smallest placement fits.
        """
        if most < self.least:
            raise BudgetError(
                f"The smallest module of this space has {self.least:,} parameters; the budget is {most:,}."
            )


def _check_space(space: SearchSpace) -> None:
    if space.dials:
        names = ", ".join(space.choices[dial.choice].name for dial in space.dials)
        raise SettingsError(
            f"This space searches rates and scales, or how it is trained ({names}), which a search that trains all of "
            "its modules at once cannot tell apart: leave out `space.rate_factors`, `space.scales`, "
            "`space.batch_factors` and `space.dropout_factors`, or take a sampler that reads trials."
        )
    wrong = []
    if any(slot.switch is not None for slot in space.slots):
        wrong.append("its layers are switched together, but must all be on")
    if len({slot.size for slot in space.slots}) != len(space.slots):
        wrong.append("placements share a size, but sharing must be 'placement'")
    if any(choice.values[0] != 0 or len(choice.values) < 2 for choice in space.choices):
        wrong.append("every placement needs the size 0 and at least one other")
    if wrong:
        raise SettingsError(f"This space has no gate for every placement: {'; '.join(wrong)}.")


# -- scores ------------------------------------------------------------------------------------------------


def sensitivity(train: Floats, validation: Floats, cosine: Floats, rule: ScoreRule = "cosine") -> Floats:
    """Equation 3, ``s = f(train) + cos · f(validation)``, or a variant of the release; all ``(n,)``.

    Args:
        rule: "cosine" is equation 3; "cosine_sum" multiplies the sum; "sum" has no cosine; or one half alone.
    """
    if rule == "train":
        return train
    if rule == "validation":
        return validation
    if rule == "sum":
        return train + validation
    return train + cosine * validation if rule == "cosine" else cosine * (train + validation)


def smoothed(old: Floats, new: Floats, gamma: float, is_measured: Bools) -> Floats:
    """Equation 4, ``γ old + (1 - γ) new`` where measured, the old score elsewhere."""
    return np.where(is_measured, gamma * old + (1 - gamma) * new, old)


def indicator(scores: Floats, counts: Floats, alive: Bools, rank: Ints, budget: float, misfits: Misfits) -> Bools:
    """The placements of highest score that fit the budget together, ``(n,)``.

    Args:
        misfits: "stop" at the first that does not fit, or "skip" it. One that is larger than the whole budget can
            never be chosen and is skipped in any case: else the indicator would stay empty and nothing ever fire.
    """
    chosen, used = np.zeros(len(scores), dtype=bool), 0.0
    # Ties go by the canonical order, since before the first measurement all scores are equal.
    for index in np.lexsort((rank, -scores)):
        if not alive[index]:
            continue
        if used + counts[index] <= budget:
            chosen[index] = True
            used += float(counts[index])
        elif misfits == "stop" and counts[index] <= budget:
            break
    return chosen


def cosine(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    """The cosine of two vectors; 0 when one of them is zero."""
    # In double precision: the gradients of half precision overflow in their squares.
    x, y = a.astype(np.float64), b.astype(np.float64)
    length = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / length if length > 0 else 0.0


def stability(indicators: Sequence[Bools], horizon: int, rule: StabilityRule = "consecutive") -> float | None:
    """Equation 5: how little the indicator changed over the last `horizon` steps; None while there are too few.

    Args:
        indicators: oldest first; the last ``horizon + 2`` are enough.
        rule: "consecutive": the mean cosine of `horizon` consecutive pairs; "overrun": as printed, the sum of
            ``horizon + 1`` pairs over `horizon`; "lagged": the mean cosine of the last with each of the `horizon`
            before it (release).
    """
    n_pairs = horizon + (rule == "overrun")
    if len(indicators) < n_pairs + 1:
        return None
    last = indicators[-n_pairs - 1 :]
    if rule == "lagged":
        return sum(cosine(last[-1], before) for before in last[:-1]) / horizon
    return sum(cosine(a, b) for a, b in pairwise(last)) / horizon


# -- removal -----------------------------------------------------------------------------------------------


def expected_counts(probabilities: Floats, counts: Ints, fixed: Ints) -> Floats:
    """``C_n``: the count at the fixed size, else its mean under the size probabilities ``(n, K)``."""
    # Summed once: equation 7 as printed sums what is a sum already, and would count every module K times.
    mean = (probabilities * counts).sum(1)
    return np.where(fixed >= 0, counts[np.arange(len(counts)), np.maximum(fixed, 0)], mean)


def reduction(expected: float, budget: float, triggers: int, done: int) -> float:
    """Equation 6: ``(E - B) / (Z - z)`` with z triggers done, 0-based; negative when E is below the budget."""
    return (expected - budget) / (triggers - done)


@dataclass(frozen=True)
class Removal:
    """Indices to remove, lowest score first, and what of the allowance was not used."""

    indices: tuple[int, ...]
    unspent: float


def removal(scores: Floats, counts: Floats, alive: Bools, rank: Ints, allowance: float, misfits: Misfits) -> Removal:
    """Take the placements of lowest score while their counts stay within `allowance`; never the last one.

    Args:
        counts: in the units of `allowance`.
        misfits: "stop" at the first that is too large; "skip" it for smaller ones, and when nothing fits take the
            lowest one anyway (release).
    """
    order = [int(index) for index in np.lexsort((rank, scores)) if alive[index]]
    taken: list[int] = []
    left = allowance
    for index in order:
        # The last placement stays, as an architecture without a module is no answer.
        if allowance <= 0 or len(taken) == len(order) - 1:
            break
        if counts[index] <= left:
            taken.append(index)
            left -= float(counts[index])
        elif misfits == "stop":
            break
    if misfits == "skip" and not taken and allowance > 0 and len(order) > 1:
        taken = order[:1]
    return Removal(tuple(taken), max(0.0, left))


# -- sizes -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drift:
    """How the size logits have moved since the last trigger: running moments, so that memory does not grow.

    Args:
        start: softmax at the first step, ``(m, K)``.
        n: steps seen.
        mean, squares: of the logits: mean and sum of squared deviations, ``(m, K)``.
    """

    start: Floats
    n: int
    mean: Floats
    squares: Floats

    @classmethod
    def begin(cls, logits: Floats) -> Drift:
        """A history of one step."""
        return cls(softmax(logits), 1, logits.copy(), np.zeros_like(logits))

    def followed_by(self, logits: Floats) -> Drift:
        """The history with one more step."""
        # Welford's recurrence: the moments of all steps without a list of them.
        change = logits - self.mean
        mean = self.mean + change / (self.n + 1)
        return Drift(self.start, self.n + 1, mean, self.squares + change * (logits - mean))


def instability(drift: Drift, logits: Floats, valid: Bools, direction: Literal["end", "start"] = "end") -> Floats:
    """Equation 9: ``KL · mean of the standard deviations`` of each placement's size logits, ``(m,)``; low is stable.

    The deviations are unbiased, and 0 after a single step.

    Args:
        valid: which sizes exist, ``(m, K)``.
        direction: "end": KL(now ‖ then), as in the release; "start": KL(then ‖ now), as printed.
    """
    # Sizes that do not exist have no probability, whatever their logits have drifted to.
    now = softmax(np.where(valid, logits, -np.inf))
    then = np.where(valid, drift.start, 0.0)
    then = then / then.sum(1, keepdims=True)
    p, q = (now, then) if direction == "end" else (then, now)
    ratio = np.log(np.maximum(p, 1e-300)) - np.log(np.maximum(q, 1e-300))
    divergence = np.where(valid, p * ratio, 0.0).sum(1)
    deviation = np.sqrt(drift.squares / max(1, drift.n - 1))
    return np.asarray(divergence * np.where(valid, deviation, 0.0).sum(1) / valid.sum(1))


def softmax(logits: Floats) -> Floats:
    """Over the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


@dataclass(frozen=True)
class Fixing:
    """How many sizes are to be fixed, and what the rounding left over."""

    n: int
    carried: float


def number_fixed(n_open: int, similarity: float, left: int, carried: float = 0.0) -> Fixing:
    """Equation 10: ``floor(open · cos / left)`` with `left` triggers left, this one included; all at the last.

    Args:
        similarity: the cosine of the sizes at the last trigger and now.
        carried: what was left over by earlier rounding; 0 to forget it.
    """
    if left <= 1:
        return Fixing(n_open, 0.0)
    exact = n_open * max(0.0, similarity) / left + carried
    # A product that should be whole may come out a rounding below it, and one size too few would be fixed.
    n = min(n_open, int(exact + 1e-9))
    return Fixing(n, max(0.0, exact - n))


def most_stable(unstable: Floats, is_open: Bools, rank: Ints, n: int) -> tuple[int, ...]:
    """The `n` open placements of least instability; all arguments ``(n,)``."""
    order = [int(index) for index in np.lexsort((rank, unstable)) if is_open[index]]
    return tuple(order[:n])


# -- the end -----------------------------------------------------------------------------------------------


def project(scores: Floats, candidates: Candidates, chosen: Ints, budget: int, is_refilled: bool = True) -> Ints:
    """Sizes whose count is within the budget, not all zero, from sizes that may be over it.

    The placements of lowest score are left out until the count fits. Then, if `is_refilled`, those left out come
    back in order of score where they fit, at their size or the largest smaller one, so nothing that is still out
    would fit; and where there is still room for the smallest module, which happens when hardly any was left out,
    those of highest score grow to the largest size that fits. When no single one can, pairs do: one shrinks or goes
    so that another grows. What is left is then less than the smallest module, wherever sizes and counts allow it.
    Should nothing be left, the best one that fits is taken at the largest size that does.

    Args:
        chosen: ``(n,)`` index of each placement's size, or -1 where it was removed.
        budget: at least the least count in the space, see `Candidates.check_budget`.

    Returns:
        ``(n,)`` sizes, 0 where absent.
    """
    rows = np.arange(len(candidates))
    sizes = np.where(chosen >= 0, candidates.sizes[rows, np.maximum(chosen, 0)], 0)
    counts = np.where(chosen >= 0, candidates.counts[rows, np.maximum(chosen, 0)], 0)
    # From the lowest score: what is left out first is what the search thinks least of.
    order = [int(index) for index in np.lexsort((candidates.rank, scores))]
    used = int(counts.sum())
    for index in order:
        if used <= budget:
            break
        used -= int(counts[index])
        sizes[index] = counts[index] = 0
    for index in reversed(order):
        if sizes[index] or (used and not is_refilled):
            continue
        limit = int(chosen[index]) if chosen[index] >= 0 else candidates.sizes.shape[1] - 1
        used += _enlarged(candidates, index, limit, budget - used, sizes, counts)
    for index in reversed(order) if is_refilled else ():
        if budget - used < candidates.least:
            break
        used += _enlarged(candidates, index, candidates.sizes.shape[1] - 1, budget - used, sizes, counts)
    while is_refilled and budget - used >= candidates.least:
        gained = _exchanged(scores, candidates, budget - used, sizes, counts)
        if not gained:
            break
        used += gained
    return sizes


def _exchanged(scores: Floats, candidates: Candidates, room: int, sizes: Ints, counts: Ints) -> int:
    """Shrink one placement or leave it out so that another grows, by at most `room` together; by how much, 0 for none.

    Of the pairs after which less than the smallest module is left (else of those that leave least), the one that takes
    from the placement of lowest score, and of these gives to that of highest.
    """
    options = np.concatenate([np.zeros((len(candidates), 1), dtype=np.int64), candidates.counts], axis=1)
    is_option = np.concatenate([np.ones((len(candidates), 1), dtype=bool), candidates.sizes > 0], axis=1)
    change = np.where(is_option, options - counts[:, None], 0)
    taken, given = np.argwhere(change < 0), np.argwhere(change > 0)
    total = change[tuple(taken.T)][:, None] + change[tuple(given.T)][None, :]
    # A placement cannot shrink and grow in one exchange, and an exchange that gains nothing could go on for ever.
    is_fit = (total > 0) & (total <= room) & (taken[:, :1] != given[:, 0])
    if not is_fit.any():
        return 0
    rows, columns = np.nonzero(is_fit)
    left = np.maximum(room - total[rows, columns] - candidates.least + 1, 0)
    lower, higher = taken[rows, 0], given[columns, 0]
    rank = candidates.rank
    pair = int(np.lexsort((given[columns, 1], taken[rows, 1], rank[higher], rank[lower], -scores[higher],
                           scores[lower], left))[0])  # fmt: skip
    for index, option in (taken[rows[pair]], given[columns[pair]]):
        sizes[index] = candidates.sizes[index, option - 1] if option else 0
        counts[index] = options[index, option]
    return int(total[rows[pair], columns[pair]])


def _enlarged(candidates: Candidates, index: int, limit: int, room: int, sizes: Ints, counts: Ints) -> int:
    """Give one placement the largest size up to the `limit`-th that needs at most `room` more; by how much it grew."""
    before = int(counts[index])
    # Sizes need not increase in count by the same step, so the largest that fits is looked for and not computed.
    fitting = [k for k in range(limit + 1) if before < candidates.counts[index, k] <= before + room]
    if fitting:
        sizes[index], counts[index] = candidates.sizes[index, fitting[-1]], candidates.counts[index, fitting[-1]]
    return int(counts[index]) - before
