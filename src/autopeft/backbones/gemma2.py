"""Gemma 2 and 3: decoders with norms before and behind both blocks, sliding windows, and capped scores (Gemma 2)."""

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
        # In front of the norm that stands behind the block, as in Llama in front of the residual.
        "attention": Role("self_attn", linear_in="self_attn.q_proj", linear_out="self_attn.o_proj"),
        "attention_norm": Role("input_layernorm"),
        "ffn_in": Role("mlp.up_proj"),
        "ffn_gate": Role("mlp.gate_proj"),
        "ffn_hidden": Role("mlp.down_proj", is_before=True),
        "ffn_out": Role("mlp.down_proj"),
        "ffn": Role("mlp", linear_in="mlp.up_proj", linear_out="mlp.down_proj"),
        "ffn_norm": Role("pre_feedforward_layernorm"),
    },
    outside={"final_norm": Role("norm")},
)

MEMBERS = {
    "gemma2": Family(
        model_types=("gemma2", "gemma3_text"),
        stacks={"decoder": _DECODER},
        pooling="last",
        alike="llama",
        tiny={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": 4,
            "vocab_size": 99,
            "max_position_embeddings": 64,
        },
    )
}
