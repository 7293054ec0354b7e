"""Falcon: decoders whose blocks act side by side, with one key and value for several queries, in one fused map.

transformers does not look their attention up in its registry, so it brings its own: the same arithmetic by the
attention that can take a prefix, with rotary positions or with ALiBi as its bias. Keys and values of a group are spread
over its queries, so that a prefix has as many as there are queries.
"""

from __future__ import annotations

from copy import copy
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.falcon.modeling_falcon import FalconAttention, FalconDecoderLayer, apply_rotary_pos_emb

from autopeft.backbones import Family, Role, Stack
from autopeft.network.attention import prefixed_attention


def _attend(
    self: Any,
    hidden_states: Tensor,
    alibi: Tensor | None,
    attention_mask: Tensor | None,
    position_ids: Tensor | None = None,
    layer_past: Any = None,
    position_embeddings: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """`FalconAttention.forward`: ``(batch, tokens, d)`` to the same; the weights are not given."""
    batch, tokens, _ = hidden_states.shape
    parts = self._split_heads(self.query_key_value(hidden_states))
    query, key, value = (part.transpose(1, 2) for part in parts)
    if alibi is None:
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
    if layer_past is not None:
        key, value = layer_past.update(key, value, self.layer_idx)
    key, value = (part.expand(-1, self.num_heads, -1, -1) for part in (key, value))
    bias = None
    # A mask of numbers and not of what is visible holds ALiBi already: transformers adds it there.
    if alibi is not None and (attention_mask is None or attention_mask.dtype == torch.bool):
        columns = alibi.view(batch, self.num_heads, 1, -1) * self.inv_norm_factor
        bias = columns.expand(-1, -1, tokens, -1).to(query.dtype)
    # With rotary positions transformers drops no weights.
    dropped = self.attention_dropout.p if self.training and alibi is not None else 0.0
    context, _ = prefixed_attention(
        self, query, key, value, attention_mask, bias, dropout=dropped, scaling=self.inv_norm_factor
    )
    return self.dense(context.reshape(batch, tokens, -1)), None


def _prepare(model: PreTrainedModel) -> None:
    for module in model.modules():
        if isinstance(module, FalconDecoderLayer):
            # A block reads its rates of dropout there at every pass: of its own, they can be set.
            module.config = copy(module.config)
        if isinstance(module, FalconAttention):
            module.forward = MethodType(_attend, module)


_DECODER = Stack(
    layers="h",
    roles={
        # Queries, keys and values of a group lie beside each other.
        "qkv": Role("self_attention.query_key_value"),
        "o": Role("self_attention.dense"),
        "kv": Role("self_attention", seam="kv"),
        "attention": Role(
            "self_attention", linear_in="self_attention.query_key_value", linear_out="self_attention.dense"
        ),
        # The newer ones have a norm for each block, the older one for both.
        "attention_norm": Role("input_layernorm", is_optional=True),
        "ffn_in": Role("mlp.dense_h_to_4h"),
        "ffn_hidden": Role("mlp.dense_4h_to_h", is_before=True),
        "ffn_out": Role("mlp.dense_4h_to_h"),
        "ffn": Role("mlp", linear_in="mlp.dense_h_to_4h", linear_out="mlp.dense_4h_to_h"),
        "ffn_norm": Role("ln_mlp", is_optional=True),
    },
    outside={"final_norm": Role("ln_f")},
)

MEMBERS = {
    "falcon": Family(
        model_types=("falcon",),
        stacks={"decoder": _DECODER},
        pooling="last",
        prepare=_prepare,
        alike="llama",
        tiny={
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "vocab_size": 99,
            "max_position_embeddings": 64,
            "bos_token_id": 3,
            "eos_token_id": 1,
        },
    )
}
