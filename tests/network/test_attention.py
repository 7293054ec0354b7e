"""Attention with learned keys and values in front, against a softmax written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput

from autopeft.architecture import Architecture, Placement
from autopeft.network.attach import attach
from autopeft.network.attention import IMPLEMENTATION, _weighted_softmax, prefixed_attention, register, set_prefix
from tiny import backbone, everywhere, fill, inputs

BATCH, HEADS, QUERIES, KEYS, D_HEAD, LENGTH = 2, 4, 5, 5, 8, 3


class Attention(nn.Module):
    """What transformers' attention functions ask of a module."""

    def __init__(self, kv_heads: int = HEADS, is_causal: bool = False) -> None:
        super().__init__()
        self.is_causal = is_causal
        self.num_key_value_groups = HEADS // kv_heads


def tensors(kv_heads: int = HEADS, seed: int = 0) -> tuple[Tensor, ...]:
    """Query, key, value, prefix keys, prefix values."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [
        (BATCH, HEADS, QUERIES, D_HEAD),
        (BATCH, kv_heads, KEYS, D_HEAD),
        (BATCH, kv_heads, KEYS, D_HEAD),
        (kv_heads, LENGTH, D_HEAD),
        (kv_heads, LENGTH, D_HEAD),
    ]
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def padding() -> Tensor:
    """True where visible: the second row has three keys."""
    mask = torch.ones(BATCH, 1, QUERIES, KEYS, dtype=torch.bool)
    mask[1, ..., 3:] = False
    return mask


def written_out(
    query: Tensor, key: Tensor, value: Tensor, front: tuple[Tensor, Tensor], visible: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Softmax attention over prefix and keys, one batch row and head at a time, in float64."""
    out = torch.empty(BATCH, QUERIES, HEADS, D_HEAD, dtype=torch.float64)
    groups = HEADS // key.shape[1]
    for row in range(BATCH):
        for head in range(HEADS):
            keys = torch.cat([front[0][head // groups], key[row, head // groups]]).double()
            values = torch.cat([front[1][head // groups], value[row, head // groups]]).double()
            scores = query[row, head].double() @ keys.T / D_HEAD**0.5
            length = front[0].shape[1]
            if bias is not None:
                scores[:, length:] += bias[0, head].double()
            scores[:, length:][~visible[row, 0]] = float("-inf")
            out[row, :, head] = scores.softmax(-1) @ values
    return out


CASES = [
    pytest.param({}, id="plain"),
    pytest.param({"mask": padding()}, id="padding"),
    pytest.param({"is_causal": True}, id="causal"),
    pytest.param(
        {"is_causal": True, "kv_heads": 2, "mask": padding().logical_and(torch.ones(5, 5).tril().bool())}, id="grouped"
    ),
    pytest.param(
        {"bias": torch.randn(1, HEADS, QUERIES, KEYS, generator=torch.Generator().manual_seed(3))}, id="position bias"
    ),
]


def computed(
    case: dict[str, Any], presence: Tensor | None, front: tuple[Tensor, Tensor], rest: tuple[Tensor, ...]
) -> Tensor:
    module = Attention(case.get("kv_heads", HEADS), case.get("is_causal", False))
    set_prefix(module, lambda: (*front, presence))
    bias = {"position_bias": case["bias"]} if "bias" in case else {}
    out, weights = prefixed_attention(module, *rest, case.get("mask"), **bias)
    assert weights is None
    return out


def visible(case: dict[str, Any]) -> Tensor:
    if "mask" in case:
        mask: Tensor = case["mask"]
        return mask
    full = torch.ones(BATCH, 1, QUERIES, KEYS, dtype=torch.bool)
    return full.tril() if case.get("is_causal") else full


@pytest.mark.parametrize("case", CASES)
def test_a_prefix_is_attended_to_like_keys_in_front(case: dict[str, Any]) -> None:
    *rest, keys, values = tensors(case.get("kv_heads", HEADS))
    wanted = written_out(*rest, (keys, values), visible(case), case.get("bias"))
    torch.testing.assert_close(computed(case, None, (keys, values), tuple(rest)).double(), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("presence", [(1, 1, 1), (0, 0, 0), (1, 0, 0), (0, 1, 1)])
def test_whole_presences_are_presence_and_absence(case: dict[str, Any], presence: tuple[int, ...]) -> None:
    *rest, keys, values = tensors(case.get("kv_heads", HEADS))
    gated = computed(case, torch.tensor(presence, dtype=torch.float32), (keys, values), tuple(rest))
    kept = torch.tensor(presence, dtype=torch.bool)
    cut = computed(case, None, (keys[:, kept], values[:, kept]), tuple(rest))
    torch.testing.assert_close(gated, cut, atol=1e-6, rtol=1e-5)


def test_a_prefix_that_is_gated_off_leaves_the_others_as_they_are() -> None:
    scores = torch.tensor([[[[120.0, 0.0, 1.0]]]])
    found = _weighted_softmax(scores, torch.tensor([0.0]))
    torch.testing.assert_close(found, torch.tensor([[[[0.0, *torch.tensor([0.0, 1.0]).softmax(0)]]]]))


def test_gates_are_applied_in_single_precision_at_least() -> None:
    half = torch.randn(2, 2, 5, 9, generator=torch.Generator().manual_seed(0)).bfloat16()
    torch.testing.assert_close(_weighted_softmax(half, torch.ones(3)), half.float().softmax(-1))


@pytest.mark.parametrize("presence", [None, torch.ones(LENGTH)])
def test_the_last_queries_of_a_causal_attention_see_all_earlier_keys(presence: Tensor | None) -> None:
    """Two queries after a cache of three keys: the first sees four of the five, the second all."""
    *rest, keys, values = tensors()
    module = Attention(is_causal=True)
    set_prefix(module, lambda: (keys, values, presence))
    whole, _ = prefixed_attention(module, *rest, None)
    last, _ = prefixed_attention(module, rest[0][:, :, 3:], *rest[1:], None)
    torch.testing.assert_close(last, whole[:, 3:], atol=1e-6, rtol=1e-5)


def test_a_fractional_gate_is_a_weight_in_the_softmax() -> None:
    # One query, one key and one prefix position, all scores 0: weights g / (1 + g) and 1 / (1 + g).
    module, zero = Attention(1), torch.zeros(1, 1, 1, 2)
    value, front = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[0.0, 1.0]]])
    for presence in (0.0, 0.25, 1.0):
        set_prefix(module, lambda presence=presence: (torch.zeros(1, 1, 2), front, torch.tensor([presence])))
        out, _ = prefixed_attention(module, zero, zero, value, None)
        wanted = torch.tensor([1 / (1 + presence), presence / (1 + presence)])
        torch.testing.assert_close(out.flatten(), wanted)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_gradients_are_finite_at_a_gate_of_zero(scale: float) -> None:
    """Also where the gated-off prefix has by far the largest score."""
    query, key, value, keys, values = tensors()
    presence = torch.zeros(LENGTH, requires_grad=True)
    front = (scale * keys).requires_grad_(True)
    module = Attention()
    set_prefix(module, lambda: (front, values, presence))
    out, _ = prefixed_attention(module, query, key, value, padding())
    assert torch.isfinite(out).all()
    out.square().sum().backward()
    assert presence.grad is not None
    assert torch.isfinite(presence.grad).all()
    assert torch.isfinite(front.grad).all()  # type: ignore[arg-type]
    if scale == 1.0:
        assert (presence.grad != 0).all()


def test_the_gradient_of_a_gate_is_that_of_finite_differences() -> None:
    query, key, value, keys, values = (tensor.double() for tensor in tensors())
    module = Attention()

    def loss(presence: Tensor) -> Tensor:
        set_prefix(module, lambda: (keys, values, presence))
        return prefixed_attention(module, query, key, value, padding())[0].square().sum()

    presence = torch.tensor([0.3, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (presence,), atol=1e-6)


def test_without_a_prefix_it_is_the_kernel_bit_for_bit() -> None:
    query, key, value, *_ = tensors()
    module = Attention()
    ours, _ = prefixed_attention(module, query, key, value, padding())
    assert torch.equal(ours, sdpa_attention_forward(module, query, key, value, padding())[0])
    set_prefix(module, lambda: None)
    assert torch.equal(ours, prefixed_attention(module, query, key, value, padding())[0])


def test_a_prefix_leaves_no_trace_in_the_module() -> None:
    module = Attention()
    before = dict(vars(module))
    set_prefix(module, lambda: None)
    assert not list(module.state_dict())
    assert not list(module.parameters())
    set_prefix(module, None)
    set_prefix(module, None)
    assert vars(module) == before


def test_registering_twice_is_registering_once() -> None:
    register()
    register()
    assert ALL_ATTENTION_FUNCTIONS[IMPLEMENTATION] is prefixed_attention
    assert ALL_MASK_ATTENTION_FUNCTIONS[IMPLEMENTATION] is ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]


def test_dropout_acts_on_the_weights_in_training_only() -> None:
    *rest, keys, values = tensors()
    module = Attention()
    set_prefix(module, lambda: (keys, values, torch.ones(LENGTH)))
    module.eval()
    still = prefixed_attention(module, *rest, None, dropout=0.5)[0]
    assert torch.equal(still, prefixed_attention(module, *rest, None)[0])
    module.train()
    torch.manual_seed(0)
    assert not torch.equal(still, prefixed_attention(module, *rest, None, dropout=0.5)[0])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("with_prefix", [False, True])
def test_dropout_that_drops_nothing_changes_nothing(case: dict[str, Any], with_prefix: bool) -> None:
    """In training on a CPU the work is done step by step: the same attention as the kernel's."""
    *rest, keys, values = tensors(case.get("kv_heads", HEADS))
    module = Attention(case.get("kv_heads", HEADS), case.get("is_causal", False))
    set_prefix(module, (lambda: (keys, values, None)) if with_prefix else None)
    arguments = (module, *rest, case.get("mask"), case.get("bias"))
    module.eval()
    kernel = prefixed_attention(*arguments)[0]
    module.train()
    torch.manual_seed(0)  # at this rate one of 65,536 elements is dropped, and with this seed none is
    torch.testing.assert_close(prefixed_attention(*arguments, dropout=1e-9)[0], kernel, atol=1e-4, rtol=1e-4)


def cached(output: ModelOutput) -> dict[str, Any]:
    """What a forward keeps for the next one, under the name that this release of transformers gives it."""
    name = next(name for name in ("cache", "past_key_values") if name in output)
    return {name: output[name]}


@pytest.mark.parametrize("model_type", ["llama", "qwen3"])
def test_a_decoder_with_a_prefix_and_a_cache_steps_like_the_whole(model_type: str) -> None:
    found = backbone(model_type)
    ids = inputs(found)["input_ids"][:1]
    with fill(attach(found, everywhere(found, "prefix_direct"))), torch.no_grad():
        whole = found.model(input_ids=ids).last_hidden_state
        begun = found.model(input_ids=ids[:, :3], use_cache=True)
        parts, kept = [begun.last_hidden_state], cached(begun)
        for position in range(3, ids.shape[1]):
            step = found.model(input_ids=ids[:, position : position + 1], use_cache=True, **kept)
            parts.append(step.last_hidden_state)
            kept = cached(step)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)


def test_a_chunk_after_a_cache_is_causal_too() -> None:
    found = backbone("llama")
    ids = inputs(found)["input_ids"][:1]
    with fill(attach(found, everywhere(found, "prefix_direct"))), torch.no_grad():
        whole = found.model(input_ids=ids).last_hidden_state
        begun = found.model(input_ids=ids[:, :3], use_cache=True)
        rest = found.model(input_ids=ids[:, 3:], **cached(begun)).last_hidden_state
    torch.testing.assert_close(rest, whole[:, 3:], atol=1e-5, rtol=1e-5)


def test_t5_generates_with_a_prefix_what_the_whole_forward_says() -> None:
    found = backbone("t5")
    batch = inputs(found)
    source = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with fill(attach(found, everywhere(found, "prefix_direct"))), torch.no_grad():
        said = found.model.generate(**source, max_new_tokens=6, do_sample=False, num_beams=1)
        ids = torch.zeros(2, 1, dtype=torch.long)
        for _ in range(said.shape[1] - 1):
            ended = (ids[:, 1:] == 1).any(1)
            best = found.model(**source, decoder_input_ids=ids, use_cache=False).logits[:, -1].argmax(-1)
            ids = torch.cat([ids, torch.where(ended, 0, best)[:, None]], dim=1)
    assert torch.equal(said, ids)


def test_llama_generates_with_a_prefix_what_the_whole_forward_says() -> None:
    """A causal language model is no backbone of a head, but its attention is the same."""
    register()
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=99, max_position_embeddings=64, pad_token_id=0, bos_token_id=3, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=IMPLEMENTATION).eval()
    for layer in model.model.layers:
        keys, values = 3 * torch.randn(2, LENGTH, 8), 3 * torch.randn(2, LENGTH, 8)
        set_prefix(layer.self_attn, lambda keys=keys, values=values: (keys, values, None))
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        said = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
        while ids.shape[1] < said.shape[1]:
            ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(said, ids)


def test_a_prefix_at_cross_attention_reaches_the_decoder_only() -> None:
    found = backbone("t5")
    batch = inputs(found)
    encoder = found.model.get_encoder()
    plain = encoder(input_ids=batch["input_ids"]).last_hidden_state
    logits = found.model(**batch).logits
    where = Architecture((Placement("decoder.0.cross_kv", "prefix_direct", 2),))
    with fill(attach(found, where)), torch.no_grad():
        assert torch.equal(encoder(input_ids=batch["input_ids"]).last_hidden_state, plain)
        assert not torch.equal(found.model(**batch).logits, logits)
