"""Tasks in words: prompts and completions, conversations, templates."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autopeft import tasks
from autopeft.errors import DataError
from autopeft.tasks._examples import Examples
from autopeft.tasks._files import from_files
from autopeft.tasks._metrics import likelihoods
from autopeft.tasks._tables import Table
from autopeft.tasks._task import Task
from autopeft.tasks._wording import wording

CHAT = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Two and two?"},
    {"role": "assistant", "content": "Four."},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_column_of_completions_is_text_and_joined_as_it_is(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q: {n}\nA:", "completion": f" {n}"} for n in range(20)]
    task, loader = from_files(write(tmp_path / "mine.jsonl", rows), text=("prompt",), label="completion")
    assert (task.kind, task.metrics) == ("text", ("rouge_l", "token_f1", "exact_match"))
    assert loader.decided == ("text that is written, 'completion', since its column is called so",)
    train = loader().train
    asked = wording(task)
    assert f"{asked.prompt(train, 0)}{asked.answer(task.target_text(train, 0))}" in {
        f"Q: {n}\nA: {n}" for n in range(20)
    }


def test_behind_a_likelihood_nothing_is_written_that_was_not_asked_for(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", [{"prompt": f"{n}", "completion": f" {n}"} for n in range(20)])
    for metrics, wanted in (
        (("loss", "perplexity"), ("neg_loss", "loss", "perplexity")),
        (("rouge_l", "loss"), ("rouge_l", "loss", "token_f1", "exact_match")),
    ):
        task, _ = from_files(file, text=("prompt",), label="completion", metrics=metrics, loss_on="all")
        assert (task.metrics, task.loss_on) == (wanted, "all")


def test_conversations_end_with_their_answers(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"messages": CHAT}] * 20
    task, loader = from_files(write(tmp_path / "chats.jsonl", rows), text=("messages",))
    train = loader().train
    assert (task.kind, train.answers[0]) == ("text", ("Four.",))
    assert train.texts[0] == ("system: Be short.\nuser: Two and two?",)
    assert wording(task).prompt(train, 0) == CHAT[:-1]
    parted = [{"prompt": CHAT[:-1], "completion": CHAT[-1:]}] * 20
    task, loader = from_files(write(tmp_path / "parted.jsonl", parted), text=("prompt",), label="completion")
    assert wording(task).prompt(loader().train, 0) == CHAT[:-1]
    assert task.target_text(loader().train, 0) == "Four."


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (CHAT[:-1], "row 2: a conversation ends with a message of the assistant, but has the roles system, user"),
        (CHAT[-1:], "row 2: a conversation ends with a message of the assistant, but has the roles assistant"),
        ([{"role": "user"}], "row 2: 'messages' must be a list of messages with a role and a content"),
        ("hello", "row 2: 'messages' must be a list of messages with a role and a content, but got 'hello'"),
    ],
)
def test_what_is_no_conversation_is_named_with_its_row(tmp_path: Path, messages: Any, message: str) -> None:
    file = write(tmp_path / "chats.jsonl", [{"messages": CHAT}, {"messages": messages}])
    with pytest.raises(DataError, match=message):
        from_files(file, text=("messages",))


def test_every_template_fits_its_task_and_says_every_class() -> None:
    for name in tasks.names():
        task = tasks.lookup(name)
        asked = wording(task)
        if name.startswith(("glue/", "superglue/", "e2e/")):
            assert asked.template, name
        if task.answers.has_classes:
            assert len(set(asked.task.verbalisers)) == len(task.label_names), name


def test_a_task_may_bring_its_own_words() -> None:
    task = replace(tasks.lookup("glue/sst2"), prompt="Is this good: {sentence}?")
    asked = wording(task)
    examples = Examples(np.array([1]), texts=[("fine .",)])
    assert asked.prompt(examples, 0) == "Is this good: fine .?"
    assert asked.task.verbalisers == ("negative", "positive")


@pytest.mark.parametrize(
    ("name", "row", "wanted", "said"),
    [
        ("glue/sst2", {"sentence": "fine .", "label": 1}, "Review: fine .\nSentiment:", ("negative", "positive")),
        (
            "superglue/copa",
            {"premise": "It rained.", "question": "effect", "choice1": "Wet.", "choice2": "Dry.", "label": 0},
            "It rained.\nWhat was the effect?\nAnswer:",
            ("Wet.", "Dry."),
        ),
        (
            "superglue/record",
            {"passage": "A met B.", "query": "@placeholder met B.", "entities": ["A", "B"], "answers": ["A"]},
            "Passage: A met B.\nSentence: @placeholder met B.\nWhat stands in the place of @placeholder?\nAnswer:",
            ("A", "B"),
        ),
    ],
)
def test_a_task_in_words(name: str, row: dict[str, Any], wanted: str, said: tuple[str, ...]) -> None:
    task = tasks.lookup(name)
    examples: Examples = task.examples(Table("made up", tuple(row), [row]))
    asked = wording(task)
    assert asked.prompt(examples, 0) == wanted
    assert tuple(asked.candidates(examples, 0)) == said
    assert asked.answer(said[0]) == f" {said[0]}"


def test_a_task_without_a_template_names_its_fields() -> None:
    task = Task("files/mine", "classification", ("title", "body"), label_names=("no", "yes"))
    row = {"title": "t", "body": "b", "label": "yes"}
    examples = task.examples(Table("made up", tuple(row), [row]))
    assert wording(task).prompt(examples, 0) == "title: t\nbody: b\nAnswer:"
    assert wording(task).task.target_text(examples, 0) == "yes"


def test_likelihoods_of_nothing_and_of_what_has_diverged() -> None:
    names = ("neg_loss", "perplexity", "rouge_l")
    assert likelihoods(names, [2.0, 4.0], [1, 2]) == {"neg_loss": -2.0, "perplexity": pytest.approx(7.389056)}
    assert likelihoods(names, [1e6], [1]) == {"neg_loss": -1e6, "perplexity": float("inf")}
    assert str(likelihoods(("loss",), [], [])) == "{'loss': nan}"


HALF = "w2 \ud83d"  # as JSON may escape it


@pytest.mark.parametrize("where", ["user", "assistant", "tool"])
def test_half_a_character_in_a_message_is_named_with_its_row(where: str, tmp_path: Path) -> None:
    torn = [*CHAT[:-1], {**CHAT[-1], "name": HALF}]
    torn = torn if where == "tool" else [{**m, "content": HALF} if m["role"] == where else m for m in CHAT]
    file = write(tmp_path / "chats.jsonl", [{"messages": CHAT}] * 3 + [{"messages": torn}])
    with pytest.raises(DataError, match="row 4: a message holds half a character"):
        from_files(file, text=("messages",))


@pytest.mark.parametrize("first", [None, [], "hello", {"role": "user", "content": "w1"}])
def test_the_first_row_may_be_the_one_that_is_no_conversation(first: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "chats.jsonl", [{"messages": first}] + [{"messages": CHAT}] * 3)
    with pytest.raises(DataError, match="row 1: 'messages' must be a list of messages"):
        from_files(file, text=("messages",))


def test_conversations_that_are_written_as_text_are_named(tmp_path: Path) -> None:
    file = write(tmp_path / "chats.jsonl", [{"messages": json.dumps(CHAT)}, {"messages": str(CHAT)}])
    with pytest.raises(DataError, match=r"2 values of 'messages' are conversations written as text, .*: rows 1, 2;"):
        from_files(file, text=("messages",))
