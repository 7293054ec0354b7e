"""The point of a space that is nearest to an architecture which was found elsewhere."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from autopeft.architecture import Architecture, Placement
from autopeft.candidate import Candidate
from autopeft.spaces.choices import Choice, Configuration
from autopeft.spaces.decoding import factor_of
from autopeft.spaces.lattice import SearchSpace

_RATIOS = tuple(2 ** (step / 2) for step in range(13))
"""By which all sizes are divided or multiplied, the smallest change first, until a budget is kept."""


def nearest(space: SearchSpace, candidate: Candidate) -> Configuration | None:
    """The feasible configuration that is nearest to `candidate`: `candidate` itself where the space holds it.

    Where modules share a choice it takes the size nearest to their geometric mean; a switch is on where anything
    stands that it switches; dials go to the nearest factor, and a learning rate of the candidate's own is left behind.
    Under a budget all sizes change together until it is kept.

    Returns:
        None where the space has none of its methods, or no change of its sizes is within the budget.
    """
    exact = space.configuration(candidate)
    if exact is not None and space.is_feasible(exact):
        return exact
    held = {(slot.method, slot.site) for slot in space.slots}
    kept = Architecture(tuple(item for item in candidate.architecture if (item.method, item.site) in held))
    if kept.is_empty:
        return None
    for ratio in _ratios(space, kept):
        found = _snapped(space, replace(candidate, architecture=_scaled(kept, ratio)))
        if space.is_feasible(found):
            return found
    return None


def _ratios(space: SearchSpace, architecture: Architecture) -> Sequence[float]:
    """From 1 on, in the direction of the budget; 1 alone where there is none."""
    if space.budget is None:
        return (1.0,)
    cost = space.cost(_snapped(space, Candidate(architecture)), space.budget.count)
    return [1 / ratio if cost > space.budget.most else ratio for ratio in _RATIOS]


def _scaled(architecture: Architecture, ratio: float) -> Architecture:
    def sized(item: Placement) -> Placement:
        return replace(item, size=max(1, round(item.size * ratio)))

    return architecture if ratio == 1 else Architecture(tuple(map(sized, architecture)))


def _snapped(space: SearchSpace, candidate: Candidate) -> Configuration:
    dials = {dial.choice: dial for dial in space.dials}
    switches = {slot.switch for slot in space.slots if slot.switch is not None}
    sizes = _sizes(space, {(item.method, item.site): item.size for item in candidate.architecture})
    indices = []
    for position, choice in enumerate(space.choices):
        present = sizes.get(position, [])
        if position in dials:
            factor = factor_of(dials[position], candidate, choice)
            indices.append(_dialled(space, position, factor))
        elif position in switches:
            indices.append(len(choice.values) - 1 if present else 0)
        else:
            indices.append(_closest(choice, math.exp(fmean(map(math.log, present)))) if present else 0)
    return Configuration(tuple(indices))


def _dialled(space: SearchSpace, position: int, factor: float) -> int:
    choice = space.choices[position]
    if factor in choice.values:
        return choice.values.index(factor)
    # No exponent gives the scales of modules that were found at another one's, nor of several at once.
    return _closest(choice, factor) if factor > 0 else space.resting[position]


def _sizes(space: SearchSpace, wanted: Mapping[tuple[str, str], int]) -> dict[int, list[int]]:
    """For every choice of a size or a switch the sizes of the modules that stand where it decides."""
    found: dict[int, list[int]] = defaultdict(list)
    for slot in space.slots:
        # Modules without a size, such as biases, have the size 0 or 1 of being there.
        if (size := wanted.get((slot.method, slot.site))) is not None:
            for position in {slot.size, slot.size if slot.switch is None else slot.switch}:
                found[position].append(max(1, size))
    return found


def _closest(choice: Choice, value: float) -> int:
    """The index of the value above 0 that is nearest to `value` as a ratio."""
    return min(_above_zero(choice), key=lambda index: abs(math.log(choice.values[index] / value)))


def _above_zero(choice: Choice) -> Iterator[int]:
    return (index for index, value in enumerate(choice.values) if value > 0)
