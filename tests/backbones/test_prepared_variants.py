"""Variants of families that bring an attention of their own, against transformers: with padding, and with gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModel

import tiny
from autopeft.architecture import Architecture, Placement
from autopeft.backbones import Backbone
from autopeft.errors import BackboneError
from autopeft.network.attach import attach

GROUPED = {"new_decoder_architecture": True, "num_kv_heads": 2}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("falcon", {"alibi": True}),
    ("falcon", GROUPED),
    ("falcon", {**GROUPED, "alibi": True, "num_ln_in_parallel_attn": 1}),
    ("falcon", {"multi_query": False, "parallel_attn": False}),
    ("deberta-v2", {"share_att_key": False, "position_biased_input": True}),
    ("deberta-v2", {"relative_attention": False, "position_biased_input": True}),
]


@pytest.mark.parametrize(("model_type", "changes"), VARIANTS)
@pytest.mark.parametrize("is_padded", [True, False])
def test_a_variant_computes_what_transformers_does(model_type: str, changes: dict[str, Any], is_padded: bool) -> None:
    found = tiny.backbone(model_type, **changes)
    own = AutoModel.from_config(found.model.config.__class__(**found.model.config.to_diff_dict()))
    own.load_state_dict(found.model.state_dict())
    own.eval()
    batch = tiny.inputs(found)
    seen = batch["attention_mask"].bool() if is_padded else torch.ones(2, 7, dtype=torch.bool)
    given = batch if is_padded else {"input_ids": batch["input_ids"]}
    gradients = []
    for model in (found.model, own):
        model.get_input_embeddings().weight.requires_grad_(True)
        model(**given)[0][seen].square().sum().backward()
        gradients.append(model.get_input_embeddings().weight.grad)
    with torch.no_grad():
        torch.testing.assert_close(found.model(**given)[0][seen], own(**given)[0][seen], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(("model_type", "changes"), VARIANTS)
def test_a_prefix_is_seen_in_a_variant(model_type: str, changes: dict[str, Any]) -> None:
    found = tiny.backbone(model_type, **changes)
    plain = tiny.output(found)
    site = next(key for key in found.sites if key.endswith(".1.kv"))
    with torch.no_grad(), tiny.fill(attach(found, Architecture((Placement(site, "prefix_direct", 2),)))):
        assert ((tiny.output(found) - plain).abs().amax(-1) > 1e-4).all()


def test_a_deberta_with_a_convolution_is_refused() -> None:
    with pytest.raises(BackboneError, match="with a convolution"):
        tiny.backbone("deberta-v2", conv_kernel_size=3)


def test_learned_positions_reach_as_far_as_the_table_without_its_offset() -> None:
    assert tiny.backbone("bart").n_positions == 64
    assert tiny.backbone("deberta-v2").n_positions is None
    assert tiny.backbone("deberta-v2", position_biased_input=True).n_positions == 64
    assert tiny.backbone("roberta", pad_token_id=1).n_positions == 62
    assert Backbone.from_config(tiny.backbone("bart").model.config, device="meta").n_positions == 64
