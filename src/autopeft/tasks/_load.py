"""Tasks: what is learnt, from which data, and how it is scored.

To add one, add a file here that exports ``MEMBERS = {"benchmark/task": Task(...)}``. Data comes from a folder in
the field names of the Hugging Face Hub, or from the Hub; a task of one's own files comes from
`autopeft.tasks._files.from_files`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from autopeft.errors import DataError
from autopeft.kinds import lookup as _lookup
from autopeft.kinds import members
from autopeft.tasks._examples import Examples
from autopeft.tasks._protocols import Source, Splits, cut
from autopeft.tasks._tables import find_part, from_hub, read
from autopeft.tasks._task import Hub, Task

PACKAGE = "autopeft.tasks"
"""Where the tasks are."""


def lookup(name: str) -> Task:
    """The task called `name`: ``glue/mrpc``, the short ``mrpc``, or a dotted path ``module:TASK``.

    A short name that GLUE and another benchmark share means GLUE's: ``rte`` is ``glue/rte``.

    Raises:
        UnknownNameError: there is no such task, or the short name is ambiguous.
    """
    alike = [known for known in names() if known.rpartition("/")[2] == name]
    glue = [known for known in alike if known.startswith("glue/")]
    full = glue[0] if glue else alike[0] if len(alike) == 1 else name
    task: Task = _lookup("task", full, PACKAGE)
    return task


def names() -> tuple[str, ...]:
    """Every task that can be named, by its full name."""
    return tuple(members(PACKAGE))


def load(
    task: Task,
    *,
    data: Path | None = None,
    protocol: str = "holdout",
    seed: int = 0,
    train_limit: int | None = None,
) -> Splits:
    """The parts of `task`, divided by `protocol` (see `autopeft.tasks._protocols`).

    Args:
        data: a folder that holds ``<task name>/train.jsonl`` (or ``<short name>/...``, or the files themselves)
            in the field names of the Hub; also .json, .csv, .tsv, .parquet, and .gz behind the text ones.
            Without it the task's own source is used, or the Hub through `datasets`.
        protocol: a name of `PROTOCOLS` that the task allows.
        seed: what the cuts depend on.
        train_limit: keep at most that many training examples.

    Raises:
        DataError: the data cannot be had or used.
        UnknownNameError, SettingsError: see `autopeft.tasks._protocols.cut`.
    """
    return cut(task, source(task, data), protocol, seed, train_limit)


def source(task: Task, data: Path | None = None) -> Source:
    """Where the parts of `task` come from; a part is read when it is asked for.

    Raises:
        DataError: the folder `data` lacks a part.
    """
    if data is not None:
        return _local(task, Path(data))
    if task.fetch is not None:
        fetch = task.fetch
        return Source(
            {role: f"{task.name}:{split}" for role, split in task.parts}, lambda role: task.examples(fetch(role))
        )
    if task.hub is None:
        raise DataError(f"The task {task.name} is neither on the Hub nor has it a source of its own: pass a folder.")
    return _hub(task, task.hub)


def _hub(task: Task, hub: Hub) -> Source:
    splits = dict(task.parts)
    instead = (
        f"Without a network pass --data FOLDER, a folder that holds {task.name}/train.jsonl and "
        f"{task.name}/{splits['test']}.jsonl (also .csv, .tsv, .parquet, .gz) with the columns "
        f"{', '.join((*task.inputs, task.label))}."
    )
    return Source(
        {role: f"{hub.path}/{hub.config}:{split}" for role, split in task.parts},
        lambda role: task.examples(from_hub(hub.path, hub.config, splits[role], instead)),
    )


def _local(task: Task, data: Path) -> Source:
    # The most exact first: a folder that holds many tasks may have another task's files at its top.
    # Tasks of one benchmark may read the same files, as those of E2E do.
    folders = [data / task.name, data / task.short_name, data / task.name.partition("/")[0], data]
    tried = []
    for folder in folders:
        found = {role: _part(folder, split) for role, split in task.parts}
        files = {role: path for role, path in found.items() if path is not None}
        if len(files) == len(task.parts):
            named = {role: str(path) for role, path in files.items()}
            return Source(named, partial(_read_part, task, files))
        # A folder with some of the parts is the one that is meant, and going on to the next would mix two data sets.
        if files:
            missing = sorted(dict(task.parts)[role] for role in found.keys() - files.keys())
            raise DataError(f"The folder {str(folder)!r} lacks the part {', '.join(missing)} of {task.name}.")
        tried.append(str(folder))
    wanted = ", ".join(split for _, split in task.parts)
    raise DataError(
        f"No files of {task.name} were found: looked in {tried} for {wanted} "
        f"with the ending .jsonl, .json, .csv, .tsv (each also .gz) or .parquet."
    )


def _part(folder: Path, split: str) -> Path | None:
    # MNLI alone has two validation splits; whoever keeps one of them calls it "validation".
    return find_part(folder, split) or find_part(folder, split.removesuffix("_matched"))


def _read_part(task: Task, files: dict[str, Path], role: str) -> Examples:
    return task.examples(read(files[role]))
