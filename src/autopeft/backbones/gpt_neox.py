"""GPT-NeoX and Pythia: decoders whose blocks act side by side, with queries, keys and values of a head in one map."""

from __future__ import annotations

from autopeft.backbones import Family, Role, Stack

_DECODER = Stack(
    layers="layers",
    roles={
        "qkv": Role("attention.query_key_value"),
        "o": Role("attention.dense"),
        "kv": Role("attention", seam="kv"),
        "attention": Role("attention", linear_in="attention.query_key_value", linear_out="attention.dense"),
        "attention_norm": Role("input_layernorm"),
        "ffn_in": Role("mlp.dense_h_to_4h"),
        "ffn_hidden": Role("mlp.dense_4h_to_h", is_before=True),
        "ffn_out": Role("mlp.dense_4h_to_h"),
        "ffn": Role("mlp", linear_in="mlp.dense_h_to_4h", linear_out="mlp.dense_4h_to_h"),
        "ffn_norm": Role("post_attention_layernorm"),
    },
    outside={"final_norm": Role("final_layer_norm")},
)

MEMBERS = {
    "gpt_neox": Family(
        model_types=("gpt_neox",),
        stacks={"decoder": _DECODER},
        pooling="last",
        alike="llama",
        tiny={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "vocab_size": 99,
            "max_position_embeddings": 64,
        },
    )
}
