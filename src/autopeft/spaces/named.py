"""Every space that has a name: those of the papers, the recommended one, and that for decoders."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from autopeft.architecture import ParameterBudget
from autopeft.backbones import Backbone
from autopeft.errors import UnknownNameError
from autopeft.spaces import decoder, papers, recommended
from autopeft.spaces.choices import Configuration
from autopeft.spaces.lattice import SearchSpace
from autopeft.spaces.start import baselines_first

NAMES = (*papers.NAMES, recommended.NAME, decoder.NAME)
"""Every space that can be named."""


def named(name: str, backbone: Backbone, *, budget: ParameterBudget | None = None) -> SearchSpace:
    """The space called `name` on `backbone`.

    Raises:
        UnknownNameError: there is no such space.
        SettingsError: a method of a paper's space stands nowhere on this backbone.
        BudgetError: nothing in the space satisfies the budget.
    """
    _check(name)
    if name == recommended.NAME:
        return recommended.build(backbone, budget=budget)
    if name == decoder.NAME:
        return decoder.build(backbone, budget=budget)
    return papers.named(name, backbone, budget=budget)


def about(name: str) -> str:
    """The methods of the space called `name`, and what is searched, in a line.

    Raises:
        UnknownNameError: there is no such space.
    """
    _check(name)
    own = {recommended.NAME: recommended.ABOUT, decoder.NAME: decoder.ABOUT}
    return own[name] if name in own else papers.about(name)


def design(name: str | None, space: SearchSpace, seed: int, n: int) -> Sequence[Configuration]:
    """`n` configurations to begin with, baselines before others, in the order that the space called `name` has.

    Depends on its arguments only, and the first k of n are the design of k; see `autopeft.spaces.start`.

    Raises:
        SpaceExhaustedError: the space holds nothing feasible.
    """
    own = list(decoder.first(space))[:n] if name == decoder.NAME else []
    known = {space.identity(one) for one in own}
    # Asked for so many that the own ones may all be among them.
    rest = (one for one in baselines_first(space, seed, n + len(own)) if space.identity(one) not in known)
    return list(chain(own, rest))[:n]


def _check(name: str) -> None:
    if name not in NAMES:
        raise UnknownNameError("space", name, NAMES)
