"""ModernBERT: a pre-LN encoder with rotary positions, sliding windows, and fused projections."""

from __future__ import annotations

from autopeft.backbones import Family, Role, Stack

_ENCODER = Stack(
    layers="layers",
    roles={
        "q": Role("attn.Wqkv", part=(0, 3)),
        "k": Role("attn.Wqkv", part=(1, 3)),
        "v": Role("attn.Wqkv", part=(2, 3)),
        "o": Role("attn.Wo"),
        "kv": Role("attn", seam="kv"),
        "attention": Role("attn", linear_in="attn.Wqkv", linear_out="attn.Wo"),
        # The first layer has none: the embeddings end with one.
        "attention_norm": Role("attn_norm", is_optional=True),
        # One map gives the input and what it is multiplied by, the former first.
        "ffn_in": Role("mlp.Wi", part=(0, 2)),
        "ffn_gate": Role("mlp.Wi", part=(1, 2)),
        "ffn_hidden": Role("mlp.Wo", is_before=True),
        "ffn_out": Role("mlp.Wo"),
        "ffn": Role("mlp", linear_in="mlp.Wi", linear_out="mlp.Wo"),
        "ffn_norm": Role("mlp_norm"),
    },
    outside={"final_norm": Role("final_norm")},
)

MEMBERS = {
    "modernbert": Family(
        model_types=("modernbert",),
        stacks={"encoder": _ENCODER},
        tiny={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "vocab_size": 99,
            "max_position_embeddings": 64,
            "global_attn_every_n_layers": 2,
            "pad_token_id": 0,
            "bos_token_id": 3,
            "eos_token_id": 1,
            "cls_token_id": 3,
            "sep_token_id": 1,
        },
    )
}
