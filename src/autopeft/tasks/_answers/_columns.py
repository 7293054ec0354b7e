"""A column of a user's own labels: what each kind of answer is told of it, and what can be wrong with any of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NoReturn

from autopeft.errors import SettingsError
from autopeft.tasks._answers._reading import label_key

MANY_VALUES = 10
"""Fractional labels with at least that many distinct values are taken for a regression."""

MOST_CLASSES = 200
"""More distinct labels than that are taken for a mistake (an identifier, free text), until a kind is said."""

_SHOWN = 5


@dataclass(frozen=True)
class Column:
    """The labels of one part.

    Args:
        source: the file, for messages.
        label: the column's name.
        values: one a row, as the file holds them.
    """

    source: str
    label: str
    values: Sequence[Any]

    def present(self) -> list[Any]:
        """The labels that are not missing."""
        return [value for value in self.values if not is_missing(value)]


@dataclass(frozen=True)
class Asked:
    """What the user said of the labels.

    Args:
        choices: for a multiple choice, the columns of the choices.
        why: why the labels are taken for what they are: "as was said", or what they look like.
        is_guessed: whether nobody said the kind, so that what looks like a slip is one.
        is_begun: whether trials have been measured on these labels before; what looked like a slip is one no more.
    """

    choices: tuple[str, ...] = ()
    why: str = "as was said"
    is_guessed: bool = False
    is_begun: bool = False


@dataclass(frozen=True)
class Own:
    """What a kind of answer makes of a user's labels.

    Args:
        mistakes: a phrase each, with file and rows; where there is one, the rest means nothing.
        label_names: the classes in the order of their ids.
        told: sentences for the user: what was concluded, and what looks odd and is taken as it is.
        changes: further fields of the `Task`.
    """

    mistakes: Sequence[str] = ()
    label_names: tuple[str, ...] = ()
    told: Sequence[str] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)


def is_missing(value: Any) -> bool:
    """Whether a cell holds no label: None, NaN, nothing, or the text "nan"; "none" may well be a class."""
    if value is None or (isinstance(value, float) and value != value):
        return True
    return isinstance(value, str) and value.strip().lower() in ("", "nan")


def as_float(value: Any) -> float | None:
    """`value` as a number, None where it is none; NaN and infinity are numbers here."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def numbers_with_fractions(values: Sequence[Any]) -> int:
    """How many different numbers there are, where all are numbers, one has a fraction and enough differ; else 0."""
    numbers = [as_float(value) for value in values if not is_missing(value)]
    known = [number for number in numbers if number is not None]
    # Whole numbers may be classes as well as quantities, however many there are: a fraction tells them apart.
    is_fractional = any(not number.is_integer() for number in known)
    n_different = len(set(known))
    is_range = len(known) == len(numbers) and is_fractional and n_different >= MANY_VALUES
    return n_different if is_range else 0


def class_names(values: Sequence[Any]) -> tuple[str, ...]:
    """The distinct labels, sorted as numbers when all are whole numbers, else as text."""
    found = {label_key(value) for value in values}
    if all(name.removeprefix("-").isdecimal() for name in found):
        return tuple(sorted(found, key=lambda name: (Decimal(name), name)))  # "1" and "01" are two
    return tuple(sorted(found))


def rarest(counts: Mapping[str, int]) -> str:
    """The three rarest labels with their counts, for a sentence."""
    return ", ".join(f"{name} ({count:,})" for name, count in sorted(counts.items(), key=lambda c: c[::-1])[:3])


def single_value_mistakes(column: Column) -> list[str]:
    """What keeps labels from being single values of one type."""
    values, source = column.values, column.source
    found = [
        (_rows(values, is_missing), "labels are missing"),
        (_rows(values, _is_nested), "labels are lists or objects, not single values"),
        (_rows(values, _is_beyond), "labels are too large for a number"),
    ]
    mistakes = [f"{source}: {len(rows)} {what}: rows {', '.join(rows[:_SHOWN])}" for rows, what in found if rows]
    types = Counter(_type(value) for value in column.present())
    if len(types) > 1:
        shown = ", ".join(f"{count} {name}" for name, count in types.most_common())
        mistakes.append(f"{source}: {column.label!r} mixes types: {shown}; give all labels one type")
    return mistakes


def class_mistakes(parts: Mapping[str, Column], names: Sequence[str], is_guessed: bool) -> list[str]:
    """Too few classes, too many to be meant, and classes that only validation or test has.

    Args:
        parts: by role; lists of labels have been taken apart.
    """
    train, mistakes = parts["train"], []
    if len(names) < 2:
        mistakes.append(f"{train.source}: two classes at least are wanted in {train.label!r}, but there is {[*names]}")
    if is_guessed and len(names) > MOST_CLASSES:
        mistakes.append(
            f"{train.source}: {train.label!r} has {len(names):,} distinct values in {len(train.values):,} rows, more "
            f"than {MOST_CLASSES} classes: is it the right column, or a regression? Else say --kind classification"
        )
    return mistakes + [item for role, part in parts.items() if role != "train" for item in _unseen(part, names)]


def unreadable(label: str, values: Sequence[Any], wrong: Sequence[int], wanted: str) -> list[str]:
    """A phrase for the labels at the positions `wrong`, which are not what is `wanted`; rows from 1."""
    if not wrong:
        return []
    shown = ", ".join(f"row {position + 1}: {values[position]!r}" for position in wrong[:_SHOWN])
    return [f"{len(wrong)} values of {label!r} are not {wanted}: {shown}"]


def no_classes(kind: str) -> NoReturn:
    """Raises:
    SettingsError: always: weights of classes were asked for where there are none.
    """
    raise SettingsError(f"Class weights need classes, but a {kind} has none.")


def _unseen(part: Column, names: Sequence[str]) -> list[str]:
    known = set(names)
    unseen = Counter(key for key in map(label_key, part.present()) if key not in known)
    if not unseen:
        return []
    shown = ", ".join(f"{name!r} ({count} rows)" for name, count in unseen.most_common(_SHOWN))
    return [f"{part.source}: labels that do not occur in train: {shown}; train has {', '.join(names[:20])}"]


def _rows(values: Sequence[Any], is_wrong: Callable[[Any], bool]) -> list[str]:
    return [str(number) for number, value in enumerate(values, start=1) if is_wrong(value)]


def _is_nested(value: Any) -> bool:
    return isinstance(value, list | dict)


def _type(value: Any) -> str:
    if isinstance(value, bool):
        return "booleans"
    if isinstance(value, int | float):
        return "numbers"
    return "texts" if isinstance(value, str) else f"values of type {type(value).__name__}"


def _is_beyond(value: Any) -> bool:
    """Whether `value` is a whole number, perhaps in digits, that no floating-point number can hold."""
    if isinstance(value, str):
        digits = value.strip().removeprefix("-")
        return digits.isdecimal() and math.isinf(float(digits))
    return isinstance(value, int) and as_float(value) is None
