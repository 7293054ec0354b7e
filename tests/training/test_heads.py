"""The head's model: what the last layer computes for the first token alone, and when it computes everything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

import tiny
from autopeft import methods
from autopeft.architecture import Architecture, Placement
from autopeft.backbones import Backbone
from autopeft.network.attach import attach
from autopeft.spaces.build import stands_at
from autopeft.training import heads
from autopeft.training.heads import Head, HeadedModel
from autopeft.training.memory import checkpointing

TOKENS = torch.randint(5, 90, (3, 7), generator=torch.Generator().manual_seed(0))
VISIBLE = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 2 + [0] * 5])


@pytest.fixture(params=["bert", "roberta", "electra", "distilbert"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return tiny.backbone(request.param)


def everywhere(found: Backbone, name: str) -> Architecture:
    method = methods.lookup(name)
    sites = [site for site in found.sites.values() if stands_at(method, site)]
    return Architecture(tuple(Placement(site.key, name, 3 if method.is_sized else 1) for site in sites))


def answer(model: HeadedModel, parameters: list[torch.nn.Parameter]) -> tuple[Tensor, list[Tensor]]:
    logits = model(TOKENS, VISIBLE).logits
    return logits, list(torch.autograd.grad(logits.square().sum(), parameters, materialize_grads=True))


@contextmanager
def seen(model: HeadedModel) -> Iterator[list[int]]:
    """How many tokens leave the last layer, pass by pass."""
    found: list[int] = []
    stack = next(iter(model._source.family.stacks.values()))
    last = list(model._source.module(stack.layers).children())[-1]

    def note(_: object, args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        found.append((output[0] if isinstance(output, tuple) else output).shape[1])

    handle = last.register_forward_hook(note)
    yield found
    handle.remove()


@pytest.mark.parametrize("name", methods.names())
def test_nothing_else_is_read(backbone: Backbone, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = HeadedModel(backbone, Head(backbone.hidden_size, 2)).eval()
    with attach(backbone, everywhere(backbone, name), seed=1) as attached:
        attached.train(False)
        parameters = [*attached.parameters(), *model.head.parameters()]  # the head's alone on T5's own methods
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
        with seen(model) as tokens:
            logits, gradients = answer(model, parameters)
        is_cut = bool(backbone.family.mixing) and not methods.lookup(name).sees_padding
        assert tokens == [1 if is_cut else 7]
        monkeypatch.setattr(heads, "_cut", lambda module, args, output: None)
        with seen(model) as tokens:
            wanted, slopes = answer(model, parameters)
        assert tokens == [7]
        torch.testing.assert_close(logits, wanted, atol=1e-6, rtol=1e-5)
        for gradient, slope in zip(gradients, slopes, strict=True):
            torch.testing.assert_close(gradient, slope, atol=1e-5, rtol=1e-4)


def test_who_calls_the_backbone_gets_every_token() -> None:
    backbone = tiny.backbone("bert")
    before = backbone.model(TOKENS, VISIBLE).last_hidden_state
    HeadedModel(backbone, Head(backbone.hidden_size, 2))(TOKENS, VISIBLE)
    torch.testing.assert_close(backbone.model(TOKENS, VISIBLE).last_hidden_state, before, atol=0, rtol=0)


def test_a_failure_leaves_no_hook() -> None:
    backbone = tiny.backbone("bert")
    model = HeadedModel(backbone, Head(backbone.hidden_size, 2)).eval()
    with pytest.raises(IndexError):
        model(TOKENS + 1000, VISIBLE)
    assert backbone.model(TOKENS, VISIBLE).last_hidden_state.shape[1] == 7


def test_checkpointing_computes_everything_and_the_same() -> None:
    backbone = tiny.backbone("bert")
    model = HeadedModel(backbone, Head(backbone.hidden_size, 2))
    with attach(backbone, everywhere(backbone, "serial"), seed=1) as attached:
        model.eval()
        wanted = answer(model, attached.parameters())
        model.train()  # recomputation happens in training mode only
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        with checkpointing(backbone.model, True), seen(model) as tokens:
            found = answer(model, attached.parameters())
        assert set(tokens) == {7}
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)


def test_feed_forwards_in_chunks_get_every_token() -> None:
    whole, chunked = tiny.backbone("bert"), tiny.backbone("bert", chunk_size_feed_forward=7)
    head = Head(whole.hidden_size, 2)
    model = HeadedModel(chunked, head).eval()
    with seen(model) as tokens, torch.no_grad():
        torch.testing.assert_close(
            model(TOKENS, VISIBLE).logits, HeadedModel(whole, head).eval()(TOKENS, VISIBLE).logits
        )
    assert tokens == [7]


def test_the_side_of_the_padding_changes_nothing_in_a_decoder_with_a_prefix() -> None:
    backbone = tiny.backbone("llama")
    model = HeadedModel(backbone, Head(backbone.hidden_size, 2)).eval()
    lengths = VISIBLE.sum(1).tolist()
    left = torch.stack([row.roll(7 - n) for row, n in zip(TOKENS, lengths, strict=True)])
    with tiny.fill(attach(backbone, everywhere(backbone, "prefix"))), torch.no_grad():
        wanted, found = model(TOKENS, VISIBLE).logits, model(left, VISIBLE.flip(1)).logits
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
