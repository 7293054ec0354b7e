"""Whether a configuration and a checkpoint can be those of a model, found out before a weight has a place in memory.

A configuration is a few numbers that anybody can write: a million layers keep a machine busy for hours, a width of 10⁹
asks for more memory than there is, and no head at all divides by zero somewhere in a library.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from autopeft.errors import BackboneError

# By the name that any family has for it, the most that is taken for meant; models that are trained have a hundredth.
_LIMITS: Mapping[str, int] = MappingProxyType(
    {
        **dict.fromkeys(("num_hidden_layers", "num_layers", "num_decoder_layers", "n_layer", "n_layers"), 10_000),
        **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "num_heads", "n_head", "n_heads"), 10_000),
        **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "head_dim", "d_kv"), 10**7),
        **dict.fromkeys(("intermediate_size", "d_ff", "n_inner", "hidden_dim"), 10**8),
        **dict.fromkeys(("vocab_size", "max_position_embeddings", "n_positions"), 10**9),
    }
)
_LAYERS = frozenset({"num_hidden_layers", "num_layers", "num_decoder_layers", "n_layer", "n_layers"})
# Heads and poolers may be missing from a checkpoint, and a tied embedding stands in it once.
_MOST_RATIO = 4


def check_config(name: str, source: str, config: Any, auto: Any, **options: Any) -> None:
    """Refuse a configuration that no model can have, or that is not the one of the checkpoint beside it.

    The model is built without memory for its weights, which takes milliseconds.

    Args:
        name: what the user calls it, for messages.
        source: a folder, whose checkpoint is looked at; of the Hub's models the numbers alone are.
        auto: the class of transformers that builds such models.
        options: for transformers.

    Raises:
        BackboneError: a size is not between 1 and what can be meant, there are more layers than the checkpoint has
            tensors, the model cannot be built, or it has far more parameters than the checkpoint has numbers.
    """
    held = _held(Path(source))
    wrong = list(_odd_sizes(config.to_dict(), len(held)))
    if wrong:
        raise BackboneError(f"The model {name!r} cannot be loaded: its configuration has {'; '.join(wrong)}.")
    try:
        with torch.device("meta"):
            model: nn.Module = auto.from_config(config, **options)
    except Exception as error:  # whatever the arithmetic of a model type runs into
        raise BackboneError(
            f"The model {name!r} cannot be built from its configuration: {type(error).__name__}: {in_one_line(error)}"
        ) from error
    said, there = sum(parameter.numel() for parameter in model.parameters()), sum(held.values())
    if there and said > _MOST_RATIO * there:
        raise BackboneError(
            f"The model {name!r} cannot be loaded: its configuration describes {said:,} parameters, but its checkpoint "
            f"holds {there:,} numbers."
        )


def check_finite(name: str, model: nn.Module) -> None:
    """Refuse weights that are no numbers: every prediction would be none.

    Raises:
        BackboneError: a weight is NaN or infinite.
    """
    broken = [key for key, value in model.named_parameters() if not bool(torch.isfinite(value).all())]
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise BackboneError(
            f"The model {name!r} cannot be used: its checkpoint holds numbers that are not finite in {broken[0]}{more}."
        )


def in_one_line(error: BaseException) -> str:
    """What an error says first, or its type where it says nothing; a line that ends in a colon goes on in the next."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    told = ""
    for line in lines:
        told = f"{told} {line}".strip()
        if not told.endswith(":"):
            break
    return told or type(error).__name__


def _odd_sizes(config: Mapping[str, Any], n_tensors: int) -> Iterator[str]:
    for key, most in _LIMITS.items():
        value = config.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue  # absent, or told by transformers, which knows the types
        if not math.isfinite(value) or not 1 <= value <= most:
            yield f"{key} {value:,}, which must be between 1 and {most:,}"
        # Every layer has a tensor of its own at least; without this check a typing error builds layers for minutes.
        elif key in _LAYERS and n_tensors and value > n_tensors:
            yield f"{key} {value:,}, but its checkpoint has {n_tensors:,} tensors"


def _held(folder: Path) -> dict[str, int]:
    """How many numbers each tensor of a folder's checkpoint has, from the headers; empty where that cannot be told."""
    found: dict[str, int] = {}
    if not folder.is_dir():
        return found
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                found |= {key: math.prod(file.get_slice(key).get_shape()) for key in file.keys()}
        except (OSError, SafetensorError):
            return {}  # told with the reason when it is read
    return found
