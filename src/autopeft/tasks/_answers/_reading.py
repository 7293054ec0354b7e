"""How raw cells become labels: shared by the kinds of answers and by what decides between them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HALF = re.compile("[\ud800-\udfff]")  # a surrogate alone, as JSON may escape it, is no text and cannot be encoded
_WHOLE = re.compile(r"-?\d+\.0+")  # pandas writes whole numbers so where one is missing


def label_key(value: Any) -> str:
    """The text by which a raw label is compared with the names of the classes: 1, 1.0, "1", "1.0" and True are one."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value).strip()
    return text.partition(".")[0] if _WHOLE.fullmatch(text) else text


def has_half(value: Any) -> bool:
    """Whether `value`, or anything in it, is a text with half a character, which no tokenizer and no file takes."""
    if isinstance(value, str):
        return _HALF.search(value) is not None
    if isinstance(value, Mapping):
        return any(has_half(part) for pair in value.items() for part in pair)
    return isinstance(value, list | tuple) and any(map(has_half, value))


def half_mistakes(label: str, values: Sequence[Any]) -> list[str]:
    """A phrase for the labels that hold half a character; rows from 1."""
    rows = [str(number) for number, value in enumerate(values, start=1) if has_half(value)]
    return [f"{len(rows)} values of {label!r} hold half a character: rows {', '.join(rows[:5])}"] if rows else []


def class_ids(names: Sequence[str], values: Sequence[Any]) -> list[int | None]:
    """The id of each of `values` among the classes `names`, by name or by number; None where there is none."""
    ids = {name: number for number, name in enumerate(names)}
    if not any(name.isdecimal() for name in names):  # where names are digits, a digit is a name and no id
        ids |= {str(number): number for number in range(len(names))}
    return [ids.get(label_key(value)) for value in values]


def finite_number(value: Any) -> float | None:
    """`value` as a number, or None where it is none, NaN or infinite. True and False are no numbers."""
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def missing_at(read: Sequence[Any]) -> list[int]:
    """Positions of None in `read`."""
    return [position for position, value in enumerate(read) if value is None]


def argmax(row: NDArray[np.float64]) -> float:
    """Position of the largest, of equals the first; NaN where there is a NaN."""
    # NumPy would give the place of the NaN, a class like any other.
    return math.nan if np.isnan(row).any() else int(row.argmax())
