"""The answer is a number (regression)."""

from __future__ import annotations

import math
import sys
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
    no_classes,
    numbers_with_fractions,
    unreadable,
)
from autopeft.tasks._answers._reading import finite_number, missing_at
from autopeft.tasks._examples import Examples
from autopeft.tasks._metrics import measure

if TYPE_CHECKING:
    from autopeft.tasks._task import Task

_NARROWEST = 1e6 * sys.float_info.min
"""A range of numbers must be wider, to be divided into steps."""


@dataclass(frozen=True)
class Number:
    """Finite numbers, float64; a head gives one."""

    name: str = "regression"
    metrics: tuple[str, ...] = ("spearman", "pearson", "mae", "rmse")
    is_stratified: bool = False
    has_classes: bool = False
    has_candidates: bool = False
    is_listed: bool = False
    is_scaled: bool = True
    is_text_only: bool = False
    most_tokens: int = 20
    format: None = None
    tiny: tuple[Any, ...] = (1.5, "-2", 0, 3.25)

    def recognises(self, values: Sequence[Any], choices: Sequence[str]) -> str:
        """All are numbers, one has a fraction, and enough differ."""
        n_different = 0 if choices else numbers_with_fractions(values)
        return f"since {n_different:,} different numbers have a fraction" if n_different else ""

    def own(self, parts: Mapping[str, Column], asked: Asked) -> Own:
        """Numbers, whose range decides on what a text-to-text model rounds them to."""
        mistakes, train = [], parts["train"]
        for column in parts.values():
            found = _read(column.values)
            wrong = unreadable(column.label, column.values, found.wrong, found.wanted)
            mistakes += [f"{column.source}: {one}" for one in wrong]
        told = f"regression of {train.label!r}, {asked.why}: {_range(train)}"
        if mistakes := mistakes or _range_mistakes(train):
            return Own(mistakes, (), [told])
        # T5 does so for the similarities of STS-B, from 0 to 5 in steps of 0.2: about 25 answers to learn, and no
        # digits without meaning.
        step, unparsable = _scale(_read(train.values).values)
        return Own((), (), [told], {"step": step, "unparsable": unparsable})

    def allowed(self, n_classes: int) -> tuple[str, ...]:
        """Correlations and errors; an error is searched for with its sign turned, since a search maximises."""
        return (*self.metrics, "neg_mae", "neg_rmse")

    def describe(self, n_classes: int) -> str:
        """The kind."""
        return "regression"

    def n_outputs(self, n_classes: int) -> int:
        """The number."""
        return 1

    def read(self, task: Task, values: Sequence[Any]) -> Labels:
        """Numbers, or their digits; 0 where there is none."""
        return _read(values)

    def a_label(self, task: Task) -> Any:
        """Zero."""
        return 0.0

    def facts(self, examples: Examples, label_names: Sequence[str]) -> dict[str, Any]:
        """Mean, standard deviation, least and most."""
        labels = examples.labels
        if len(labels) == 0:
            return {"labels": {}}
        mean, deviation = float(labels.mean()), float(labels.std())
        return {
            "labels": {"mean": mean, "deviation": deviation, "least": float(labels.min()), "most": float(labels.max())}
        }

    def decide(self, task: Task, outputs: Any, examples: Examples) -> NDArray[Any]:
        """The numbers themselves, ``(n,)``."""
        return np.asarray(outputs, np.float64).reshape(len(examples))

    def balanced(self, labels: NDArray[Any], n_classes: int) -> NDArray[np.float64]:
        """Raises:
        SettingsError: always; numbers are no classes.
        """
        return no_classes(self.name)

    def constants(self, examples: Examples) -> list[Any]:
        """The mean."""
        return [examples.labels.mean()]

    def always(self, constant: Any, examples: Examples) -> NDArray[Any]:
        """That number for every example."""
        return np.full(len(examples), constant)

    def measure(self, metrics: Sequence[str], predictions: Any, examples: Examples) -> dict[str, float]:
        """Metrics of numbers."""
        return measure(metrics, predictions, examples)

    def target(self, task: Task, examples: Examples, index: int) -> str:
        """The number, rounded to the nearest multiple of `Task.step` (the BIPEFT release rounds to 0.1 by a slip)."""
        per_unit, digits = 1 / task.step, max(0, -math.floor(math.log10(task.step)))
        return f"{round(per_unit * float(examples.labels[index])) / per_unit:.{digits}f}"

    def parse(self, task: Task, said: str) -> float | None:
        """The number that is written so."""
        return finite_number(said.strip().lower())

    def score_texts(self, task: Task, said: Sequence[str], examples: Examples) -> dict[str, float]:
        """What is no number counts as `Task.unparsable` (-1 in T5 and BIPEFT)."""
        found = [self.parse(task, text) for text in said]
        filled = np.array([task.unparsable if value is None else value for value in found])
        return measure(task.metrics, filled, examples)

    def shown(self, task: Task, examples: Examples, row: int, output: Any) -> dict[str, Any]:
        """The number; nothing is known of its probability, which is given as 1."""
        return {"label": float(output), "score": 1.0}

    def shown_text(self, task: Task, examples: Examples, said: str) -> Any:
        """The number, or None where it is none."""
        return self.parse(task, said)

    def shape(self, logits: Tensor) -> Tensor:
        """``(rows,)``."""
        return logits.squeeze(-1)

    def compared(self, logits: Tensor) -> Tensor:
        """``(rows,)``."""
        return logits.squeeze(-1)

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Mean squared error."""
        return functional.mse_loss(logits.squeeze(-1).float(), labels.float())


def _read(values: Sequence[Any]) -> Labels:
    numbers = [finite_number(value) for value in values]
    labels = np.array([0.0 if number is None else number for number in numbers], dtype=np.float64)
    return Labels(labels, missing_at(numbers), "a finite number")


def _range(train: Column) -> str:
    numbers = [number for number in map(as_float, train.values) if number is not None] or [math.nan]
    return f"from {min(numbers):g} to {max(numbers):g}"


def _range_mistakes(train: Column) -> list[str]:
    numbers = [float(value) for value in train.values]
    low, high = min(numbers), max(numbers)
    if low == high:
        return [f"{train.source}: every {train.label!r} is {low}"]
    if _NARROWEST < high - low < math.inf:
        return []
    return [f"{train.source}: the range of {train.label!r}, from {low:g} to {high:g}, is too wide or too narrow"]


def _scale(numbers: NDArray[np.float64]) -> tuple[float, float]:
    """For text-to-text models: a round step of about a 25th of the labels' range, and a number well outside of it."""
    low, span = float(numbers.min()), float(numbers.max()) - float(numbers.min())
    power = 10.0 ** math.floor(math.log10(span / 25))
    step = next(part * power for part in (5, 2, 1) if part * power <= span / 25)
    return step, low - span


MEMBERS: Mapping[str, Answers] = {"regression": Number()}
