"""Encoder-decoders of other families than T5: what is trained is learnt, written and saved as it is there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

import tiny
from autopeft.architecture import Architecture, Placement
from autopeft.backbones import Backbone
from autopeft.saved.predict import predictions
from autopeft.saved.save import load
from autopeft.training.evaluator import Evaluator
from autopeft.training.recipe import Recipe
from autopeft.training.retraining import retrain


def test_bart_learns_which_answers_there_are(tmp_path: Path) -> None:
    made = tiny.backbone("bart", with_tokenizer=True)
    made.model.save_pretrained(tmp_path / "model")
    made.tokenizer.save_pretrained(tmp_path / "model")
    found = Backbone.from_pretrained(tmp_path / "model")
    given = tiny.sentiment(24)
    parts = replace(tiny.splits(given, given), label_names=tiny.SENTIMENT.label_names)
    recipe = Recipe(steps=24, batch_size=8, learning_rate=3e-3)
    evaluator = Evaluator(found, tiny.SENTIMENT, parts, recipe, answer="generate")
    place = Architecture((Placement("model", "full", 1),))
    told = retrain(evaluator, "mine", place, [0], save_to=tmp_path / "saved")
    history = told.test[0].history
    # From all words to the two that are right somewhere: a model that saw no answer would stay above 3.
    assert history[0].loss > 2
    assert history[-1].loss < 0.8
    rows = ["w1 good w2", "w3 bad", "bad", "good w9 w8 w7 w6"]
    again = predictions(tmp_path / "saved", rows)
    assert {one["label"] for one in again} <= {"good", "bad"}
    batch = tiny.inputs(found)
    with torch.no_grad():
        assert not torch.equal(load(tmp_path / "saved")(**batch).logits, made.model(**batch).logits)
