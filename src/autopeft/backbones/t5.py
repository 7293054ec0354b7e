"""T5: a pre-LN encoder-decoder with RMS norms, relative position biases and no biases in its projections."""

from __future__ import annotations

from autopeft.backbones import Family, Role, Stack


def _attention(path: str, prefix: str = "") -> dict[str, Role]:
    """Roles of an attention block; the adapter acts on its output before dropout and residual."""
    return {
        **{f"{prefix}{name}": Role(f"{path}.{name}") for name in ("q", "k", "v", "o")},
        f"{prefix}kv": Role(path, seam="kv"),
        f"{prefix}attention": Role(path, linear_in=f"{path}.q", linear_out=f"{path}.o"),
        f"{prefix}attention_norm": Role(f"{path.rpartition('.')[0]}.layer_norm"),
    }


def _feed_forward(path: str) -> dict[str, Role]:
    dense = f"{path}.DenseReluDense"
    return {
        # The first release has one inner map, version 1.1 two of them, of which the first is activated.
        "ffn_in": Role(f"{dense}.wi", is_optional=True),
        "ffn_in_0": Role(f"{dense}.wi_0", is_optional=True),
        "ffn_in_1": Role(f"{dense}.wi_1", is_optional=True),
        "ffn_hidden": Role(f"{dense}.wo", is_before=True),
        "ffn_out": Role(f"{dense}.wo"),
        "ffn": Role(dense, linear_in=f"{path}.layer_norm", linear_out=f"{dense}.wo"),
        # The authors' release attaches after dropout and reads the residual stream, see method `serial_released`.
        "ffn_block": Role(path, exit=f"{path}.dropout", linear_in=f"{path}.layer_norm", linear_out=f"{dense}.wo"),
        "ffn_norm": Role(f"{path}.layer_norm"),
    }


MEMBERS = {
    "t5": Family(
        model_types=("t5", "mt5"),
        stacks={
            "encoder": Stack(
                layers="encoder.block",
                roles={**_attention("layer.0.SelfAttention"), **_feed_forward("layer.1")},
                outside={"final_norm": Role("encoder.final_layer_norm")},
            ),
            "decoder": Stack(
                layers="decoder.block",
                roles={
                    **_attention("layer.0.SelfAttention"),
                    **_attention("layer.1.EncDecAttention", "cross_"),
                    **_feed_forward("layer.2"),
                },
                outside={"final_norm": Role("decoder.final_layer_norm"), "lm_head": Role("lm_head", is_optional=True)},
            ),
        },
        padded="encoder",
        is_text_to_text=True,
        tiny={
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 64,
            "num_layers": 2,
            "num_decoder_layers": 2,
            "num_heads": 4,
            "vocab_size": 99,
            "decoder_start_token_id": 0,
            "pad_token_id": 0,
        },
    )
}
