"""What every kind of answer keeps, found by discovery: a new file under `tasks/_answers/` is tested without an edit."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from autopeft.errors import SettingsError
from autopeft.tasks import _answers
from autopeft.tasks._answers import Answers
from autopeft.tasks._examples import Examples
from autopeft.tasks._metrics import METRICS
from autopeft.tasks._tables import Table
from autopeft.tasks._task import Task, read_labels

NAMES = ("a", "b", "c")


@pytest.fixture(params=_answers.names())
def answers(request: pytest.FixtureRequest) -> Answers:
    return _answers.lookup(request.param)


@pytest.fixture
def task(answers: Answers) -> Task:
    names = NAMES if answers.has_classes or answers.has_candidates else ()
    return Task("tiny/task", answers.name, ("text",), label_names=names, metrics=answers.metrics)


@pytest.fixture
def examples(answers: Answers, task: Task) -> Examples:
    table = Table("made up", ("text", "label"), [{"text": f"t{n}", "label": one} for n, one in enumerate(answers.tiny)])
    found = task.examples(table)
    if answers.has_candidates:
        choices = [[("t", name) for name in NAMES]] * len(found)
        return Examples(found.labels, choices=choices)
    return found


def outputs_of(task: Task, examples: Examples) -> torch.Tensor:
    """Logits as a head gives them: one row an example."""
    columns = len(NAMES) if task.answers.has_candidates else task.outputs
    return torch.randn(len(examples), columns, generator=torch.Generator().manual_seed(0), requires_grad=True)


def test_it_is_found_by_its_own_name(answers: Answers) -> None:
    assert answers.describe(3)
    assert len(answers.tiny) == 4
    assert set(answers.metrics) <= set(answers.allowed(3)) <= set(METRICS)


def test_its_labels_are_read_and_a_label_of_its_own_too(answers: Answers, task: Task, examples: Examples) -> None:
    assert len(examples) == 4
    for label in (*answers.tiny, answers.a_label(task)):
        found, wrong = read_labels(task, Table("made up", ("label",), [{"label": label}]))
        assert len(found.values) == 1
        assert not wrong


def test_what_is_no_label_is_named_with_its_row(answers: Answers, task: Task) -> None:
    rows = [{"label": answers.tiny[0]}, {"label": {"x": 1}}]
    found, (phrase,) = read_labels(task, Table("made up", ("label",), rows))
    assert found.wrong == [1]
    assert phrase == f"1 values of 'label' are not {found.wanted}: row 2: {{'x': 1}}"


def test_its_facts_are_json(answers: Answers, examples: Examples) -> None:
    json.dumps(answers.facts(examples, NAMES), allow_nan=False)
    json.dumps(answers.facts(examples.subset([]), NAMES), allow_nan=False)


def test_saying_always_the_same_is_scored_and_no_metric_is_missing(task: Task, examples: Examples) -> None:
    for metrics in (task.metrics, task.answers.allowed(len(task.label_names))):
        asked = replace(task, metrics=metrics)
        found = asked.baseline(examples)
        assert list(found) == list(metrics)
        assert all(math.isfinite(value) for value in found.values())
        assert found == asked.baseline(examples, examples)


def test_a_head_learns_predicts_and_is_scored(answers: Answers, task: Task, examples: Examples) -> None:
    logits, labels = outputs_of(task, examples), torch.as_tensor(examples.labels)
    if answers.is_text_only:
        with pytest.raises(SettingsError, match="encoder-decoder"):
            answers.loss(logits, labels)
        return
    before = answers.loss(logits, labels)
    (slope,) = torch.autograd.grad(before, logits)
    assert answers.loss(logits - 0.1 * slope, labels) < before
    assert answers.compared(logits).requires_grad
    raw = answers.shape(logits).detach().numpy()
    predicted = task.decide(raw, examples)
    assert predicted.shape == examples.labels.shape
    assert all(math.isfinite(value) for value in task.score(raw, examples).values())
    shown = answers.shown(task, examples, 0, raw[0])
    assert set(shown) == {"label", "score"}
    assert 0 <= shown["score"] <= 1


def test_what_a_text_to_text_model_is_to_say_is_understood(answers: Answers, task: Task, examples: Examples) -> None:
    said = [task.target_text(examples, index) for index in range(len(examples))]
    assert all(task.parse_prediction(text) is not None for text in said)
    best = task.score_texts([f" {text.upper()} " for text in said], examples)
    nothing = task.score_texts(["?!"] * len(said), examples)
    for name, value in best.items():
        is_error = name in ("mae", "rmse")
        assert value == pytest.approx(0 if is_error else 1, abs=0.06), name  # a number is rounded to a step
        assert nothing[name] > value if is_error else nothing[name] < value
    assert answers.shown_text(task, examples, said[0]) is not None


def test_an_example_alone_has_the_labels_of_its_row(examples: Examples) -> None:
    for index in range(len(examples)):
        one = examples.subset([index])
        assert np.array_equal(one.labels[0], examples.labels[index])
        assert list(one.answers) == list(examples.answers[index : index + 1])
