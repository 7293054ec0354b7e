"""A tiny model on disk, small CSV files and settings: a whole search through the command line in seconds."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

import tiny
from autopeft.cli import app as cli
from autopeft.settings import Settings, from_dict
from autopeft.study.study import Study
from autopeft.tasks._examples import Examples

CHANGES: dict[str, Any] = {
    "space": {"methods": {"serial": {"sizes": [0, 1, 2, 4]}, "prefix": {"sizes": [0, 1, 2]}}},
    "recipe": {"steps": 2, "batch_size": 8, "max_length": 16},
    "learning_rates": [],
    "sampler": "random",
    "trials": 3,
    "initial": 2,
}
"""A space of 77 architectures and a search of three trials of two steps each."""


@dataclass(frozen=True)
class Case:
    """A folder with a model of three layers in ``model``, and ``train.csv``, ``validation.csv`` and ``test.csv``."""

    folder: Path

    def data(self, **changes: Any) -> dict[str, Any]:
        """The settings as a mapping, with changes."""
        parts = {part: str(self.folder / f"{part}.csv") for part in ("train", "validation", "test")}
        files = {**parts, "text": ["text"], "label": "label"}
        return {**CHANGES, "model": str(self.folder / "model"), "files": files, **changes}

    def settings(self, **changes: Any) -> Settings:
        """The settings themselves."""
        return from_dict(self.data(**changes))

    def write(self, path: Path, **changes: Any) -> Path:
        """A settings file."""
        path.write_text(yaml.safe_dump(self.data(**changes)))
        return path


def writer(folder: Path, n: int = 40) -> dict[str, Any]:
    """A tiny Llama in ``model`` and `n` prompts with two gold texts each in ``rows.jsonl``: settings that name both."""
    made = tiny.backbone("llama", with_tokenizer=True)
    made.language_model.save_pretrained(folder / "model")
    made.tokenizer.save_pretrained(folder / "model")
    rows = [{"prompt": f"w{number}", "completion": ["good", "well"]} for number in range(n)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"train": str(folder / "rows.jsonl"), "text": ["prompt"], "label": "completion", "kind": "text"}
    return {"model": str(folder / "model"), "files": files}


def make(folder: Path) -> Case:
    """Write the model and the data into `folder`."""
    found = tiny.backbone("bert", with_tokenizer=True)
    with contextlib.redirect_stderr(io.StringIO()):  # transformers shows a bar
        found.model.save_pretrained(folder / "model")
    tiny.tokenizer("bert").save_pretrained(folder / "model")
    for seed, (part, n) in enumerate({"train": 32, "validation": 16, "test": 16}.items()):
        write_csv(folder / f"{part}.csv", tiny.sentiment(n, seed=seed))
    return Case(folder)


def write_csv(path: Path, examples: Examples) -> None:
    """Examples as rows of ``text`` and ``label``, the label in words."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["text", "label"])
        for (text,), label in zip(examples.texts, examples.labels, strict=True):
            writer.writerow([text, tiny.SENTIMENT.label_names[int(label)]])


@dataclass(frozen=True)
class Called:
    """What a call of the command line gave."""

    code: int
    out: str
    err: str


def call(*arguments: object, stdin: str | bytes = "") -> Called:
    """The command line in this process, which saves seconds of imports."""
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    raw = stdin if isinstance(stdin, bytes) else stdin.encode()
    with (
        mock.patch.object(sys, "argv", ["autopeft", *map(str, arguments)]),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw))),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    return Called(int(code or 0), out.getvalue(), err.getvalue())


def trials(folder: Path) -> list[Any]:
    """The trials of the study in `folder`."""
    with Study.open(folder / "study.db") as study:
        return list(study.trials())


def finished(folder: Path) -> int:
    """How many of them count as finished."""
    return sum(trial.counts_as_finished for trial in trials(folder))
