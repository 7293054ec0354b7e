"""What a placement is worth at a size, and how a budget is filled by worth per parameter.

Scores are compared within a kind (a method), since a mean over parameters says more of what a module is made of than
of where it stands. The worth of ``k`` units is ``s √k``: the first unit brings most, so that a budget goes to more
places before it goes to larger sizes, unless one place is worth far more than the others.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from autopeft.searches._candidates import Bools, Candidates, Floats, Ints


def kinds_of(candidates: Candidates) -> Ints:
    """The number of each placement's method, ``(n,)``."""
    names = sorted({method for _, method in candidates.keys})
    return np.array([names.index(method) for _, method in candidates.keys], dtype=np.int64)


def within_kinds(scores: Floats, kinds: Ints, alive: Bools, shares: Floats) -> Floats:
    """Scores over the mean of their kind, ``(n,)``; those that are gone keep what they had.

    Args:
        scores: ``(n,)``, not negative on average.
        shares: what this gave for the placements that are gone, at the time when they went.
    """
    found = shares.copy()
    for kind in np.unique(kinds[alive]):
        mine, gone = alive & (kinds == kind), ~alive & (kinds == kind)
        # Only the weak ones go. A mean over those that are left would then hold their kind's strength against them.
        # So what is gone counts on with its share, and the mean over all, left or gone, stays 1.
        n = max(float(mine.sum() + gone.sum()) - float(shares[gone].sum()), 1.0)
        mean = float(scores[mine].sum()) / n
        found[mine] = scores[mine] / mean if mean > 0 else 1.0
    return found


def fill(scores: Floats, candidates: Candidates, budget: float, allowed: Bools, start: Ints | None = None) -> Ints:
    """Columns of sizes within `budget`, ``(n,)``, -1 where absent: what adds most worth for its parameters goes first.

    A step may pass over a size: where a module has parts that it needs once, the second size can be the better bargain.

    Args:
        scores: worth of the first unit, ``(n,)``; negative ones count as 0.
        allowed: which placements may be used.
        start: columns to begin with, already within the budget; None for nothing.
    """
    n, k = candidates.sizes.shape
    worth = np.concatenate([np.zeros((n, 1)), np.maximum(scores, 0)[:, None] * np.sqrt(candidates.sizes)], axis=1)
    prices = np.concatenate([np.zeros((n, 1), dtype=np.int64), candidates.counts], axis=1)
    is_size = np.concatenate([np.ones((n, 1), dtype=bool), candidates.sizes > 0], axis=1) & allowed[:, None]
    column = np.zeros(n, dtype=np.int64) if start is None else start + 1
    rows, options = np.arange(n), np.arange(k + 1)
    left = budget - float(prices[rows, column].sum())
    while True:
        gain, price = worth - worth[rows, column][:, None], prices - prices[rows, column][:, None]
        is_step = is_size & (options > column[:, None]) & (price <= left)
        if not is_step.any():
            return column - 1
        density = np.where(is_step, gain / np.maximum(price, 1), -np.inf)
        best = density.max(axis=1)
        # Ties go by the canonical order, so that the order of the placements never matters.
        row = int(np.lexsort((candidates.rank, -best))[0])
        left -= float(price[row, density[row].argmax()])
        column[row] = density[row].argmax()


def several(candidates: Candidates, first: Ints, filled: Callable[[Bools], Ints], n: int) -> list[Ints]:
    """Up to `n` different answers to a budget, sizes ``(m,)`` each: `first`, then one of each method by itself.

    Scores say where a method helps most and hardly which method helps: with answers of one method each, what was
    trained can decide that. The method with most parameters in `first` comes before the others.

    Args:
        first: sizes, ``(m,)``, within the budget.
        filled: the sizes, ``(m,)``, to which the budget is filled with the placements that are allowed, ``(m,)``.
    """
    kinds, found = kinds_of(candidates), [first]
    spent = np.where(candidates.sizes == first[:, None], candidates.counts, 0).max(axis=1) * (first > 0)
    ranked = sorted(np.unique(kinds), key=lambda kind: (-int(spent[kinds == kind].sum()), int(kind)))
    for kind in ranked if n > 1 else ():
        sizes = filled(kinds == kind)
        # A method may be too large for the budget, or all that there was.
        if sizes.any() and not any(np.array_equal(sizes, one) for one in found):
            found.append(sizes)
    return found[:n]


def filled(scores: Floats, candidates: Candidates, budget: float, allowed: Bools) -> Ints:
    """What `fill` gives from nothing, as sizes, ``(n,)``, 0 where absent."""
    return sizes_at(candidates, fill(scores, candidates, budget, allowed))


def sizes_at(candidates: Candidates, columns: Ints) -> Ints:
    """The sizes in these columns, ``(n,)``, 0 where the column is -1."""
    return np.where(columns >= 0, candidates.sizes[np.arange(len(columns)), np.maximum(columns, 0)], 0)
