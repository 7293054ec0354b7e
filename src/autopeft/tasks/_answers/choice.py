"""The answer is one of the candidates that an example brings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from autopeft.tasks._answers._answers import Answers, Labels
from autopeft.tasks._answers._columns import Asked, Column, Own, no_classes, single_value_mistakes, unreadable
from autopeft.tasks._answers._reading import argmax, label_key
from autopeft.tasks._answers.classes import (
    NO_CLASS,
    by_frequency,
    likeliest,
    named,
    parsed,
    read_ids,
    verbalised,
)
from autopeft.tasks._examples import Examples
from autopeft.tasks._metrics import measure, measure_texts

if TYPE_CHECKING:
    from autopeft.tasks._tables import Table
    from autopeft.tasks._task import Task


def question_and_choices(task: Task, table: Table) -> Examples:
    """One example a row: the text column beside each of the columns of choices, which are called `Task.label_names`."""
    context, names = task.inputs[0], task.label_names
    labels = np.array([_choice(row.get(task.label), names) for row in table.rows], dtype=np.int64)
    choices = [[(row[context], row[name]) for name in names] for row in table.rows]
    return Examples(labels, choices=choices)


@dataclass(frozen=True)
class Choice:
    """Positions among the candidates, int64; a head gives every candidate one score."""

    name: str = "multiple_choice"
    metrics: tuple[str, ...] = ("accuracy",)
    is_stratified: bool = False
    has_classes: bool = False
    has_candidates: bool = True
    is_listed: bool = True
    is_scaled: bool = False
    is_text_only: bool = False
    most_tokens: int = 20
    format: Callable[[Task, Table], Examples] = question_and_choices
    tiny: tuple[Any, ...] = ("a", "b", "c", 0)

    def recognises(self, values: Sequence[Any], choices: Sequence[str]) -> str:
        """Columns of choices are named."""
        return f"since there are the choices {', '.join(choices)}" if choices else ""

    def own(self, parts: Mapping[str, Column], asked: Asked) -> Own:
        """The choices are the columns that were named."""
        names = asked.choices
        mistakes = [item for column in parts.values() for item in single_value_mistakes(column)]
        wanted = f"0 to {len(names) - 1} or one of {', '.join(names)}"
        for column in parts.values():
            wrong = [row for row, value in enumerate(column.values) if _choice(value, names) is None]
            mistakes += [f"{column.source}: {one}" for one in unreadable(column.label, column.values, wrong, wanted)]
        return Own(mistakes, names, [f"multiple choice among {', '.join(names)}"])

    def allowed(self, n_classes: int) -> tuple[str, ...]:
        """Accuracy alone: a position means something else in every example."""
        return self.metrics

    def describe(self, n_classes: int) -> str:
        """The kind."""
        return "multiple choice"

    def n_outputs(self, n_classes: int) -> int:
        """The score of one candidate."""
        return 1

    def read(self, task: Task, values: Sequence[Any]) -> Labels:
        """A position from 0, or the name of a choice."""
        return read_ids(task.label_names, values)

    def a_label(self, task: Task) -> Any:
        """The first choice."""
        return task.label_names[0]

    def facts(self, examples: Examples, label_names: Sequence[str]) -> dict[str, Any]:
        """Nothing."""
        return {}

    def decide(self, task: Task, outputs: Any, examples: Examples) -> NDArray[Any]:
        """The position of the largest score among an example's own candidates; padding is ignored."""
        rows = [np.asarray(row, np.float64)[: len(own)] for row, own in zip(outputs, examples.choices, strict=True)]
        return np.array([argmax(row) for row in rows])

    def balanced(self, labels: NDArray[Any], n_classes: int) -> NDArray[np.float64]:
        """Raises:
        SettingsError: always; a position means something else in every example.
        """
        return no_classes(self.name)

    def constants(self, examples: Examples) -> list[Any]:
        """The positions that occur, the most frequent first."""
        return by_frequency(examples.labels)

    def always(self, constant: Any, examples: Examples) -> NDArray[Any]:
        """That position, or the last where an example has fewer candidates."""
        last = np.array([len(own) - 1 for own in examples.choices])
        taken: NDArray[Any] = np.minimum(last, constant)
        return taken

    def measure(self, metrics: Sequence[str], predictions: Any, examples: Examples) -> dict[str, float]:
        """Metrics of positions."""
        return measure(metrics, predictions, examples)

    def target(self, task: Task, examples: Examples, index: int) -> str:
        """What the choice is called: an entity (ReCoRD), a verbaliser, or its number."""
        label = int(examples.labels[index])
        return examples.names[index][label] if examples.names else verbalised(task, label)

    def parse(self, task: Task, said: str) -> int | None:
        """The position that is verbalised so."""
        return parsed(task, said)

    def score_texts(self, task: Task, said: Sequence[str], examples: Examples) -> dict[str, float]:
        """Entities are compared as strings; of positions, what cannot be parsed is none of them."""
        if examples.names:
            return measure_texts(task.metrics, said, examples)
        found = [self.parse(task, text) for text in said]
        return measure(task.metrics, np.array([NO_CLASS if value is None else value for value in found]), examples)

    def shown(self, task: Task, examples: Examples, row: int, output: Any) -> dict[str, Any]:
        """The likeliest candidate: the choice's name, or where names differ from row to row what it says."""
        names: Sequence[str] = task.label_names
        if examples.choices and len(names) != len(output):
            names = examples.names[row] if examples.names else [parts[-1] for parts in examples.choices[row]]
        return likeliest(names, output)

    def shown_text(self, task: Task, examples: Examples, said: str) -> Any:
        """The entity as it was said (ReCoRD), or the name of the choice, None where it is none."""
        return said if examples.names else named(task, self.parse(task, said))

    def shape(self, logits: Tensor) -> Tensor:
        """As they are."""
        return logits

    def compared(self, logits: Tensor) -> Tensor:
        """As they are: a distribution over an example's candidates."""
        return logits

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Cross-entropy over an example's candidates, absent ones at minus infinity."""
        # In bf16 the sum over candidates would be rounded to three digits.
        return functional.cross_entropy(logits.float(), labels, weights)


def _choice(value: Any, names: Sequence[str]) -> int | None:
    key = label_key(value)
    if key in names:
        return names.index(key)
    return int(Decimal(key)) if key.isdecimal() and Decimal(key) < len(names) else None


MEMBERS: Mapping[str, Answers] = {"multiple_choice": Choice()}
