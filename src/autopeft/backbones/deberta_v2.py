"""DeBERTa-v2 and v3: post-LN encoders that compare contents with distances, in an attention of their own.

transformers does not look that attention up in its registry, so it brings its own: the same arithmetic by the attention
that can take a prefix, with what distances say as its bias.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

from autopeft.backbones import Family, Role, Stack
from autopeft.errors import BackboneError
from autopeft.network.attention import prefixed_attention


def _attend(
    self: Any,
    hidden_states: Tensor,
    attention_mask: Tensor,
    output_attentions: bool = False,
    query_states: Tensor | None = None,
    relative_pos: Tensor | None = None,
    rel_embeddings: Tensor | None = None,
) -> tuple[Tensor, None]:
    """`DisentangledSelfAttention.forward`: ``(batch, tokens, d)`` to the same; the weights are not given."""
    heads = self.num_attention_heads
    asking = hidden_states if query_states is None else query_states
    # ``(batch * heads, tokens, d_head)``, as what distances say is computed of it.
    query, key, value = (
        self.transpose_for_scores(project(states), heads)
        for project, states in (
            (self.query_proj, asking),
            (self.key_proj, hidden_states),
            (self.value_proj, hidden_states),
        )
    )
    n_terms = 1 + ("c2p" in self.pos_att_type) + ("p2c" in self.pos_att_type)
    bias = None
    if self.relative_attention:
        distances = self.pos_dropout(rel_embeddings)
        found = self.disentangled_attention_bias(query, key, relative_pos, distances, n_terms)
        bias = found.view(-1, heads, *found.shape[1:]).to(query.dtype)
    query, key, value = (part.view(-1, heads, *part.shape[1:]) for part in (query, key, value))
    # Here padding sees what all see. In transformers it sees nothing, which is no number in every kernel, and what it
    # then is is never looked at.
    visible = attention_mask.bool().any(-2, keepdim=True)
    dropped = self.dropout.p if self.training else 0.0
    scaling = (query.shape[-1] * n_terms) ** -0.5
    context, _ = prefixed_attention(self, query, key, value, visible, bias, dropout=dropped, scaling=scaling)
    return context.reshape(*hidden_states.shape[:-1], -1), None


def _prepare(model: PreTrainedModel) -> None:
    """Give every layer its attention.

    Raises:
        BackboneError: it has a convolution beside its first layer (DeBERTa-v2 xlarge and xxlarge), which is described
            by no place.
    """
    if model.encoder.conv is not None:
        raise BackboneError(f"{model.config.model_type} with a convolution (conv_kernel_size) is not described.")
    for module in model.modules():
        if isinstance(module, DisentangledSelfAttention):
            module.forward = MethodType(_attend, module)
            module.is_causal = False


_ENCODER = Stack(
    layers="encoder.layer",
    roles={
        "q": Role("attention.self.query_proj"),
        "k": Role("attention.self.key_proj"),
        "v": Role("attention.self.value_proj"),
        "o": Role("attention.output.dense"),
        "kv": Role("attention.self", seam="kv"),
        "attention": Role(
            "attention",
            exit="attention.output.dropout",
            norm="attention.output.LayerNorm",
            linear_in="attention.self.query_proj",
            linear_out="attention.output.dense",
        ),
        "attention_norm": Role("attention.output.LayerNorm"),
        "ffn_in": Role("intermediate.dense"),
        "ffn_hidden": Role("output.dense", is_before=True),
        "ffn_out": Role("output.dense"),
        "ffn": Role(
            "intermediate",
            exit="output.dropout",
            norm="output.LayerNorm",
            linear_in="intermediate.dense",
            linear_out="output.dense",
        ),
        "ffn_norm": Role("output.LayerNorm"),
    },
)

MEMBERS = {
    "deberta-v2": Family(
        model_types=("deberta-v2",),
        stacks={"encoder": _ENCODER},
        mixing="attention",
        positions="embeddings.position_embeddings",
        prepare=_prepare,
        alike="bert",
        tiny={
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "vocab_size": 99,
            "max_position_embeddings": 64,
            "relative_attention": True,
            "position_buckets": 8,
            "max_relative_positions": 64,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
    )
}
