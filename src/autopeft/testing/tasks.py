"""What every task promises."""

from __future__ import annotations

from autopeft import tasks
from autopeft.tasks._metrics import METRICS
from autopeft.tasks._protocols import PROTOCOLS
from autopeft.tasks._task import Task
from autopeft.testing._promise import keep, promise, promises_in


@promise
def _it_has_a_name_and_says_what_it_is_about(task: Task) -> None:
    assert tasks.names().count(task.name) <= 1
    assert task.name not in tasks.names() or tasks.lookup(task.name) is task
    assert task.name.count("/") == 1
    assert task.about


@promise
def _its_metrics_and_protocols_exist(task: Task) -> None:
    assert task.metrics
    assert set(task.metrics) <= set(METRICS)
    assert task.protocols[0] == "holdout"
    assert set(task.protocols) <= set(PROTOCOLS)


@promise
def _its_kind_is_known_and_agrees_with_its_metrics_and_classes(task: Task) -> None:
    assert task.answers.name == task.kind
    assert task.outputs == task.answers.n_outputs(len(task.label_names))
    # A part can be cut evenly over classes only where there are classes.
    assert task.label_names or not task.answers.is_stratified
    assert len(set(task.label_names)) == len(task.label_names)


@promise
def _its_verbalisers_can_be_told_apart(task: Task) -> None:
    for form in (task, task.in_words()):
        # A tokenizer may put a space before a word or lower it, so two words must differ in more than that.
        said = [word.strip().lower() for word in form.verbalisers]
        assert len(set(said)) == len(said) == len(task.label_names)
        assert [form.parse_prediction(word) for word in said] == list(range(len(said)))


@promise
def _every_protocol_keeps_its_metrics(task: Task) -> None:
    for protocol in task.protocols:
        assert sorted(task.under(protocol).metrics) == sorted(task.metrics)


@promise
def _its_parts_have_the_roles_of_a_split(task: Task) -> None:
    roles = [role for role, _ in task.parts]
    assert set(roles) <= {"train", "validation", "test"}
    assert {"train", "test"} <= set(roles)


@promise
def _its_data_can_be_had_somewhere(task: Task) -> None:
    # Two sources would be two data sets under one name, and a result would not say which.
    assert (task.hub is None) != (task.fetch is None)


PROMISES = promises_in(dict(vars()))
"""What is promised of a task."""


def check_task(name: str) -> list[str]:
    """Check what a task promises; the names of the promises.

    Args:
        name: of a member, or the dotted path of one of your own, such as ``my_lab.tasks:TICKETS``.

    Raises:
        ExceptionGroup: some promises are not kept.
        UnknownNameError, SettingsError: there is no such task.
    """
    return keep(name, PROMISES, tasks.lookup(name))
