"""Learning rates, scales, the examples a step and dropout as choices of a space.

The papers search where modules stand and how large they are. How fast a module learns and how strongly it acts decide
as much, and the best of both differs from method to method, so they can be searched as well: a space is given factors
to choose from, and everything else about it stays as it is. So can the examples a step: where data are few, a batch of
the usual size leaves too few steps to learn in, whatever is trained, and dropout takes from each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from autopeft import methods
from autopeft.architecture import is_factor
from autopeft.errors import SettingsError
from autopeft.spaces.choices import Choice, Dial
from autopeft.spaces.lattice import SearchSpace

ALL = "all"
"""Stands for every method, and among rates for the head too."""

Factors = Mapping[str, Sequence[float]]
"""By name of a method, or `ALL`, the factors to choose from; a single one is no choice, it is taken."""


def with_dials(
    space: SearchSpace,
    *,
    rate_factors: Factors,
    scales: Factors,
    batch_factors: Sequence[float] = (),
    dropout_factors: Sequence[float] = (),
) -> SearchSpace:
    """`space` with further choices, behind its own.

    Args:
        rate_factors: what the learning rate is multiplied by. That of `ALL` and that of a method multiply.
        scales: what the scale of the modules is multiplied by, for LoRA that is alpha / r. `ALL` is one choice for
            every method of the space that has a scale, and leaves none for methods by name.
        batch_factors: what the examples a step are multiplied by, for everything that is trained; empty for no choice.
        dropout_factors: 0 for no dropout, 1 for that of the recipe; empty for no choice.

    Raises:
        SettingsError: a method is none of the space's or has no scale, or a factor is no finite number above 0; all
            that is wrong is told together.
    """
    held = sorted({slot.method for slot in space.slots})
    scaled = [name for name in held if methods.lookup(name).has_scale]
    wrong = [*_misfits("rate_factors", rate_factors, held, "is none of the space's methods, which are")]
    wrong += _misfits("scales", scales, scaled, "is none of the space's methods with a scale, which are")
    if scales and any(dial.target == "exponent" for dial in space.dials):
        wrong.append("`space.scales` is given, but this space chooses how the scale falls with the rank itself")
    if odd := [factor for factor in batch_factors if not is_factor(factor)]:
        wrong.append(f"`space.batch_factors` holds {odd[0]!r}, but factors are finite and above 0")
    if odd := [factor for factor in dropout_factors if factor not in (0, 1)]:
        wrong.append(f"`space.dropout_factors` holds {odd[0]!r}, but has 0 for none and 1 for the recipe's")
    if ALL in scales and len(scales) > 1:
        wrong.append(f"`space.scales` has {ALL!r} and methods by name: one of them decides")
    if wrong:
        raise SettingsError(f"The space cannot be built: {'; '.join(wrong)}.")
    for name, factors in rate_factors.items():
        space = _with_dial(space, "rate", name, () if name == ALL else (name,), factors)
    for name, factors in scales.items():
        space = _with_dial(space, "scale", name, tuple(scaled) if name == ALL else (name,), factors)
    # Behind all others, in an order that stays: indices of configurations that are stored must keep their meaning.
    space = _with_dial(space, "batch", ALL, (), batch_factors) if batch_factors else space
    return _with_dial(space, "dropout", ALL, (), dropout_factors) if dropout_factors else space


def with_enough_steps(space: SearchSpace, least: int, steps_at: Callable[[float], int]) -> SearchSpace:
    """`space` whose choice of the examples a step rests at the largest batches, up to those of the recipe, that leave
    at least so many steps; at the smallest where none does. So what begins a search has time to learn.

    Args:
        steps_at: the steps of a training by the factor on the examples a step.

    Returns:
        The space as it is where it has no such choice.
    """

    def rested(dial: Dial) -> Dial:
        if dial.target != "batch":
            return dial
        held = space.choices[dial.choice].values
        values = [value for value in held if value <= 1] or [min(held)]
        enough = [value for value in values if steps_at(value) >= least]
        return replace(dial, rest=max(enough) if enough else min(values))

    return replace(space, dials=tuple(rested(dial) for dial in space.dials))


def with_exponents(space: SearchSpace, exponents: Sequence[float], anchor: int, level: float) -> SearchSpace:
    """`space` with one further choice: the power of the size by which the scale of its modules falls.

    Args:
        exponents: to choose from: 1 for ``alpha / r`` with alpha fixed, 1/2 for rsLoRA, above 0.
        anchor, level: modules of `anchor` units have the scale `level` with all of them.

    Returns:
        The space as it is where no method of it has a scale.
    """
    scaled = tuple(sorted({slot.method for slot in space.slots if methods.lookup(slot.method).has_scale}))
    if not scaled:
        return space
    choice = Choice("scale.exponent", tuple(sorted(exponents)))
    dial = Dial("exponent", scaled, len(space.choices), anchor, level)
    return replace(space, choices=(*space.choices, choice), dials=(*space.dials, dial))


def _with_dial(
    space: SearchSpace,
    target: Literal["rate", "scale", "batch", "dropout"],
    name: str,
    turned: tuple[str, ...],
    factors: Sequence[float],
) -> SearchSpace:
    choice = Choice(f"{target}.{name}", tuple(sorted({float(factor) for factor in factors})))
    # Behind the space's own choices, so that indices of its configurations mean what they meant without dials.
    dial = Dial(target, turned, len(space.choices))
    return replace(space, choices=(*space.choices, choice), dials=(*space.dials, dial))


def _misfits(setting: str, given: Factors, known: Sequence[str], otherwise: str) -> list[str]:
    wrong = []
    for name, factors in given.items():
        if name not in known and not (name == ALL and known):
            wrong.append(f"`space.{setting}` has {name!r}, which {otherwise} {', '.join(known) or 'none'}")
        if isinstance(factors, str) or not isinstance(factors, Sequence) or not factors:
            wrong.append(f"`space.{setting}.{name}` must be a list of factors, but got {factors!r}")
        elif odd := [factor for factor in factors if not is_factor(factor)]:
            wrong.append(f"`space.{setting}.{name}` holds {odd[0]!r}, but factors are finite and above 0")
    return wrong
