"""Which pairs of a product the default run takes: each value of both axes in several, and all of them under `slow`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

Pair = tuple[str, str]


def taken(cases: Sequence[Pair], every: int) -> set[Pair]:
    """Of the pairs of each value of the second axis its first, and from there diagonally one of `every`.

    A new member of either axis is met in the default run, as each pair is in the long one.
    """
    firsts, seconds = (list(dict.fromkeys(case[axis] for case in cases)) for axis in (0, 1))
    diagonal = {(a, b) for a, b in cases if (firsts.index(a) + seconds.index(b)) % every == 0}
    # A value that no diagonal meets is met by its first pair.
    missed = [case for axis in (0, 1) for case in cases if case[axis] not in {one[axis] for one in diagonal}]
    return diagonal | set(missed)


def covering(cases: Sequence[Pair], every: int = 3) -> list[Any]:
    """The pairs as parameters of a test, marked."""
    quick = taken(cases, every)
    return [pytest.param(*case, id="-".join(case), marks=() if case in quick else pytest.mark.slow) for case in cases]
