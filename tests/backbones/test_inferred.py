"""Models of types that no file describes: what is read off their structure, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING

from autopeft.architecture import Architecture, Placement
from autopeft.backbones import LINEAR, Backbone
from autopeft.errors import BackboneError
from autopeft.network.attach import attach

SMALL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 99,
    "pad_token_id": 0, "bos_token_id": 3, "eos_token_id": 1,
}  # fmt: skip
LLAMA_LIKE = ("q", "k", "v", "o", "ffn_gate", "ffn_in", "ffn_out")
CASES: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    "stablelm": ({"num_key_value_heads": 2}, LLAMA_LIKE, "decoder"),
    "cohere": ({}, LLAMA_LIKE, "decoder"),
    "phi": ({}, ("q", "k", "v", "o", "ffn_in", "ffn_out"), "decoder"),
    "opt": ({"ffn_dim": 64, "word_embed_proj_dim": 32}, ("q", "k", "v", "o", "ffn_in", "ffn_out"), "decoder"),
    "gptj": ({"rotary_dim": 4}, ("q", "k", "v", "o", "ffn_in", "ffn_out"), "decoder"),
    "codegen": ({"rotary_dim": 4}, ("qkv", "o", "ffn_in", "ffn_out"), "decoder"),
    "roformer": ({"embedding_size": 32}, ("q", "k", "v", "o", "ffn_in", "ffn_out"), "encoder"),
}


def made(model_type: str) -> Backbone:
    return Backbone.from_config(CONFIG_MAPPING[model_type](**{**SMALL, **CASES[model_type][0]}))


@pytest.mark.parametrize("model_type", CASES)
def test_lora_at_every_linear_map_changes_what_the_model_computes(
    model_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, roles, stack = CASES[model_type]
    found = made(model_type)
    assert f"{model_type!r} is not described; by its structure it is a" in caplog.text.replace("an ", "a ")
    linear = [site for site in found.sites.values() if site.role in LINEAR]
    assert {(site.layer, site.role) for site in linear} == {(layer, role) for layer in range(3) for role in roles}
    assert list(found.family.stacks) == [stack]
    batch = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    with torch.no_grad():
        plain = found.model(**batch)[0]
        for role in roles:
            # Each map alone: a place that is never computed would otherwise hide behind the others.
            with attach(found, Architecture((Placement(f"{stack}.1.{role}", "lora", 2),))) as attached:
                for parameter in attached.parameters():
                    parameter.normal_(generator=torch.Generator().manual_seed(1))
                changed = (found.model(**batch)[0] - plain).abs().max()
            assert changed > 1e-5, role
        assert torch.equal(found.model(**batch)[0], plain)


def test_an_attention_that_takes_no_prefix_is_found_out() -> None:
    assert not made("roformer").reached
    assert len(made("stablelm").reached) == 3


def test_what_the_structure_does_not_tell_is_refused_with_what_to_write() -> None:
    experts = CONFIG_MAPPING["mixtral"](**{**SMALL, "num_local_experts": 2})
    both = CONFIG_MAPPING["pegasus"](d_model=32, encoder_layers=2, decoder_layers=2, vocab_size=99)
    for config in (experts, both):
        with pytest.raises(BackboneError, match=r"is not described.*autopeft/backbones.*Family\("):
            Backbone.from_config(config)


@pytest.mark.parametrize(
    ("model_type", "changes", "most"),
    [
        ("opt", {}, 16),  # two rows before the first position
        ("esm", {}, 15),  # counted from after the position of padding
        ("nystromformer", {}, 16),  # two rows more than there are positions
        ("gptj", {"n_positions": 16}, 16),  # a table of rotations
        ("roformer", {}, 16),
        ("layoutlm", {}, 16),  # beside the tables of a page's coordinates
        ("stablelm", {}, None),
    ],
)
def test_texts_are_cut_where_an_inferred_model_s_table_of_positions_ends(
    model_type: str, changes: dict[str, Any], most: int | None
) -> None:
    length = {} if model_type == "gptj" else {"max_position_embeddings": 16}
    values = {**SMALL, **CASES.get(model_type, ({},))[0], **length, **changes}
    found = Backbone.from_config(CONFIG_MAPPING[model_type](**values))
    assert found.n_positions == most
    longest = most or 40
    with torch.no_grad():
        found.model(input_ids=torch.full((1, longest), 5))
        if most is not None:
            with pytest.raises((IndexError, RuntimeError)):
                found.model(input_ids=torch.full((1, longest + 1), 5))


def test_a_model_of_several_parts_is_refused_with_what_to_take_instead() -> None:
    text = {**SMALL, "num_key_value_heads": 2, "head_dim": 8}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    for model_type, part in (("gemma3", "gemma3_text"), ("clip", "clip_text_model")):
        config = CONFIG_MAPPING[model_type](text_config=text, vision_config=vision)
        with pytest.raises(BackboneError, match=rf"of several parts.*its text model, a model of type '{part}'"):
            Backbone.from_config(config, device="meta")


def test_a_model_of_images_is_told_as_one() -> None:
    with pytest.raises(BackboneError, match="does not read texts: ViTModel is given pixel_values"):
        Backbone.from_config(CONFIG_MAPPING["vit"](**{key: SMALL[key] for key in ("hidden_size", "num_hidden_layers")}))


def test_a_width_that_a_configuration_does_not_say_is_one_error() -> None:
    from autopeft.backbones._sites import hidden_size

    with pytest.raises(BackboneError, match="'bros' cannot be used: its configuration has no hidden_size"):
        hidden_size(SimpleNamespace(model_type="bros"))
