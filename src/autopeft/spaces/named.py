"""Every space that has a name: those of the papers, and the recommended one."""

from __future__ import annotations

from autopeft.architecture import ParameterBudget
from autopeft.backbones import Backbone
from autopeft.errors import UnknownNameError
from autopeft.spaces import papers, recommended
from autopeft.spaces.lattice import SearchSpace

NAMES = (*papers.NAMES, recommended.NAME)
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
    return papers.named(name, backbone, budget=budget)


def about(name: str) -> str:
    """The methods of the space called `name`, and what is searched, in a line.

    Raises:
        UnknownNameError: there is no such space.
    """
    _check(name)
    return recommended.ABOUT if name == recommended.NAME else papers.about(name)


def _check(name: str) -> None:
    if name not in NAMES:
        raise UnknownNameError("space", name, NAMES)
