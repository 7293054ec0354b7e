"""What every family of backbones promises, for every model type it names, found by discovery."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from autopeft.backbones import Backbone, family_of
from autopeft.errors import BackboneError
from autopeft.testing._promise import Promise
from autopeft.testing.families import PROMISES
from tiny import MODEL_TYPES, backbone


@pytest.mark.parametrize(
    ("promise", "model_type"),
    [
        pytest.param(promise, name, id=f"{promise.name}-{name}")
        for promise in PROMISES
        for name in MODEL_TYPES
        if promise.is_about(name)
    ],
)
def test_a_family_keeps(promise: Promise, model_type: str) -> None:
    promise.check(model_type)


def test_the_same_seed_gives_the_same_weights() -> None:
    config = AutoConfig.for_model("bert", **family_of("bert").tiny)
    before = torch.random.get_rng_state()
    states = [Backbone.from_config(config, seed=seed).model.state_dict() for seed in (1, 1, 2)]
    assert torch.equal(torch.random.get_rng_state(), before)
    name = "encoder.layer.0.output.dense.weight"
    assert torch.equal(states[0][name], states[1][name])
    assert not torch.equal(states[0][name], states[2][name])


def test_weights_that_a_checkpoint_lacks_are_the_same_at_every_load(tmp_path: Path) -> None:
    found = backbone(with_tokenizer=True)
    there = {name: value for name, value in found.model.state_dict().items() if not name.startswith("pooler")}
    found.model.save_pretrained(tmp_path, state_dict=there)
    found.tokenizer.save_pretrained(tmp_path)
    digests = set()
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        digests.add(Backbone.from_pretrained(tmp_path).digest())
        assert torch.equal(torch.random.get_rng_state(), before)
    assert len(digests) == 1


def test_an_unknown_family_is_told_what_to_write() -> None:
    with pytest.raises(BackboneError, match=r"'gpt_neo' is not described.*autopeft/backbones.*Family\(") as caught:
        family_of("gpt_neo")
    for model_type in MODEL_TYPES:
        assert model_type in str(caught.value)


def test_an_unknown_site_is_told_what_sites_look_like() -> None:
    with pytest.raises(BackboneError, match=r"no site 'encoder.9.ffn'.*stack\.layer\.role.*attention, attention_norm"):
        backbone().site("encoder.9.ffn")


def test_a_missing_model_and_a_missing_package_are_input_errors(tmp_path: object) -> None:
    with pytest.raises(BackboneError, match="cannot be loaded"):
        Backbone.from_pretrained(str(tmp_path))
