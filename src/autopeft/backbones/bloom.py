"""BLOOM: a pre-LN decoder without positions but for ALiBi, whose attention is not looked up in transformers' registry.

So it brings its own: the same arithmetic by the attention that can take a prefix, with ALiBi as its bias. Attention and
feed-forward add the residual themselves; what stands at them stands at their last map.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.models.bloom.modeling_bloom import BloomAttention

from autopeft.backbones import Family, Role, Stack
from autopeft.network.attention import prefixed_attention


def _attend(
    self: Any,
    hidden_states: Tensor,
    residual: Tensor,
    alibi: Tensor,
    attention_mask: Tensor | None,
    layer_past: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """`BloomAttention.forward`: ``(batch, tokens, d)`` to the same with `residual` added; the weights are not given."""
    batch, tokens, _ = hidden_states.shape
    query, key, value = self._reshape(self.query_key_value(hidden_states))
    if layer_past is not None:
        key, value = layer_past.update(key, value, self.layer_idx)
    # A row a head and example, and one column a key: the same for every query.
    bias = alibi.view(batch, self.num_heads, 1, -1).expand(-1, -1, tokens, -1).to(query.dtype)
    dropped = self.attention_dropout.p if self.training else 0.0
    context, _ = prefixed_attention(
        self, query, key, value, attention_mask, bias, dropout=dropped, scaling=self.inv_norm_factor
    )
    out = self.dense(context.reshape(batch, tokens, -1))
    return residual + functional.dropout(out, self.hidden_dropout, self.training), None


def _prepare(model: PreTrainedModel) -> None:
    for module in model.modules():
        if isinstance(module, BloomAttention):
            module.forward = MethodType(_attend, module)
            module.is_causal = True


_DECODER = Stack(
    layers="h",
    roles={
        # Queries, keys and values of a head lie beside each other.
        "qkv": Role("self_attention.query_key_value"),
        "o": Role("self_attention.dense"),
        "kv": Role("self_attention", seam="kv"),
        "attention": Role(
            "self_attention",
            exit="self_attention.dense",
            linear_in="self_attention.query_key_value",
        ),
        "attention_norm": Role("input_layernorm"),
        "ffn_in": Role("mlp.dense_h_to_4h"),
        "ffn_hidden": Role("mlp.dense_4h_to_h", is_before=True),
        "ffn_out": Role("mlp.dense_4h_to_h"),
        "ffn": Role("mlp", exit="mlp.dense_4h_to_h", linear_in="mlp.dense_h_to_4h"),
        "ffn_norm": Role("post_attention_layernorm"),
    },
    outside={"final_norm": Role("ln_f")},
)

MEMBERS = {
    "bloom": Family(
        model_types=("bloom",),
        stacks={"decoder": _DECODER},
        pooling="last",
        prepare=_prepare,
        alike="llama",
        tiny={"hidden_size": 32, "n_layer": 3, "n_head": 4, "vocab_size": 99, "bos_token_id": 3, "eos_token_id": 1},
    )
}
