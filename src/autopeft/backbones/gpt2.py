"""GPT-2: a pre-LN causal decoder whose maps are `Conv1D`s, with queries, keys and values in one."""

from __future__ import annotations

from autopeft.backbones import Family, Role, Stack

_DECODER = Stack(
    layers="h",
    roles={
        # One map gives queries, keys and values, in this order; a module at one of them leaves the other two alone.
        "q": Role("attn.c_attn", part=(0, 3)),
        "k": Role("attn.c_attn", part=(1, 3)),
        "v": Role("attn.c_attn", part=(2, 3)),
        "o": Role("attn.c_proj"),
        "kv": Role("attn", seam="kv"),
        "attention": Role("attn", linear_in="attn.c_attn", linear_out="attn.c_proj"),
        "attention_norm": Role("ln_1"),
        "ffn_in": Role("mlp.c_fc"),
        "ffn_hidden": Role("mlp.c_proj", is_before=True),
        "ffn_out": Role("mlp.c_proj"),
        "ffn": Role("mlp", linear_in="mlp.c_fc", linear_out="mlp.c_proj"),
        "ffn_norm": Role("ln_2"),
    },
    # Pre-LN: the layers end without a norm, and one stands behind the last of them.
    outside={"final_norm": Role("ln_f")},
)

MEMBERS = {
    "gpt2": Family(
        model_types=("gpt2",),
        stacks={"decoder": _DECODER},
        # A causal decoder's first token has seen nothing but itself.
        pooling="last",
        positions="wpe",
        tiny={
            "hidden_size": 32,
            "n_layer": 3,
            "n_head": 4,
            "n_inner": 64,
            "vocab_size": 99,
            "n_positions": 64,
            "bos_token_id": 3,
            "eos_token_id": 1,
        },
    )
}
