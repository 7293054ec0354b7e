"""Llama and its relatives: pre-LN causal decoders with RMS norms and grouped keys and values."""

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
        "attention_norm": Role("input_layernorm"),
        # Of the two inner maps the one that is not activated; the one that is has a role of its own.
        "ffn_in": Role("mlp.up_proj"),
        "ffn_gate": Role("mlp.gate_proj"),
        "ffn_hidden": Role("mlp.down_proj", is_before=True),
        "ffn_out": Role("mlp.down_proj"),
        "ffn": Role("mlp", linear_in="mlp.up_proj", linear_out="mlp.down_proj"),
        "ffn_norm": Role("post_attention_layernorm"),
    },
    outside={"final_norm": Role("norm")},
)

MEMBERS = {
    "llama": Family(
        model_types=("llama", "mistral", "qwen2", "qwen3", "gemma", "granite"),
        stacks={"decoder": _DECODER},
        # A causal decoder's first token has seen nothing but itself.
        pooling="last",
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
