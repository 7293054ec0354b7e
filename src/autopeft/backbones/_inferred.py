"""A family that no file describes, tried by structure: the pile of layers, and the linear maps in them by their names.

Names of maps are nearly the same in all of transformers, so that most encoders and decoders of one stack can be read
off. What is found is said in full where such a model is used; what cannot be told by a name (what a fused map's rows
mean, which norm belongs to which block) is left out rather than guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from transformers import AutoModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D

from autopeft.backbones._sites import Family, Role, Stack
from autopeft.errors import BackboneError

# By role, what the path of the map from its layer ends with; the first that fits decides.
_MAPS: Mapping[str, str] = MappingProxyType(
    {
        "qkv": r"(qkv_proj|query_key_value|Wqkv|wqkv|W_pack|c_attn|in_proj|qkv)",
        "q": r"(q_proj|query|query_proj|q_lin|wq|q)",
        "k": r"(k_proj|key|key_proj|k_lin|wk|k)",
        "v": r"(v_proj|value|value_proj|v_lin|wv|v)",
        "ffn_gate": r"(gate_proj|w1)",
        "ffn_in": r"(up_proj|fc1|fc_in|c_fc|lin1|dense_h_to_4h|intermediate\.dense|w3)",
        "ffn_out": r"(down_proj|fc2|fc_out|lin2|dense_4h_to_h|mlp\.c_proj|(?<!attention\.)output\.dense|w2)",
        "o": r"(o_proj|out_proj|out_lin|wo|[a-z_]*(attention|attn)\.(c_proj|dense|output\.dense))",
    }
)
# Not those of a page's coordinates, which are named after an axis.
_POSITIONS = r"wpe|(char_)?position_embeddings?|embed_positions|positions?_embed|pos_embed(dings?)?"


def check_reads_text(config: Any) -> None:
    """Refuse a model of which texts are read by a part alone, such as one of images and text.

    The longest pile of layers may be that of the images, which no text ever passes, and what is said of a model
    (widths, heads, positions) is said of each part.

    Raises:
        BackboneError: it is one.
    """
    try:
        part = config.get_text_config()
    except ValueError:  # several parts that read text
        part = None
    if part is config or config.is_encoder_decoder:
        return
    parts = ", ".join(name for name in config.sub_configs if getattr(config, name, None) is not None)
    kind = f", a model of type {part.model_type!r}," if part is not None else ""
    raise BackboneError(
        f"The model type {config.model_type!r} is not of text alone: its configuration is of several parts ({parts}). "
        f"Take its text model{kind} saved by itself in a folder, with the tokenizer beside it: what transformers' "
        "AutoModel loads has it as `language_model` or `text_model`, and that has `save_pretrained`."
    )


def infer(config: Any) -> Family | None:
    """A family for models of `config`; None where the structure does not tell enough.

    Encoders and decoders of one stack alone. Nothing of the size of the weights is made.

    Raises:
        BackboneError: what the model is given is no text.
    """
    try:
        with torch.device("meta"):
            model = AutoModel.from_config(config)
    except Exception:  # each model type checks its values with errors of its own, and is then told as not described
        return None
    if model.main_input_name not in ("input_ids", "inputs"):
        raise BackboneError(
            f"The model type {config.model_type!r} does not read texts: {type(model).__name__} is given "
            f"{model.main_input_name}. Take a model of text."
        )
    path = _pile(model)
    if path is None or config.is_encoder_decoder:
        return None
    layer: nn.Module = next(model.get_submodule(path).children())
    maps = {role: found for role, found in _maps(layer)}
    if not ({"q", "k", "v"} <= maps.keys() or "qkv" in maps) or not {"ffn_in", "ffn_out"} <= maps.keys():
        return None
    is_causal = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and (
        config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )
    roles = dict(_roles(maps))
    told = ", ".join(f"{role} at {where.entry}" for role, where in roles.items())
    return Family(
        model_types=(config.model_type,),
        stacks={"decoder" if is_causal else "encoder": Stack(layers=path, roles=roles)},
        tiny={},
        positions=_positions(model, path),
        pooling="last" if is_causal else "first",
        inferred=f"{'a decoder' if is_causal else 'an encoder'} with its layers at {path}, {told}",
    )


def _positions(model: nn.Module, layers: str) -> str:
    """The path of the table of positions that a text may not outgrow; empty where there is none (computed, ALiBi).

    It stands before the layers, among the other embeddings. One within a layer is of distances, which know no end.
    """
    modules = [name for name, module in model.named_modules() if isinstance(module, nn.Embedding)]
    # GPT-J's rotations are such a table, too, which is no parameter.
    tables = [*modules, *(name for name, value in model.named_buffers() if value.dim() == 2)]
    found = (name for name in tables if re.fullmatch(_POSITIONS, name.rpartition(".")[2]))
    return next((name for name in found if not name.startswith(f"{layers}.")), "")


def _pile(model: nn.Module) -> str | None:
    """The path of the longest list of modules of one kind that hold linear maps."""
    found = [
        (len(module), name)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len({type(child) for child in module}) == 1
        and any(_is_map(part) for part in module[0].modules())
    ]
    # Of equally long ones the outermost, which is named first.
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _is_map(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D)


def _maps(layer: nn.Module) -> Iterator[tuple[str, str]]:
    """Pairs of a role and the path of its map, one path a role."""
    paths = [name for name, module in layer.named_modules() if _is_map(module)]
    taken: set[str] = set()
    for role, pattern in _MAPS.items():
        fitting = [path for path in paths if re.fullmatch(rf"(.*\.)?{pattern}", path) and path not in taken]
        # Two that fit are experts, or cross-attention: nothing says which of them is meant.
        if len(fitting) == 1:
            taken.add(fitting[0])
            yield role, fitting[0]


def _roles(maps: Mapping[str, str]) -> Iterator[tuple[str, Role]]:
    yield from ((role, Role(path)) for role, path in maps.items())
    yield "ffn_hidden", Role(maps["ffn_out"], is_before=True)
    # The feed-forward as a block is one module in most families, and then begins and ends with its maps.
    block = _common(maps["ffn_in"], maps["ffn_out"])
    if block:
        yield "ffn", Role(block, exit=maps["ffn_out"], linear_in=maps["ffn_in"], linear_out=maps["ffn_out"])
    attention = _common(maps.get("qkv", maps.get("q", "")), maps.get("v", maps.get("qkv", "")))
    if attention:
        yield "kv", Role(attention.rpartition(".")[0] if attention == maps.get("qkv") else attention, seam="kv")


def _common(first: str, second: str) -> str:
    """The path of the innermost module that holds both, or of the one that both are."""
    shared = []
    for one, other in zip(first.split("."), second.split("."), strict=False):
        if one != other:
            break
        shared.append(one)
    return ".".join(shared)
