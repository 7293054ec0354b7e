"""What a task is scored by: the metrics that were asked for, and its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autopeft.errors import SettingsError
from autopeft.tasks import _text_metrics
from autopeft.tasks._metrics import METRICS, as_objective, is_likelihood
from autopeft.tasks._task import Task


def scored_by(names: Sequence[str], own: Sequence[str]) -> tuple[str, ...]:
    """What was asked for in front, so that it is searched for; the `own` ones behind, so that they are told too.

    Behind a likelihood nothing follows that was not asked for: to write takes longer than all the rest.

    Args:
        names: of metrics or their aliases.
    """
    if names and is_likelihood(as_objective(names)[0]):
        return as_objective(names)
    return tuple(dict.fromkeys([*as_objective(names), *own]))


def metric_mistakes(names: Sequence[str], allowed: Sequence[str], what: str) -> list[str]:
    """A phrase for the metrics that do not exist, for those that do not fit, and for each whose package is missing.

    Args:
        names: of metrics or their aliases.
        allowed: those that fit.
        what: what is scored, in words: "text".
    """
    named = {name: as_objective((name,))[0] for name in names}
    # An alias is told by the name that was written, or the user would look for a word that is nowhere in the file.
    unknown = [name for name, meant in named.items() if meant not in METRICS]
    unfit = [name for name, meant in named.items() if meant in METRICS and meant not in allowed]
    found = [f"there are no metrics {unknown}; those that fit a {what} are {', '.join(allowed)}"] if unknown else []
    found += [f"the metrics {unfit} do not fit a {what}: {', '.join(allowed)} do"] if unfit else []
    return found + _text_metrics.missing([name for name in named if name not in unfit])


def rescored(task: Task, names: Sequence[str]) -> Task:
    """The task with the metrics `names` in front of its own, see `scored_by`.

    Raises:
        SettingsError: some do not exist, do not fit, or need a package that is not installed.
    """
    n_classes = len(task.label_names)
    allowed = tuple(dict.fromkeys([*task.metrics, *task.answers.allowed(n_classes)]))
    wrong = metric_mistakes(names, allowed, task.answers.describe(n_classes))
    if wrong:
        raise SettingsError(f"The metrics of {task.name} cannot be used: {'; '.join(wrong)}.")
    return replace(task, metrics=scored_by(names, task.metrics))
