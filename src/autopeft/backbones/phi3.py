"""Phi-3: a decoder like Llama whose queries, keys and values are one map, and whose inner maps are another."""

from __future__ import annotations

from autopeft.backbones import Family, Role, Stack

_DECODER = Stack(
    layers="layers",
    roles={
        # One behind the other; with grouped queries they are not equally wide.
        "q": Role("self_attn.qkv_proj", part="q"),
        "k": Role("self_attn.qkv_proj", part="k"),
        "v": Role("self_attn.qkv_proj", part="v"),
        "o": Role("self_attn.o_proj"),
        "kv": Role("self_attn", seam="kv"),
        "attention": Role("self_attn", linear_in="self_attn.qkv_proj", linear_out="self_attn.o_proj"),
        "attention_norm": Role("input_layernorm"),
        "ffn_gate": Role("mlp.gate_up_proj", part=(0, 2)),
        "ffn_in": Role("mlp.gate_up_proj", part=(1, 2)),
        "ffn_hidden": Role("mlp.down_proj", is_before=True),
        "ffn_out": Role("mlp.down_proj"),
        "ffn": Role("mlp", linear_in="mlp.gate_up_proj", linear_out="mlp.down_proj"),
        "ffn_norm": Role("post_attention_layernorm"),
    },
    outside={"final_norm": Role("norm")},
)

MEMBERS = {
    "phi3": Family(
        model_types=("phi3",),
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
            "original_max_position_embeddings": 64,
            "pad_token_id": 0,
            "bos_token_id": 3,
            "eos_token_id": 1,
        },
    )
}
