"""What a point of a lattice stands for, and which point stands for it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from autopeft.architecture import Architecture, Placement
from autopeft.candidate import Candidate, Changes
from autopeft.spaces.choices import Choice, Configuration, Dial

if TYPE_CHECKING:
    from autopeft.spaces.lattice import SearchSpace


def sizes_at(space: SearchSpace, configuration: Configuration) -> tuple[int, ...]:
    """The size at every slot, 0 where absent."""
    values = [choice.values[i] for choice, i in zip(space.choices, configuration.indices, strict=True)]
    sizes = (values[s.size] * (1 if s.switch is None else values[s.switch]) for s in space.slots)
    return tuple(map(int, sizes))


def identity_at(space: SearchSpace, configuration: Configuration) -> tuple[int, ...]:
    """The size at every slot, and for every dial its index, or -1 where nothing is there that it could turn."""
    sizes = sizes_at(space, configuration)
    if not space.dials:
        return sizes
    held = {(slot.method, size) for slot, size in zip(space.slots, sizes, strict=True) if size}
    # A dial of a method that is absent changes nothing, and two points that differ in it alone are one candidate.
    turned = (configuration.indices[dial.choice] if _turns(dial, held) else -1 for dial in space.dials)
    return (*sizes, *turned)


def _turns(dial: Dial, held: set[tuple[str, int]]) -> bool:
    """Whether another value of `dial` makes another candidate of modules of these methods and sizes."""
    if not dial.methods:
        return True
    # At the size where it is anchored an exponent changes nothing.
    idle = dial.anchor if dial.target == "exponent" else 0
    return any(name in dial.methods and size != idle for name, size in held)


def candidate_at(space: SearchSpace, configuration: Configuration) -> Candidate:
    """The architecture, its scales among it, and the changes of the recipe."""
    scales: dict[str, tuple[Dial, float]] = {}
    rates: dict[str, float] = {}
    whole = dict.fromkeys(("rate", "batch", "dropout"), 1.0)
    for dial in space.dials:
        factor = space.choices[dial.choice].values[configuration.indices[dial.choice]]
        if not dial.methods:
            whole[dial.target] = factor
        elif dial.target != "rate":
            scales.update(dict.fromkeys(dial.methods, (dial, factor)))
        else:
            rates.update(dict.fromkeys(dial.methods, factor))

    def placed(site: str, method: str, size: int) -> Placement:
        dial, value = scales.get(method, (None, 1.0))
        return Placement(site, method, size, value if dial is None else dial.scale_at(size, value))

    sizes = zip(space.slots, sizes_at(space, configuration), strict=True)
    architecture = Architecture(tuple(placed(slot.site, slot.method, size) for slot, size in sizes if size))
    return Candidate(architecture, Changes(None, whole["rate"], tuple(rates.items()), whole["batch"], whole["dropout"]))


def configuration_of(space: SearchSpace, candidate: Candidate) -> Configuration | None:
    """A configuration that decodes to `candidate`, or None when the space does not hold it."""
    wanted = {(p.method, p.site): p.size for p in candidate.architecture}
    dials = {dial.choice: dial for dial in space.dials}
    sizes: dict[int, int] = {}
    switches: dict[int, bool] = {}
    for slot in space.slots:
        size = wanted.get((slot.method, slot.site), 0)
        if size:
            # A shared size is told by any slot that is on; whether they agree is seen when the point is decoded again.
            sizes[slot.size] = max(size, sizes.get(slot.size, 0))
        if slot.switch is not None:
            switches[slot.switch] = switches.get(slot.switch, False) or bool(size)
    indices = []
    for position, choice in enumerate(space.choices):
        if position in dials:
            value = factor_of(dials[position], candidate, choice)
        elif position in switches:
            value = int(switches[position])
        else:
            value = sizes.get(position, choice.values[0])
        if value not in choice.values:
            return None
        indices.append(choice.values.index(value))
    found = Configuration(tuple(indices))
    return found if candidate_at(space, found) == candidate else None


def factor_of(dial: Dial, candidate: Candidate, choice: Choice) -> float:
    """The factor that `candidate` has there; the resting one where it holds nothing that the dial could turn."""
    if not dial.methods:
        changes = candidate.changes
        turned = {"rate": changes.rate_factor, "batch": changes.batch_factor, "dropout": changes.dropout_factor}
        return turned[dial.target]
    held = [placement for placement in candidate.architecture if placement.method in dial.methods]
    if not held:
        return choice.values[resting(choice)]
    if dial.target == "exponent":
        # From rest on: at the anchor every exponent gives the same scale.
        tried = (choice.values[resting(choice)], *choice.values)
        fits = (value for value in tried if all(p.scale == dial.scale_at(p.size, value) for p in held))
        return next(fits, -1.0)  # which no choice holds
    if dial.target == "scale":
        return held[0].scale
    return dict(candidate.changes.rate_factors).get(held[0].method, 1.0)


def resting(choice: Choice) -> int:
    """The index of the factor that changes least: 1, or what is nearest to it as a ratio."""
    # As a ratio: a half and a double are equally far from 1.
    values = {index: value for index, value in enumerate(choice.values) if value > 0}
    return min(values, key=lambda index: abs(math.log(values[index])), default=0)
