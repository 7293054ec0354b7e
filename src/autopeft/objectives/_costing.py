"""Costs as a search uses them: found by name, recorded with a trial, and known to a sampler before training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autopeft.architecture import Architecture
from autopeft.errors import SettingsError
from autopeft.kinds import lookup as _lookup
from autopeft.kinds import members
from autopeft.objective import Objective
from autopeft.objectives.parameters import NOMINAL

PACKAGE = "autopeft.objectives"
"""Where the members are."""


@dataclass(frozen=True)
class Costing:
    """What a sampler may know of the cost.

    Args:
        objective: what is minimised beside the metric.
        price: the cost of an architecture before it is trained; None where only a measurement tells, so that a sampler
            that wants to know it beforehand must learn it from the trials.
    """

    objective: Objective = NOMINAL
    price: Callable[[Architecture], float | None] | None = None


def lookup(name: str) -> Objective:
    """The cost called `name`, or the `Objective` at a dotted path.

    Raises:
        UnknownNameError: there is no such cost.
        SettingsError: what stands there is no objective, or one that is to be maximised.
    """
    found = _lookup("cost", name, PACKAGE)
    if not isinstance(found, Objective):
        raise SettingsError(f"A cost is an `Objective`, but {name!r} is {found!r:.99}.")
    if found.direction != "minimize":
        raise SettingsError(f"A cost is minimised, but the direction of {name!r} is {found.direction!r}.")
    return found


def names() -> tuple[str, ...]:
    """Every cost that can be named."""
    return tuple(members(PACKAGE))


def largest_fact(cost: Objective) -> str:
    """The name of the fact of a study that keeps the cost of the largest architecture of its space."""
    return f"largest_{cost.key}"


def recorded(cost: Objective) -> tuple[Objective, ...]:
    """The objectives that every trial keeps a record of: `cost`, and each member that counts alone do not tell.

    All that is cheap to have is kept, so that a front can be tabulated by another cost later on.
    """
    every = {cost.name: cost, **members(PACKAGE)}
    # What counts tell is computed from them when somebody asks, and need not be stored a second time.
    return tuple(one for one in every.values() if one.counted is None and (one.price or one.measure))
