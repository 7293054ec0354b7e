"""BART: a post-LN encoder-decoder with learned positions, whose feed-forward is two maps of the layer itself."""

from __future__ import annotations

from autopeft.backbones import Family, Role, Stack


def _attention(path: str, norm: str, prefix: str = "") -> dict[str, Role]:
    """Roles of an attention block; it ends with its output map, and dropout and residual are the layer's."""
    return {
        f"{prefix}q": Role(f"{path}.q_proj"),
        f"{prefix}k": Role(f"{path}.k_proj"),
        f"{prefix}v": Role(f"{path}.v_proj"),
        f"{prefix}o": Role(f"{path}.out_proj"),
        f"{prefix}kv": Role(path, seam="kv"),
        f"{prefix}attention": Role(path, norm=norm, linear_in=f"{path}.q_proj", linear_out=f"{path}.out_proj"),
        f"{prefix}attention_norm": Role(norm),
    }


_FEED_FORWARD = {
    "ffn_in": Role("fc1"),
    "ffn_hidden": Role("fc2", is_before=True),
    "ffn_out": Role("fc2"),
    # No module holds both maps; between the first's input and the second's output there is nothing else.
    "ffn": Role("fc1", exit="fc2", norm="final_layer_norm"),
    "ffn_norm": Role("final_layer_norm"),
}

MEMBERS = {
    "bart": Family(
        model_types=("bart",),
        stacks={
            "encoder": Stack(
                layers="model.encoder.layers",
                roles={**_attention("self_attn", "self_attn_layer_norm"), **_FEED_FORWARD},
            ),
            "decoder": Stack(
                layers="model.decoder.layers",
                roles={
                    **_attention("self_attn", "self_attn_layer_norm"),
                    **_attention("encoder_attn", "encoder_attn_layer_norm", "cross_"),
                    **_FEED_FORWARD,
                },
                outside={"lm_head": Role("lm_head", is_optional=True)},
            ),
        },
        positions="model.encoder.embed_positions",
        padded="model.encoder",
        is_text_to_text=True,
        # Post-LN as in BERT; that modules stand in two stacks is tried on T5.
        alike="bert",
        tiny={
            "d_model": 32,
            "encoder_layers": 3,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "vocab_size": 99,
            "max_position_embeddings": 64,
            "decoder_start_token_id": 1,
            "forced_eos_token_id": None,
        },
    )
}
