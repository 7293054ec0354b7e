"""What a surrogate sees of a configuration: its choices, and what they add up to.

A process that sees indices only must learn from a few dozen trials that two sizes and seven switches multiply, and that
size 0 is another thing than size 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autopeft.architecture import CountKind
from autopeft.spaces.lattice import Configuration, Encoding, Indices, SearchSpace

InputKind = Literal["choices", "wide"]

Rows = NDArray[np.float64]


class Inputs:
    """Configurations as rows of the unit cube.

    Args:
        space: the lattice.
        encoding: of the choices, see `SearchSpace.encode`.
        kind: "choices": nothing but the encoded choices; "wide": then also, for every size that can be 0, whether it is
            above 0; for every method the logarithm of its units over all places; the share of the places that are
            occupied; and the logarithm of the cost.
        count: which count that cost is; what is known of every architecture, whatever is minimised.
    """

    def __init__(self, space: SearchSpace, encoding: Encoding, kind: InputKind, count: CountKind = "stored") -> None:
        self._space, self._encoding, self._kind, self._count = space, encoding, kind, count

    @property
    def width(self) -> int:
        """Columns of a row."""
        found: int = self([Configuration((0,) * self._space.n_choices)]).shape[1]
        return found

    def __call__(self, configurations: Sequence[Configuration]) -> Rows:
        """The rows of `configurations`, ``(n, width)``."""
        encoded = self._space.encode(configurations, self._encoding)
        if self._kind == "choices":
            return encoded
        indices = np.array([c.indices for c in configurations], dtype=np.int64).reshape(-1, self._space.n_choices)
        return np.column_stack([encoded, *self._present(indices), *self._placed(indices), self._logs(indices)])

    @cached_property
    def _values(self) -> list[Rows]:
        return [np.array(choice.values, dtype=np.float64) for choice in self._space.choices]

    def _present(self, indices: Indices) -> list[Rows]:
        """For every size that can be 0 whether it is not; a switch says so already."""
        sizes = sorted({slot.size for slot in self._space.slots})
        return [
            (indices[:, size] > 0).astype(np.float64)
            for size in sizes
            if self._values[size][0] == 0 and len(self._values[size]) > 2
        ]

    def _placed(self, indices: Indices) -> list[Rows]:
        """Units of every method over all places, as shares of the logarithm, and the share of places occupied."""
        units: dict[str, Rows] = {}
        most: dict[str, float] = {}
        occupied = np.zeros(len(indices))
        for slot in self._space.slots:
            held = self._values[slot.size][indices[:, slot.size]]
            if slot.switch is not None:
                held = held * self._values[slot.switch][indices[:, slot.switch]]
            units[slot.method] = units.get(slot.method, np.zeros(len(indices))) + held
            most[slot.method] = most.get(slot.method, 0.0) + float(self._values[slot.size][-1])
            occupied += held > 0
        return [*(np.log1p(units[name]) / np.log1p(most[name]) for name in units), occupied / len(self._space.slots)]

    def _logs(self, indices: Indices) -> Rows:
        low, high = np.log(np.maximum(self._space.cost_range(self._count), 0.5))
        costs = np.log(np.maximum(self._space.costs(indices, self._count), 0.5))
        return np.asarray(np.clip((costs - low) / (high - low if high > low else 1.0), 0, 1))
