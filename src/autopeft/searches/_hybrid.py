"""The arithmetic of hybrid pruning (Yu et al. 2025, arXiv 2506.07587), without a model: blocks, votes, and who goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from autopeft.searches._candidates import Bools, Candidates, Floats, Ints

_DEPTHS = (0.2, 0.5, 0.8)
"""Where the blocks of one method end, as shares of the depth (of the authors' release)."""


@dataclass(frozen=True)
class Groups:
    """Modules and blocks of a space's placements.

    Args:
        module: the number of each placement's module, ``(n,)``.
        block: the number of each module's block, ``(m,)``.
    """

    module: Ints
    block: Ints

    @classmethod
    def of(
        cls,
        candidates: Candidates,
        layers: Mapping[str, tuple[str, int | None]],
        modules: Literal["placement", "layer"],
    ) -> Groups:
        """The groups of `candidates`.

        Args:
            layers: of every site its stack and its layer in it, None outside of all layers.
        """
        places = [(method, *layers[site]) for site, method in candidates.keys]
        keys = places if modules == "layer" else list(candidates.keys)
        names = list(dict.fromkeys(keys))
        depth: dict[str, int] = {}
        for _, stack, layer in places:
            depth[stack] = max(depth.get(stack, 0), layer or 0)
        first = {name: place for name, place in zip(reversed(keys), reversed(places), strict=True)}
        blocks = [_block(first[name], depth) for name in names]
        numbered = {block: number for number, block in enumerate(dict.fromkeys(blocks))}
        return cls(
            np.array([names.index(key) for key in keys], dtype=np.int64),
            np.array([numbered[block] for block in blocks], dtype=np.int64),
        )

    def sums(self, values: Floats | Ints) -> Floats:
        """By module the sum of its placements' values, ``(m,)``."""
        return np.bincount(self.module, weights=values, minlength=len(self.block)).astype(np.float64)

    def means(self, scores: Floats) -> Floats:
        """By rule and module the mean over its placements, ``(r, m)``."""
        n = self.sums(np.ones(scores.shape[1]))
        return np.array([self.sums(row) / n for row in scores])


def _block(place: tuple[str, str, int | None], depth: Mapping[str, int]) -> tuple[str, str, int]:
    method, stack, layer = place
    if layer is None:
        return method, stack, -1
    # The release asks whether a layer lies below 0.2, 0.5 and 0.8 of the last layer's number.
    return method, stack, sum(layer >= share * depth[stack] for share in _DEPTHS)


def preferences(scores: Floats, alive: Bools, block: Ints) -> Floats:
    """How much each rule wants each module gone, as a probability within its block: ``(r, m)``, 0 where it is gone.

    Args:
        scores: by rule and module, ``(r, m)``; what has least goes first. A rule with a score that is not a number
            in a block has no opinion there.
    """
    found = np.zeros_like(scores)
    for number in np.unique(block[alive]):
        mine = alive & (block == number)
        own = scores[:, mine]
        # Of unlike scale as rules are, each is measured by its own largest value in the block.
        largest = np.max(np.abs(own), axis=1, keepdims=True)
        shown = np.divide(own, largest, out=np.zeros_like(own), where=largest > 0)
        weights = np.exp(-np.nan_to_num(shown, nan=0.0))
        found[:, mine] = weights / weights.sum(axis=1, keepdims=True)
    return found


def removed_first(scores: Floats, alive: Bools, block: Ints, weights: Floats) -> Floats:
    """How much the rules together want each module gone, ``(m,)``, the mean of a block being 1; 0 where it is gone.

    Args:
        weights: by rule and block, ``(r, b)``; each column sums to 1.
    """
    mixed: Floats = (preferences(scores, alive, block) * weights[:, block]).sum(axis=0)
    # A probability within a block is small where the block is large, and blocks are compared with one another.
    size: Floats = np.bincount(block[alive], minlength=int(block.max()) + 1).astype(np.float64)
    return mixed * size[block]


def kept(wish: Floats, counts: Floats, alive: Bools, target: float) -> Bools:
    """What is left alive, ``(m,)``, once those that are wanted gone most went, until `target` parameters are left.

    One module stays at the least. Ties go by the order of the modules.
    """
    left, total = alive.copy(), float(counts[alive].sum())
    for index in np.lexsort((np.arange(len(wish)), -wish)):
        if total <= target or left.sum() == 1:
            break
        if left[index]:
            left[index] = False
            total -= float(counts[index])
    return left
