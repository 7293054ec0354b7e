"""A space that settings name, and what a search in it begins with where they say nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from autopeft.architecture import ParameterBudget
from autopeft.backbones import Backbone
from autopeft.spaces.choices import Configuration
from autopeft.spaces.lattice import Axis, SearchSpace


class Build(Protocol):
    """Makes the space on a backbone."""

    def __call__(
        self,
        backbone: Backbone,
        *,
        budget: ParameterBudget | None = None,
        bands: int | None = None,
        axes: Sequence[Axis] = (),
    ) -> SearchSpace:
        """The space.

        Args:
            budget: a hard limit, or None.
            bands, axes: what the settings say of them, for a space that `takes` them; else None and nothing.
        """
        ...


@dataclass(frozen=True)
class NamedSpace:
    """A space that can be named.

    Args:
        name, about: its name, and its methods and what is searched in a line.
        build: makes it.
        takes: which of the settings "bands" and "methods" it looks at.
        start: the initial design.
        n_initial: configurations of that; None for as many as such a design usually has.
        rates: how learning rates are found. A rule gives way to rates that a person wrote.
        rate_factors: factors on learning rates to choose from, by name of a method or "all".
        batch_factors, dropout_factors: factors on the examples a step and on dropout to choose from.
        first: what the design begins with, before baselines; None for those at once.
    """

    name: str
    about: str
    build: Build
    takes: frozenset[str] = frozenset()
    start: Literal["random", "baselines"] = "random"
    n_initial: int | None = None
    rates: Literal["sweep", "card", "rule"] = "sweep"
    rate_factors: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    batch_factors: tuple[float, ...] = ()
    dropout_factors: tuple[int, ...] = ()
    first: Callable[[SearchSpace], Iterator[Configuration]] | None = None
