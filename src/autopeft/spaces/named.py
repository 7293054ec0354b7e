"""Every space that has a name: those of the papers, the recommended one, and that for decoders."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from autopeft import kinds
from autopeft.errors import SettingsError, UnknownNameError
from autopeft.spaces import decoder, papers, recommended
from autopeft.spaces._named_space import NamedSpace
from autopeft.spaces.choices import Configuration
from autopeft.spaces.lattice import SearchSpace
from autopeft.spaces.start import baselines_first

__all__ = ["SPACES", "NamedSpace", "design", "lookup"]

SPACES = {**papers.MEMBERS, **recommended.MEMBERS, **decoder.MEMBERS}
"""By name; the folder's other files are what spaces are made of, so that members are named here."""


def lookup(name: str) -> NamedSpace:
    """The space called `name`, or the object at the dotted path ``module:attribute``.

    Raises:
        UnknownNameError: there is no such space.
        SettingsError: the dotted path cannot be imported, or leads to something else.
    """
    if name in SPACES:
        return SPACES[name]
    if ":" not in name:
        raise UnknownNameError("space", name, SPACES)
    found = kinds.lookup("space", name)
    if not isinstance(found, NamedSpace):
        raise SettingsError(f"A space is a `NamedSpace`, but {name!r} is {found!r:.60}.")
    return found


def design(own: NamedSpace | None, space: SearchSpace, seed: int, n: int) -> Sequence[Configuration]:
    """`n` configurations to begin with, in the order that `own` has, baselines before others.

    Depends on its arguments only, and the first k of n are the design of k; see `autopeft.spaces.start`.

    Raises:
        SpaceExhaustedError: the space holds nothing feasible.
    """
    first = list(own.first(space))[:n] if own is not None and own.first is not None else []
    known = {space.identity(one) for one in first}
    # Asked for so many that the first ones may all be among them.
    rest = (one for one in baselines_first(space, seed, n + len(first)) if space.identity(one) not in known)
    return list(chain(first, rest))[:n]
