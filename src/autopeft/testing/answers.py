"""What every kind of answer promises."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import torch

from autopeft.errors import SettingsError
from autopeft.tasks._answers import Answers
from autopeft.tasks._examples import Examples
from autopeft.tasks._metrics import METRICS, is_likelihood
from autopeft.tasks._tables import Table
from autopeft.tasks._task import Task, read_labels
from autopeft.testing._promise import keep, promise, promises_in, refuses

NAMES = ("a", "b", "c")


def task_of(answers: Answers) -> Task:
    """A task of that kind of answer, with three classes where it has classes."""
    names = NAMES if answers.has_classes or answers.has_candidates else ()
    return Task("tiny/task", answers.name, ("text",), label_names=names, metrics=answers.metrics)


def examples_of(answers: Answers) -> Examples:
    """Four examples, with the labels that the kind of answer gives for that."""
    # Through the reader of tables and not built by hand, since that is where labels become numbers.
    table = Table("made up", ("text", "label"), [{"text": f"t{n}", "label": one} for n, one in enumerate(answers.tiny)])
    found = task_of(answers).examples(table)
    if answers.has_candidates:
        return Examples(found.labels, choices=[[("t", name) for name in NAMES]] * len(found))
    return found


def _outputs_of(task: Task, examples: Examples) -> torch.Tensor:
    """Logits as a head gives them: one row an example."""
    columns = len(NAMES) if task.answers.has_candidates else task.outputs
    return torch.randn(len(examples), columns, generator=torch.Generator().manual_seed(0), requires_grad=True)


@promise
def _it_is_found_by_its_own_name(answers: Answers) -> None:
    assert answers.describe(3)
    assert len(answers.tiny) == 4
    assert set(answers.metrics) <= set(answers.allowed(3)) <= set(METRICS)


@promise
def _its_labels_are_read_and_a_label_of_its_own_too(answers: Answers) -> None:
    task, examples = task_of(answers), examples_of(answers)
    assert len(examples) == 4
    # One row at a time: a kind that guesses from its neighbours would hide what it cannot read.
    for label in (*answers.tiny, answers.a_label(task)):
        found, wrong = read_labels(task, Table("made up", ("label",), [{"label": label}]))
        assert len(found.values) == 1
        assert not wrong


@promise
def _what_is_no_label_is_named_with_its_row(answers: Answers) -> None:
    task = task_of(answers)
    rows = [{"label": answers.tiny[0]}, {"label": {"x": 1}}]
    found, (phrase,) = read_labels(task, Table("made up", ("label",), rows))
    assert found.wrong == [1]
    assert phrase == f"1 values of 'label' are not {found.wanted}: row 2: {{'x': 1}}"


@promise
def _its_facts_are_json(answers: Answers) -> None:
    examples = examples_of(answers)
    json.dumps(answers.facts(examples, NAMES), allow_nan=False)
    # A part without rows has no mean and no share, which must not become a NaN in a report.
    json.dumps(answers.facts(examples.subset([]), NAMES), allow_nan=False)


@promise
def _saying_always_the_same_is_scored_and_no_metric_is_missing(answers: Answers) -> None:
    task, examples = task_of(answers), examples_of(answers)
    for metrics in (task.metrics, task.answers.allowed(len(task.label_names))):
        asked = replace(task, metrics=metrics)
        found = asked.baseline(examples)
        assert list(found) == list(metrics)
        # Who always says the same says nothing of how likely the right answer was.
        told = {name: value for name, value in found.items() if not is_likelihood(name)}
        assert all(math.isfinite(value) for value in told.values())
        assert told.items() <= asked.baseline(examples, examples).items()


@promise
def _a_head_learns_predicts_and_is_scored(answers: Answers) -> None:
    task, examples = task_of(answers), examples_of(answers)
    logits, labels = _outputs_of(task, examples), torch.as_tensor(examples.labels)
    if answers.is_text_only:
        with refuses(SettingsError, "encoder-decoder"):
            answers.loss(logits, labels)
        return
    before = answers.loss(logits, labels)
    (slope,) = torch.autograd.grad(before, logits)
    # A loss that falls along its own gradient has the sign and the shape that training needs.
    assert answers.loss(logits - 0.1 * slope, labels) < before
    assert answers.compared(logits).requires_grad
    # The shape is the one in which outputs are kept and compared, which a head of one column does not have.
    raw = answers.shape(logits).detach().numpy()
    predicted = task.decide(raw, examples)
    assert predicted.shape == examples.labels.shape
    assert all(math.isfinite(value) for value in task.score(raw, examples).values())
    shown = answers.shown(task, examples, 0, raw[0])
    assert set(shown) == {"label", "score"}
    assert 0 <= shown["score"] <= 1


@promise
def _what_a_text_to_text_model_is_to_say_is_understood(answers: Answers) -> None:
    task, examples = task_of(answers), examples_of(answers)
    said = [task.target_text(examples, index) for index in range(len(examples))]
    assert all(task.parse_prediction(text) is not None for text in said)
    best = task.score_texts([f" {text.upper()} " for text in said], examples)
    # A model that says something else altogether is wrong, and not an error.
    nothing = task.score_texts(["?!"] * len(said), examples)
    for name, value in best.items():
        is_error = name in ("mae", "rmse")
        assert abs(value - (0 if is_error else 1)) < 0.06, name  # a number is rounded to a step
        assert nothing[name] > value if is_error else nothing[name] < value
    assert answers.shown_text(task, examples, said[0]) is not None


@promise
def _an_example_alone_has_the_labels_of_its_row(answers: Answers) -> None:
    examples = examples_of(answers)
    for index in range(len(examples)):
        one = examples.subset([index])
        assert np.array_equal(one.labels[0], examples.labels[index])
        assert list(one.answers) == list(examples.answers[index : index + 1])


PROMISES = promises_in(dict(vars()))
"""What is promised of a kind of answer."""


def check_answers(answers: Answers) -> list[str]:
    """Check what a kind of answer promises; the names of the promises.

    Raises:
        ExceptionGroup: some promises are not kept.
    """
    return keep(answers.name, PROMISES, answers)
