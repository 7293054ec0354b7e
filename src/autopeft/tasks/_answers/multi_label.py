"""The answer is any number of labels of a list: the topics of a text, of which it may have several or none."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from autopeft.tasks._answers._answers import Answers, Labels
from autopeft.tasks._answers._columns import Asked, Column, Own, class_mistakes, class_names, is_missing, rarest
from autopeft.tasks._answers._reading import class_ids, label_key
from autopeft.tasks._answers.classes import MOST_CONSTANTS, verbalised
from autopeft.tasks._examples import Examples
from autopeft.tasks._metrics import measure

if TYPE_CHECKING:
    from autopeft.tasks._task import Task

_NONE = "none"
"""What a text-to-text model says for a row without labels."""


@dataclass(frozen=True)
class MultiLabel:
    """Rows of 0 and 1, int64, one column a label; a head gives one logit a label."""

    name: str = "multi_label"
    metrics: tuple[str, ...] = ("micro_f1", "macro_f1", "subset_accuracy")
    is_stratified: bool = False
    has_classes: bool = True
    has_candidates: bool = False
    is_listed: bool = False
    is_scaled: bool = False
    is_text_only: bool = False
    most_tokens: int = 96
    format: None = None
    tiny: tuple[Any, ...] = (["a"], ["a", "b"], [], ["c", 0])

    def recognises(self, values: Sequence[Any], choices: Sequence[str]) -> str:
        """A label is a list."""
        is_list = not choices and any(isinstance(value, list | tuple) for value in values)
        return "since labels are lists" if is_list else ""

    def own(self, parts: Mapping[str, Column], asked: Asked) -> Own:
        """Every label that stands in a list of the training part is one of the labels."""
        mistakes = [item for column in parts.values() for item in _mistakes(column)]
        train = parts["train"]
        if mistakes:
            return Own(mistakes)
        apart = {role: replace(column, values=_apart(column)) for role, column in parts.items()}
        names = class_names(apart["train"].values)
        counts, n = Counter(map(label_key, apart["train"].values)), len(train.values)
        told = (
            f"any of {len(names)} labels of {train.label!r}, {asked.why}: {counts.total() / max(n, 1):.3g} a row, "
            f"{sum(not value for value in train.values):,} of {n:,} rows without any, the rarest {rarest(counts)}"
        )
        return Own(class_mistakes(apart, names, asked.is_guessed), names, [told])

    def allowed(self, n_classes: int) -> tuple[str, ...]:
        """F1 over all pairs of a row and a label, its mean over the labels, and rows that are right as a whole."""
        return self.metrics

    def describe(self, n_classes: int) -> str:
        """The kind and the number of labels."""
        return f"choice of any of {n_classes} labels"

    def n_outputs(self, n_classes: int) -> int:
        """One a label."""
        return n_classes

    def read(self, task: Task, values: Sequence[Any]) -> Labels:
        """A list of names or ids, in any order; an empty one for none."""
        labels = np.zeros((len(values), len(task.label_names)), dtype=np.int64)
        wrong = []
        for row, value in enumerate(values):
            ids = class_ids(task.label_names, value) if isinstance(value, list | tuple) else [None]
            known = [number for number in ids if number is not None]
            labels[row, known] = 1
            wrong += [row] if len(known) < len(ids) else []
        return Labels(labels, wrong, f"a list of {', '.join(task.label_names[:20])} (or their numbers from 0)")

    def a_label(self, task: Task) -> Any:
        """None of the labels."""
        return []

    def facts(self, examples: Examples, label_names: Sequence[str]) -> dict[str, Any]:
        """How often each label occurs, the most frequent first, and how many rows have none."""
        if len(examples) == 0:
            return {"classes": {}, "without": 0}
        counts = dict(zip(label_names, examples.labels.sum(axis=0).tolist(), strict=True))
        ordered = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
        return {"classes": ordered, "without": int((examples.labels.sum(axis=1) == 0).sum())}

    def decide(self, task: Task, outputs: Any, examples: Examples) -> NDArray[Any]:
        """1 for every label whose probability is above `Task.threshold`, ``(n, labels)``."""
        logits = np.asarray(outputs, np.float64).reshape(len(examples), -1)
        # The threshold is turned into a logit once instead of every logit into a probability, which would round at the
        # ends.
        taken = (logits > math.log(task.threshold / (1 - task.threshold))).astype(np.int64)
        is_broken = np.atleast_1d(np.isnan(logits).any(axis=1))
        return np.where(is_broken[:, None], math.nan, taken) if is_broken.any() else taken

    def balanced(self, labels: NDArray[Any], n_classes: int) -> NDArray[np.float64]:
        """For each label the rows without it by those with it; 1 for a label that none or all have."""
        with_it = labels.sum(axis=0)
        without = len(labels) - with_it
        return np.where((with_it > 0) & (without > 0), without / np.maximum(with_it, 1), 1.0)

    def constants(self, examples: Examples) -> list[Any]:
        """The most frequent row, and the most frequent label, the two most frequent ones, and so on."""
        rows, counts = np.unique(examples.labels, axis=0, return_counts=True)
        # Of all sets of k labels the k most frequent ones have the best micro-F1, so that only their number has to be
        # found.
        order = np.argsort(-examples.labels.sum(axis=0), kind="stable")[:MOST_CONSTANTS]
        found = [rows[counts.argmax()]]
        for n in range(1, len(order) + 1):
            row = np.zeros(examples.labels.shape[1], dtype=np.int64)
            row[order[:n]] = 1
            found.append(row)
        return found

    def always(self, constant: Any, examples: Examples) -> NDArray[Any]:
        """Those labels for every example."""
        return np.tile(constant, (len(examples), 1))

    def measure(self, metrics: Sequence[str], predictions: Any, examples: Examples) -> dict[str, float]:
        """Metrics of rows of 0 and 1."""
        return measure(metrics, predictions, examples)

    def target(self, task: Task, examples: Examples, index: int) -> str:
        """The verbalisers of the labels with commas between, or "none"."""
        words = [verbalised(task, int(label)) for label in np.flatnonzero(examples.labels[index])]
        return ", ".join(words) or _NONE

    def parse(self, task: Task, said: str) -> tuple[int, ...] | None:
        """The ids of the labels that are named, with commas between; None where anything else is."""
        known = {verbalised(task, label).strip().lower(): label for label in range(len(task.label_names))}
        rest, found = said.strip().lower(), set[int]()
        if rest == _NONE and _NONE not in known:
            return ()
        words = sorted(known, key=len, reverse=True)  # a name may begin with another, and hold a comma
        while rest:
            word = next((word for word in words if rest == word or rest.startswith(f"{word},")), None)
            if word is None:
                return None
            found.add(known[word])
            rest = rest[len(word) :].lstrip(", ")
        return tuple(sorted(found)) or None

    def score_texts(self, task: Task, said: Sequence[str], examples: Examples) -> dict[str, float]:
        """What cannot be parsed is wrong in every label."""
        # As wrong as can be, until something is read that can be compared.
        predicted = 1 - examples.labels
        for row, text in enumerate(said):
            if (found := self.parse(task, text)) is not None:
                predicted[row] = 0
                predicted[row, list(found)] = 1
        return measure(task.metrics, predicted, examples)

    def shown(self, task: Task, examples: Examples, row: int, output: Any) -> dict[str, Any]:
        """The labels above the threshold as a list, and the probability that all are right, were they independent."""
        taken = self.decide(task, [output], examples.subset([row]))[0] == 1
        shares = 1 / (1 + np.exp(-np.asarray(output, np.float64)))
        names = [task.label_names[label] for label in np.flatnonzero(taken)]
        return {"label": names, "score": float(np.where(taken, shares, 1 - shares).prod())}

    def shown_text(self, task: Task, examples: Examples, said: str) -> Any:
        """The labels as a list, or None where anything else was said."""
        found = self.parse(task, said)
        return None if found is None else [task.label_names[label] for label in found]

    def shape(self, logits: Tensor) -> Tensor:
        """As they are."""
        return logits

    def compared(self, logits: Tensor) -> Tensor:
        """Two classes for every label, ``(rows * labels, 2)``: a distribution a row."""
        return torch.stack([logits, torch.zeros_like(logits)], dim=-1).flatten(0, 1)

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Mean binary cross-entropy over rows and labels; a weight multiplies that of the rows that have the label."""
        return functional.binary_cross_entropy_with_logits(logits.float(), labels.float(), pos_weight=weights)


def _mistakes(column: Column) -> list[str]:
    """Rows whose label is no list of single values."""
    is_list = [isinstance(value, list | tuple) for value in column.values]
    wrong = [row for row, is_right in enumerate(is_list) if not is_right]
    odd = [row for row, is_right in enumerate(is_list) if is_right and any(map(_is_odd, column.values[row]))]
    found = [(wrong, "no lists"), (odd, "lists with something else than single values in it")]
    return [
        f"{column.source}: {len(rows)} labels of {column.label!r} are {what}: rows "
        + ", ".join(f"{row + 1}: {column.values[row]!r:.60}" for row in rows[:5])
        for rows, what in found
        if rows
    ]


def _is_odd(value: Any) -> bool:
    return is_missing(value) or not isinstance(value, str | int | float)


def _apart(column: Column) -> list[Any]:
    return [item for value in column.values for item in value]


MEMBERS: Mapping[str, Answers] = {"multi_label": MultiLabel()}
