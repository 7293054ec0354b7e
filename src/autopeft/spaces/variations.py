"""What lies around a point of a space: one choice changed at a time, the changes that add something first."""

from __future__ import annotations

from collections.abc import Iterator

from autopeft.spaces.choices import Configuration
from autopeft.spaces.lattice import SearchSpace


def variations(space: SearchSpace, around: Configuration) -> list[Configuration]:
    """Feasible configurations that differ from `around` in one choice, each another candidate.

    First every size that is absent at its middle value, which adds a method; then every size that is there at the next
    larger and the next smaller one; then every layer left out. Dials stay: how fast all learn is no variation of an
    architecture.
    """
    known, found = {space.identity(around)}, []
    for one in (*_added(space, around), *_resized(space, around), *_without_layers(space, around)):
        identity = space.identity(one)
        if identity not in known and space.is_feasible(one):
            known.add(identity)
            found.append(one)
    return found


def _sizes(space: SearchSpace) -> list[int]:
    """Positions of the choices that give a size."""
    return sorted({slot.size for slot in space.slots})


def _added(space: SearchSpace, around: Configuration) -> Iterator[Configuration]:
    for position in _sizes(space):
        values = space.choices[position].values
        if values[around.indices[position]] == 0:
            yield _with(around, position, (len(values) + 1) // 2 if len(values) > 2 else len(values) - 1)


def _resized(space: SearchSpace, around: Configuration) -> Iterator[Configuration]:
    for step in (1, -1):
        for position in _sizes(space):
            values, index = space.choices[position].values, around.indices[position]
            if values[index] and 0 <= index + step < len(values):
                yield _with(around, position, index + step)


def _without_layers(space: SearchSpace, around: Configuration) -> Iterator[Configuration]:
    for position in sorted({slot.switch for slot in space.slots if slot.switch is not None}):
        if around.indices[position]:
            yield _with(around, position, 0)


def _with(around: Configuration, position: int, index: int) -> Configuration:
    return Configuration((*around.indices[:position], index, *around.indices[position + 1 :]))
