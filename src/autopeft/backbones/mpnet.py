"""MPNet: a post-LN encoder with relative positions, whose attention transformers does not look up in its registry.

So it brings its own: the same arithmetic by the attention that can take a prefix. transformers offers no gradient
checkpointing for it either; its layers are made such that they can be computed again.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.mpnet.modeling_mpnet import MPNetLayer, MPNetSelfAttention

from autopeft.backbones import Family, Role, Stack
from autopeft.network.attention import prefixed_attention


class _Layer(GradientCheckpointingLayer, MPNetLayer):  # type: ignore[misc]
    """A layer of MPNet that can be computed again in the backward pass."""


def _attend(
    self: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    position_bias: Tensor | None = None,
    output_attentions: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, ...]:
    """`MPNetSelfAttention.forward`: ``(batch, tokens, d)`` to the same; the weights are not given."""
    shape = (*hidden_states.shape[:-1], -1, self.attention_head_size)
    query, key, value = (project(hidden_states).view(shape).transpose(1, 2) for project in (self.q, self.k, self.v))
    if position_bias is not None:
        # It comes from an embedding, which autocast leaves in single precision, and the fused kernel takes one type
        # alone.
        position_bias = position_bias.to(query.dtype)
    context, _ = prefixed_attention(
        self, query, key, value, attention_mask, position_bias, dropout=self.dropout.p if self.training else 0.0
    )
    return (self.o(context.reshape(*hidden_states.shape[:-1], -1)),)


def _prepare(model: PreTrainedModel) -> None:
    for module in model.modules():
        if isinstance(module, MPNetSelfAttention):
            module.forward = MethodType(_attend, module)
            module.is_causal = False  # an attention that does not say is taken for a decoder's
        if type(module) is MPNetLayer:
            # Its class and not a new layer: weights, names and hooks stay what they are.
            module.__class__ = _Layer
            module.gradient_checkpointing = False
    model.supports_gradient_checkpointing = True


_ENCODER = Stack(
    layers="encoder.layer",
    roles={
        "q": Role("attention.attn.q"),
        "k": Role("attention.attn.k"),
        "v": Role("attention.attn.v"),
        "o": Role("attention.attn.o"),
        "kv": Role("attention.attn", seam="kv"),
        "attention": Role(
            "attention",
            exit="attention.dropout",
            norm="attention.LayerNorm",
            linear_in="attention.attn.q",
            linear_out="attention.attn.o",
        ),
        "attention_norm": Role("attention.LayerNorm"),
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
    "mpnet": Family(
        model_types=("mpnet",),
        stacks={"encoder": _ENCODER},
        mixing="attention",
        positions="embeddings.position_embeddings",
        prepare=_prepare,
        tiny={
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "vocab_size": 99,
            "max_position_embeddings": 64,
        },
    )
}
