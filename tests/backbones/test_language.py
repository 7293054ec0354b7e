"""A decoder with its vocabulary: what transformers would load of a checkpoint is taken, whatever its name is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import tiny
from autopeft.backbones import Backbone
from autopeft.errors import BackboneError


def written(folder: Path, family: str, **more: object) -> Path:
    """A checkpoint as transformers itself writes it."""
    made = tiny.backbone(family, with_tokenizer=True)
    made.language_model.save_pretrained(folder, **more)
    made.tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "20KB"}])
def test_a_vocabulary_that_is_renamed_on_loading_is_found(shards: dict[str, object], tmp_path: Path) -> None:
    folder = written(tmp_path / "model", "gpt_neox", **shards)
    names = {name for file in folder.glob("*.safetensors") for name in load_file(file)}
    assert "embed_out.weight" in names
    assert "lm_head.weight" not in names
    found = Backbone.from_pretrained(folder)
    batch = tiny.inputs(found)
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(folder).eval()(**batch).logits
        assert torch.equal(found.language_model(**batch).logits, theirs)


def test_a_vocabulary_under_its_own_name_comes_before_a_renamed_one(tmp_path: Path) -> None:
    folder = written(tmp_path / "model", "gpt_neox")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["embed_out.weight"] + 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    found = Backbone.from_pretrained(folder).language_model.get_output_embeddings().weight
    assert torch.equal(found, tensors["lm_head.weight"])


def test_a_decoder_writes_as_its_checkpoint_says(tmp_path: Path) -> None:
    folder = written(tmp_path / "model", "llama")
    said = {"eos_token_id": [2, 7], "do_sample": True, "temperature": 0.6, "top_p": 0.9}
    (folder / "generation_config.json").write_text(json.dumps(said))
    found = Backbone.from_pretrained(folder).language_model.generation_config.to_dict()
    assert {key: found[key] for key in said} == said
    (folder / "generation_config.json").unlink()
    assert Backbone.from_pretrained(folder).language_model.generation_config.temperature is None
    (folder / "generation_config.json").write_text(json.dumps({"max_new_tokens": -1}))
    with pytest.raises(BackboneError, match=r"generation_config\.json of .* cannot be used: .*max_new_tokens"):
        _ = Backbone.from_pretrained(folder).language_model
