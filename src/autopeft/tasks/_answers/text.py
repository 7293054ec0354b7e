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
from autopeft.tasks._answers._answers import Answers, Labels
from autopeft.tasks._examples import Examples
from autopeft.tasks._metrics import measure_texts

if TYPE_CHECKING:
    from autopeft.tasks._task import Task

_MOST_CONSTANTS = 10


@dataclass(frozen=True)
class Text:
    """Gold texts in `Examples.answers`, the first of which is trained on; the labels are zeros and mean nothing."""

    name: str = "text"
    metrics: tuple[str, ...] = ("rouge_l", "token_f1", "exact_match")
    is_stratified: bool = False
    has_candidates: bool = False
    is_listed: bool = False
    is_scaled: bool = False
    is_text_only: bool = True
    most_tokens: int = 96
    tiny: tuple[Any, ...] = ("a b", ["a", "c"], "b", "a b")

    def allowed(self, n_classes: int) -> tuple[str, ...]:
        """ROUGE-L, F1 of tokens, and equality."""
        return self.metrics

    def describe(self, n_classes: int) -> str:
        """The kind."""
        return "text"

    def n_outputs(self, n_classes: int) -> int:
        """There is no head."""
        return 0

    def read(self, task: Task, values: Sequence[Any]) -> Labels:
        """A text, or a list of texts each of which is right."""
        gold = [tuple(value) if isinstance(value, list | tuple) else (value,) for value in values]
        wrong = [row for row, texts in enumerate(gold) if not texts or not all(map(_is_text, texts))]
        return Labels(np.zeros(len(gold), dtype=np.int64), wrong, "a text or a list of texts", gold)

    def a_label(self, task: Task) -> Any:
        """A dash."""
        return "-"

    def facts(self, examples: Examples, label_names: Sequence[str]) -> dict[str, Any]:
        """Words of a gold text: median and most."""
        lengths = [len(texts[0].split()) for texts in examples.answers] or [0]
        return {"answer_words": {"median": int(np.median(lengths)), "longest": max(lengths)}}

    def decide(self, outputs: Any, examples: Examples) -> NDArray[Any]:
        """Raises:
        SettingsError: always; a head gives no text.
        """
        _no_head()

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


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _no_head() -> NoReturn:
    raise SettingsError("The answer is text, which no head gives: take an encoder-decoder such as T5.")


MEMBERS: Mapping[str, Answers] = {"text": Text()}
