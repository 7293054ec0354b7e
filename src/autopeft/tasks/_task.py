"""What a task is: its texts, its labels, how it is scored, and how it is put into words for a text-to-text model."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autopeft.errors import DataError
from autopeft.tasks._answers import Answers, Labels, lookup
from autopeft.tasks._answers._columns import unreadable
from autopeft.tasks._answers._reading import half_mistakes, has_half
from autopeft.tasks._examples import Examples
from autopeft.tasks._tables import Table, listed

Format = Callable[["Task", Table], Examples]
Fetch = Callable[[str], Table]


@dataclass(frozen=True)
class Hub:
    """Where a task is on the Hugging Face Hub: the data set and its configuration."""

    path: str
    config: str | None = None


def one_per_row(task: Task, table: Table) -> Examples:
    """One example a row: the text columns as segments, the label column as class id or number.

    Raises:
        DataError: a column is missing, a text is not text or empty, or a label is none of the task's; with the
            first rows concerned.
    """
    columns_or_raise(table, (*task.inputs, task.label))
    mistakes = text_mistakes(table, task.inputs, is_part_enough=True)
    labels, wrong = read_labels(task, table)
    if mistakes or wrong:
        raise DataError(f"{table.source} cannot be used: {listed([*mistakes, *wrong])}.")
    texts = [tuple(row[name] for name in task.inputs) for row in table.rows]
    return Examples(labels.values, texts=texts, answers=labels.answers)


@dataclass(frozen=True)
class Task:
    """A task as data. What depends on the kind of answer is asked of `answers`.

    Args:
        name: benchmark and task, for example ``glue/mrpc``; also the folder of its files.
        kind: the kind of answer, a name of `autopeft.tasks._answers`: "classification", "regression", ...
        inputs: names of the one or two text columns; for text-to-text models also the names of the fields.
        label: name of the label column.
        label_names: the classes in the order of their ids; empty for numbers and texts; for multiple choice the names
            of the choices, or empty where they differ from example to example.
        metrics: what it is scored by (names of `autopeft.tasks._metrics.METRICS`); the first is the objective.
        hub: where it is on the Hub, or None when it is only local.
        parts: role (train, validation, test) and the name of the split that plays it. The test splits of GLUE
            and SuperGLUE have no labels, so their original validation split plays ``test``.
        protocols: the ways of splitting that it allows (`autopeft.tasks._protocols`); the first is the default.
        is_large: which of its two forms BIPEFT's protocol takes.
        objectives: pairs of protocol and metric, where the paper of that protocol reports another metric first.
        verbalisers: what a text-to-text model is to say for each class; the class digits unless given.
        step: for a regression, what a text-to-text model's targets are rounded to; 0.2 as T5 does for STS-B.
        unparsable: for a regression, the number that an answer counts as which is none.
        class_weights: of the classes in the loss of a head, in the order of their ids; "balanced" makes all count alike
            (`Answers.balanced`), empty is 1 for each.
        threshold: where there may be several labels, the probability above which one is predicted.
        loss_on: what a decoder that writes is trained to say: the answers ("completion"), or the prompts too ("all").
        format: turns the rows of a table into examples.
        fetch: for a task with a source of its own, gives the table of a role.
        about: one sentence: what it is, source, licence.
        prompt: how a decoder is asked, with the fields of an example in braces, such as "Review: {sentence}"; where it
            is empty `templates.yaml` may say it, else the texts are said one a line.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    label: str = "label"
    label_names: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)
    hub: Hub | None = None
    parts: tuple[tuple[str, str], ...] = (("train", "train"), ("test", "validation"))
    protocols: tuple[str, ...] = ("holdout",)
    is_large: bool = False
    objectives: tuple[tuple[str, str], ...] = ()
    verbalisers: tuple[str, ...] = ()
    step: float = 0.2
    unparsable: float = -1.0
    class_weights: Literal["balanced"] | tuple[float, ...] = ()
    threshold: float = 0.5
    loss_on: Literal["completion", "all"] = "completion"
    format: Format = field(default=one_per_row, repr=False)
    fetch: Fetch | None = field(default=None, repr=False)
    about: str = ""
    prompt: str = ""

    def __post_init__(self) -> None:
        if not self.verbalisers and self.label_names:
            # Digits, which BIPEFT's release has its models say; `in_words` takes the names instead.
            object.__setattr__(self, "verbalisers", tuple(str(number) for number in range(len(self.label_names))))

    @property
    def answers(self) -> Answers:
        """What is asked for, as a strategy.

        Raises:
            UnknownNameError: there is no such kind.
        """
        return lookup(self.kind)

    @property
    def short_name(self) -> str:
        """The name without the benchmark: ``mrpc``."""
        return self.name.rpartition("/")[2]

    @property
    def objective(self) -> str:
        """The metric that a search maximises."""
        return self.metrics[0]

    @property
    def outputs(self) -> int:
        """Width of a head: the number of classes; 1 for a regression and for the score of one choice."""
        return self.answers.n_outputs(len(self.label_names))

    def weights(self, train: Examples) -> NDArray[Any] | None:
        """Weights of the classes in the loss, ``(classes,)``; None where all are 1.

        Args:
            train: what is trained on, from which balanced weights are told.
        """
        if self.class_weights == "balanced":
            return self.answers.balanced(train.labels, len(self.label_names))
        return np.array(self.class_weights) if self.class_weights else None

    def under(self, protocol: str) -> Task:
        """This task with the metric first that the paper of `protocol` reports (BIPEFT: F1 for MRPC, and so on)."""
        first = dict(self.objectives).get(protocol, self.objective)
        return replace(self, metrics=(first, *(name for name in self.metrics if name != first)))

    def in_words(self) -> Task:
        """This task with the names of its classes as verbalisers, in place of the class digits."""
        return replace(self, verbalisers=self.label_names)

    def examples(self, table: Table) -> Examples:
        """The examples in `table`.

        Raises:
            DataError: the table lacks a column or holds values that cannot be used.
        """
        return self.format(self, table)

    def decide(self, outputs: Any, examples: Examples) -> NDArray[Any]:
        """What a model predicts, ``(n,)``: class ids, numbers, or indices of choices; ``(n, labels)`` of 0 and 1.

        Of equals the lowest.

        Args:
            outputs: logits ``(n, classes)``; numbers ``(n,)`` or ``(n, 1)`` for regression; for multiple choice
                a sequence of the scores of each example's choices, or an array padded to ``(n, most choices)``
                whose padding is ignored. A NaN anywhere gives NaN for its example.
        """
        return self.answers.decide(self, outputs, examples)

    def score(self, outputs: Any, examples: Examples) -> dict[str, float]:
        """The task's metrics of a model's outputs (see `decide`), objective first.

        NaN or infinite predictions give NaN in every metric: the caller makes a typed failure of it.
        """
        return self.answers.measure(self.metrics, self.decide(outputs, examples), examples)

    def baseline(self, examples: Examples, seen: Examples | None = None) -> dict[str, float]:
        """The metrics of saying always the same: for each metric the label that is best for it, or the mean.

        The most frequent label would not do: where it is class 0, its F1 is 0, and that of always saying 1 is not.

        Args:
            examples: what is scored.
            seen: where the label or mean is learnt; the scored examples themselves by default.
        """
        source = examples if seen is None else seen
        if len(source) == 0 or len(examples) == 0:
            return dict.fromkeys(self.metrics, math.nan)
        constants = self.answers.constants(source)
        # Every constant is scored and none is reasoned about, since what is best differs from metric to metric.
        learnt = [self._always(constant, source) for constant in constants]
        scored = learnt if seen is None else [self._always(constant, examples) for constant in constants]
        best = {name: max(range(len(constants)), key=lambda i: learnt[i][name]) for name in self.metrics}
        return {name: scored[index][name] for name, index in best.items()}

    def _always(self, constant: Any, examples: Examples) -> dict[str, float]:
        return self.answers.measure(self.metrics, self.answers.always(constant, examples), examples)

    def source_text(self, examples: Examples, index: int) -> str:
        """The input of a text-to-text model: the task's short name, then every field with a colon.

        ``mrpc sentence1: ... sentence2: ...``, as in T5 (arXiv 1910.10683, appendix D) and BIPEFT's release; the
        colon that the release forgets after MNLI's hypothesis is put.
        """
        named = examples.fields[index] if examples.fields else self._own_fields(examples, index)
        return " ".join([self.short_name, *(f"{name}: {text}" for name, text in named)])

    def target_text(self, examples: Examples, index: int) -> str:
        """What a text-to-text model is to say: the verbaliser of the class, a number, an entity, or the text."""
        return self.answers.target(self, examples, index)

    def parse_prediction(self, text: str) -> Any:
        """The class id, number or text that `text` stands for, or None when it stands for none."""
        return self.answers.parse(self, text)

    def score_texts(self, said: Sequence[str], examples: Examples) -> dict[str, float]:
        """The metrics of a text-to-text model's answers. What cannot be parsed is wrong."""
        return self.answers.score_texts(self, said, examples)

    def _own_fields(self, examples: Examples, index: int) -> list[tuple[str, str]]:
        if examples.texts:
            return list(zip(self.inputs, examples.texts[index], strict=True))
        candidates = examples.choices[index]
        options = ((f"choice{number}", parts[-1]) for number, parts in enumerate(candidates, start=1))
        return [(self.inputs[0], candidates[0][0]), *options]


def columns_or_raise(table: Table, wanted: Sequence[str]) -> None:
    """Check that `table` has the columns `wanted`.

    Raises:
        DataError: some are missing; the message names the nearest that exist and lists all.
    """
    missing = missing_columns(table, wanted)
    if missing:
        raise DataError(f"{table.source} cannot be used: {listed(missing)}. Columns: {', '.join(table.columns)}.")


def missing_columns(table: Table, wanted: Sequence[str]) -> list[str]:
    """One phrase for each column of `wanted` that `table` lacks, with the nearest that it has."""
    phrases = []
    for name in dict.fromkeys(wanted):
        if name in table.repeated:
            phrases.append(f"the column {name!r} stands twice")
        elif name not in table.columns:
            near = difflib.get_close_matches(name, table.columns, n=1, cutoff=0.5)
            phrases.append(f"there is no column {name!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    return phrases


def text_mistakes(table: Table, columns: Sequence[str], *, is_part_enough: bool = False) -> list[str]:
    """One phrase for each of `columns` that holds something else than text, or empty or broken text; rows from 1.

    Args:
        is_part_enough: a row may have empty texts as long as one is not (two questions of QQP are empty).
    """
    mistakes = []
    blank = [not any(str(row.get(name) or "").strip() for name in columns) for row in table.rows]
    for name in columns:
        values = [(number, row.get(name)) for number, row in enumerate(table.rows, start=1)]
        other = [f"{number} ({type(value).__name__})" for number, value in values if not isinstance(value, str)]
        empty = [
            str(number)
            for (number, value), is_blank in zip(values, blank, strict=True)
            if isinstance(value, str) and not value.strip() and (is_blank or not is_part_enough)
        ]
        halves = [str(number) for number, value in values if isinstance(value, str) and has_half(value)]
        if halves:
            mistakes.append(f"{len(halves)} texts of {name!r} hold half a character: rows {', '.join(halves[:5])}")
        if other:
            mistakes.append(f"{len(other)} values of {name!r} are not text: rows {', '.join(other[:5])}")
        if empty:
            mistakes.append(f"{len(empty)} texts of {name!r} are empty: rows {', '.join(empty[:5])}")
    return mistakes


def read_labels(task: Task, table: Table) -> tuple[Labels, list[str]]:
    """The labels of `table`, and a phrase for those that cannot be read; see `Answers.read`."""
    values = [row.get(task.label) for row in table.rows]
    found = task.answers.read(task, values)
    wrong = half_mistakes(task.label, values) or unreadable(task.label, values, found.wrong, found.wanted)
    return found, wrong
