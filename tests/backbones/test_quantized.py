"""Backbones in 8 and 4 bits: loading, what they compute, what stands beside them, and where they are refused."""

from __future__ import annotations

import copy
import logging
import math
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import tiny
from autopeft import methods
from autopeft.backbones import Backbone, linear_weight
from autopeft.backbones import _quantized as quantized
from autopeft.errors import ArchitectureError, BackboneError
from autopeft.network.attach import attach
from autopeft.training.precision import autocast
from autopeft.training.recipe import Recipe

needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
both = pytest.mark.parametrize("bits", quantized.QUANTIZED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama on disk, as wide as a block of bitsandbytes' constants."""
    made = tiny.backbone("llama", with_tokenizer=True, hidden_size=64, intermediate_size=128)
    place = tmp_path_factory.mktemp("llama")
    made.model.save_pretrained(place)
    made.tokenizer.save_pretrained(place)
    return place


@pytest.fixture
def no_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "is_available", lambda: False)


def loaded(folder: Path, bits: str | None) -> Backbone:
    return Backbone.from_pretrained(folder, quantize=bits)


def held(parameter: torch.nn.Parameter) -> Iterator[torch.Tensor]:
    """Everything that is kept in memory of a weight."""
    yield parameter.data
    if (state := getattr(parameter, "quant_state", None)) is not None:
        yield from (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
    if getattr(parameter, "SCB", None) is not None:
        yield parameter.SCB  # type: ignore[misc]


@both
@pytest.mark.usefixtures("no_bitsandbytes")
def test_without_the_extra_nothing_is_quantised_and_the_message_says_what_to_install(folder: Path, bits: str) -> None:
    with pytest.raises(BackboneError, match=r"needs bitsandbytes.*pip install 'autopeft\[quantized\]'"):
        loaded(folder, bits)


def test_other_numbers_of_bits_are_refused_by_name(folder: Path) -> None:
    with pytest.raises(BackboneError, match="quantised to 8bit or 4bit, but got '2bit'"):
        loaded(folder, "2bit")


def test_to_quantise_nothing_asks_for_nothing(folder: Path) -> None:
    assert loaded(folder, None).quantized is None
    assert "bitsandbytes" not in quantized.loading_options(None, torch.float32, "cpu")
    assert find_spec("bitsandbytes") is not None or "bitsandbytes" not in sys.modules


@pytest.mark.parametrize("bits", [None, *quantized.QUANTIZED])
def test_bytes_of_weights_are_counted_before_there_are_any(bits: str | None) -> None:
    """By the formula of the two papers, on a model of which every map is as wide as a block."""
    config = tiny.backbone("llama", hidden_size=64, intermediate_size=128).model.config
    weightless = Backbone.from_config(config, device="meta")
    maps = [module.weight for module in weightless.model.modules() if isinstance(module, torch.nn.Linear)]
    rest = weightless.n_parameters - sum(weight.numel() for weight in maps)
    by_hand = {
        None: sum(4 * weight.numel() for weight in maps),
        "8bit": sum(weight.numel() + 4 * len(weight) for weight in maps),
        "4bit": sum(
            weight.numel() // 2 + weight.numel() // 64 + 4 * math.ceil(weight.numel() / 64 / 256) + 4 * 273
            for weight in maps
        ),
    }
    assert quantized.weight_bytes(weightless.model, bits) == 4 * rest + by_hand[bits]


@needs_bitsandbytes
@both
def test_a_quantised_backbone_is_the_same_one_in_fewer_bytes(folder: Path, bits: str) -> None:
    found, plain = loaded(folder, bits), loaded(folder, None)
    assert found.quantized == bits
    assert found.n_parameters == plain.n_parameters
    assert [*found.sites] == [*plain.sites]
    assert not any(parameter.requires_grad for parameter in found.model.parameters())
    real = sum(part.nbytes for parameter in found.model.parameters() for part in held(parameter))
    assert quantized.weight_bytes(plain.model, bits) == real
    assert found.identity() == loaded(folder, bits).identity()
    assert found.identity()["dtype"] == f"float32, {bits} on cpu"


@needs_bitsandbytes
@both
def test_what_is_rounded_is_near_to_what_was_there(folder: Path, bits: str) -> None:
    """By the steps of the codes: 1/127 of a row's largest in 8 bits, in NF4 at most half its widest gap of 0.304."""
    found, plain = loaded(folder, bits), loaded(folder, None)
    for key, site in plain.sites.items():
        if site.role in ("q", "ffn_in", "ffn_out"):
            real = linear_weight(plain.module(site.entry), site)[0]
            near = linear_weight(found.module(site.entry), site)[0]
            assert near.shape == real.shape
            share = (near - real).abs().max() / real.abs().max()
            assert 0 < share < {"8bit": 0.5 / 127 + 1e-3, "4bit": 0.152 + 0.01}[bits], key


def dequantised(found: Backbone) -> Backbone:
    """A plain backbone with the weights that a quantised one stands for."""
    config = copy.deepcopy(found.model.config)
    del config.quantization_config
    plain = Backbone.from_config(config)
    own = dict(found.model.named_parameters())
    with torch.no_grad():
        for name, parameter in plain.model.named_parameters():
            module = found.module(name.rpartition(".")[0])
            parameter.copy_(quantized.whole_weight(module) if quantized.is_quantized(module) else own[name])
    return plain


def trained(found: Backbone, method: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The output beside the method everywhere, its numbers moved from their start, and their gradients."""
    attached = attach(found, tiny.everywhere(found, method), seed=0)
    tiny.fill(attached)
    output = tiny.output(found)
    # Weighed at random: behind a norm the mean square is 1 whatever is learnt, and its gradients are rounding.
    (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
    gradients = [parameter.grad for parameter in attached.parameters() if parameter.grad is not None]
    attached.detach()
    return output.detach(), gradients


PLACED = [name for name in methods.names() if name != "full" and len(tiny.everywhere(tiny.backbone("llama"), name))]


@needs_bitsandbytes
@pytest.mark.parametrize("method", PLACED)
def test_every_method_learns_beside_four_bits_as_beside_the_weights_that_they_stand_for(
    folder: Path, method: str
) -> None:
    found = loaded(folder, "4bit")
    before = tiny.output(found)
    ours, gradients = trained(found, method)
    expected, their_gradients = trained(dequantised(found), method)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
    assert len(gradients) == len(their_gradients) > 0
    for gradient, theirs in zip(gradients, their_gradients, strict=True):
        assert (gradient - theirs).norm() <= 1e-4 * theirs.norm()
    assert torch.equal(tiny.output(found), before), "something was left behind"


@needs_bitsandbytes
@pytest.mark.parametrize("method", ["lora", "dora", "serial", "prefix", "ia3"])
def test_methods_learn_beside_eight_bits(folder: Path, method: str) -> None:
    """LLM.int8 rounds inputs, too, to 1/127 of their largest, so that the bound is that of two such roundings a map."""
    found = loaded(folder, "8bit")
    ours, gradients = trained(found, method)
    expected, their_gradients = trained(dequantised(found), method)
    assert (ours - expected).norm() / expected.norm() < 0.05
    ours_flat, theirs_flat = (torch.cat([g.flatten() for g in each]) for each in (gradients, their_gradients))
    assert torch.cosine_similarity(ours_flat, theirs_flat, dim=0) > 0.98


@needs_bitsandbytes
@both
def test_in_bf16_a_pass_is_near_to_the_one_in_float32(folder: Path, bits: str) -> None:
    found = loaded(folder, bits)
    plain = tiny.output(found)
    with autocast(Recipe(precision="bf16"), torch.device("cpu")):
        output = tiny.output(found)
    assert 0 < (output.float() - plain).norm() / plain.norm() < 0.05


@needs_bitsandbytes
@both
def test_weights_of_few_bits_are_not_trained(folder: Path, bits: str) -> None:
    found = loaded(folder, bits)
    with pytest.raises(ArchitectureError, match=f"weights in {bits} take no gradients"):
        attach(found, tiny.everywhere(found, "full"))


@needs_bitsandbytes
@both
def test_nothing_is_logged_at_loading_or_in_a_pass(folder: Path, bits: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        tiny.output(loaded(folder, bits))
    assert not caplog.messages


@needs_bitsandbytes
@both
def test_maps_that_are_stored_transposed_are_quantised_too(tmp_path: Path, bits: str) -> None:
    tiny.backbone("gpt2").model.save_pretrained(tmp_path)
    tiny.tokenizer("gpt2").save_pretrained(tmp_path)
    found, plain = loaded(tmp_path, bits), loaded(tmp_path, None)
    assert found.n_parameters == plain.n_parameters
    assert (tiny.output(found) - tiny.output(plain)).norm() / tiny.output(plain).norm() < 0.3
    ours, _ = trained(found, "lora")
    assert not torch.equal(ours, tiny.output(found))
