"""What was trained beside a base in 8 or 4 bits: searched, saved, loaded on either base, exported and merged."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import small_case
import tiny
from autopeft.backbones import Backbone
from autopeft.backbones import _quantized as quantized
from autopeft.cli import checkup
from autopeft.errors import BackboneError
from autopeft.saved.export import to_peft
from autopeft.saved.merge import merge
from autopeft.saved.predict import predictions
from autopeft.saved.record import read_record
from autopeft.saved.save import load
from autopeft.training.evaluator import Evaluator
from autopeft.training.recipe import Recipe
from autopeft.training.retraining import retrain

needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> small_case.Case:
    return small_case.make(tmp_path_factory.mktemp("case"))


@pytest.fixture
def no_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "is_available", lambda: False)
    for name in ("autopeft.saved.save", "autopeft.saved.merge", checkup.__name__):
        monkeypatch.setattr(f"{name}.is_available", lambda: False)


@pytest.mark.usefixtures("no_bitsandbytes")
def test_a_search_without_the_extra_is_refused_before_any_work(case: small_case.Case, tmp_path: Path) -> None:
    out = tmp_path / "study"
    called = small_case.call("search", case.write(tmp_path / "a.yaml"), "--quantize", "4bit", "--out", out)
    assert called.code == 2
    assert called.err == (
        "error: A backbone in 4bit needs bitsandbytes, which is not installed: pip install 'autopeft[quantized]'.\n"
    )
    assert not out.exists()


@pytest.mark.usefixtures("no_bitsandbytes")
def test_the_doctor_says_what_is_missing(case: small_case.Case) -> None:
    called = small_case.call("doctor", case.folder / "model")
    assert "can be used: no: pip install 'autopeft[quantized]'" in called.out
    refused = small_case.call("doctor", case.folder / "model", "--quantize", "8bit")
    assert refused.code == 2
    assert "needs bitsandbytes" in refused.err


def test_the_setting_is_one_of_two(case: small_case.Case, tmp_path: Path) -> None:
    called = small_case.call("search", case.write(tmp_path / "a.yaml"), "--quantize", "3bit")
    assert called.code == 2
    assert "`quantize` must be None or one of 8bit, 4bit, but got '3bit'" in called.err


def test_studies_from_before_are_those_of_whole_weights(case: small_case.Case) -> None:
    assert "quantize" not in case.settings().identity()
    assert case.settings(quantize="4bit").identity()["quantize"] == "4bit"


@needs_bitsandbytes
def test_the_doctor_counts_fewer_bytes(case: small_case.Case) -> None:
    told = [
        json.loads(small_case.call("doctor", case.folder / "model", *more, "--json").out)
        for more in ((), ("--quantize", "8bit"))
    ]
    assert told[1]["memory"]["weights"] < told[0]["memory"]["weights"] == 4 * told[0]["model"]["parameters"]
    assert told[1]["quantised bases"]["can be used"] == "8bit and 4bit: --quantize"


@needs_bitsandbytes
def test_full_fine_tuning_is_no_method_of_a_space_on_rounded_weights(case: small_case.Case, tmp_path: Path) -> None:
    settings = case.write(tmp_path / "a.yaml", quantize="4bit", space={"methods": {"full": None}})
    called = small_case.call("search", settings, "--out", tmp_path / "study")
    assert called.code == 2
    assert "full, which trains the weights of the model, but these are in 4bit: leave `quantize` out" in called.err


@needs_bitsandbytes
def test_a_search_goes_on_and_its_study_is_another_than_that_of_whole_weights(
    case: small_case.Case, tmp_path: Path
) -> None:
    settings, out = case.write(tmp_path / "a.yaml"), tmp_path / "study"
    called = small_case.call("search", settings, "--quantize", "4bit", "--out", out)
    assert called.code == 0, called.err
    again = small_case.call("search", settings, "--quantize", "4bit", "--out", out)
    assert again.code == 0, again.err
    other = small_case.call("search", settings, "--out", out)
    assert other.code == 2
    assert "quantize" in other.err


@pytest.fixture(scope="module", params=quantized.QUANTIZED)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a tiny Llama that writes, ``model``, and what was trained beside it in few bits, ``saved``."""
    folder = tmp_path_factory.mktemp(request.param)
    made = tiny.backbone("llama", with_tokenizer=True, tie_word_embeddings=True, hidden_size=64)
    made.language_model.save_pretrained(folder / "model")
    made.tokenizer.save_pretrained(folder / "model")
    found = Backbone.from_pretrained(folder / "model", quantize=request.param)
    task = replace(tiny.SENTIMENT, name="tiny/sentiment")
    parts = replace(tiny.splits(tiny.sentiment(12), tiny.sentiment(12)), label_names=task.label_names)
    evaluator = Evaluator(found, task, parts, Recipe(steps=3, batch_size=4), answer="words")
    retrain(evaluator, "mine", tiny.everywhere(found, "lora", 2), [0], save_to=folder / "saved")
    return folder, str(request.param)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**tiny.inputs(tiny.backbone("llama"))).logits
    return found


@needs_bitsandbytes
def test_it_is_loaded_on_either_base(trained: tuple[Path, str], caplog: pytest.LogCaptureFixture) -> None:
    folder, bits = trained
    assert read_record(folder / "saved")["backbone"]["quantize"] == bits
    with caplog.at_level(logging.WARNING):
        on_rounded = load(folder / "saved")
        assert not caplog.messages
        on_whole = load(folder / "saved", dequantize=True)
    assert "was trained in float32, " + bits in caplog.messages[0]
    assert on_rounded.attached.backbone.quantized == bits
    assert on_whole.attached.backbone.quantized is None
    assert torch.equal(logits(on_rounded), logits(load(folder / "saved")))
    difference = (logits(on_rounded) - logits(on_whole)).norm() / logits(on_whole).norm()
    assert 0 < difference < {"8bit": 0.05, "4bit": 0.5}[bits]
    told = predictions(folder / "saved", ["good w1", "bad w2"])
    assert all(0 < one["score"] < 1 for one in told)


@needs_bitsandbytes
def test_it_is_exported_as_what_it_is(trained: tuple[Path, str], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder, _ = trained
    to_peft(folder / "saved", tmp_path / "peft")
    theirs = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    ours = load_file(folder / "saved" / "model.safetensors")
    assert len(theirs) == len(ours)
    assert sum(value.numel() for value in theirs.values()) == sum(value.numel() for value in ours.values())


@needs_bitsandbytes
def test_it_is_merged_into_the_base_as_it_is_and_the_rounding_is_told(
    trained: tuple[Path, str], tmp_path: Path
) -> None:
    folder, bits = trained
    found = merge(folder / "saved", tmp_path / "merged")
    assert found.difference < 1e-5 * max(1.0, found.largest)
    assert (found.quantized, Backbone.from_pretrained(tmp_path / "merged").quantized) == (bits, None)
    rounding = found.rounding
    assert rounding is not None
    assert found.difference < rounding < found.largest
    called = small_case.call("export", folder / "saved", "--merge", "--to", tmp_path / "again")
    assert called.code == 0, called.err
    assert f"in {bits} and merged into the base as it is: {rounding:.1e} at most between." in called.out


@needs_bitsandbytes
@pytest.mark.usefixtures("no_bitsandbytes")
def test_without_the_extra_the_whole_base_is_what_can_be_had(trained: tuple[Path, str], tmp_path: Path) -> None:
    folder, bits = trained
    with pytest.raises(BackboneError, match=f"on its base in {bits}.*or load the base as it is with `dequantize`"):
        load(folder / "saved")
    called = small_case.call("predict", folder / "saved", "good w1", "--dequantize")
    assert called.code == 0, called.err
    merged = merge(folder / "saved", tmp_path / "merged")
    assert (merged.quantized, merged.rounding) == (bits, None)
