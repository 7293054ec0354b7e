"""A decoder that writes, trained, saved, loaded and asked again."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

import tiny
from autopeft.backbones import Backbone
from autopeft.saved.export import to_peft
from autopeft.saved.predict import predictions
from autopeft.saved.save import load
from autopeft.training.evaluator import Evaluator
from autopeft.training.recipe import Recipe
from autopeft.training.retraining import retrain


def test_what_is_saved_writes_the_same(tmp_path: Path) -> None:
    made = tiny.backbone("llama", with_tokenizer=True, tie_word_embeddings=True)
    made.language_model.save_pretrained(tmp_path / "model")
    made.tokenizer.save_pretrained(tmp_path / "model")
    found = Backbone.from_pretrained(tmp_path / "model")
    from peft import PeftModel

    given = tiny.sentiment(12)
    task = replace(tiny.SENTIMENT, name="tiny/sentiment")
    parts = replace(tiny.splits(given, given), label_names=task.label_names)
    evaluator = Evaluator(found, task, parts, Recipe(steps=3, batch_size=4), answer="words")
    place = tiny.everywhere(found, "lora", 2)
    retrain(evaluator, "mine", place, [0], save_to=tmp_path / "saved")
    again = load(tmp_path / "saved")
    batch = tiny.inputs(found)
    with torch.no_grad():
        logits = again(**batch).logits
        assert logits.shape == (2, 7, 99)
        assert not torch.equal(logits, made.language_model(**batch).logits)
    to_peft(tmp_path / "saved", tmp_path / "peft")
    assert json.loads((tmp_path / "peft" / "adapter_config.json").read_text())["task_type"] == "CAUSAL_LM"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # peft's own, about versions of its dependencies
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        theirs = PeftModel.from_pretrained(base, tmp_path / "peft").eval()(**batch).logits
    torch.testing.assert_close(theirs, logits, atol=1e-5, rtol=1e-5)
    told = predictions(tmp_path / "saved", ["good w1", "bad w2"])
    assert {one["label"] for one in told} <= {"bad", "good"}
    assert all(0 < one["score"] < 1 for one in told)
