"""The words of a search space: its choices, what they decide on, and a point of their product."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from autopeft.architecture import Cost
from autopeft.errors import SettingsError


@dataclass(frozen=True)
class Choice:
    """One coordinate: a name and its ordered values.

    Sizes are whole, increase and may begin with 0; a switch is ``(0, 1)``; the values of a `Dial` are factors, which
    are above 0 but for dropout.
    """

    name: str
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        # Surrogates and neighbourhoods treat an index as a place on a line, which it is only if values increase.
        if not self.values or list(self.values) != sorted(set(self.values)) or self.values[0] < 0:
            raise SettingsError(f"The values of {self.name!r} must increase from at least 0, but got {self.values}.")

    @property
    def sizes(self) -> tuple[int, ...]:
        """The values of a choice that gives a size, which are whole."""
        return tuple(map(int, self.values))


@dataclass(frozen=True)
class Slot:
    """A place where a module may stand.

    Args:
        size: index of the choice that gives the size.
        switch: index of the choice that switches it on, or None when it has no switch.
    """

    method: str
    site: str
    cost: Cost
    size: int
    switch: int | None = None


@dataclass(frozen=True)
class Dial:
    """A choice that turns a factor, and neither places a module nor sizes one: it costs nothing.

    Args:
        target: "rate" for the learning rate, "batch" for the examples a step, "dropout" for that or none, "scale" for
            what modules add, "exponent" for how that falls with their size.
        methods: whose modules; empty for what acts on everything that is trained, the head too.
        choice: index of the choice whose values are the factors, or the exponents.
        anchor, level: of an exponent: a module of `anchor` units has the scale `level` whatever the exponent is.
        rest: the factor where a search begins; None for the one that changes least. It is no part of what identifies
            a space: its points mean the same wherever a search begins.
    """

    target: Literal["rate", "batch", "dropout", "scale", "exponent"]
    methods: tuple[str, ...]
    choice: int
    anchor: int = 1
    level: float = 1.0
    rest: float | None = field(default=None, compare=False)

    def as_row(self) -> list[Any]:
        """A JSON-ready ``[target, methods, choice]``, of an exponent with its anchor and level behind them."""
        # Left out where they mean nothing: rows of before there were exponents must stay the same.
        more = [self.anchor, self.level] if self.target == "exponent" else []
        return [self.target, list(self.methods), self.choice, *more]

    def scale_at(self, size: int, value: float) -> float:
        """The scale of a module of `size` units where the choice has this value; without meaning for a rate.

        With the exponent 1 it is ``alpha / size`` for ``alpha = level * anchor``, the usual LoRA; with 1/2 it falls
        with the root of the size, as that of rsLoRA does (Kalajdzievski 2023, arXiv 2312.03732).
        """
        return value if self.target == "scale" else self.level * (self.anchor / size) ** value


@dataclass(frozen=True)
class Configuration:
    """A point of the lattice: for every choice the index of the value taken. What samplers propose."""

    indices: tuple[int, ...]
