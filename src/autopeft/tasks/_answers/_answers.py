"""What a kind of answer is: everything that depends on whether a class, a number, a choice or a text is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from autopeft.tasks._answers._columns import Asked, Column, Own
from autopeft.tasks._examples import Examples

if TYPE_CHECKING:
    from autopeft.tasks._tables import Table
    from autopeft.tasks._task import Task


@dataclass(frozen=True)
class Labels:
    """Labels as they were read from a table.

    Args:
        values: what goes into `Examples.labels`, its first axis over the rows.
        wrong: positions of the rows whose label could not be read; `values` holds something harmless there.
        wanted: what a label must be, for the message.
        answers: gold answers as text, where the label is a text.
    """

    values: NDArray[Any]
    wrong: Sequence[int] = ()
    wanted: str = ""
    answers: Sequence[tuple[str, ...]] = field(default=())


class Answers(Protocol):
    """One kind of answer. Members are values without state; a task names its own by `Task.kind`.

    Attributes:
        name: the kind, as settings and saved models name it.
        metrics: what a file of one's own is scored by, unless it is said; the objective first.
        is_stratified: whether parts are cut with the labels in their proportions.
        has_classes: whether the answers are of a list, the names of `Task.label_names`, so that each can have a weight.
        has_candidates: whether an example brings what may be answered (`Examples.choices`).
        is_listed: whether everything that may be answered can be listed, so that a text-to-text model's likelihoods
            of it can be compared.
        is_scaled: whether labels have a unit, from which a head is freed (`autopeft.training.heads.LabelScale`).
        is_text_only: whether no head can give it, only a model that writes.
        most_tokens: how many tokens a text-to-text model may write.
        format: how examples are made of a table of one's own; None for one example a row, see
            `autopeft.tasks._task.one_per_row`.
        tiny: raw labels of four rows as a table holds them, with which the contract tests try the kind; classes are
            called "a", "b" and "c".
    """

    @property
    def name(self) -> str: ...
    @property
    def metrics(self) -> tuple[str, ...]: ...
    @property
    def is_stratified(self) -> bool: ...
    @property
    def has_classes(self) -> bool: ...
    @property
    def has_candidates(self) -> bool: ...
    @property
    def is_listed(self) -> bool: ...
    @property
    def is_scaled(self) -> bool: ...
    @property
    def is_text_only(self) -> bool: ...
    @property
    def most_tokens(self) -> int: ...
    @property
    def format(self) -> Callable[[Task, Table], Examples] | None: ...
    @property
    def tiny(self) -> tuple[Any, ...]: ...

    def recognises(self, values: Sequence[Any], choices: Sequence[str]) -> str:
        """Why a user's labels are of this kind, as the end of a sentence; empty where they are not, or may be others.

        Args:
            values: the raw labels of the training part.
            choices: the columns of choices that were named.
        """
        ...

    def own(self, parts: Mapping[str, Column], asked: Asked) -> Own:
        """What this kind makes of the labels of a user's own files.

        Args:
            parts: the raw labels by role, "train" among them.
        """
        ...

    def allowed(self, n_classes: int) -> tuple[str, ...]:
        """Names of the metrics that fit, `metrics` among them."""
        ...

    def describe(self, n_classes: int) -> str:
        """The kind in words: "classification of 3 classes"."""
        ...

    def n_outputs(self, n_classes: int) -> int:
        """Width of a head."""
        ...

    def read(self, task: Task, values: Sequence[Any]) -> Labels:
        """The labels of a column."""
        ...

    def a_label(self, task: Task) -> Any:
        """Some label that can be read, for rows that have none of their own."""
        ...

    def facts(self, examples: Examples, label_names: Sequence[str]) -> dict[str, Any]:
        """What a record tells of the labels of a part, JSON-ready."""
        ...

    def decide(self, task: Task, outputs: Any, examples: Examples) -> NDArray[Any]:
        """What a model with a head predicts, see `Task.decide`."""
        ...

    def balanced(self, labels: NDArray[Any], n_classes: int) -> NDArray[np.float64]:
        """Weights that make all classes of `labels` count alike in the loss, ``(n_classes,)``.

        Raises:
            SettingsError: there are no classes.
        """
        ...

    def constants(self, examples: Examples) -> list[Any]:
        """The answers that somebody would try who always says the same, the likeliest first."""
        ...

    def always(self, constant: Any, examples: Examples) -> Any:
        """The predictions of somebody who always says `constant`."""
        ...

    def measure(self, metrics: Sequence[str], predictions: Any, examples: Examples) -> dict[str, float]:
        """Metrics of what `decide` and `always` give."""
        ...

    def target(self, task: Task, examples: Examples, index: int) -> str:
        """What a text-to-text model is to say."""
        ...

    def parse(self, task: Task, said: str) -> Any:
        """What a text stands for, or None when it stands for nothing. Case does not count."""
        ...

    def score_texts(self, task: Task, said: Sequence[str], examples: Examples) -> dict[str, float]:
        """The task's metrics of a text-to-text model's answers; what cannot be parsed is wrong."""
        ...

    def shown(self, task: Task, examples: Examples, row: int, output: Any) -> dict[str, Any]:
        """The ``label`` and its probability (``score``) for one example, from a head's output or listed likelihoods."""
        ...

    def shown_text(self, task: Task, examples: Examples, said: str) -> Any:
        """The label that a text-to-text model's own words stand for, None where they stand for none."""
        ...

    def shape(self, logits: Tensor) -> Tensor:
        """``(rows, n_outputs)`` in the shape in which `decide` takes it."""
        ...

    def compared(self, logits: Tensor) -> Tensor:
        """The logits in the form in which two passes are compared, see `autopeft.training.consistency.divergence`."""
        ...

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """The mean loss of ``(rows, n_outputs)``, a scalar, in float32.

        Args:
            weights: one a class, ``(n_classes,)``; None for 1.
        """
        ...
