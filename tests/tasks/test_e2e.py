"""Sentences from facts: references, ROUGE-L by hand, and a text-to-text model that learns to say them."""

import json
from pathlib import Path

import numpy as np
import pytest

import tiny
from autopeft import tasks
from autopeft.errors import DataError, SettingsError
from autopeft.tasks._examples import Examples
from autopeft.tasks._task import Task
from autopeft.tasks._text_metrics.overlap import rouge_l
from autopeft.training.evaluator import Evaluator
from autopeft.training.learners import learner_for
from autopeft.training.recipe import Recipe

TASK = tasks.lookup("e2e/facts")
ROWS = [
    {"prompt": "name[Clowns], food[English]", "completion": "Clowns serves English food."},
    {"prompt": "name[Zizzi]", "completion": "Zizzi.", "references": ["Zizzi is a pub.", "There is a pub, Zizzi."]},
]


def write(folder: Path) -> None:
    folder.mkdir(parents=True)
    for part in ("train", "validation", "test"):
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def test_every_reference_is_right_and_the_first_is_trained_on(tmp_path: Path) -> None:
    write(tmp_path / "e2e" / "facts")
    splits = tasks.load(TASK, data=tmp_path)
    assert list(splits.train.answers) == [("Clowns serves English food.",), tuple(ROWS[1]["references"])]
    assert TASK.source_text(splits.train, 0) == "facts prompt: name[Clowns], food[English]"
    assert TASK.target_text(splits.train, 1) == "Zizzi is a pub."
    said = ["clowns serves english food", "There is a pub, Zizzi."]
    shared = {"rouge_l": 1.0, "token_f1": 1.0, "exact_match": 1.0}
    assert TASK.score_texts(said, splits.test) == {**shared, "facts_mentioned": 1.0}
    assert splits.describe()["train"]["answer_words"] == {"median": 4, "longest": 4}


def test_the_hub_s_rows_of_the_same_facts_are_each_other_s_references() -> None:
    rows = [("name[A]", "A is a pub."), ("name[B]", "B."), ("name[A]", "There is A.")]
    named = [{"meaning_representation": facts, "human_reference": said} for facts, said in rows]
    columns = ("meaning_representation", "human_reference")
    found = TASK.examples(tasks.Table("tuetschek/e2e_nlg_cleaned:test", columns, named))
    assert found.texts == [("name[A]",), ("name[B]",), ("name[A]",)]
    assert list(found.answers) == [("A is a pub.", "There is A."), ("B.",), ("There is A.", "A is a pub.")]
    with pytest.raises(DataError, match="there is no column 'human_reference'"):
        TASK.examples(tasks.Table("the Hub", columns[:1], [{"meaning_representation": "name[A]"}]))


@pytest.mark.parametrize("label", ["", " ", [], ["a", ""], 3, None])
def test_a_row_without_a_text_is_refused(label: object) -> None:
    table = tasks.Table("made.jsonl", ("prompt", "completion"), [{"prompt": "x", "completion": label}])
    with pytest.raises(DataError, match=r"1 values of 'completion' are not a text or a list of texts: row 1"):
        TASK.examples(table)


@pytest.mark.parametrize(
    ("said", "gold", "expected"),
    [
        ("police kill the gunman", ["police killed the gunman"], 3 / 4),  # Lin 2004: 0.75 against 0.5 for the next
        ("the gunman kill police", ["police killed the gunman"], 2 / 4),
        ("a b c d", ["a c d e f g", "x"], 2 * 3 / (4 + 6)),
        ("", ["a"], 0.0),
        ("A, b!", ["a b"], 1.0),
    ],
)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(said: str, gold: list[str], expected: float) -> None:
    assert rouge_l(said, gold) == pytest.approx(expected)


def test_an_encoder_is_refused_before_anything_is_encoded() -> None:
    with pytest.raises(SettingsError, match=r"The answer of e2e/facts is text, and bert gives none: take a decoder"):
        learner_for(tiny.backbone(with_tokenizer=True), TASK)


@pytest.mark.slow
def test_a_text_to_text_model_learns_to_say_a_sentence() -> None:
    def part(n: int) -> Examples:
        texts = [(("good", "bad")[row % 2],) for row in range(n)]
        answers = [(("w1 w2 w3", "w4 w5")[row % 2],) for row in range(n)]
        return Examples(np.zeros(n, dtype=np.int64), texts=texts, answers=answers)

    task = Task("tiny/facts", "text", ("prompt",), metrics=("rouge_l", "exact_match"))
    t5, train = tiny.backbone("t5", with_tokenizer=True), part(64)
    evaluator = Evaluator(
        t5,
        task,
        tiny.splits(train, part(8), "text"),
        Recipe(steps=120, batch_size=16, learning_rate=0.02, evaluate_every=10),
    )
    found = evaluator(tiny.everywhere(t5, "serial", 16), seed=0)
    constant = task.baseline(part(8))
    assert constant == {"rouge_l": 0.5, "exact_match": 0.5}
    assert found.metrics["exact_match"] == 1.0
