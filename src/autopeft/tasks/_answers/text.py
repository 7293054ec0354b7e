"""The answer is free text: a sentence, a summary, a translation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from autopeft.errors import SettingsError
from autopeft.tasks import _text_metrics
from autopeft.tasks._answers._answers import Answers, Labels
from autopeft.tasks._answers._columns import Asked, Column, Own, no_classes, unreadable
from autopeft.tasks._examples import Examples
from autopeft.tasks._metrics import LIKELIHOODS, measure_texts

if TYPE_CHECKING:
    from autopeft.tasks._task import Task

_MOST_CONSTANTS = 10


@dataclass(frozen=True)
class Text:
    """Gold texts in `Examples.answers`, the first of which is trained on; the labels are zeros and mean nothing."""

    name: str = "text"
    metrics: tuple[str, ...] = ("rouge_l", "token_f1", "exact_match")
    is_stratified: bool = False
    has_classes: bool = False
    has_candidates: bool = False
    is_listed: bool = False
    is_scaled: bool = False
    is_text_only: bool = True
    most_tokens: int = 96
    format: None = None
    tiny: tuple[Any, ...] = ("a b", ["a", "c"], "b", "a b")

    def recognises(self, values: Sequence[Any], choices: Sequence[str]) -> str:
        """Nothing: texts may be classes, so that this kind is said."""
        return ""

    def own(self, parts: Mapping[str, Column], asked: Asked) -> Own:
        """Every label is a text that a model is to write, or a list of such texts."""
        mistakes = []
        for column in parts.values():
            found = _read(column.values)
            wrong = unreadable(column.label, column.values, found.wrong, found.wanted)
            mistakes += [f"{column.source}: {one}" for one in wrong]
        return Own(mistakes, (), [f"text that is written, {parts['train'].label!r}, {asked.why}"])

    def allowed(self, n_classes: int) -> tuple[str, ...]:
        """Metrics of texts that need only gold texts, its own first; the loss and the perplexity of a decoder."""
        general = [name for name, metric in _text_metrics.found().items() if metric.is_general]
        return (*dict.fromkeys([*self.metrics, *general]), *LIKELIHOODS, *(f"neg_{name}" for name in LIKELIHOODS))

    def describe(self, n_classes: int) -> str:
        """The kind."""
        return "text"

    def n_outputs(self, n_classes: int) -> int:
        """There is no head."""
        return 0

    def read(self, task: Task, values: Sequence[Any]) -> Labels:
        """A text, or a list of texts each of which is right."""
        return _read(values)

    def a_label(self, task: Task) -> Any:
        """A dash."""
        return "-"

    def facts(self, examples: Examples, label_names: Sequence[str]) -> dict[str, Any]:
        """Words of a gold text: median and most."""
        lengths = [len(texts[0].split()) for texts in examples.answers] or [0]
        return {"answer_words": {"median": int(np.median(lengths)), "longest": max(lengths)}}

    def decide(self, task: Task, outputs: Any, examples: Examples) -> NDArray[Any]:
        """Raises:
        SettingsError: always; a head gives no text.
        """
        _no_head()

    def balanced(self, labels: NDArray[Any], n_classes: int) -> NDArray[np.float64]:
        """Raises:
        SettingsError: always; texts are no classes.
        """
        return no_classes(self.name)

    def constants(self, examples: Examples) -> list[Any]:
        """The most frequent gold texts."""
        counts = Counter(texts[0] for texts in examples.answers)
        return [text for text, _ in counts.most_common(_MOST_CONSTANTS)]

    def always(self, constant: Any, examples: Examples) -> list[str]:
        """That text for every example."""
        return [constant] * len(examples)

    def measure(self, metrics: Sequence[str], predictions: Any, examples: Examples) -> dict[str, float]:
        """Metrics of texts."""
        return measure_texts(metrics, predictions, examples)

    def target(self, task: Task, examples: Examples, index: int) -> str:
        """The first gold text."""
        return examples.answers[index][0]

    def parse(self, task: Task, said: str) -> str:
        """The text itself, without the space around it."""
        return said.strip()

    def score_texts(self, task: Task, said: Sequence[str], examples: Examples) -> dict[str, float]:
        """Every text beside the nearest of its gold texts."""
        return measure_texts(task.metrics, said, examples)

    def shown(self, task: Task, examples: Examples, row: int, output: Any) -> dict[str, Any]:
        """Raises:
        SettingsError: always; a head gives no text.
        """
        _no_head()

    def shown_text(self, task: Task, examples: Examples, said: str) -> Any:
        """The text itself, without the space around it."""
        return self.parse(task, said)

    def shape(self, logits: Tensor) -> Tensor:
        """As they are."""
        return logits

    def compared(self, logits: Tensor) -> Tensor:
        """As they are."""
        return logits

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Raises:
        SettingsError: always; what a model writes has its own loss.
        """
        _no_head()


def _read(values: Sequence[Any]) -> Labels:
    gold = [tuple(value) if isinstance(value, list | tuple) else (value,) for value in values]
    wrong = [row for row, texts in enumerate(gold) if not texts or not all(map(_is_text, texts))]
    return Labels(np.zeros(len(gold), dtype=np.int64), wrong, "a text or a list of texts", gold)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _no_head() -> NoReturn:
    raise SettingsError("The answer is text, which no head gives: take a decoder, or an encoder-decoder such as T5.")


MEMBERS: Mapping[str, Answers] = {"text": Text()}
