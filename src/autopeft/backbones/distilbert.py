"""DistilBERT: a post-LN encoder without token types or pooler."""

from __future__ import annotations

from autopeft.backbones import Family, Role, Stack

_ENCODER = Stack(
    layers="transformer.layer",
    roles={
        "q": Role("attention.q_lin"),
        "k": Role("attention.k_lin"),
        "v": Role("attention.v_lin"),
        "o": Role("attention.out_lin"),
        # Attention and its output projection are one module here, without dropout or residual, so that both roles mean
        # it.
        "kv": Role("attention", seam="kv"),
        "attention": Role(
            "attention", norm="sa_layer_norm", linear_in="attention.q_lin", linear_out="attention.out_lin"
        ),
        "attention_norm": Role("sa_layer_norm"),
        "ffn_in": Role("ffn.lin1"),
        "ffn_hidden": Role("ffn.lin2", is_before=True),
        "ffn_out": Role("ffn.lin2"),
        "ffn": Role("ffn", norm="output_layer_norm", linear_in="ffn.lin1", linear_out="ffn.lin2"),
        "ffn_norm": Role("output_layer_norm"),
    },
)

MEMBERS = {
    "distilbert": Family(
        model_types=("distilbert",),
        stacks={"encoder": _ENCODER},
        positions="embeddings.position_embeddings",
        tiny={
            "dim": 32,
            "n_layers": 3,
            "n_heads": 4,
            "hidden_dim": 64,
            "vocab_size": 99,
            "max_position_embeddings": 64,
        },
    )
}
