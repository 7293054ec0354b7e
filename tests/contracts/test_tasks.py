"""What every task keeps, found by discovery: a new file under `tasks/` is tested here without an edit."""

import pytest

from autopeft import tasks
from autopeft.tasks._metrics import METRICS
from autopeft.tasks._protocols import PROTOCOLS
from autopeft.tasks._task import Task

NAMES = tasks.names()


@pytest.fixture(params=NAMES)
def task(request: pytest.FixtureRequest) -> Task:
    return tasks.lookup(request.param)


def test_it_is_found_by_its_own_name(task: Task) -> None:
    assert tasks.lookup(task.name) is task
    assert task.name.count("/") == 1
    assert task.about


def test_its_metrics_and_protocols_exist(task: Task) -> None:
    assert task.metrics
    assert set(task.metrics) <= set(METRICS)
    assert task.protocols[0] == "holdout"
    assert set(task.protocols) <= set(PROTOCOLS)


def test_its_kind_is_known_and_agrees_with_its_metrics_and_classes(task: Task) -> None:
    assert task.answers.name == task.kind
    assert task.outputs == task.answers.n_outputs(len(task.label_names))
    assert task.label_names or not task.answers.is_stratified
    assert len(set(task.label_names)) == len(task.label_names)


def test_its_verbalisers_can_be_told_apart(task: Task) -> None:
    for form in (task, task.in_words()):
        said = [word.strip().lower() for word in form.verbalisers]
        assert len(set(said)) == len(said) == len(task.label_names)
        assert [form.parse_prediction(word) for word in said] == list(range(len(said)))


def test_every_protocol_keeps_its_metrics(task: Task) -> None:
    for protocol in task.protocols:
        assert sorted(task.under(protocol).metrics) == sorted(task.metrics)


def test_its_parts_have_the_roles_of_a_split(task: Task) -> None:
    roles = [role for role, _ in task.parts]
    assert set(roles) <= {"train", "validation", "test"}
    assert {"train", "test"} <= set(roles)


def test_its_data_can_be_had_somewhere(task: Task) -> None:
    assert (task.hub is None) != (task.fetch is None)
