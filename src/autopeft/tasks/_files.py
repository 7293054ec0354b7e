"""A task of a user's own files: CSV, TSV, JSON, JSON lines or Parquet, the text ones compressed or not.

Every mistake that can be found before training is found here, and those found together are listed together.
"""

from __future__ import annotations

import logging
import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from autopeft.errors import DataError, SettingsError
from autopeft.tasks import _answers
from autopeft.tasks._answers import label_key
from autopeft.tasks._bytes import check_encoding
from autopeft.tasks._examples import Examples
from autopeft.tasks._metrics import METRICS
from autopeft.tasks._protocols import Source, Splits, cut
from autopeft.tasks._slips import slips
from autopeft.tasks._tables import Table, files_of, listed, read, together
from autopeft.tasks._task import Task, missing_columns, one_per_row, read_labels, text_mistakes

logger = logging.getLogger(__name__)

MEMBERS: Mapping[str, Task] = {}
"""None by name: a task of files is made by `from_files`."""

MANY_VALUES = 10
"""Fractional labels with at least that many distinct values are taken for a regression."""

_SLIPS = 0.1
"""Share of labels that are no numbers up to which they are slips among numbers."""

MOST_CLASSES = 200
"""More distinct labels than that are taken for a mistake (an identifier, free text), not for classes."""

_NARROWEST = 1e6 * sys.float_info.min
"""A range of numbers must be wider, to be divided into steps."""

Part = str | Path | Sequence[str | Path]
"""The files of one part: a path, a folder, a pattern, or several of them."""

AUTO = "auto"
"""The kind of answer that is decided from the labels; the others are those of `autopeft.tasks._answers`."""


@dataclass(frozen=True)
class Loader:
    """Cuts the examples of a user's files into splits. Everything has been read and checked already.

    Args:
        task: the task that was made of the files.
        source: its parts by role.
        decided: sentences for the user: what was concluded from the data.
    """

    task: Task
    source: Source
    decided: tuple[str, ...] = ()

    def __call__(self, protocol: str = "holdout", seed: int = 0, train_limit: int | None = None) -> Splits:
        """The splits; see `autopeft.tasks._protocols.cut`. Only "holdout" is allowed for files."""
        splits = cut(self.task, self.source, protocol, seed, train_limit)
        return replace(splits, facts={**splits.facts, "decided": list(self.decided)})


@dataclass(frozen=True)
class _Wish:
    """What the user asked for."""

    text: tuple[str, ...]
    label: str
    choices: tuple[str, ...]
    kind: str


def from_files(
    train: Part,
    validation: Part | None = None,
    test: Part | None = None,
    *,
    text: Sequence[str],
    label: str = "label",
    kind: str = AUTO,
    choices: Sequence[str] = (),
    delimiter: str | None = None,
    encoding: str | None = None,
    metrics: Sequence[str] = (),
    name: str | None = None,
) -> tuple[Task, Loader]:
    """A task of one's own files, and the loader of its splits.

    The kind "auto" decides: columns of choices are given: multiple choice; labels with a fractional part and at
    least ten distinct values: regression; otherwise classification, unless the labels look like slips
    (`autopeft.tasks._slips`), which are refused until a kind is said. Classes are sorted as numbers when all are
    whole numbers, else as text. What was decided, and why, is logged and kept in `Loader.decided`.

    A validation or test part that is not given is cut from train (protocol "holdout").

    Args:
        train: what is trained on: a file, several, a folder of files, or a pattern with ``*``; the rows of several
            follow each other in the order of their names (of a list, in its own), and rows are counted through.
        validation: what the search looks at.
        test: what the final result is reported on.
        text: one or two columns of text; for multiple choice the one column of context.
        label: the column of labels; for multiple choice the number of the right choice from 0, or the name of
            its column.
        kind: what to make of the labels.
        choices: for multiple choice, the columns of the choices, two at least.
        delimiter: of CSV files, where it should not be guessed: one character, or "tab".
        encoding: of text files, such as "cp1252"; UTF-8, or what a byte-order mark says, unless given.
        metrics: names of `autopeft.tasks._metrics.METRICS`, objective first; by default accuracy and macro-F1,
            Spearman and Pearson, or accuracy.
        name: of the task; ``files/<name of the train file>`` by default.

    Raises:
        SettingsError: `delimiter` is no delimiter, or `encoding` no encoding.
        DataError: files, columns or values that cannot be used; all that were found, with where they are.
    """
    delimiter = _delimiter(delimiter)
    wish = _Wish((text,) if isinstance(text, str) else tuple(text), label, tuple(choices), kind)
    _fail_on(_wish_mistakes(wish, metrics))
    given = {"train": train, "validation": validation, "test": test}
    check_encoding(encoding)
    tables = _read_all({role: part for role, part in given.items() if part is not None}, wish, delimiter, encoding)
    kind_found, label_names, decided, mistakes = _decide(tables, wish)
    mistakes += [item for table in tables.values() for item in _text_mistakes(table, wish)]
    _fail_on([*mistakes, *_metric_mistakes(metrics, kind_found, label_names)])
    answers = _answers.lookup(kind_found)
    task = Task(
        name=name or f"files/{_first(train).name.partition('.')[0]}",
        kind=kind_found,
        inputs=wish.text,
        label=label,
        label_names=label_names,
        metrics=tuple(metrics) or answers.metrics,
        hub=None,
        parts=tuple((role, role) for role in tables),
        format=_multiple_choice(wish) if answers.has_candidates else one_per_row,
        about=f"The file {train}.",
    )
    if kind_found == "regression":
        step, unparsable = _number_scale(tables["train"], label)
        task = replace(task, step=step, unparsable=unparsable)
    for sentence in decided:
        logger.info(sentence)
    return task, Loader(task, _source(task, tables), tuple(decided))


def _source(task: Task, tables: Mapping[str, Table]) -> Source:
    parts = {role: task.examples(table) for role, table in tables.items()}
    return Source({role: table.source for role, table in tables.items()}, lambda role: parts[role])


def _fail_on(mistakes: Sequence[str]) -> None:
    if mistakes:
        raise DataError(f"The data cannot be used: {listed(mistakes, most=12)}.")


def _wish_mistakes(wish: _Wish, metrics: Sequence[str]) -> list[str]:
    mistakes = []
    known = (AUTO, *_answers.names())
    if wish.kind not in known:
        mistakes.append(f"the kind is one of {', '.join(known)}, but got {wish.kind!r}")
    if not 1 <= len(wish.text) <= 2 or (wish.choices and len(wish.text) != 1):
        mistakes.append(f"one or two text columns are wanted (one beside choices), but got {list(wish.text)}")
    is_known = wish.kind in _answers.names()
    is_choice = _answers.lookup(wish.kind).has_candidates if is_known else bool(wish.choices)
    if is_choice != bool(wish.choices) or len(wish.choices) == 1:
        mistakes.append(f"two or more columns of choices go with multiple choice, but got {list(wish.choices)}")
    named = [*wish.text, *wish.choices, wish.label]
    if len(set(named)) < len(named):
        mistakes.append(f"a column may be used once, but got {named}")
    unknown = sorted(set(metrics) - set(METRICS))
    if unknown:
        mistakes.append(f"there are no metrics {unknown}; known are {', '.join(METRICS)}")
    return mistakes


def _metric_mistakes(metrics: Sequence[str], kind: str, classes: Sequence[str]) -> list[str]:
    answers = _answers.lookup(kind)
    allowed, what = answers.allowed(len(classes)), answers.describe(len(classes))
    unfit = [name for name in metrics if name in METRICS and name not in allowed]
    return [f"the metrics {unfit} do not fit a {what}: {', '.join(allowed)} do"] if unfit else []


def _number_scale(train: Table, label: str) -> tuple[float, float]:
    """For text-to-text models: a round step of about a 25th of the labels' range, and a number well outside of it."""
    numbers = [float(row[label]) for row in train.rows]
    low, span = min(numbers), max(numbers) - min(numbers)
    power = 10.0 ** math.floor(math.log10(span / 25))
    step = next(part * power for part in (5, 2, 1) if part * power <= span / 25)
    return step, low - span


def _delimiter(said: str | None) -> str | None:
    if said in ("tab", "\\t"):  # what a shell and YAML without quotes make of it
        return "\t"
    if said is None or (len(said) == 1 and said not in '"\r\n'):
        return said
    raise SettingsError(f"A delimiter is one character, no quotation mark and no line end, or 'tab', but got {said!r}.")


def _first(part: Part) -> Path:
    return Path(part) if isinstance(part, str | Path) else Path(part[0])


def _read_all(parts: Mapping[str, Part], wish: _Wish, delimiter: str | None, encoding: str | None) -> dict[str, Table]:
    """One table a part. What several files have wrong is told together, columns file by file."""
    tables: dict[str, Table] = {}
    mistakes: list[str] = []
    for role, part in parts.items():
        found = []
        try:
            wanted = [part] if isinstance(part, str | Path) else part
            for path in (path for one in wanted for path in files_of(one)):
                table = read(path, delimiter, encoding)
                mistakes += _column_mistakes(table, wish)
                found.append(table)
        except DataError as error:
            mistakes.append(str(error).removesuffix("."))
        if found:
            tables[role] = together(found)
        elif not mistakes:
            mistakes.append(f"no file is named for the {role} part")
    _fail_on(mistakes)
    return tables


def _column_mistakes(table: Table, wish: _Wish) -> list[str]:
    missing = missing_columns(table, (*wish.text, *wish.choices, wish.label))
    if not missing:
        return []
    return [f"{table.source}: {listed(missing)}; its columns are {', '.join(table.columns) or 'none'}"]


def _text_mistakes(table: Table, wish: _Wish) -> list[str]:
    return [f"{table.source}: {mistake}" for mistake in text_mistakes(table, (*wish.text, *wish.choices))]


def _decide(tables: Mapping[str, Table], wish: _Wish) -> tuple[str, tuple[str, ...], list[str], list[str]]:
    """The kind, the classes, what was decided, and the mistakes among the labels."""
    values = [row.get(wish.label) for row in tables["train"].rows]
    mistakes = [item for table in tables.values() for item in _label_mistakes(table, wish.label)]
    if wish.choices:
        mistakes += [item for table in tables.values() for item in _choice_mistakes(table, wish)]
        return "multiple_choice", wish.choices, [f"multiple choice among {', '.join(wish.choices)}"], mistakes
    kind = _kind(values) if wish.kind == AUTO else wish.kind
    if kind == "regression":
        probe = Task("probe", "regression", wish.text, wish.label)
        mistakes = [f"{t.source}: {item}" for t in tables.values() for item in read_labels(probe, t)[1]]
        mistakes = mistakes or _range_mistake(tables["train"], wish.label)
        return "regression", (), [_said_of_numbers(values, wish)], mistakes
    classes = _classes(values)
    is_guessed = wish.kind == AUTO
    mistakes += (_slips(tables["train"], wish) or _odd_labels(tables["train"], wish)) if is_guessed else []
    decided = [_said_of_classes(values, classes, wish)]
    return "classification", classes, decided, [*mistakes, *_class_mistakes(tables, wish.label, classes, is_guessed)]


def _said_of_classes(values: Sequence[Any], classes: Sequence[str], wish: _Wish) -> str:
    counts = Counter(label_key(value) for value in values if not _is_missing(value))
    rarest = ", ".join(f"{name} ({count:,})" for name, count in sorted(counts.items(), key=lambda c: c[::-1])[:3])
    why = "as was said" if wish.kind != AUTO else f"since there are no {MANY_VALUES} different numbers with a fraction"
    return f"classification of {wish.label!r}, {why}: {len(classes)} classes, the rarest {rarest}"


def _said_of_numbers(values: Sequence[Any], wish: _Wish) -> str:
    numbers = [number for number in map(_as_float, values) if number is not None] or [math.nan]
    why = "as was said" if wish.kind != AUTO else f"since {len(set(numbers)):,} different numbers have a fraction"
    return f"regression of {wish.label!r}, {why}: from {min(numbers):g} to {max(numbers):g}"


def _odd_labels(train: Table, wish: _Wish) -> list[str]:
    """What looks like a slip, and how to say that it is none."""
    values = [value for row in train.rows if not _is_missing(value := row.get(wish.label))]
    if len({_type(value) for value in values}) > 1 or any(isinstance(value, list | dict) for value in values):
        return []  # told already
    found = slips(values, [label_key(value) for value in values])
    if not found:
        return []
    return [
        f"{train.source}: {wish.label!r} would be classes, but {'; '.join(found)}: mend the labels, or say that "
        "they are meant by --kind classification, or --kind regression (`files.kind`)"
    ]


def _kind(values: Sequence[Any]) -> str:
    numbers = [_as_float(value) for value in values if not _is_missing(value)]
    known = [number for number in numbers if number is not None]
    fractional = any(not number.is_integer() for number in known)
    if known and len(known) == len(numbers) and fractional and len(set(known)) >= MANY_VALUES:
        return "regression"
    return "classification"


def _slips(train: Table, wish: _Wish) -> list[str]:
    """Few texts among many numbers with a fraction are slips of the pen, and no classes."""
    values = [row.get(wish.label) for row in train.rows]
    numbers = [_as_float(value) for value in values]
    texts = [i for i, value in enumerate(values) if numbers[i] is None and not _is_missing(value)]
    if not texts or len(texts) > _SLIPS * len(values) or _kind([n for n in numbers if n is not None]) != "regression":
        return []
    shown = ", ".join(f"{values[i]!r} (row {i + 1})" for i in texts[:5])
    return [
        f"{train.source}: {wish.label!r} holds numbers, but {shown} in {len(texts)} of {len(values)} rows: mend them, "
        "or say which kind it is"
    ]


def _classes(values: Sequence[Any]) -> tuple[str, ...]:
    found = {label_key(value) for value in values if not _is_missing(value)}
    if all(name.removeprefix("-").isdecimal() for name in found):
        return tuple(sorted(found, key=lambda name: (Decimal(name), name)))  # "1" and "01" are two
    return tuple(sorted(found))


def _label_mistakes(table: Table, label: str) -> list[str]:
    values = [row.get(label) for row in table.rows]
    missing = [str(number) for number, value in enumerate(values, start=1) if _is_missing(value)]
    mistakes = []
    if missing:
        mistakes.append(f"{table.source}: {len(missing)} labels are missing: rows {', '.join(missing[:5])}")
    nested = [str(number) for number, value in enumerate(values, start=1) if isinstance(value, list | dict)]
    if nested:
        rows = ", ".join(nested[:5])
        mistakes.append(f"{table.source}: {len(nested)} labels are lists or objects, not single values: rows {rows}")
    long = [str(number) for number, value in enumerate(values, start=1) if _is_beyond(value)]
    if long:
        mistakes.append(f"{table.source}: {len(long)} labels are too large for a number: rows {', '.join(long[:5])}")
    types = Counter(_type(value) for value in values if not _is_missing(value))
    if len(types) > 1:
        shown = ", ".join(f"{count} {name}" for name, count in types.most_common())
        mistakes.append(f"{table.source}: {label!r} mixes types: {shown}; give all labels one type")
    return mistakes


def _class_mistakes(tables: Mapping[str, Table], label: str, classes: Sequence[str], is_guessed: bool) -> list[str]:
    train = tables["train"]
    mistakes = []
    if len(classes) < 2:
        mistakes.append(f"{train.source}: two classes at least are wanted in {label!r}, but there is {list(classes)}")
    if is_guessed and len(classes) > MOST_CLASSES:
        mistakes.append(
            f"{train.source}: {label!r} has {len(classes):,} distinct values in {len(train):,} rows, more than "
            f"{MOST_CLASSES} classes: is it the right column, or a regression? Else say --kind classification"
        )
    for role in ("validation", "test"):
        if role in tables:
            mistakes += _unseen(tables[role], label, classes)
    return mistakes


def _unseen(table: Table, label: str, classes: Sequence[str]) -> list[str]:
    keys = [label_key(row.get(label)) for row in table.rows if not _is_missing(row.get(label))]
    unseen = Counter(key for key in keys if key not in set(classes))
    if not unseen:
        return []
    shown = ", ".join(f"{name!r} ({count} rows)" for name, count in unseen.most_common(5))
    return [f"{table.source}: labels that do not occur in train: {shown}; train has {', '.join(classes[:20])}"]


def _range_mistake(table: Table, label: str) -> list[str]:
    numbers = [float(row[label]) for row in table.rows]
    low, high = min(numbers), max(numbers)
    if low == high:
        return [f"{table.source}: every {label!r} is {low}"]
    if _NARROWEST < high - low < math.inf:
        return []
    return [f"{table.source}: the range of {label!r}, from {low:g} to {high:g}, is too wide or too narrow"]


def _choice_mistakes(table: Table, wish: _Wish) -> list[str]:
    wrong = [(n, row.get(wish.label)) for n, row in enumerate(table.rows, 1) if _choice(row, wish) is None]
    if not wrong:
        return []
    shown = ", ".join(f"row {number}: {value!r}" for number, value in wrong[:5])
    wanted = f"0 to {len(wish.choices) - 1} or one of {', '.join(wish.choices)}"
    return [f"{table.source}: {len(wrong)} values of {wish.label!r} are not {wanted}: {shown}"]


def _choice(row: Mapping[str, Any], wish: _Wish) -> int | None:
    key = label_key(row.get(wish.label))
    if key in wish.choices:
        return wish.choices.index(key)
    return int(Decimal(key)) if key.isdecimal() and Decimal(key) < len(wish.choices) else None


def _multiple_choice(wish: _Wish) -> Callable[[Task, Table], Examples]:
    def question_and_choices(task: Task, table: Table) -> Examples:
        context = task.inputs[0]
        labels = np.array([_choice(row, wish) for row in table.rows], dtype=np.int64)
        choices = [[(row[context], row[name]) for name in wish.choices] for row in table.rows]
        return Examples(labels, choices=choices)

    return question_and_choices


def _is_missing(value: Any) -> bool:
    if value is None or (isinstance(value, float) and value != value):
        return True
    return isinstance(value, str) and value.strip().lower() in ("", "nan")  # "none" may well be a class


def _type(value: Any) -> str:
    if isinstance(value, bool):
        return "booleans"
    if isinstance(value, int | float):
        return "numbers"
    return "texts" if isinstance(value, str) else f"values of type {type(value).__name__}"


def _as_float(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _is_beyond(value: Any) -> bool:
    """Whether `value` is a whole number, perhaps in digits, that no floating-point number can hold."""
    if isinstance(value, str):
        digits = value.strip().removeprefix("-")
        return digits.isdecimal() and math.isinf(float(digits))
    return isinstance(value, int) and _as_float(value) is None
