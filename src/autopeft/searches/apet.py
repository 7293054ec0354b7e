"""APET (Su et al. 2023, arXiv 2306.02320): fix the number of parameters and draw at random where they stand.

The control for every search at a budget: nothing is trained and nothing is learnt from what was measured. BIPEFT
(EMNLP Findings 2024, table 10) compares with it. The authors' release also frees tensors of the backbone itself for
half of the budget; that is no architecture of modules, so all of the budget goes to the modules of the space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from autopeft.architecture import Architecture, ParameterBudget
from autopeft.rules import Count, raise_if_any, violations
from autopeft.searches._candidates import Candidates, Ints
from autopeft.searches._search import SearchContext, spec

NAME = "apet"

_ATTEMPTS = 100  # draws for each one wanted, before fewer are given: small spaces repeat themselves


@dataclass(frozen=True)
class ApetSettings:
    """How architectures are drawn.

    Args:
        draws: architectures for each budget, all different.
        is_filled: once every placement had its turn, those left out are taken, and then all grow, in the same order,
            to the largest size that still fits: nothing more fits in the end and all draws have about the same count.
    """

    draws: Count = 1
    is_filled: bool = True

    def __post_init__(self) -> None:
        raise_if_any("The settings of APET cannot be used", violations(self))


def draw_sizes(candidates: Candidates, budget: int, rng: np.random.Generator, is_filled: bool = True) -> Ints:
    """Random sizes within `budget`: placements in random order, each at a random size if it fits.

    Args:
        budget: at least the least count in the space, see `Candidates.check_budget`.

    Returns:
        ``(n,)`` sizes, 0 where absent, not all 0.
    """
    order = rng.permutation(len(candidates))
    sizes, left = np.zeros(len(candidates), dtype=np.int64), budget
    for index in order:
        column = int(rng.integers(int((candidates.sizes[index] > 0).sum())))
        if candidates.counts[index, column] <= left:
            sizes[index] = candidates.sizes[index, column]
            left -= int(candidates.counts[index, column])
    if not is_filled and sizes.any():
        return sizes
    present = sizes > 0
    for index in (*order[~present[order]], *order[present[order]]):
        if sizes.any() and not is_filled:
            break
        own = candidates.counts[index, candidates.sizes[index] == sizes[index]].sum() if sizes[index] else 0
        fitting = np.flatnonzero((candidates.sizes[index] > sizes[index]) & (candidates.counts[index] <= left + own))
        if len(fitting):
            sizes[index] = candidates.sizes[index, fitting[-1]]
            left -= int(candidates.counts[index, fitting[-1]] - own)
    return sizes


class ApetSearch:
    """Draws for each budget, from the seed and the budget alone."""

    earlier_seconds = 0.0
    told: Mapping[str, Any] = MappingProxyType({"examples": 0})

    def __init__(self, context: SearchContext, settings: ApetSettings) -> None:
        self._context, self._settings = context, settings

    @property
    def per_budget(self) -> int:
        """The number of draws."""
        return self._settings.draws

    def answer(self, limit: ParameterBudget) -> Sequence[Architecture]:
        """As many different architectures as are wanted, or fewer where the budget has hardly more."""
        candidates = Candidates.of(self._context.space, limit.count)
        # The budget belongs to the seed, as in the authors' release, so that each budget has draws of its own.
        rng = np.random.default_rng([self._context.seed, limit.most])
        # A dictionary and not a set: it keeps the order of the draws, by which places of the study are filled.
        found: dict[Architecture, None] = {}
        for _ in range(_ATTEMPTS * self._settings.draws):
            sizes = draw_sizes(candidates, limit.most, rng, self._settings.is_filled)
            found[candidates.architecture(sizes)] = None
            if len(found) == self._settings.draws:
                break
        return tuple(found)


MEMBERS = {
    NAME: spec(
        NAME,
        {"recommended": ApetSettings()},
        ApetSearch,
        about="APET: random assignment of modules at the same count (Su et al. 2023)",
    )
}
