"""How many points of a lattice train something, without going through them: there may be more than fit a memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from autopeft.spaces.choices import Choice, Slot


def n_valid(choices: Sequence[Choice], slots: Sequence[Slot]) -> int:
    """Number of points of the product of `choices` at which at least one of `slots` holds a module."""
    used = {position for slot in slots for position in (slot.size, slot.switch)}
    idle = math.prod(len(choice.values) for n, choice in enumerate(choices) if n not in used)
    n_points = math.prod(len(choice.values) for choice in choices)
    # The empty points are counted and taken away: a point is empty when every slot is, which factorises over
    # components.
    return n_points - idle * math.prod(_n_empty(choices, part) for part in _components(slots))


def _components(slots: Sequence[Slot]) -> list[list[Slot]]:
    """Slots grouped so that no choice is used in two groups."""
    groups: list[tuple[set[int], list[Slot]]] = []
    for slot in slots:
        used = {slot.size} | ({slot.switch} if slot.switch is not None else set())
        joined = [group for group in groups if group[0] & used]
        groups = [group for group in groups if not group[0] & used]
        union = used.union(*(group[0] for group in joined))
        groups.append((union, [*itertools.chain.from_iterable(group[1] for group in joined), slot]))
    return [joined for _, joined in groups]


def _n_empty(choices: Sequence[Choice], slots: Sequence[Slot]) -> int:
    """Settings of the choices of one component at which none of its slots holds a module."""
    sizes = sorted({slot.size for slot in slots})
    switches = sorted({slot.switch for slot in slots if slot.switch is not None})
    # Subsets of the fewer kind of choice are gone through, since their number doubles with each.
    if len(switches) < len(sizes):
        return _n_empty_by_switch(choices, slots, sizes, switches)
    empty = 0
    for present in itertools.product((False, True), repeat=len(sizes)):
        on = dict(zip(sizes, present, strict=True))
        blocked = {slot.switch for slot in slots if on[slot.size]}
        ways = 0 if None in blocked else 1
        for size in sizes:
            nonzero = sum(1 for value in choices[size].values if value)
            ways *= nonzero if on[size] else len(choices[size].values) - nonzero
        for switch in switches:
            ways *= 1 if switch in blocked else len(choices[switch].values)
        empty += ways
    return empty


def _n_empty_by_switch(choices: Sequence[Choice], slots: Sequence[Slot], sizes: list[int], switches: list[int]) -> int:
    """The same by going through the switches: a layer of many sizes behind one switch has few of them."""
    empty = 0
    for present in itertools.product((False, True), repeat=len(switches)):
        on = dict(zip(switches, present, strict=True))
        needed = {slot.size for slot in slots if slot.switch is None or on[slot.switch]}
        ways = math.prod(len(choices[switch].values) - 1 for switch in switches if on[switch])
        for size in sizes:
            values = choices[size].values
            ways *= values.count(0) if size in needed else len(values)
        empty += ways
    return empty
