"""What the fields of settings must satisfy: one rule a field, and all that are broken told together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autopeft.errors import SettingsError

Rule = tuple[str, Callable[[Any], bool]]
"""What a value must be, in words, and whether it is; a value that cannot be compared is not."""


def one_of(*values: Any) -> Rule:
    """The value is one of these."""
    return f"one of {', '.join(map(str, values))}", lambda value: value in values


def or_none(rule: Rule) -> Rule:
    """The value is None or satisfies `rule`."""
    return f"None or {rule[0]}", lambda value: value is None or rule[1](value)


def whole_number(least: int) -> Rule:
    """The value is a whole number from `least` on; True and False are none."""
    what = f"a whole number of at least {least}"
    return what, lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


POSITIVE: Rule = ("above 0", lambda value: 0 < value < math.inf)
NOT_NEGATIVE: Rule = ("at least 0", lambda value: 0 <= value < math.inf)
FINITE: Rule = ("a finite number", lambda value: -math.inf < value < math.inf)
SHARE: Rule = ("at least 0 and at most 1", lambda value: 0 <= value <= 1)
BELOW_ONE: Rule = ("at least 0 and below 1", lambda value: 0 <= value < 1)
COUNT: Rule = whole_number(1)


def violations(settings: Any, rules: Mapping[str, Rule]) -> list[str]:
    """Every field of `settings` that breaks its rule, with its value."""
    values = {name: getattr(settings, name) for name in rules}
    return [
        f"{name} must be {rule}, but got {values[name]!r}"
        for name, (rule, is_right) in rules.items()
        if not _holds(is_right, values[name])
    ]


def raise_if_any(what: str, problems: Sequence[str]) -> None:
    """Raise one error that lists every problem; none, nothing happens.

    Raises:
        SettingsError: there is at least one problem.
    """
    if problems:
        raise SettingsError(f"{what}: {'; '.join(problems)}.")


def _holds(is_right: Callable[[Any], bool], value: Any) -> bool:
    try:
        return is_right(value)
    except TypeError:
        return False
