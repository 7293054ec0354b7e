"""Predictions of a saved model on new texts."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autopeft import tasks
from autopeft.errors import DataError, SettingsError, WrongTypeError
from autopeft.saved.record import read_record
from autopeft.saved.save import load
from autopeft.tasks import _answers
from autopeft.tasks._answers._reading import has_half
from autopeft.tasks._bytes import check_encoding
from autopeft.tasks._conversations import BEFORE, as_one_text, conversations, is_written_out, to_answer
from autopeft.tasks._examples import Examples
from autopeft.tasks._tables import Row, Table, listed, read
from autopeft.tasks._task import Task, missing_columns, one_per_row, text_mistakes
from autopeft.tasks._wording import Message
from autopeft.training.batches import collate
from autopeft.training.learners import Written, learner_for
from autopeft.writing import write_whole

_BATCH = 32
_MOST_TOKENS = 512
_ANY = 1_000_000

Input = tuple[str, ...] | list[Message]
"""The texts of an input, or the conversation that is to be answered."""

_WRITTEN = ("label", "score", "text")

_FORMATS = ("one_per_row", "plain", "question_and_choices")
"""Names of the formats that follow from the kind of the task, that of older records among them ("plain")."""


def predictions(
    folder: str | Path,
    texts: str | Sequence[str | Input],
    *,
    model: str | Path | None = None,
    device: str = "cpu",
    dequantize: bool = False,
    trust_remote_code: bool = False,
) -> list[dict[str, Any]]:
    """The label (or number) and its probability (1 for a number and for free text) for every input.

    Inputs are put together, encoded and padded as in training.

    Args:
        texts: the texts of each input; a bare string is the one text of an input, or of the only one.
            For a known task those of its `Task.inputs`, in that order; for
            ReCoRD the entities come last, one by one. For files of one's own the text columns; with choices, the
            question (or context) and then the candidates, as many as in training, though an encoder takes any number.
            Where it was trained on conversations, an input may be a list of messages; one that the assistant ends is
            answered from what stands before its last message.
        model: where the base model is now, if not where it was.
        dequantize: whether a base that was quantised in training is loaded as it is.
        trust_remote_code: whether code that the base model brings is run.

    Raises:
        ArchitectureError: the folder does not hold a saved model.
        WrongTypeError: what is given is neither text nor a sequence of texts or messages; bytes are no text.
        DataError: there is no text, an input has another number of texts than the model takes, a text is empty, a
            conversation has nothing to answer or the model was trained on none, or
            the model was trained on texts that a task of one's own puts together in a way of its own.
    """
    inputs = _inputs(texts)
    record = read_record(folder)
    task = _task(record)
    # Checked before the model is loaded, which takes seconds and may have to be fetched.
    examples = _examples(task, inputs, is_encoder=bool(record["n_outputs"]))
    loaded: Any = load(folder, model=model, device=device, dequantize=dequantize, trust_remote_code=trust_remote_code)
    learner = learner_for(loaded.attached.backbone, task, record["facts"].get("answer", "score"))
    learner.model = loaded  # with the head that was trained
    recipe = record["facts"].get("recipe", {})
    encoded = learner.encode(
        examples, int(recipe.get("max_length", _MOST_TOKENS)), recipe.get("truncation_side", "right")
    )
    found: list[dict[str, Any]] = []
    for rows in np.split(np.arange(len(inputs)), range(_BATCH, len(inputs), _BATCH)):
        with torch.inference_mode():
            outputs = learner.outputs(collate(encoded, rows, learner.pad, loaded.device))
        answers = [_answer(task, examples, int(row), one) for row, one in zip(rows, outputs, strict=True)]
        found += [{"text": _shown(inputs[row]), **answer} for row, answer in zip(rows, answers, strict=True)]
    return found


def _inputs(texts: Any) -> list[Input]:
    """The texts of each input."""
    wanted = "Texts are a text, or a sequence whose items are texts or sequences of texts"
    if isinstance(texts, str):
        return [(texts,)]
    # Both could be gone through, and would give numbers and keys for texts.
    if isinstance(texts, bytes | Mapping) or not isinstance(texts, Iterable):
        raise WrongTypeError(f"{wanted}, but got {type(texts).__name__}: {texts!r:.60}.")
    found: list[Input] = []
    for number, one in enumerate(texts, start=1):
        if isinstance(one, list | tuple) and one and all(isinstance(part, Mapping) for part in one):
            messages, mistake = to_answer(one)
            if mistake:
                raise DataError(f"Input {number} cannot be answered: {mistake}.")
            found.append(messages)
            continue
        parts = (one,) if isinstance(one, str) or not isinstance(one, Sequence) else tuple(one)
        if not all(isinstance(part, str) for part in parts):  # of bytes, the parts are numbers
            raise WrongTypeError(f"{wanted}, but input {number} is of type {type(one).__name__}: {one!r:.60}.")
        found.append(parts)
    return found


def _shown(given: Input) -> str:
    return "\t".join(given) if isinstance(given, tuple) else as_one_text(given)


def texts_of(
    folder: str | Path, file: Path, *, delimiter: str | None = None, encoding: str | None = None
) -> list[Input]:
    """The inputs in a data file, for `predictions`: the columns that the model in `folder` was trained on.

    Args:
        file: CSV, TSV, JSON, JSON lines or Parquet, see `autopeft.tasks._tables.read`; a label column is not needed.

    Raises:
        ArchitectureError: the folder does not hold a saved model.
        DataError: the file cannot be read, lacks a column, or holds values that are no text.
        SettingsError: `encoding` is none.
    """
    check_encoding(encoding)
    record = read_record(folder)
    names = [*record["inputs"], *(record["label_names"] if _answers.lookup(record["problem"]).has_candidates else ())]
    table = read(file, delimiter, encoding)
    wrong = missing_columns(table, names)
    if not wrong and record["facts"].get("format") == conversations.__name__:
        return _chats(table, names[0])
    wrong = wrong or text_mistakes(table, names, is_part_enough=True)
    if wrong:
        raise DataError(f"{table.source} cannot be used: {listed(wrong)}. Its columns are {', '.join(table.columns)}.")
    return [tuple(row[name] for name in names) for row in table.rows]


def _chats(table: Table, name: str) -> list[Input]:
    """A conversation a row, or the one message of a user as text."""
    found, wrong = list[Input](), list[str]()
    for number, row in enumerate(table.rows, start=1):
        value = row[name]
        is_text = isinstance(value, str) and bool(value.strip()) and not (is_written_out(value) or has_half(value))
        messages, mistake = ([], "") if is_text else to_answer(value)
        found.append((value,) if is_text else messages)
        wrong += [f"row {number}: {mistake}"] if mistake else []
    if wrong:
        raise DataError(f"{table.source} cannot be used: {listed(wrong)}.")
    return found


def write_predictions(found: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write what `predictions` gave, in its order: JSON lines where `path` ends so, else CSV.

    Raises:
        SettingsError: the name ends otherwise; see `check_predictions_name`.
        WriteError: it cannot be written.
    """
    check_predictions_name(path)
    rows = [{name: item[name] for name in _WRITTEN} for item in found]
    with write_whole(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        if path.suffix.lower() == ".csv":
            # The module's default ends lines as on Windows, whatever the system.
            writer = csv.DictWriter(file, _WRITTEN, lineterminator="\n")
            writer.writeheader()
            writer.writerows({**row, "label": label_text(row["label"])} for row in rows)
        else:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def label_text(label: Any) -> str:
    """A predicted label as one text: several labels with semicolons between, as `files.label_separator` reads them."""
    return "; ".join(label) if isinstance(label, list) else str(label)


def check_predictions_name(path: Path | None) -> None:
    """Better told before than after the work.

    Raises:
        SettingsError: the name of the file says no format that is written.
    """
    if path is not None and path.suffix.lower() not in (".csv", ".jsonl"):
        raise SettingsError(f"Predictions are written to a file that ends in .csv or .jsonl, but got {str(path)!r}.")


def lines_of(raw: bytes) -> list[str]:
    """Texts, one a line; none is left out, so that answers can be put beside them.

    Raises:
        DataError: a line is not UTF-8, or lines are blank.
    """
    lines: list[str] = []
    # Not `splitlines`, which also splits at characters that stand inside of texts, such as U+2028.
    for number, line in enumerate(raw.removeprefix(codecs.BOM_UTF8).removesuffix(b"\n").split(b"\n"), start=1):
        try:
            lines.append(line.decode().removesuffix("\r"))
        except UnicodeDecodeError as error:
            bad = line[error.start : error.end].hex()
            raise DataError(f"Texts must be UTF-8, but line {number} holds the bytes 0x{bad}.") from error
    blank = [str(number) for number, line in enumerate(lines, start=1) if not line.strip()]
    if raw and blank:
        raise DataError(f"Every line must hold a text, but {len(blank)} are blank: lines {', '.join(blank[:5])}.")
    return lines if raw else []


def _task(record: Mapping[str, Any]) -> Task:
    """The task that the model was trained on, as far as reading and answering go."""
    facts = record["facts"]
    name, form = str(facts.get("task", "")), facts.get("format", "plain")
    # A task that ships knows its own format by name; one of the user's is code, which no folder may have run.
    if name in tasks.names():
        known = tasks.lookup(name).format
    elif form == conversations.__name__:
        known = conversations
    elif form in _FORMATS:
        known = one_per_row
    else:
        raise DataError(
            f"The task {name!r} puts its texts together in a way of its own, {form!r}, that is not known here: call "
            "the model of autopeft.load itself."
        )
    inputs = tuple(record["inputs"])
    return Task(
        name if name in tasks.names() else record["prompt"],  # a known task is asked in words by its whole name
        record["problem"],
        inputs,
        label=f"the label beside {', '.join(inputs)}",  # longer than each of them, so none of them
        label_names=tuple(record["label_names"]),
        verbalisers=tuple(record["verbalisers"]),
        threshold=float(record.get("threshold", 0.5)),
        format=known,
    )


def _examples(task: Task, texts: Sequence[Input], *, is_encoder: bool) -> Examples:
    if task.format is not conversations and any(isinstance(parts, list) for parts in texts):
        raise DataError(f"The model takes texts and no conversations; it was trained on {', '.join(task.inputs)}.")
    n_inputs, is_choice = len(task.inputs), task.answers.has_candidates
    if is_choice and task.format is one_per_row:
        n_candidates = len(task.label_names)
        _check(task, texts, range(3, _ANY) if is_encoder else range(1 + n_candidates, 2 + n_candidates))
        if has_half(texts):
            raise DataError("A text of the inputs holds half a character.")
        choices = [
            [(question, candidate) for candidate in candidates] for question, *candidates in map(_texts_alone, texts)
        ]
        return Examples(np.zeros(len(texts), dtype=np.int64), choices=choices)
    is_listed = is_choice and not task.label_names  # the last input is a list: what may be answered
    _check(task, texts, range(n_inputs, _ANY if is_listed else n_inputs + 1))
    rows = [_row(task, parts, is_listed=is_listed) for parts in texts]
    return task.examples(Table("The input", (*task.inputs, task.label), rows))


def _texts_alone(given: Input) -> tuple[str, ...]:
    assert isinstance(given, tuple)  # a conversation was refused before
    return given


def _row(task: Task, parts: Input, *, is_listed: bool) -> Row:
    """A row as the task's format reads it, with a label that is none of its mistakes."""
    if isinstance(parts, list):
        return {task.inputs[0]: as_one_text(parts), BEFORE: parts, task.label: task.answers.a_label(task)}
    if is_listed:
        *single, last = task.inputs
        listed = list(parts[len(single) :])
        return {**dict(zip(single, parts, strict=False)), last: listed, task.label: listed}
    return {**dict(zip(task.inputs, parts, strict=True)), task.label: task.answers.a_label(task)}


def _check(task: Task, texts: Sequence[Input], allowed: range) -> None:
    wrong = [parts for parts in texts if isinstance(parts, tuple) and len(parts) not in allowed]
    if texts and not wrong:
        return
    wanted = f"{allowed.start} text(s)"
    if task.answers.has_candidates and task.format is one_per_row:
        wanted = f"a question and {'two or more' if allowed.stop == _ANY else allowed.start - 1} candidates"
    got = wrong[0] if wrong else "none"
    raise DataError(f"The model takes {wanted} an input, but got {got}; it was trained on {', '.join(task.inputs)}.")


def _answer(task: Task, examples: Examples, row: int, output: Any) -> dict[str, Any]:
    """The label and its probability, from what `autopeft.training.learners.Learner.outputs` gives for one example."""
    if isinstance(output, Written):
        output = output.text
    if isinstance(output, str):
        return {"label": task.answers.shown_text(task, examples, output), "score": 1.0}
    return task.answers.shown(task, examples, row, output)
