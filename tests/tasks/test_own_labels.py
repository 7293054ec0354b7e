"""Labels of a user's own files: several a row, texts that are written, weights of classes, and studies from before."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import tiny
from autopeft.errors import DataError, SettingsError
from autopeft.saved.predict import predictions
from autopeft.session import Session, join
from autopeft.tasks._answers import classes
from autopeft.tasks._files import from_files
from autopeft.training.batches import collate
from autopeft.training.learners import EncoderLearner, learner_for
from autopeft.training.retraining import baseline, retrain
from small_case import Case, call, finished, make


def write(path: Path, labels: Sequence[Any], texts: Sequence[str] | None = None) -> Path:
    """JSON lines of ``text`` and ``label``."""
    named = texts or [f"t{number}" for number in range(len(labels))]
    rows = [{"text": text, "label": label} for text, label in zip(named, labels, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# -- several labels a row --------------------------------------------------------------------------------------


def test_lists_are_several_labels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [["news", "sport"], ["sport"], [], ["art"]] * 10)
    task, load = from_files(path, text=["text"])
    assert (task.kind, task.label_names) == ("multi_label", ("art", "news", "sport"))
    assert load.decided == (
        "any of 3 labels of 'label', since labels are lists: 1 a row, 10 of 40 rows without any, the rarest art (10), "
        "news (10), sport (20)",
    )
    assert load.source.read("train").labels[:4].tolist() == [[0, 1, 1], [0, 0, 1], [0, 0, 0], [1, 0, 0]]
    told = load().describe()["train"]
    assert sum(told["classes"].values()) + told["without"] >= told["size"]


def test_a_cell_may_hold_several_labels_between_separators(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "a,news; sport\nb,sport\nc,\nd,art;\n" * 10)
    task, load = from_files(path, text=["text"], label_separator=";")
    assert (task.kind, task.label_names) == ("multi_label", ("art", "news", "sport"))
    assert load.source.read("train").labels[:4].tolist() == [[0, 1, 1], [0, 0, 1], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([["a"], "b", ["b"]], "1 labels of 'label' are no lists: rows 2: 'b'"),
        ([["a"], ["b", None], ["c", {"x": 1}]], "2 labels of 'label' are lists with something else than single values"),
        ([["a"], [], ["a"]], "two classes at least are wanted"),
        ([[f"id{n}"] for n in range(300)], "300 distinct values"),
    ],
)
def test_lists_that_cannot_be_used_are_refused(tmp_path: Path, labels: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_files(write(tmp_path / "a.jsonl", labels), text=["text"])


def test_a_label_of_validation_alone_is_refused(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", [["a"], ["b"]] * 10)
    other = write(tmp_path / "b.jsonl", [["a", "ugly"], []])
    with pytest.raises(DataError, match=r"labels that do not occur in train: 'ugly' \(1 rows\)"):
        from_files(train, other, text=["text"])


def test_more_than_200_labels_are_taken_once_the_kind_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [[f"id{n}"] for n in range(300)])
    assert from_files(path, text=["text"], kind="multi_label")[0].outputs == 300
    flat = write(tmp_path / "b.jsonl", [f"id{n % 300}" for n in range(900)])
    assert from_files(flat, text=["text"], kind="classification")[0].outputs == 300


def test_the_threshold_decides_which_labels_are_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [["a"], ["a", "b"]] * 10)
    logits, (train, low, high) = [[0.1, -0.1]], (None, 0.4, 0.6)
    for threshold, expected in ((0.5, [1, 0]), (low, [1, 1]), (high, [0, 0])):
        task, load = from_files(path, text=["text"], threshold=threshold)
        train = load().train.subset([0])
        assert task.decide(logits, train).tolist() == [expected]
    assert np.isnan(task.decide([[np.nan, 1.0]], train)).all()


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A case whose texts have one of two words, both or neither; what they have are their labels."""
    case = make(tmp_path_factory.mktemp("topics"))
    words = [[], ["good"], ["bad"], ["good", "bad"]]
    for part, n in {"train": 160, "validation": 24, "test": 24}.items():
        own = [words[number % 4] for number in range(n)]
        texts = [" ".join([*own[number], f"w{number % 40}", f"w{number % 7}"]) for number in range(n)]
        write(case.folder / f"{part}.jsonl", own, texts)
    return case


TOPICS: dict[str, Any] = {"recipe": {"steps": 150, "batch_size": 16, "max_length": 16, "learning_rate": 1e-2}}


def files_of(case: Case, **more: Any) -> dict[str, Any]:
    """The files of `topics`."""
    return {
        **{part: str(case.folder / f"{part}.jsonl") for part in ("train", "validation", "test")},
        "text": "text",
        **more,
    }


def test_a_head_learns_several_labels_and_predict_gives_lists(topics: Case, tmp_path: Path) -> None:
    session = Session.build(topics.settings(files=files_of(topics, metrics=["macro_f1"]), **TOPICS))
    assert session.task.metrics == ("macro_f1", "micro_f1", "subset_accuracy")
    found = retrain(session.evaluator, "it", baseline("serial:4", session.backbone), (40,), save_to=tmp_path / "saved")
    assert found.test[0].metrics["micro_f1"] > 0.8  # seeds are fixed; saying always both gives 0.67
    texts = ["good w1 w1", "bad w2 w2", "w4 w4", "good bad w3 w3"]
    called = call("predict", tmp_path / "saved", *texts, "--to", tmp_path / "out.csv")
    assert called.code == 0, called.err
    said = [item["label"] for item in predictions(tmp_path / "saved", texts)]
    assert said == [["good"], ["bad"], [], ["bad", "good"]]
    assert all(0 < item["score"] <= 1 for item in predictions(tmp_path / "saved", texts))
    assert [line.split(",")[0] for line in (tmp_path / "out.csv").read_text().splitlines()] == [
        "label", "good", "bad", "", "bad; good",
    ]  # fmt: skip
    assert call("predict", tmp_path / "saved", texts[-1]).out.startswith("bad; good\t")


# -- weights of the classes ------------------------------------------------------------------------------------


def learner_of(path: Path, **wishes: Any) -> EncoderLearner:
    """A learner on all rows of a file."""
    task, load = from_files(path, text=["text"], **wishes)
    learner = learner_for(tiny.backbone(with_tokenizer=True), task, "score", load.source.read("train"))
    assert isinstance(learner, EncoderLearner)
    return learner


@pytest.mark.parametrize(
    ("weights", "expected"),
    [(None, None), ("balanced", (10 / 12, 10 / 8)), ({"b": 4}, (1, 4)), ({"a": 2, "b": 3}, (2, 3))],
)
def test_weights_of_classes_are_weights_of_the_loss(tmp_path: Path, weights: Any, expected: Any) -> None:
    path = write(tmp_path / "a.jsonl", (["a"] * 6 + ["b"] * 4), [f"w{number}" for number in range(10)])
    learner = learner_of(path, class_weights=weights)
    examples = from_files(path, text=["text"])[1].source.read("train")
    batch = collate(learner.encode(examples, 16), np.arange(10), learner.pad, torch.device("cpu"))
    learner.model.eval()
    with torch.no_grad():
        logits = learner.model(**batch.inputs).logits
        loss = learner.forward(batch).loss
    own = None if expected is None else torch.tensor(expected, dtype=torch.float32)
    assert float(loss) == pytest.approx(float(functional.cross_entropy(logits, batch.labels, own)), rel=1e-5)
    if expected is not None:
        assert float(loss) != pytest.approx(float(functional.cross_entropy(logits, batch.labels)), rel=1e-5)


def test_balanced_labels_of_several_count_rows_without_by_rows_with(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [["a"], ["a", "b"], ["a"], []] * 3)
    task, load = from_files(path, text=["text"], class_weights="balanced")
    train = load.source.read("train")
    assert task.weights(train) == pytest.approx([3 / 9, 9 / 3])
    logits = torch.zeros(12, 2)
    weighted = task.answers.loss(logits, torch.as_tensor(train.labels), torch.tensor([1 / 3, 3.0]))
    assert float(weighted) == pytest.approx(np.log(2) * (9 / 3 + 3 + 3 * 3 + 9) / 24)


def test_weights_that_fit_nothing_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ["a", "b"] * 10)
    with pytest.raises(DataError, match=r"class weights are given for \['c'\], but the classes are a, b"):
        from_files(path, text=["text"], class_weights={"c": 2})
    numbers = write(tmp_path / "b.jsonl", [n / 7 for n in range(30)])
    with pytest.raises(DataError, match="class weights do not fit a regression"):
        from_files(numbers, text=["text"], class_weights="balanced")
    task, load = from_files(path, text=["text"], class_weights="balanced")
    with pytest.raises(SettingsError, match="Class weights belong to a head"):
        learner_for(tiny.backbone("t5", with_tokenizer=True), task, "score", load().train)


def test_the_command_line_takes_metric_and_weights(case: Case, tmp_path: Path) -> None:
    asked = case.write(tmp_path / "asked.yaml")
    wishes = ("--metric", "macro_f1", "--class-weights", "good=1,bad=4")
    called = call("check", asked, *wishes, "--steps", 0, "--json")
    assert called.code == 0, called.err
    called = call("search", asked, *wishes, "--out", tmp_path / "run")
    assert called.code == 0, called.err
    kept = (tmp_path / "run" / "settings.yaml").read_text()
    assert "- macro_f1" in kept
    assert "bad: 4.0" in kept
    called = call("search", asked, "--metric", "speed", "--out", tmp_path / "other")
    assert called.code == 2
    assert "those that fit a classification of 2 classes are accuracy, macro_f1, matthews, f1" in called.err
    assert call("check", asked, "--class-weights", "much").code == 2


# -- texts that are written ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny T5."""
    folder = tmp_path_factory.mktemp("t5")
    tiny.backbone("t5", with_tokenizer=True).model.save_pretrained(folder)
    tiny.tokenizer("t5").save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_text_is_written_by_an_encoder_decoder_and_refused_elsewhere(case: Case, t5: Path, tmp_path: Path) -> None:
    words = [f"w{number % 5 + 1}" for number in range(60)]
    write(
        tmp_path / "train.jsonl", [[word, "w9"] if word == "w1" else word for word in words], [f"{w} w0" for w in words]
    )
    files = {"train": str(tmp_path / "train.jsonl"), "text": "text", "kind": "text"}
    asked = case.write(tmp_path / "asked.yaml", files=files, model=str(t5), recipe={"steps": 60, "learning_rate": 1e-2})
    called = call("train", asked, "--baseline", "full", "--seeds", 1, "--save", tmp_path / "saved", "--epochs", 20)
    assert called.code == 0, called.err
    assert "rouge_l on test" in called.out
    called = call("predict", tmp_path / "saved", "w2 w0")
    assert called.code == 0, called.err
    assert called.out.split("\t")[0] == "w2"  # it has learnt to say the first word
    encoder = case.write(tmp_path / "encoder.yaml", files=files)
    called = call("check", encoder, "--steps", 0)
    assert called.code == 2
    assert "gives none: take a decoder, or an encoder-decoder such as T5" in called.err


@pytest.mark.slow
def test_what_is_generated_is_shown_by_the_name_of_the_class(t5: Path, case: Case, tmp_path: Path) -> None:
    recipe = {"epochs": 25, "batch_size": 8, "learning_rate": 3e-3, "max_length": 16}
    session = Session.build(case.settings(model=str(t5), answer="generate", recipe=recipe))
    retrain(session.evaluator, "it", baseline("full", session.backbone), (40,), save_to=tmp_path / "saved")
    said = [item["label"] for item in predictions(tmp_path / "saved", ["good w1", "bad w2", "good w3"])]
    assert set(said) <= {"good", "bad", None}
    assert {"good", "bad"} & set(said)  # seeds are fixed


# -- studies from before slips were refused --------------------------------------------------------------------


@pytest.mark.slow
def test_a_study_that_began_on_slips_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, folder = make(tmp_path), tmp_path / "run"
    train = case.folder / "train.csv"
    train.write_text(train.read_text().replace(",bad", ",n/a", 3))
    asked = case.write(tmp_path / "asked.yaml")
    called = call("search", asked, "--out", folder)
    assert called.code == 2
    assert "look like labels that are missing" in called.err
    with monkeypatch.context() as earlier:  # versions that took it for a class
        earlier.setattr(classes, "_odd_labels", lambda train: [])
        assert call("search", asked, "--out", folder).code == 0
    called = call("search", asked, "--out", folder, "--trials", 4)
    assert called.code == 0, called.err
    assert finished(folder) == 4
    join(folder).close()  # as another worker does
    called = call("train", folder, "--trial", 0, "--seeds", 1, "--set", "recipe.steps=1")
    assert called.code == 0, called.err


# -- half a character ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        ("text", ["a", "b \ud83d"]),
        ("text", [["a"], ["b", "c\ud83d"]]),
        ("auto", ["a", "b\ud83d"]),
        ("classification", ["a", "b\ud83d"]),
        ("regression", [1.5, "\ud83d"]),
        ("auto", [["a"], ["b", "a\ud83d"]]),
    ],
)
def test_half_a_character_in_a_label_is_told_before_anything_is_trained(
    kind: str, labels: list[Any], tmp_path: Path
) -> None:
    file = write(tmp_path / "a.jsonl", labels * 10)
    with pytest.raises(DataError, match=r"10 values of 'label' hold half a character: rows 2, 4, 6, 8, 10") as told:
        from_files(file, text=["text"], kind=kind)
    str(told.value).encode()  # so that it can be printed
