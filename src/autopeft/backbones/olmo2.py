"""OLMo 2 and OLMo: decoders like Llama, with norms behind the blocks (OLMo 2) or norms without weights (OLMo)."""

from __future__ import annotations

from autopeft.backbones import Family, Role, Stack

_DECODER = Stack(
    layers="layers",
    roles={
        "q": Role("self_attn.q_proj"),
        "k": Role("self_attn.k_proj"),
        "v": Role("self_attn.v_proj"),
        "o": Role("self_attn.o_proj"),
        "kv": Role("self_attn", seam="kv"),
        "attention": Role("self_attn", linear_in="self_attn.q_proj", linear_out="self_attn.o_proj"),
        # OLMo's norms have nothing to tune, and are no places.
        "attention_norm": Role("post_attention_layernorm", is_optional=True),
        "ffn_in": Role("mlp.up_proj"),
        "ffn_gate": Role("mlp.gate_proj"),
        "ffn_hidden": Role("mlp.down_proj", is_before=True),
        "ffn_out": Role("mlp.down_proj"),
        "ffn": Role("mlp", linear_in="mlp.up_proj", linear_out="mlp.down_proj"),
        "ffn_norm": Role("post_feedforward_layernorm", is_optional=True),
    },
    outside={"final_norm": Role("norm", is_optional=True)},
)

MEMBERS = {
    "olmo2": Family(
        model_types=("olmo2", "olmo"),
        stacks={"decoder": _DECODER},
        pooling="last",
        alike="llama",
        tiny={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 99,
            "max_position_embeddings": 64,
        },
    )
}
