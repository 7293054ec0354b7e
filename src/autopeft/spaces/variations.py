"""What lies around a point of a space: one choice changed at a time, how it is trained first."""

from __future__ import annotations

from collections.abc import Iterator

from autopeft.spaces.choices import Configuration
from autopeft.spaces.lattice import SearchSpace


def variations(space: SearchSpace, around: Configuration) -> list[Configuration]:
    """Feasible configurations that differ from `around` in one choice, each another candidate.

    First every other number of examples a step, smaller batches before larger ones, and dropout or none; then every
    size that is absent at its middle value, which adds a method; then every size that is there at the next larger and
    the next smaller one; then every layer left out. Dials of rates and scales stay: who names the point has tuned how
    fast it learns.
    """
    known, found = {space.identity(around)}, []
    parts = (_trained_otherwise, _added, _resized, _without_layers)
    for one in (one for part in parts for one in part(space, around)):
        identity = space.identity(one)
        if identity not in known and space.is_feasible(one):
            known.add(identity)
            found.append(one)
    return found


def _sizes(space: SearchSpace) -> list[int]:
    """Positions of the choices that give a size."""
    return sorted({slot.size for slot in space.slots})


def _trained_otherwise(space: SearchSpace, around: Configuration) -> Iterator[Configuration]:
    for dial in space.dials:
        if dial.target in ("batch", "dropout"):
            # From where it stands downwards first: more steps are what a small part to train on lacks.
            standing = around.indices[dial.choice]
            rest = range(standing + 1, len(space.choices[dial.choice].values))
            for index in (*reversed(range(standing)), *rest):
                yield _with(around, dial.choice, index)


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
