"""Parameters: nominal, stored or trained (see `autopeft.architecture`), as a share of the backbone or as a number."""

from __future__ import annotations

from functools import partial

from autopeft.architecture import CountKind, Counts
from autopeft.objective import Objective, percent

_MEANT: dict[CountKind, str] = {
    "nominal": "the papers' rule, weights only",
    "stored": "what is shipped: biases too, prefixes folded",
    "trained": "what the optimiser holds: the head and prefix networks too",
}

# The first studies minimised nominal parameters alone, and their records call them so.
_KEYS: dict[CountKind, str] = {
    "nominal": "percent",
    "stored": "stored_percent",
    "trained": "trained_percent",
}


def _share(kind: CountKind) -> Objective:
    return Objective(
        kind,
        unit="%",
        label=f"{kind} parameters, % of the backbone",
        heading=f"% {kind}",
        about=f"{kind} parameters in percent of the backbone: {_MEANT[kind]}",
        key=_KEYS[kind],
        count=kind,
        counted=partial(percent, kind=kind),
        marks=(0.1, 0.5, 1.0, 5.0),
        free=1e-6,  # less than one parameter of a hundred million
    )


def _number(kind: CountKind) -> Objective:
    def counted(counts: Counts) -> float:
        return float(counts.of(kind))

    return Objective(
        f"{kind}-count",
        unit="parameters",
        label=f"{kind} parameters",
        heading=kind,
        about=f"number of {kind} parameters: {_MEANT[kind]}",
        spec=",.0f",
        count=kind,
        counted=counted,
        free=0.5,  # a method that trains biases alone has no nominal parameters
    )


NOMINAL = _share("nominal")
"""What a search minimises unless it is told otherwise, as the papers do."""


def nominal(counts: Counts) -> float:
    """What `NOMINAL` says of counts."""
    return percent(counts)


MEMBERS = {one.name: one for one in (NOMINAL, _share("stored"), _share("trained"), *map(_number, _MEANT))}
