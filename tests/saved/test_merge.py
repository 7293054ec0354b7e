"""Merging into the base: transformers alone computes the same, and what no weight can take in is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

import small_case
import tiny
from autopeft.architecture import Architecture, Placement
from autopeft.backbones import LINEAR, Backbone, families
from autopeft.errors import ArchitectureError, SettingsError
from autopeft.network.attach import attach
from autopeft.saved.merge import merge, take_in
from autopeft.saved.save import Described, load, save
from autopeft.training.heads import Head, HeadedModel

LLAMA = (
    Placement("decoder.0.q", "lora", 3, 2.5),
    Placement("decoder.0.q", "ia3", 1),
    Placement("decoder.0.q", "dora", 2),
    Placement("decoder.1.ffn_hidden", "ia3", 1),
    Placement("decoder.1.ffn_hidden", "lora", 2),
    Placement("decoder.1.ffn_gate", "lora_double", 1),
    Placement("decoder.2.v", "dora", 2, 0.5),
    Placement("decoder.2.ffn_norm", "lnfit", 1),
    Placement("decoder.final_norm", "lnfit", 1),
)
GPT2 = (
    Placement("decoder.0.k", "lora", 2),
    Placement("decoder.0.v", "dora", 2),
    Placement("decoder.1.v", "ia3", 1),
    Placement("decoder.1.ffn_out", "bitfit", 1),
    Placement("decoder.1.attention_norm", "bitfit", 1),
    Placement("decoder.2.ffn_in", "lora", 2),
)
BERT = (
    Placement("encoder.0.q", "lora", 2),
    Placement("encoder.1.ffn_norm", "lnfit", 1),
    Placement("encoder.1.ffn_norm", "bitfit", 1),
    Placement("encoder.2.ffn_hidden", "ia3", 1),
)


def saved(family: str, placements: tuple[Placement, ...], folder: Path) -> Path:
    """A saved model of random modules on a tiny base, both below `folder`."""
    made = tiny.backbone(family, with_tokenizer=True)
    whole = made.language_model if made.family.is_causal else made.model
    whole.save_pretrained(folder / "base")
    made.tokenizer.save_pretrained(folder / "base")
    backbone = Backbone.from_pretrained(folder / "base")
    model = backbone.language_model if made.family.is_causal else HeadedModel(backbone, Head(backbone.hidden_size, 2))
    about = Described("text" if made.family.is_causal else "classification", (), ("prompt",), {})
    if not made.family.is_causal:
        about = Described("classification", ("a", "b"), ("text",), {})
    draws = torch.Generator().manual_seed(5)
    with attach(backbone, Architecture(placements)) as attached:
        with torch.no_grad():
            for parameter in attached.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=draws))
        save(folder / "saved", attached, model, about)
    return folder / "saved"


@pytest.mark.parametrize(("family", "placements"), [("llama", LLAMA), ("gpt2", GPT2)])
def test_transformers_alone_gives_the_same_logits(
    family: str, placements: tuple[Placement, ...], tmp_path: Path
) -> None:
    folder = saved(family, placements, tmp_path)
    batch = tiny.inputs(tiny.backbone(family))
    called = small_case.call("export", folder, "--merge", "--to", tmp_path / "merged")
    assert called.code == 0, called.err
    assert "Its outputs differ by" in called.out
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()(**batch).logits
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()(**batch).logits
        ours = load(folder)(**batch).logits
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
    assert (theirs - base).abs().max() > 0.01
    assert len(AutoTokenizer.from_pretrained(tmp_path / "merged"))
    note = json.loads((tmp_path / "merged" / "autopeft_merged.json").read_text())
    assert note["largest_difference"] < 1e-5 * max(1, note["largest_output"])


def test_an_earlier_merge_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "autopeft_merged.json").write_text('{"merged_from": "it"}')
    told = small_case.call("export", tmp_path / "saved", "--merge", "--to", tmp_path, "--overwrite")
    assert told.code == 2
    assert "a merged model of an earlier run, which is never replaced: give a new folder." in " ".join(told.err.split())


@pytest.mark.parametrize("is_drawn", [True, False])
def test_a_merged_model_writes_as_its_base_does(is_drawn: bool, tmp_path: Path) -> None:
    folder = saved("llama", LLAMA[:1], tmp_path)
    # What is not drawn has no temperature, which published models say all the same.
    said = {"eos_token_id": [2, 7], "do_sample": is_drawn, "temperature": 0.6, "top_p": 0.9}
    (tmp_path / "base" / "generation_config.json").write_text(json.dumps(said))
    merge(folder, tmp_path / "merged")
    found = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    assert {key: found.get(key, False) for key in said} == said


def test_an_encoder_is_merged_without_its_head(tmp_path: Path) -> None:
    folder = saved("bert", BERT, tmp_path)
    found = merge(folder, tmp_path / "merged")
    assert found.difference < 1e-5 * found.largest
    batch = tiny.inputs(tiny.backbone("bert"))
    with torch.no_grad():
        theirs = AutoModel.from_pretrained(tmp_path / "merged").eval()(**batch).last_hidden_state
        headed = load(folder)
        ours = headed.attached.backbone.model(**batch).last_hidden_state
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", [name for name, one in families().items() if one.alike])
def test_weights_of_every_relative_take_in_what_stands_there(family: str) -> None:
    backbone = tiny.backbone(family)
    stack = next(iter(backbone.family.stacks))
    roles = [role for role in LINEAR if f"{stack}.1.{role}" in backbone.sites]
    norms = [f"{stack}.{place}" for place in ("0.attention_norm", "0.ffn_norm", "final_norm")]
    placements = [Placement(f"{stack}.1.{role}", method, 2) for role in roles for method in ("lora", "dora")]
    placements += [Placement(site, "lnfit", 1) for site in norms if site in backbone.sites]
    placements += [Placement(f"{stack}.2.ffn_hidden", "ia3", 1)]
    architecture = Architecture(tuple(placements))
    plain = tiny.output(backbone)
    with torch.no_grad():
        with tiny.fill(attach(backbone, architecture)) as attached:
            modules, before = dict(attached.modules), tiny.output(backbone)
        take_in(architecture, backbone, modules)
        torch.testing.assert_close(tiny.output(backbone), before, atol=1e-5, rtol=1e-4)
    assert (before - plain).abs().max() > 0.01


def test_what_no_weight_can_take_in_is_refused(tmp_path: Path) -> None:
    placements = (
        Placement("decoder.0.ffn", "parallel", 2),
        Placement("decoder.1.kv", "prefix", 2),
        Placement("decoder.0.q", "lora", 2),
        Placement("decoder.1.ffn", "lora", 2),
        Placement("decoder.2.o", "bitfit", 1),
    )
    folder = saved("llama", placements, tmp_path)
    wrong = (
        r"parallel=2@decoder\.ffn\[1\] prefix=2@decoder\.kv\[2\] is no change of a weight; "
        r"lora=2@decoder\.ffn\[2\] stands at no single map; "
        r"bitfit=1@decoder\.o\[3\] is a bias, and the base has none there"
    )
    with pytest.raises(ArchitectureError, match=wrong):
        merge(folder, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    folder = saved("llama", LLAMA[:1], tmp_path)
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "mine").touch()
    with pytest.raises(SettingsError, match="takes a new or empty folder"):
        merge(folder, tmp_path / "merged")
    (tmp_path / "merged" / "mine").unlink()
    merge(folder, tmp_path / "merged")
    with pytest.raises(SettingsError, match="holds a merged model of an earlier run"):
        merge(folder, tmp_path / "merged")
