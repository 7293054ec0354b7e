"""`autopeft doctor`: what it finds, what it advises, and its exit codes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import small_case
import tiny
from autopeft.backbones import Backbone
from autopeft.cli.checkup import Checkup, examine
from autopeft.errors import BackboneError
from autopeft.settings import from_dict


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    made = tiny.backbone("llama", with_tokenizer=True)
    made.language_model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "mine.jsonl"
    # Of 40 prompts the last four are longer than the others.
    lengths = [5] * 36 + [30] * 4
    path.write_text(
        "".join(json.dumps({"prompt": " ".join(["w1"] * n), "completion": " good"}) + "\n" for n in lengths)
    )
    return path


def test_it_tells_of_the_model_the_data_and_what_to_change(model: Path, rows: Path) -> None:
    asked = ("--train-file", rows, "--text", "prompt", "--label", "completion", "--set", "recipe.max_length=16")
    called = small_case.call("doctor", model, *asked, "--json")
    assert called.code == 0, called.err
    found = json.loads(called.out)
    assert found["model"]["family"] == "described"
    assert found["model"]["layers"] == {"decoder": 3}
    assert found["tokenizer"]["padding token"] == "<pad>"
    assert (found["tokenizer"]["pads with its end token"], found["tokenizer"]["chat template"]) == (False, False)
    assert found["memory"]["weights"] == 4 * found["model"]["parameters"]
    # The start token, the words, the answer and the end token.
    assert (found["data"]["tokens in the median"], found["data"]["longest"], found["data"]["cut at"]) == (8, 33, 16)
    assert found["data"]["share that is cut"] == pytest.approx(0.1, abs=0.05)
    assert any("recipe.max_length 33 keeps them whole" in one["what"] for one in found["advice"])
    assert found["is_well"] is True


def test_without_data_the_model_is_enough(model: Path) -> None:
    called = small_case.call("doctor", model)
    assert called.code == 0, called.err
    assert "family: described" in called.out
    assert "padding token: <pad>" in called.out
    assert "\ndata" not in called.out
    assert "torch: " in called.out


def test_what_does_not_fit_the_memory_is_wrong(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autopeft.cli import checkup

    machine = {**checkup._machine(), "memory": 1000, "free memory": 1000}
    monkeypatch.setattr(checkup, "_machine", lambda: machine)
    found: Checkup = examine(from_dict({"model": str(model), "task": "glue/sst2"}), has_data=False)
    assert not found.is_well
    assert "but there are 1,000" in found.advice[0].what
    called = small_case.call("doctor", model)
    assert (called.code, "wrong: The weights and LoRA need" in called.out) == (1, True)


def test_what_a_step_keeps_is_told_before_any_run(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autopeft.cli import checkup

    settings = from_dict({"model": str(model), "task": "glue/sst2", "recipe": {"batch_size": 4, "max_length": 12}})
    found = examine(settings, has_data=False)
    kept = found.facts["memory"]["kept by a step"]
    assert found.facts["memory"]["a step"] == "4 examples of 12 tokens, in single precision"
    twice = examine(settings.with_changes(recipe=replace(settings.recipe, batch_size=8)), has_data=False)
    assert kept < twice.facts["memory"]["kept by a step"] < 2.2 * kept
    # Enough for the weights and LoRA, and not for the step.
    held = sum(value for value in found.facts["memory"].values() if isinstance(value, int)) - kept
    machine = {**checkup._machine(), "free memory": held + kept // 2}
    monkeypatch.setattr(checkup, "_machine", lambda: machine)
    assert any("take a smaller recipe.batch_size" in one.what for one in examine(settings, has_data=False).advice)
    spared = settings.with_changes(recipe=replace(settings.recipe, gradient_checkpointing=True))
    assert not any("batch_size" in one.what for one in examine(spared, has_data=False).advice)


def test_an_undescribed_model_is_told_as_inferred(tmp_path: Path) -> None:
    from transformers import AutoModel, StableLmConfig

    config = StableLmConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=99, pad_token_id=0, bos_token_id=3, eos_token_id=1,
    )  # fmt: skip
    AutoModel.from_config(config).save_pretrained(tmp_path)
    tiny.tokenizer("llama").save_pretrained(tmp_path)
    called = small_case.call("doctor", tmp_path)
    assert called.code == 0, called.err
    assert "family: inferred: a decoder with its layers at layers, q at self_attn.q_proj" in called.out
    assert "better: The family is inferred" in called.out


def test_a_model_that_is_not_there_ends_with_two(tmp_path: Path) -> None:
    called = small_case.call("doctor", tmp_path / "none")
    assert (called.code, "cannot be loaded" in called.err) == (2, True)


WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def gone(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def cut_short(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1])


def shard_gone(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "model-1.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))


def shard_cut_short(folder: Path) -> None:
    cut_short(folder)
    (folder / WEIGHTS).rename(folder / "model-1.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))


def hollow_index(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text("[]")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (gone, r"holds neither model.safetensors nor .*, but pytorch_model.bin, which is not read"),
        (cut_short, r"model.safetensors, of [0-9,]+ bytes, is cut short or damaged"),
        (shard_gone, r"lacks 1 of the 2 files that model.safetensors.index.json names: model-2.safetensors"),
        (shard_cut_short, r"model-1.safetensors, of [0-9,]+ bytes, is cut short or damaged"),
        (hollow_index, r"model.safetensors.index.json names no file"),
    ],
)
def test_weights_that_cannot_be_loaded_are_told_without_loading_them(
    model: Path, tmp_path: Path, damage: Callable[[Path], None], told: str
) -> None:
    damaged = Path(shutil.copytree(model, tmp_path / "model"))
    damage(damaged)
    with pytest.raises(BackboneError, match=told):
        examine(from_dict({"model": str(damaged), "task": "glue/sst2"}), has_data=False)
    with pytest.raises(BackboneError, match=told):
        Backbone.from_pretrained(damaged)


def test_what_no_setting_lengthens_is_not_promised_by_one(model: Path, rows: Path, tmp_path: Path) -> None:
    short = Path(shutil.copytree(model, tmp_path / "model"))
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 24}))
    files = {"train": str(rows), "text": ["prompt"], "label": "completion"}
    asked = {"model": str(short), "files": files, "recipe": {"max_length": 28}}
    [told] = [one.what for one in examine(from_dict(asked), has_data=True).advice if "are cut" in one.what]
    assert "the longest has 33 tokens, and the model was made for 24, whatever recipe.max_length is" in told
    assert "keeps them whole" not in told
