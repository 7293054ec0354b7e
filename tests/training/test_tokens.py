"""Texts that are cut and words that are unknown are told."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from small_case import Case, call


def rows(path: Path, texts: list[str]) -> Path:
    """A file of those texts, every one with both labels."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([text, label] for text in texts for label in ("good", "bad"))
    return path


def facts(case: Case, train: Path, **recipe: object) -> dict[str, str]:
    """What `check` tells of searching on that file."""
    data = case.data()
    files = {**data["files"], "train": str(train)}
    asked = case.write(train.parent / "asked.yaml", files=files, recipe={**data["recipe"], **recipe})
    called = call("check", asked, "--json", "--steps", 0)
    assert called.code == 0, called.err
    return dict(json.loads(called.out))


def test_texts_that_are_cut_are_counted(case: Case, tmp_path: Path) -> None:
    # Framed by two special tokens: 5, 22 and 32 of them.
    train = rows(tmp_path / "train.csv", ["w1 " * 3, "w2 " * 20, "w3 " * 30])
    told = facts(case, train, max_length=16)["cut"]
    assert told.startswith(
        "4 of 6 training texts are longer than 16 tokens (of those the median has 27, the longest 32)"
    )
    assert told.endswith("or set recipe.truncation_side to left to read their ends instead")
    assert "cut" not in facts(case, train, max_length=32)
    told = facts(case, train, max_length=16, truncation_side="left")["cut"]
    assert "what comes before that from their ends is not read" in told
    # Beyond the 64 positions of the model no setting helps but reading the other end.
    train = rows(tmp_path / "longer.csv", ["w1 " * 90])
    told = facts(case, train, max_length=128)["cut"]
    assert "2 of 2 training texts are longer than 64 tokens" in told
    assert "the model reads no more: shorten the texts, or take a model that reads longer ones" in told
    assert "raise recipe.max_length" not in told


def test_words_that_are_unknown_are_counted(case: Case, tmp_path: Path) -> None:
    train = rows(tmp_path / "train.csv", ["ein guter w1", "ein langer w2"])
    assert facts(case, train)["unknown"].startswith("67% of the tokens of 4 training texts are unknown")
    known = rows(tmp_path / "known.csv", ["w1 w2 w3", "w4 w5 w6"])
    assert "unknown" not in facts(case, known)


def test_texts_of_which_next_to_nothing_is_known_are_refused(case: Case, tmp_path: Path) -> None:
    data = case.data()
    train = rows(tmp_path / "train.csv", ["ein guter langer Text", "noch ein anderer Text"])
    asked = case.write(tmp_path / "asked.yaml", files={**data["files"], "train": str(train)})
    called = call("search", asked, "--out", tmp_path / "run")
    assert called.code == 2
    assert "100% of the tokens of 4 training examples are unknown to the tokenizer of" in called.err
    assert "more than the 90% with which" in called.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["search", "train"])
def test_it_is_said_where_something_is_trained(case: Case, tmp_path: Path, command: str) -> None:
    data = case.data()
    train = rows(tmp_path / "train.csv", ["w1 " * 30, "w2 " * 30])
    asked = case.write(tmp_path / "asked.yaml", files={**data["files"], "train": str(train)}, trials=1, initial=1)
    more = ("--out", tmp_path / "run") if command == "search" else ("--baseline", "serial:2", "--seeds", 1)
    called = call(command, asked, *more)
    assert called.code == 0, called.err
    assert "cut: 4 of 4 training texts are longer than 16 tokens" in called.err
