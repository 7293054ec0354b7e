"""BERT, RoBERTa and ELECTRA: post-LN encoders whose feed-forward is split over two modules."""

from __future__ import annotations

from autopeft.backbones import Family, Role, Stack

_ENCODER = Stack(
    layers="encoder.layer",
    roles={
        "q": Role("attention.self.query"),
        "k": Role("attention.self.key"),
        "v": Role("attention.self.value"),
        "o": Role("attention.output.dense"),
        "kv": Role("attention.self", seam="kv"),
        "attention": Role(
            "attention",
            # Behind the dropout and before the residual: `attention.output` itself adds and normalises already.
            exit="attention.output.dropout",
            norm="attention.output.LayerNorm",
            linear_in="attention.self.query",
            linear_out="attention.output.dense",
        ),
        "attention_norm": Role("attention.output.LayerNorm"),
        "ffn_in": Role("intermediate.dense"),
        "ffn_hidden": Role("output.dense", is_before=True),
        "ffn_out": Role("output.dense"),
        "ffn": Role(
            "intermediate",
            # The feed-forward begins in one module and ends inside the next, which goes on to add and to normalise.
            exit="output.dropout",
            norm="output.LayerNorm",
            linear_in="intermediate.dense",
            linear_out="output.dense",
        ),
        "ffn_norm": Role("output.LayerNorm"),
    },
)

MEMBERS = {
    "bert": Family(
        model_types=("bert", "roberta", "electra", "xlm-roberta", "camembert"),
        stacks={"encoder": _ENCODER},
        mixing="attention",
        positions="embeddings.position_embeddings",
        tiny={
            "hidden_size": 32,
            "embedding_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "vocab_size": 99,
            "max_position_embeddings": 64,
        },
    )
}
