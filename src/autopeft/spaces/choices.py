"""The words of a search space: its choices, the places that they decide on, and a point of their product."""

from __future__ import annotations

from dataclasses import dataclass

from autopeft.architecture import Cost
from autopeft.errors import SettingsError


@dataclass(frozen=True)
class Choice:
    """One coordinate: a name and its ordered values. Sizes increase and may begin with 0; a switch is ``(0, 1)``."""

    name: str
    values: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.values or list(self.values) != sorted(set(self.values)) or self.values[0] < 0:
            raise SettingsError(f"The values of {self.name!r} must increase from at least 0, but got {self.values}.")


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
class Configuration:
    """A point of the lattice: for every choice the index of the value taken. What samplers propose."""

    indices: tuple[int, ...]
