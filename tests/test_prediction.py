"""Predictions of a saved model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autopeft.errors import ArchitectureError, DataError
from autopeft.prediction import predictions
from autopeft.retraining import baseline, retrain
from autopeft.saving import load
from autopeft.session import Session
from small_case import Case

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


def test_wrong_inputs_are_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"takes 1 text\(s\) an input, but got none"):
        predictions(saved, [])
    with pytest.raises(DataError, match=r"but got \('a', 'b'\)"):
        predictions(saved, [("a",), ("a", "b")])
    with pytest.raises(ArchitectureError, match="does not hold a saved model"):
        predictions(tmp_path, [("a",)])
