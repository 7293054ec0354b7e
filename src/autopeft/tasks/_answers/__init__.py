"""Kinds of answers, one a file; what one must be able to do is in `_answers`. The name of a kind is `Task.kind`."""

from __future__ import annotations

from typing import cast

from autopeft.kinds import lookup as _lookup
from autopeft.kinds import members
from autopeft.tasks._answers._answers import Answers, Labels
from autopeft.tasks._answers._reading import label_key

__all__ = ["PACKAGE", "Answers", "Labels", "label_key", "lookup", "names"]

PACKAGE = "autopeft.tasks._answers"
"""Where the kinds of answers are."""


def lookup(kind: str) -> Answers:
    """The kind of answers called `kind`, or the one at a dotted path ``module:ANSWERS``.

    Raises:
        UnknownNameError: there is no such kind.
    """
    return cast(Answers, _lookup("kind of answer", kind, PACKAGE))


def names() -> tuple[str, ...]:
    """Every kind of answers by name."""
    return tuple(members(PACKAGE))
