"""Rules of settings: every broken field is told, and what cannot be compared is broken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from autopeft.rules import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, Rule, one_of, or_none, violations


@dataclass(frozen=True)
class Pair:
    first: Any
    second: Any


@pytest.mark.parametrize(
    ("rule", "right", "wrong"),
    [
        (POSITIVE, [1, 0.5], [0, -1, float("nan"), float("inf"), "a", None]),
        (NOT_NEGATIVE, [0, 2.0], [-1e-9, float("nan"), float("inf"), None]),
        (SHARE, [0, 1, 0.5], [-0.1, 1.1, float("nan")]),
        (COUNT, [1, 100], [0, 1.0, True, "1", None]),
        (one_of("a", "b"), ["a"], ["c", None]),
        (or_none(COUNT), [None, 1], [0]),
    ],
)
def test_a_rule_knows_right_from_wrong(rule: Rule, right: list[Any], wrong: list[Any]) -> None:
    assert not any(violations(Pair(value, 0), {"first": rule}) for value in right)
    assert all(violations(Pair(value, 0), {"first": rule}) for value in wrong)


def test_every_broken_field_is_told_with_its_value() -> None:
    assert violations(Pair(0, "x"), {"first": POSITIVE, "second": or_none(one_of("a", "b"))}) == [
        "first must be above 0, but got 0",
        "second must be None or one of a, b, but got 'x'",
    ]
