"""A task of a user's own files: CSV, TSV, JSON, JSON lines or Parquet, the text ones compressed or not.

Every mistake that can be found before training is found here, and those found together are listed together. What
labels are is asked of the kinds of answers (`autopeft.tasks._answers`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from autopeft.errors import DataError, SettingsError
from autopeft.tasks import _answers
from autopeft.tasks._answers import Answers, Asked, Column, Own
from autopeft.tasks._answers._reading import half_mistakes
from autopeft.tasks._bytes import check_encoding
from autopeft.tasks._conversations import BEFORE, as_texts, conversations, is_of_messages, rows_of_written_out
from autopeft.tasks._protocols import Source, Splits, cut
from autopeft.tasks._scoring import metric_mistakes, scored_by
from autopeft.tasks._tables import DELIMITERS, Table, files_of_part, listed, read, together
from autopeft.tasks._task import Task, missing_columns, one_per_row, text_mistakes

logger = logging.getLogger(__name__)

MEMBERS: Mapping[str, Task] = {}
"""None by name: a task of files is made by `from_files`."""

Part = str | Path | Sequence[str | Path]
"""The files of one part: a path, a folder, a pattern, or several of them."""

AUTO = "auto"
"""The kind of answer that is decided from the labels; the others are those of `autopeft.tasks._answers`."""

_COMPLETION = "completion"

Weights = Literal["balanced"] | Mapping[str, float] | None
"""Weights of the classes in the loss: 1 for each, each in inverse proportion to its share, or a number a class."""


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
    is_chat: bool = False

    @property
    def is_open(self) -> bool:
        """Whether nobody has said of which kind the answer is."""
        return self.kind == AUTO


def from_files(
    train: Part,
    validation: Part | None = None,
    test: Part | None = None,
    *,
    text: Sequence[str],
    label: str = "label",
    kind: str = AUTO,
    choices: Sequence[str] = (),
    label_separator: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    metrics: Sequence[str] = (),
    class_weights: Weights = None,
    threshold: float = 0.5,
    loss_on: Literal["completion", "all"] = "completion",
    name: str | None = None,
    is_begun: bool = False,
) -> tuple[Task, Loader]:
    """A task of one's own files, and the loader of its splits.

    The kind "auto" decides: columns of choices are given: multiple choice; labels that are lists: several labels a
    row; labels with a fractional part and at least ten distinct values: regression; otherwise classification, unless
    the labels look like slips (`autopeft.tasks._answers._slips`), which are refused until a kind is said. Conversations
    (see `autopeft.tasks._conversations`) and what stands in a column called "completion" are texts. Classes are
    sorted as numbers when all are whole numbers, else as text. What was decided, and why, is logged and kept in
    `Loader.decided`.

    A validation or test part that is not given is cut from train (protocol "holdout").

    Args:
        train: what is trained on: a file, several, a folder of files, or a pattern with ``*``; the rows of several
            follow each other in the order of their names (of a list, in its own), and rows are counted through.
        validation: what the search looks at.
        test: what the final result is reported on.
        text: one or two columns of text; for multiple choice the one column of context; or one column of conversations,
            whose last messages are the answers where there is no label column.
        label: the column of labels; for multiple choice the number of the right choice from 0, or the name of
            its column.
        kind: what to make of the labels.
        choices: for multiple choice, the columns of the choices, two at least.
        label_separator: where one cell holds several labels as text, what stands between them; an empty cell then
            says that there is none.
        delimiter: of CSV files, where it should not be guessed: one character, or "tab".
        encoding: of text files, such as "cp1252"; UTF-8, or what a byte-order mark says, unless given.
        metrics: names of `autopeft.tasks._metrics.METRICS` or of its `ALIASES`, objective first; the kind's own follow.
        class_weights: see `Weights`; classes that are not named have 1.
        threshold: for several labels a row, the probability above which a label is predicted.
        loss_on: see `autopeft.tasks._task.Task`.
        name: of the task; ``files/<name of the train file>`` by default.
        is_begun: whether a study has begun on these files: what looks like a slip is then said and not refused, since
            earlier versions took it as it is.

    Raises:
        SettingsError: `delimiter` is no delimiter, or `encoding` no encoding.
        DataError: files, columns or values that cannot be used; all that were found, with where they are.
    """
    delimiter = _delimiter(delimiter)
    wish = _Wish((text,) if isinstance(text, str) else tuple(text), label, tuple(choices), kind)
    # First what can be known without opening a file: reading a large one takes a minute, a wrong option none.
    _fail_on([*_wish_mistakes(wish), *_number_mistakes(threshold, class_weights)])
    given = {"train": train, "validation": validation, "test": test}
    check_encoding(encoding)
    tables = _read_all({role: part for role, part in given.items() if part is not None}, wish, delimiter, encoding)
    tables = {role: _with_lists(table, label, label_separator) for role, table in tables.items()}
    wish = replace(wish, is_chat=all(BEFORE in table.columns for table in tables.values()))
    answers, own = _decided(tables, wish, is_begun)
    # Before anything else is told of the labels, since such a name can be neither written nor printed.
    halves = [item for table in tables.values() for item in _half_mistakes(table, label)]
    own = replace(own, mistakes=halves) if halves else own
    # Labels and texts are both looked at before anything is told: whoever mends a file wants to do so once.
    mistakes = [*own.mistakes, *(item for table in tables.values() for item in _text_mistakes(table, wish))]
    _fail_on([*mistakes, *_metric_mistakes(metrics, answers, own), *_weight_mistakes(class_weights, answers, own)])
    task = Task(
        name=name or f"files/{_first(train).name.partition('.')[0]}",
        kind=answers.name,
        inputs=wish.text,
        label=label,
        label_names=own.label_names,
        metrics=scored_by(metrics, answers.metrics),
        hub=None,
        parts=tuple((role, role) for role in tables),
        format=conversations if wish.is_chat else answers.format or one_per_row,
        about=f"The file {train}.",
        class_weights=_weights(class_weights, own.label_names),
        threshold=threshold,
        loss_on=loss_on,
    )
    task = replace(task, **own.changes)
    for sentence in own.told:
        logger.info(sentence)
    return task, Loader(task, _source(task, tables), tuple(own.told))


def _source(task: Task, tables: Mapping[str, Table]) -> Source:
    # Made at once, unlike those of a benchmark: every mistake in the test part, too, is to be found before training.
    parts = {role: task.examples(table) for role, table in tables.items()}
    return Source({role: table.source for role, table in tables.items()}, lambda role: parts[role])


def _fail_on(mistakes: Sequence[str]) -> None:
    if mistakes:
        raise DataError(f"The data cannot be used: {listed(mistakes, most=12)}.")


# -- what was asked for ----------------------------------------------------------------------------------------


def _wish_mistakes(wish: _Wish) -> list[str]:
    mistakes = []
    known = (AUTO, *_answers.names())
    if wish.kind not in known:
        mistakes.append(f"the kind is one of {', '.join(known)}, but got {wish.kind!r}")
    if not 1 <= len(wish.text) <= 2 or (wish.choices and len(wish.text) != 1):
        mistakes.append(f"one or two text columns are wanted (one beside choices), but got {list(wish.text)}")
    # An unknown kind has been complained of already and must not be looked up.
    is_known = wish.kind in _answers.names()
    is_choice = _answers.lookup(wish.kind).has_candidates if is_known else bool(wish.choices)
    if is_choice != bool(wish.choices) or len(wish.choices) == 1:
        mistakes.append(f"two or more columns of choices go with multiple choice, but got {list(wish.choices)}")
    named = [*wish.text, *wish.choices, wish.label]
    if len(set(named)) < len(named):
        mistakes.append(f"a column may be used once, but got {named}")
    return mistakes


def _number_mistakes(threshold: float, weights: Weights) -> Iterator[str]:
    if not 0 < threshold < 1:
        yield f"the threshold is a probability between 0 and 1, but got {threshold!r}"
    if weights is None or weights == "balanced":
        return
    if not isinstance(weights, Mapping):
        yield f"class weights are 'balanced' or a number a label, but got {weights!r:.80}"
        return
    wrong = {name: value for name, value in weights.items() if not _is_weight(value)}
    if wrong:
        yield f"class weights are finite numbers above 0, but got {wrong}"


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _metric_mistakes(metrics: Sequence[str], answers: Answers, own: Own) -> list[str]:
    n_classes = len(own.label_names)
    return metric_mistakes(metrics, answers.allowed(n_classes), answers.describe(n_classes))


def _weight_mistakes(weights: Weights, answers: Answers, own: Own) -> list[str]:
    if weights is None or own.mistakes:
        return []
    if not answers.has_classes:
        return [f"class weights do not fit a {answers.describe(len(own.label_names))}, which has no classes"]
    unknown = sorted(set(_by_key(weights)) - set(own.label_names))
    return (
        [f"class weights are given for {unknown}, but the classes are {', '.join(own.label_names)}"] if unknown else []
    )


def _weights(weights: Weights, names: Sequence[str]) -> Literal["balanced"] | tuple[float, ...]:
    if weights is None or weights == "balanced":
        return weights or ()
    # YAML reads a class called 1 as a number, and the labels are text.
    given = _by_key(weights)
    return tuple(given.get(name, 1.0) for name in names)


def _by_key(weights: Weights) -> dict[str, float]:
    if not isinstance(weights, Mapping):
        return {}
    return {_answers.label_key(name): float(value) for name, value in weights.items()}


def _delimiter(said: str | None) -> str | None:
    if said in ("tab", "\\t"):  # what a shell and YAML without quotes make of it
        return "\t"
    if said is None or (len(said) == 1 and said not in '"\r\n'):
        return said
    raise SettingsError(f"A delimiter is one character, no quotation mark and no line end, or 'tab', but got {said!r}.")


# -- what the files hold ---------------------------------------------------------------------------------------


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
            for path in files_of_part(wanted):
                table = read(path, delimiter, encoding, columns=(*wish.text, *wish.choices, wish.label))
                # Before the columns are looked at: a conversation has its answer in itself.
                table = as_texts(table, wish.text[0], wish.label) if is_of_messages(table, wish.text) else table
                mistakes += _column_mistakes(table, wish)
                found.append(table)
        except DataError as error:
            mistakes.append(str(error).removesuffix("."))
        if found:
            # A part of several files is one table, whose rows are counted through so that a message can name one.
            tables[role] = together(found)
        elif not mistakes:
            mistakes.append(f"no file is named for the {role} part")
    _fail_on(mistakes)
    return tables


def _with_lists(table: Table, label: str, separator: str | None) -> Table:
    """The table with the labels of a cell as a list, where one cell holds several between separators."""
    if separator is None:
        return table
    return replace(table, rows=[{**row, label: _apart(row.get(label), separator)} for row in table.rows])


def _apart(value: Any, separator: str) -> Any:
    return [part.strip() for part in value.split(separator) if part.strip()] if isinstance(value, str) else value


def _column_mistakes(table: Table, wish: _Wish) -> list[str]:
    missing = missing_columns(table, (*wish.text, *wish.choices, wish.label))
    if not missing:
        return []
    if written := rows_of_written_out(table, wish.text):
        return [
            f"{table.source}: {len(written)} values of {wish.text[0]!r} are conversations written as text, not lists "
            f"of messages: rows {', '.join(written[:5])}; give them as lists, in JSON lines or Parquet"
        ]
    told = f"{table.source}: {listed(missing)}; its columns are {', '.join(table.columns) or 'none'}"
    held = [mark for mark in DELIMITERS if mark in table.columns[0]] if len(table.columns) == 1 else []
    # One column called "text,label" is a file that was cut at another mark than stands between its fields.
    return [told + (f", a single one with {held[0]!r} in it: is that its delimiter?" if held else "")]


def _text_mistakes(table: Table, wish: _Wish) -> list[str]:
    return [f"{table.source}: {mistake}" for mistake in text_mistakes(table, (*wish.text, *wish.choices))]


def _half_mistakes(table: Table, label: str) -> list[str]:
    return [f"{table.source}: {mistake}" for mistake in half_mistakes(label, [row.get(label) for row in table.rows])]


def _decided(tables: Mapping[str, Table], wish: _Wish, is_begun: bool) -> tuple[Answers, Own]:
    """The kind of answer, and what it makes of the labels."""
    parts = {
        role: Column(table.source, wish.label, [row.get(wish.label) for row in table.rows])
        for role, table in tables.items()
    }
    if wish.is_open and (wish.is_chat or wish.label == _COMPLETION):
        is_guessed, answers = False, _answers.lookup("text")
        why = "since conversations end with it" if wish.is_chat else "since its column is called so"
    elif is_guessed := wish.is_open:
        answers, why = _answers.guessed(parts["train"].values, wish.choices)
    else:
        answers, why = _answers.lookup(wish.kind), "as was said"
    return answers, answers.own(parts, Asked(wish.choices, why, is_guessed, is_begun))
