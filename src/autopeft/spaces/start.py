"""An initial design that begins with what people would try, and then fills the space evenly.

Points that are uniform over indices are neither: each layer is on with probability a half, so that all of them hardly
ever are, and of sizes that double from one to the next the largest of several methods makes the cost. So the design
begins with every method alone in all layers at three sizes. Then comes, one after the other, the point of a pool that
is farthest from all before it in the logarithm of the cost and in the number of layers that hold something.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autopeft import methods
from autopeft.errors import SpaceExhaustedError
from autopeft.spaces.choices import Configuration, Slot
from autopeft.spaces.lattice import SearchSpace

_QUANTILES = (0.5, 0.2, 0.8)
"""Which of a method's sizes its baselines have, the middle one first: a short design has that of every method."""

_POOL = 1024
_STREAM = (0, 2)  # of random numbers: [seed, 0, 1] is that of the random design
_MOST_METHODS = 3


def baselines_first(space: SearchSpace, seed: int, n: int) -> list[Configuration]:
    """`n` feasible configurations whose candidates all differ: baselines, then points that fill the space.

    Depends on `space` and `seed` only, and the first k of n are the design of k.

    Returns:
        Fewer where the baselines and the pool hold no more.

    Raises:
        SpaceExhaustedError: the space holds nothing feasible.
    """
    if n == 0:
        return []
    found = list(baselines(space))
    rng = np.random.default_rng([seed, *_STREAM])
    known = {space.identity(one) for one in found}
    pool = [one for one in _pool(space, rng) if space.identity(one) not in known]
    if not found and not pool:
        raise SpaceExhaustedError("No feasible configuration was found in this search space.")
    return [*found, *_spread(space, found, pool, n - len(found))][:n]


def baselines(space: SearchSpace) -> Iterator[Configuration]:
    """Each method alone in all layers, at up to three of the sizes that the budget allows; dials rest.

    A method that may stand elsewhere than at its usual places stands there once and everywhere once.
    """
    parts = [part for method in _by_method(space) for part in _parts(method, space)]
    allowed = [list(_at_sizes(space, part)) for part in parts]
    seen = set()
    for share in _QUANTILES:
        for configurations in filter(None, allowed):
            one = configurations[round(share * (len(configurations) - 1))]
            if (identity := space.identity(one)) not in seen:
                seen.add(identity)
                yield one


def layers_of(space: SearchSpace, configurations: Sequence[Configuration]) -> NDArray[np.int64]:
    """How many layers, over all stacks, hold a module. Shape ``(len(configurations),)``."""
    indices = np.array([one.indices for one in configurations], dtype=np.int64).reshape(-1, space.n_choices)
    values = [np.array(choice.values) > 0 for choice in space.choices]
    # Where no slot is in a layer there is still something to add up.
    held: dict[str, NDArray[np.bool_]] = {"": np.zeros(len(indices), dtype=np.bool_)}
    for slot in space.slots:
        if layer := layer_of(slot):
            here = values[slot.size][indices[:, slot.size]]
            if slot.switch is not None:
                here = here & values[slot.switch][indices[:, slot.switch]]
            held[layer] = held[layer] | here if layer in held else here
    return np.asarray(np.stack(list(held.values())).sum(axis=0), dtype=np.int64)


def layer_of(slot: Slot) -> str:
    """The layer of a slot, such as "encoder.3"; empty for one outside the layers."""
    parts = slot.site.split(".")
    return ".".join(parts[:2]) if len(parts) == 3 else ""


def _by_method(space: SearchSpace) -> list[list[int]]:
    """Numbers of the slots of each method."""
    found: dict[str, list[int]] = defaultdict(list)
    for number, slot in enumerate(space.slots):
        found[slot.method].append(number)
    return list(found.values())


def _parts(numbers: Sequence[int], space: SearchSpace) -> list[list[int]]:
    """The slots of one method at its usual places, and all of them, where these differ."""
    usual = methods.lookup(space.slots[numbers[0]].method).roles
    own = [n for n in numbers if space.slots[n].site.split(".")[-1] in usual]
    return [list(numbers)] if len(own) in (0, len(numbers)) else [own, list(numbers)]


def _at_sizes(space: SearchSpace, numbers: Sequence[int]) -> Iterator[Configuration]:
    """The slots of these numbers on at each size that is feasible, in all layers, and nothing else."""
    slots = [space.slots[n] for n in numbers]
    row = _Row.empty(space)
    for slot in slots:
        row.switch(slot, is_on=True)
    for size in sorted({size for slot in slots for size in space.choices[slot.size].sizes if size}):
        for choice in {slot.size for slot in slots}:
            row.resize(choice, size)
        one = row.configuration()
        if space.is_feasible(one):
            yield one


@dataclass
class _Row:
    """Indices of a configuration that is being made."""

    space: SearchSpace
    indices: list[int]

    @classmethod
    def empty(cls, space: SearchSpace) -> _Row:
        """Everything absent as far as the space allows, dials at rest."""
        return cls(space, [space.resting.get(position, 0) for position in range(space.n_choices)])

    def switch(self, slot: Slot, *, is_on: bool) -> None:
        """Turn the layer of `slot` on or off, where it has a switch."""
        if slot.switch is not None:
            self.indices[slot.switch] = len(self.space.choices[slot.switch].values) - 1 if is_on else 0

    def resize(self, choice: int, size: float) -> None:
        """Give the choice of this number the size above 0 that is nearest to `size` as a ratio."""
        sizes = self.space.choices[choice].sizes
        present = [index for index, value in enumerate(sizes) if value]
        self.indices[choice] = min(present, key=lambda index: abs(math.log(sizes[index] / size)))

    def configuration(self) -> Configuration:
        """What the row is now."""
        return Configuration(tuple(self.indices))


# -- filling ------------------------------------------------------------------------------------------------------


def _pool(space: SearchSpace, rng: np.random.Generator) -> list[Configuration]:
    """Feasible configurations of all costs and numbers of layers; under a tight budget what sampling finds."""
    drawing = _Drawing(space)
    drawn = [drawing.one(rng) for _ in range(_POOL)]
    kept = space.feasible(np.array([one.indices for one in drawn], dtype=np.int64))
    found = {space.identity(one): one for one, ok in zip(drawn, kept, strict=True) if ok}
    if len(found) < _POOL // 8:
        found |= {space.identity(one): one for one in space.sample(rng, _POOL)}
    return list(found.values())


class _Drawing:
    """Random points of a space: a random number of layers, one to three methods, a random size for each."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.layer = [layer_of(slot) for slot in space.slots]
        self.layers = sorted({layer for layer in self.layer if layer})
        self.parts = [_parts(group, space) for group in _by_method(space)]

    def one(self, rng: np.random.Generator) -> Configuration:
        """The next point; dials are turned at random."""
        space, layers = self.space, self.layers
        kept = set(rng.permutation(layers)[: rng.integers(1, len(layers) + 1)]) if layers else set()
        row = _Row.empty(space)
        for slot, layer in zip(space.slots, self.layer, strict=True):
            row.switch(slot, is_on=layer in kept)
        n = rng.integers(1, min(_MOST_METHODS, len(self.parts)) + 1)
        for group in sorted(rng.permutation(len(self.parts))[:n]):
            part = self.parts[group][rng.integers(len(self.parts[group]))]
            sizes = sorted({size for s in part for size in space.choices[space.slots[s].size].sizes if size})
            size = sizes[rng.integers(len(sizes))]
            # Where every layer has a size of its own, those of layers that are left out stay absent.
            for choice in {space.slots[s].size for s in part if not self.layer[s] or self.layer[s] in kept}:
                row.resize(choice, size)
        for position in space.resting:
            row.indices[position] = int(rng.integers(len(space.choices[position].values)))
        return row.configuration()


def _spread(
    space: SearchSpace, before: Sequence[Configuration], pool: Sequence[Configuration], n: int
) -> Iterator[Configuration]:
    """Up to `n` of `pool`, each the one that is farthest from all that were chosen and from `before`."""
    if n <= 0 or not pool:
        return
    places = _places(space, [*before, *pool])
    taken, free = places[: len(before)], places[len(before) :]
    distance = np.full(len(pool), np.inf)
    for place in taken:
        distance = np.minimum(distance, np.linalg.norm(free - place, axis=1))
    for _ in range(min(n, len(pool))):
        # Where nothing was chosen before, all are equally far, and the first is taken.
        best = int(np.argmax(distance))
        yield pool[best]
        distance = np.minimum(distance, np.linalg.norm(free - free[best], axis=1))
        distance[best] = -1.0  # points at one place differ all the same, so each may be taken once


def _places(space: SearchSpace, configurations: Sequence[Configuration]) -> NDArray[np.float64]:
    """Logarithm of the cost and number of layers, each from 0 to 1. Shape ``(n, 2)``."""
    indices = np.array([one.indices for one in configurations], dtype=np.int64)
    # Some methods cost nothing by the papers' count; they stand at the cheapest end.
    cost = np.log(np.maximum(space.costs(indices), 1).astype(np.float64))
    layers = layers_of(space, configurations).astype(np.float64)
    columns = [(axis - axis.min()) / max(np.ptp(axis), 1e-12) for axis in (cost, layers)]
    return np.stack(columns, axis=1)
