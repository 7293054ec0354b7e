"""The answer is one of a list of classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from autopeft.tasks._answers._answers import Answers, Labels
from autopeft.tasks._answers._columns import (
    Asked,
    Column,
    Own,
    as_float,
    class_mistakes,
    class_names,
    is_missing,
    numbers_with_fractions,
    rarest,
    single_value_mistakes,
)
from autopeft.tasks._answers._reading import argmax, class_ids, label_key, missing_at
from autopeft.tasks._answers._slips import slips
from autopeft.tasks._examples import Examples
from autopeft.tasks._metrics import measure

if TYPE_CHECKING:
    from autopeft.tasks._task import Task

NO_CLASS = -1
"""No class has this number."""

MOST_CONSTANTS = 200
"""So many classes are tried as the answer of somebody who always says the same: the rarer ones are never the best."""


_MOST_SLIPS = 0.1
"""Share of labels that are no numbers up to which they are slips among numbers."""


@dataclass(frozen=True)
class Classes:
    """Class ids, int64; a head gives one logit a class."""

    name: str = "classification"
    metrics: tuple[str, ...] = ("accuracy", "macro_f1")
    is_stratified: bool = True
    has_classes: bool = True
    has_candidates: bool = False
    is_listed: bool = True
    is_scaled: bool = False
    is_text_only: bool = False
    most_tokens: int = 20
    format: None = None
    tiny: tuple[Any, ...] = ("a", "b", "c", "a")

    def recognises(self, values: Sequence[Any], choices: Sequence[str]) -> str:
        """Nothing is surely classes; what no other kind recognises is taken for them."""
        return ""

    def own(self, parts: Mapping[str, Column], asked: Asked) -> Own:
        """Every label is a class. Labels that look like slips are refused where nobody said that they are meant."""
        mistakes = [item for column in parts.values() for item in single_value_mistakes(column)]
        train = parts["train"]
        names = class_names(train.present())
        odd = (_slips_among_numbers(train) or _odd_labels(train)) if asked.is_guessed else []
        is_refused = bool(odd) and not asked.is_begun
        mistakes += (odd if is_refused else []) + class_mistakes(parts, names, asked.is_guessed)
        told = f"classification of {train.label!r}, {asked.why}: {len(names)} classes, the rarest {_rarest(train)}"
        return Own(mistakes, names, [told] if is_refused else [told, *odd])

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

    def decide(self, task: Task, outputs: Any, examples: Examples) -> NDArray[Any]:
        """The class of the largest logit; of equals the first."""
        return np.array([argmax(row) for row in np.asarray(outputs, np.float64)])

    def balanced(self, labels: NDArray[Any], n_classes: int) -> NDArray[np.float64]:
        """``n / (n_classes * count)`` as in scikit-learn; 1 for a class without examples."""
        counts = np.bincount(labels, minlength=n_classes)
        return np.where(counts > 0, len(labels) / (n_classes * np.maximum(counts, 1)), 1.0)

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
            # BIPEFT's rule for two classes: what is no answer counts as the wrong one, so that F1 pays for it, too.
            filled = [1 - int(right) if value is None else value for value, right in pairs]
        else:
            filled = [NO_CLASS if value is None else value for value in found]
        return measure(task.metrics, np.array(filled), examples)

    def shown(self, task: Task, examples: Examples, row: int, output: Any) -> dict[str, Any]:
        """The likeliest class and its share."""
        return likeliest(task.label_names, output)

    def shown_text(self, task: Task, examples: Examples, said: str) -> Any:
        """The name of the class, or None where it is none."""
        return named(task, self.parse(task, said))

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


def _rarest(train: Column) -> str:
    return rarest(Counter(map(label_key, train.present())))


def _odd_labels(train: Column) -> list[str]:
    """What looks like a slip, and how to say that it is none."""
    values = train.present()
    if single_value_mistakes(train):
        return []  # told already
    found = slips(values, [label_key(value) for value in values])
    if not found:
        return []
    return [
        f"{train.source}: {train.label!r} would be classes, but {'; '.join(found)}: mend the labels, or say that "
        "they are meant by --kind classification, or --kind regression (`files.kind`)"
    ]


def _slips_among_numbers(train: Column) -> list[str]:
    """Few texts among many numbers with a fraction are slips of the pen, and no classes."""
    numbers = [as_float(value) for value in train.values]
    texts = [i for i, value in enumerate(train.values) if numbers[i] is None and not is_missing(value)]
    is_few = 0 < len(texts) <= _MOST_SLIPS * len(numbers)
    if not is_few or not numbers_with_fractions([number for number in numbers if number is not None]):
        return []
    shown = ", ".join(f"{train.values[i]!r} (row {i + 1})" for i in texts[:5])
    return [
        f"{train.source}: {train.label!r} holds numbers, but {shown} in {len(texts)} of {len(numbers)} rows: mend "
        "them, or say which kind it is"
    ]


def named(task: Task, found: int | None) -> str | int | None:
    """The name of class `found`; its number where the task has no names."""
    return task.label_names[found] if found is not None and found < len(task.label_names) else found


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
    # In logarithms, since likelihoods of long labels are too small for a number of their own.
    shares = np.exp(logits - np.logaddexp.reduce(logits))
    best = int(shares.argmax())
    return {"label": names[best], "score": float(shares[best])}


MEMBERS: Mapping[str, Answers] = {"classification": Classes()}
