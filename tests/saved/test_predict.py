"""Predictions of a saved model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from autopeft import tasks
from autopeft.backbones import Backbone
from autopeft.errors import ArchitectureError, DataError, WrongTypeError
from autopeft.saved.predict import _examples, predictions, texts_of
from autopeft.saved.save import load
from autopeft.session import Session
from autopeft.settings import Settings
from autopeft.tasks._files import from_files
from autopeft.tasks._tables import read
from autopeft.tasks._task import Task
from autopeft.training.batches import collate
from autopeft.training.evaluator import Evaluator
from autopeft.training.learners import EncoderLearner
from autopeft.training.learners.text_to_text import TextToTextLearner
from autopeft.training.recipe import Recipe
from autopeft.training.retraining import baseline, retrain
from small_case import Case, call, make

TEXTS = [(f"{'good' if number % 2 else 'bad'} w{number}",) for number in range(40)]  # more than one batch


@pytest.fixture(scope="module")
def saved(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = {"steps": 60, "batch_size": 8, "max_length": 16, "learning_rate": 1e-2}
    session = Session.build(case.settings(recipe=recipe))
    folder = tmp_path_factory.mktemp("saved")
    retrain(session.evaluator, "it", baseline("serial:4", session.backbone), (40,), save_to=folder)
    return folder


def test_labels_and_probabilities_are_those_of_the_model(saved: Path) -> None:
    found = predictions(saved, TEXTS)
    model = load(saved)
    for (text,), item in zip(TEXTS, found, strict=True):
        with torch.inference_mode():
            shares = model(**model.tokenizer([text], return_tensors="pt")).logits.softmax(-1)[0]
        assert item["text"] == text
        assert item["score"] == pytest.approx(float(shares.max()), abs=1e-5)  # padding of the batch
        assert item["label"] == ("bad", "good")[int(shares.argmax())]


def test_a_learnt_word_decides(saved: Path) -> None:
    right = [item["label"] == item["text"].split()[0] for item in predictions(saved, TEXTS)]
    assert sum(right) >= 36  # seeds are fixed; chance would give 20


def test_a_column_of_texts_may_be_called_label(tmp_path: Path) -> None:
    case = make(tmp_path)
    for part in ("train", "validation", "test"):
        path = tmp_path / f"{part}.csv"
        path.write_text(path.read_text().replace("text,label", "label,topic", 1))
    recipe = {"steps": 60, "batch_size": 8, "max_length": 16, "learning_rate": 1e-2}
    files = {**case.data()["files"], "text": ["label"], "label": "topic"}
    session = Session.build(case.settings(recipe=recipe, files=files))
    retrain(session.evaluator, "it", baseline("serial:4", session.backbone), (40,), save_to=tmp_path / "saved")
    right = [item["label"] == item["text"].split()[0] for item in predictions(tmp_path / "saved", TEXTS)]
    assert sum(right) >= 36  # seeds are fixed; chance would give 20


@pytest.mark.slow
@pytest.mark.parametrize("is_number", [False, True])
def test_a_text_to_text_model_says_labels_and_numbers(is_number: bool, tmp_path: Path) -> None:
    found = tiny.backbone("t5", with_tokenizer=True)
    found.model.save_pretrained(tmp_path / "t5")
    tiny.tokenizer("t5").save_pretrained(tmp_path / "t5")
    loaded = Backbone.from_pretrained(str(tmp_path / "t5"))
    task = Task("tiny/numbers", "regression", ("text",), metrics=("spearman",)) if is_number else tiny.SENTIMENT
    data = [tiny.sentiment(n, seed=seed) for seed, n in enumerate((256, 16))]
    if is_number:
        data = [replace(part, labels=part.labels * 2.0 + 1.0) for part in data]  # 1.0 and 3.0
    recipe = Recipe(epochs=12, batch_size=16, learning_rate=3e-3, max_length=16)
    parts = replace(tiny.splits(*data, task.kind), label_names=task.label_names)
    evaluator = Evaluator(loaded, task, parts, recipe)
    retrain(evaluator, "it", baseline("full", loaded), (40,), save_to=tmp_path / "saved")
    said = predictions(tmp_path / "saved", TEXTS)
    assert [item["text"] for item in said] == [text for (text,) in TEXTS]
    wanted = {"good": 3.0, "bad": 1.0} if is_number else {"good": "good", "bad": "bad"}
    right = [item["label"] == wanted[item["text"].split()[0]] for item in said]
    assert sum(right) >= 34  # seeds are fixed; chance would give 20
    assert all(0.5 <= item["score"] <= 1 for item in said)
    assert "model.generate(" in (tmp_path / "saved" / "README.md").read_text()


def test_a_text_is_read_as_far_as_in_training(saved: Path) -> None:
    words = " ".join(f"w{number}" for number in range(1, 31))
    short, long = predictions(saved, [(words,), (f"{words} good good good good",)])  # both beyond 16 tokens
    assert short["score"] == long["score"]


def test_the_end_of_a_text_is_read_where_training_read_it(case: Case, tmp_path: Path) -> None:
    recipe = {"steps": 2, "batch_size": 8, "max_length": 16, "truncation_side": "left"}
    session = Session.build(case.settings(recipe=recipe))
    retrain(session.evaluator, "it", baseline("serial:4", session.backbone), (40,), save_to=tmp_path / "saved")
    words = " ".join(f"w{number}" for number in range(1, 31))
    short, before, after = predictions(tmp_path / "saved", [(words,), (f"good {words}",), (f"{words} good",)])
    assert short["score"] == before["score"] != after["score"]


@pytest.fixture(scope="module")
def choosing(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Which of two candidates holds the word "good"?"""
    folder = tmp_path_factory.mktemp("choosing")
    rows = [
        {"q": f"w{n}", "a": ("good", "bad")[n % 2], "b": ("bad", "good")[n % 2], "label": "ab"[n % 2]}
        for n in range(64)
    ]
    for part, some in {"train": rows[:40], "validation": rows[40:52], "test": rows[52:]}.items():
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    parts = {part: str(folder / f"{part}.jsonl") for part in ("train", "validation", "test")}
    files = {**parts, "text": ["q"], "choices": ["a", "b"]}
    recipe = {"steps": 60, "batch_size": 8, "max_length": 16, "learning_rate": 1e-2}
    session = Session.build(case.settings(files=files, recipe=recipe))
    retrain(session.evaluator, "it", baseline("serial:4", session.backbone), (40,), save_to=folder / "saved")
    return folder / "saved"


def test_a_question_is_answered_by_the_best_candidate(choosing: Path) -> None:
    texts = [(f"w{n}", *(("good", "bad") if n % 2 else ("bad", "good"))) for n in range(40)]
    found = predictions(choosing, texts)
    right = [item["label"] == ("a" if n % 2 else "b") for n, item in enumerate(found)]
    assert sum(right) >= 36  # seeds are fixed; chance would give 20
    assert all(0.5 <= item["score"] <= 1 for item in found)
    (swapped,) = predictions(choosing, [("w1", "bad", "good")])
    (first,) = predictions(choosing, [("w1", "good", "bad")])
    assert {first["label"], swapped["label"]} == {"a", "b"}
    assert first["score"] == pytest.approx(swapped["score"], abs=1e-5)
    (three,) = predictions(choosing, [("w1", "bad", "good", "bad bad")])
    assert three["label"] == "good"  # more candidates than there were places: the text itself
    with pytest.raises(DataError, match=r"a question and two or more candidates an input, but got \('w1', 'good'\)"):
        predictions(choosing, [("w1", "good")])


def rows_in(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    (folder / name).mkdir()
    for part, some in {"train": rows[:40], "validation": rows[40:]}.items():
        (folder / name / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return str(folder)


SENSES = [
    {"word": f"w{n % 9}", "sentence1": "good", "sentence2": f"{('bad', 'good')[n % 2]} w{n}", "label": n % 2}
    for n in range(60)
]
ANSWERS = [
    {"paragraph": f"w{n // 3}", "question": "w1", "answer": ("bad", "good")[n % 2], "label": n % 2} for n in range(60)
]
CAUSES = [
    {"premise": "w1", "question": ("cause", "effect")[n % 3 % 2], "choice1": ("good", "bad")[n % 2]}
    | {"choice2": ("bad", "good")[n % 2], "label": n % 2}
    for n in range(60)
]
TASKS = {"wic": SENSES, "multirc": ANSWERS, "copa": CAUSES}


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5")
    tiny.backbone("t5", with_tokenizer=True).model.save_pretrained(folder)
    tiny.tokenizer("t5").save_pretrained(folder)
    return folder


def trained(settings: Settings, folder: Path) -> Evaluator:
    session = Session.build(settings)
    retrain(session.evaluator, "it", baseline("serial:4", session.backbone), (40,), save_to=folder)
    return session.evaluator


def spy_on(learner: type[Any], monkeypatch: pytest.MonkeyPatch) -> list[list[list[int]]]:
    seen: list[list[list[int]]] = []

    def outputs(self: Any, batch: Any) -> Any:
        seen.append(batch.inputs["input_ids"].tolist())
        return real(self, batch)

    real = learner.outputs
    monkeypatch.setattr(learner, "outputs", outputs)
    return seen


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("is_text_to_text", [False, True])
def test_a_tasks_own_inputs_are_put_together_as_in_training(
    name: str, is_text_to_text: bool, t5: Path, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = TextToTextLearner if is_text_to_text else EncoderLearner
    model = str(t5) if is_text_to_text else str(case.folder / "model")
    data = rows_in(tmp_path, name, TASKS[name])
    evaluator = trained(case.settings(files=None, task=name, data=data, model=model), tmp_path / "saved")
    test = evaluator.splits.test
    encoded = evaluator.learner.encode(test, 16)
    expected = collate(encoded, np.arange(5), evaluator.learner.pad, torch.device("cpu")).inputs["input_ids"].tolist()
    seen = spy_on(learner, monkeypatch)
    inputs = tasks.lookup(name).inputs
    found = predictions(tmp_path / "saved", [tuple(row[key] for key in inputs) for row in TASKS[name][40:45]])
    assert seen == [expected]
    assert {item["label"] for item in found} <= set(tasks.lookup(name).label_names)
    with pytest.raises(DataError, match=rf"takes {len(inputs)} text\(s\) an input, .* trained on {inputs[0]}, "):
        predictions(tmp_path / "saved", [("a", "b")])
    with pytest.raises(DataError, match="The input cannot be used: 1 texts of"):
        predictions(tmp_path / "saved", [(" ", *(TASKS[name][0][key] for key in inputs[1:]))])


def test_a_text_to_text_model_takes_a_question_and_candidates(
    t5: Path, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"q": f"w{n}", "a": "good", "b": "bad", "label": "ab"[n % 2]} for n in range(40)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"train": str(tmp_path / "own.jsonl"), "text": ["q"], "choices": ["a", "b"]}
    evaluator = trained(case.settings(files=files, model=str(t5)), tmp_path / "saved")
    first = evaluator.splits.test.choices[0]
    expected = evaluator.learner.encode(evaluator.splits.test, 16).tokens[0].tolist()
    seen = spy_on(TextToTextLearner, monkeypatch)
    (found,) = predictions(tmp_path / "saved", [(first[0][0], "good", "bad")])
    assert seen == [[expected]]
    assert found["label"] in ("a", "b")
    for wrong in (("w1",), ("w1", "good"), ("w1", "good", "bad", "w2")):
        with pytest.raises(DataError, match="takes a question and 2 candidates an input"):
            predictions(tmp_path / "saved", [wrong])


def test_entities_of_a_passage_are_the_candidates() -> None:
    task = tasks.lookup("record")
    parts = [("w1 w2", "@placeholder good", "w1", "w2")]
    found = _examples(task, parts, is_encoder=True)
    assert (found.choices[0][1], found.names[0]) == (("w1 w2", "w2 good"), ("w1", "w2"))


def test_a_tokenizer_that_pads_on_the_left_changes_nothing(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [("good",), ("w1 w2 w3 w4 w5 bad",)]
    expected = predictions(saved, texts)

    def turned(*args: Any, **kwargs: Any) -> Any:
        model: Any = load(*args, **kwargs)
        model.tokenizer.padding_side = "left"
        return model

    monkeypatch.setattr("autopeft.saved.predict.load", turned)
    assert predictions(saved, texts) == expected


def test_a_format_that_is_not_known_is_refused(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "saved")
    record = json.loads((saved / "architecture.json").read_text())
    record["facts"] |= {"format": "of_my_own", "task": "mine/it"}
    del record["digests"]
    (tmp_path / "saved" / "architecture.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match="'mine/it' puts its texts together in a way of its own, 'of_my_own'"):
        predictions(tmp_path / "saved", [("a",)])


def test_wrong_inputs_are_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"takes 1 text\(s\) an input, but got none"):
        predictions(saved, [])
    with pytest.raises(DataError, match=r"but got \('a', 'b'\)"):
        predictions(saved, [("a",), ("a", "b")])
    with pytest.raises(ArchitectureError, match="does not hold a saved model"):
        predictions(tmp_path, [("a",)])


def test_a_bare_string_is_one_text(saved: Path) -> None:
    assert predictions(saved, "great") == predictions(saved, [("great",)])
    assert predictions(saved, ["great", "bad"]) == predictions(saved, [("great",), ("bad",)])


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_data_file_is_answered_row_by_row(saved: Path, tmp_path: Path, ending: str) -> None:
    (tmp_path / "in.csv").write_bytes('id,text,,\n1,"größe, a",,\n2,b,,\n'.encode("cp1252"))
    to = tmp_path / f"out.{ending}"
    asked = ("predict", saved, "--file", tmp_path / "in.csv", "--encoding", "cp1252", "--to", to)
    found = call(*asked)
    assert found.code == 0, found.err
    written = read(to).rows
    expected = predictions(saved, [("größe, a",), ("b",)])
    assert [(row["text"], row["label"]) for row in written] == [(row["text"], row["label"]) for row in expected]
    assert [float(row["score"]) for row in written] == [row["score"] for row in expected]
    assert call(*asked).code == 2  # it is there already
    assert call(*asked, "--overwrite").code == 0


def test_what_predict_cannot_read_or_write_is_refused(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"txt": "a", "label": "x"}\n')
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"label": "x", "text": "a"}\n')
    for arguments, expected in {
        ("--file", tmp_path / "in.jsonl"): "no column 'text' (did you mean 'txt'?)",
        ("--file", tmp_path / "none.csv"): "does not exist",
        ("--file", tmp_path / "in.jsonl", "--encoding", "hex"): "An encoding is a name",
        ("--file", tmp_path / "in.jsonl", "--pair"): "--file takes the place",
        ("a text", "--to", tmp_path / "out.xlsx"): "ends in .csv or .jsonl",
        ("a text", "--to", mine, "--overwrite"): "does not hold predictions",
    }.items():
        found = call("predict", saved, *arguments)
        assert found.code == 2
        assert expected in found.err
    assert mine.read_text() == '{"label": "x", "text": "a"}\n'


@pytest.mark.parametrize(
    "texts", [b"good", [b"good"], 3, None, {"text": "good"}, [3], ["good", None], [("good", 3)], [{}]]
)
def test_what_is_no_text_is_one_error(saved: Path, texts: Any) -> None:
    with pytest.raises(WrongTypeError, match="Texts are a text, or a sequence whose items are texts") as caught:
        predictions(saved, texts)
    assert isinstance(caught.value, TypeError)


def test_conversations_are_answered_from_what_stands_before_the_assistant(tmp_path: Path) -> None:
    made = tiny.backbone("llama", with_tokenizer=True)
    made.language_model.save_pretrained(tmp_path / "model")
    made.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} </s> {% endfor %}"
    made.tokenizer.save_pretrained(tmp_path / "model")
    backbone = Backbone.from_pretrained(tmp_path / "model")
    chat = [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps({"messages": chat}) + "\n" for _ in range(8)))
    task, loader = from_files(file, text=("messages",))
    evaluator = Evaluator(backbone, task, loader(), Recipe(steps=1, batch_size=2))
    retrain(evaluator, "it", tiny.everywhere(backbone, "lora", 2), [0], save_to=tmp_path / "saved")
    longer = [*chat, {"role": "user", "content": "w3"}]
    given = [chat, chat[:1], "w1", longer]
    file.write_text("".join(json.dumps({"messages": one}) + "\n" for one in given))
    inputs = texts_of(tmp_path / "saved", file)
    assert inputs == [chat[:1], chat[:1], ("w1",), longer]
    found = predictions(tmp_path / "saved", inputs)
    assert [one["text"] for one in found] == ["user: w1"] * 2 + ["w1", "user: w1\nassistant: w2\nuser: w3"]
    assert found[0]["label"] == found[1]["label"] == found[2]["label"]
    assert found[3]["label"] == predictions(tmp_path / "saved", [longer])[0]["label"]
    file.write_text(
        "".join(json.dumps({"messages": one}) + "\n" for one in (chat[1:], json.dumps(chat), None, "\ud83d"))
    )
    with pytest.raises(DataError, match="row 1: there is nothing before the answer; row 2: a conversation is a list"):
        texts_of(tmp_path / "saved", file)


def test_a_model_of_texts_takes_no_conversation(saved: Path) -> None:
    with pytest.raises(DataError, match="takes texts and no conversations; it was trained on"):
        predictions(saved, [[{"role": "user", "content": "w1"}]])
