"""Kinds of answers, one a file; what one must be able to do is in `_answers`. The name of a kind is `Task.kind`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from autopeft.kinds import lookup as _lookup
from autopeft.kinds import members
from autopeft.tasks._answers._answers import Answers, Labels
from autopeft.tasks._answers._columns import MANY_VALUES, Asked, Column, Own
from autopeft.tasks._answers._reading import label_key

__all__ = ["PACKAGE", "Answers", "Asked", "Column", "Labels", "Own", "guessed", "label_key", "lookup", "names"]

_USUAL = "classification"
_SINCE_USUAL = f"since there are no {MANY_VALUES} different numbers with a fraction"

PACKAGE = "autopeft.tasks._answers"
"""Where the kinds of answers are."""


def lookup(kind: str) -> Answers:
    """The kind of answers called `kind`, or the one at a dotted path ``module:ANSWERS``.

    Raises:
        UnknownNameError: there is no such kind.
    """
    return cast(Answers, _lookup("kind of answer", kind, PACKAGE))


def guessed(values: Sequence[Any], choices: Sequence[str]) -> tuple[Answers, str]:
    """The kind that labels look like, and why.

    Args:
        values: the labels of the training part.
        choices: the columns of choices that were named.
    """
    known = [lookup(name) for name in names()]
    recognised = [(kind, why) for kind in known if (why := kind.recognises(values, choices))]
    # Classes are what is left: any column of values can be classes, and only other kinds leave marks.
    return recognised[0] if recognised else (lookup(_USUAL), _SINCE_USUAL)


def names() -> tuple[str, ...]:
    """Every kind of answers by name."""
    return tuple(members(PACKAGE))
