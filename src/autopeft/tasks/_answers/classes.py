"""The answer is one of a list of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from autopeft.tasks._answers._answers import Answers, Labels
from autopeft.tasks._answers._reading import argmax, class_ids, missing_at
from autopeft.tasks._examples import Examples
from autopeft.tasks._metrics import measure

if TYPE_CHECKING:
    from autopeft.tasks._task import Task

NO_CLASS = -1
"""No class has this number."""

MOST_CONSTANTS = 200
"""So many classes are tried as the answer of somebody who always says the same: the rarer ones are never the best."""


@dataclass(frozen=True)
class Classes:
    """Class ids, int64; a head gives one logit a class."""

    name: str = "classification"
    metrics: tuple[str, ...] = ("accuracy", "macro_f1")
    is_stratified: bool = True
    has_candidates: bool = False
    is_listed: bool = True
    is_scaled: bool = False
    is_text_only: bool = False
    most_tokens: int = 20
    tiny: tuple[Any, ...] = ("a", "b", "c", "a")

    def allowed(self, n_classes: int) -> tuple[str, ...]:
        """Accuracy, means over the classes and Matthews; F1 of class 1 where there are two."""
        return (*self.metrics, "matthews", *(("f1",) if n_classes == 2 else ()))

    def describe(self, n_classes: int) -> str:
        """The kind and the number of classes."""
        return f"classification of {n_classes} classes"

    def n_outputs(self, n_classes: int) -> int:
        """One a class."""
        return n_classes

    def read(self, task: Task, values: Sequence[Any]) -> Labels:
        """A class is given by its id (a number, or digits in a CSV) or by its name."""
        return read_ids(task.label_names, values)

    def a_label(self, task: Task) -> Any:
        """The first class."""
        return task.label_names[0]

    def facts(self, examples: Examples, label_names: Sequence[str]) -> dict[str, Any]:
        """How often each class occurs, and the share of the most frequent."""
        counts = examples.balance()
        classes = {label_names[int(label)]: count for label, count in counts.items()}
        return {"classes": classes, "majority": max(counts.values(), default=0) / max(len(examples), 1)}

    def decide(self, outputs: Any, examples: Examples) -> NDArray[Any]:
        """The class of the largest logit; of equals the first."""
        return np.array([argmax(row) for row in np.asarray(outputs, np.float64)])

    def constants(self, examples: Examples) -> list[Any]:
        """The classes that occur, the most frequent first."""
        return by_frequency(examples.labels)

    def always(self, constant: Any, examples: Examples) -> NDArray[Any]:
        """That class for every example."""
        return np.full(len(examples), constant)

    def measure(self, metrics: Sequence[str], predictions: Any, examples: Examples) -> dict[str, float]:
        """Metrics of class ids."""
        return measure(metrics, predictions, examples)

    def target(self, task: Task, examples: Examples, index: int) -> str:
        """The verbaliser of the class."""
        return verbalised(task, int(examples.labels[index]))

    def parse(self, task: Task, said: str) -> int | None:
        """The class that is verbalised so."""
        return parsed(task, said)

    def score_texts(self, task: Task, said: Sequence[str], examples: Examples) -> dict[str, float]:
        """What cannot be parsed counts, of two classes, as the opposite one, of more as none of them."""
        found = [self.parse(task, text) for text in said]
        if len(task.label_names) == 2:
            pairs = zip(found, examples.labels, strict=True)
            filled = [1 - int(right) if value is None else value for value, right in pairs]
        else:
            filled = [NO_CLASS if value is None else value for value in found]
        return measure(task.metrics, np.array(filled), examples)

    def shown(self, task: Task, examples: Examples, row: int, output: Any) -> dict[str, Any]:
        """The likeliest class and its share."""
        return likeliest(task.label_names, output)

    def shown_text(self, task: Task, examples: Examples, said: str) -> Any:
        """The class, or None where it is none."""
        return self.parse(task, said)

    def shape(self, logits: Tensor) -> Tensor:
        """As they are."""
        return logits

    def compared(self, logits: Tensor) -> Tensor:
        """As they are: a distribution a row."""
        return logits

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Cross-entropy; with weights their weighted mean."""
        return functional.cross_entropy(logits.float(), labels, weights)


def read_ids(names: Sequence[str], values: Sequence[Any]) -> Labels:
    """Class ids of `values`, -1 where there is none."""
    ids = class_ids(names, values)
    labels = np.array([NO_CLASS if number is None else number for number in ids], dtype=np.int64)
    return Labels(labels, missing_at(ids), f"one of {', '.join(names[:20])} (or its number from 0)")


def by_frequency(labels: NDArray[Any]) -> list[Any]:
    """The distinct labels, the most frequent first, of equals the smallest; the rarest of very many left out."""
    values, counts = np.unique(labels, return_counts=True)
    return list(values[np.argsort(-counts, kind="stable")][:MOST_CONSTANTS])


def verbalised(task: Task, label: int) -> str:
    """What a text-to-text model says for a class; its number where the task has no verbalisers."""
    return task.verbalisers[label] if task.verbalisers else str(label)


def parsed(task: Task, said: str) -> int | None:
    """The class that `said` verbalises, in any case and with any space around; None where it verbalises none."""
    word = said.strip().lower()
    if not task.verbalisers:
        return int(word) if word.isdecimal() else None
    known = [verbaliser.strip().lower() for verbaliser in task.verbalisers]
    return known.index(word) if word in known else None


def likeliest(names: Sequence[str], logits: Any) -> dict[str, Any]:
    """The name of the largest of `logits` and its share under softmax."""
    shares = np.exp(logits - np.logaddexp.reduce(logits))
    best = int(shares.argmax())
    return {"label": names[best], "score": float(shares[best])}


MEMBERS: Mapping[str, Answers] = {"classification": Classes()}
