"""A decoder with its vocabulary in front: the language model of which a backbone is the inner part.

Nothing of the inner part is copied: what is attached to the backbone is part of what the language model computes. Where
the vocabulary is tied to the embedding there is nothing to load; else it is read from the checkpoint when it is first
asked for, since a task with a head never needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from autopeft.backbones._plausible import in_one_line
from autopeft.errors import BackboneError
from autopeft.reading import read_json

_STD = 0.02


def language_model(model: PreTrainedModel, name: str, source: str | None) -> PreTrainedModel:
    """The language model around `model`, frozen, in evaluation mode; it shares every weight with `model`.

    Args:
        name: what the user calls the model, for messages.
        source: where its checkpoint is, from which it takes how it is meant to write, too (``generation_config``);
            None for a model that was made in memory, whose vocabulary is drawn, the same each time.

    Raises:
        BackboneError: transformers knows no causal language model of this kind, or the checkpoint has no vocabulary.
    """
    try:
        with torch.device("meta"):
            whole = AutoModelForCausalLM.from_config(model.config)
    except ValueError as error:
        raise BackboneError(
            f"{name} cannot write: transformers has no causal language model of type {model.config.model_type!r}."
        ) from error
    setattr(whole, whole.base_model_prefix, model)
    whole.config = model.config
    front = _front(whole)
    if model.config.tie_word_embeddings:
        whole.get_submodule(front).weight = model.get_input_embeddings().weight
    if source is not None:
        _take_generation(whole, name, source)
    for key, part in _absent(whole):
        value = _drawn(part) if source is None else _read(name, source, f"{front}.{key}", part, whole)
        whole.get_submodule(front).register_parameter(key, nn.Parameter(value.to(model.device, model.dtype)))
    return whole.requires_grad_(False).eval()


def _front(whole: PreTrainedModel) -> str:
    """The path of the map from hidden states to the vocabulary."""
    wanted = whole.get_output_embeddings()
    return next(str(path) for path, module in whole.named_modules() if module is wanted)


def _absent(whole: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """What the map to the vocabulary still lacks."""
    named = list(whole.get_output_embeddings().named_parameters())
    yield from ((key, value) for key, value in named if value.device.type == "meta")


def _drawn(like: Tensor) -> Tensor:
    return torch.empty(like.shape).normal_(std=_STD, generator=torch.Generator().manual_seed(0))


def _take_generation(whole: PreTrainedModel, name: str, source: str) -> None:
    """Have `whole` write as its checkpoint says. A model made of a configuration alone would not know where to stop."""
    try:
        whole.generation_config = GenerationConfig.from_pretrained(source)
    except OSError:  # there is none, and what the configuration says is all there is
        return
    except (ValueError, TypeError) as error:
        raise BackboneError(f"The generation_config.json of {name!r} cannot be used: {in_one_line(error)}") from error


def _read(name: str, source: str, key: str, like: Tensor, whole: PreTrainedModel) -> Tensor:
    """The tensor of the checkpoint at `source` that is loaded as `key`; it may lie in several files."""
    try:
        files = _files_by_key(name, source)
        there = _called(key, files, whole)
        if there is not None:
            with safe_open(files[there], framework="pt") as opened:
                found: Tensor | None = opened.get_tensor(there) if there in opened.keys() else None
            if found is not None and found.shape == like.shape:
                return found
    except (OSError, SafetensorError) as error:
        raise BackboneError(f"The vocabulary of {name!r} cannot be read: {error}") from error
    raise BackboneError(
        f"{name} cannot write: its checkpoint has no {key!r} of shape {tuple(like.shape)}, which maps hidden states "
        "to words. Take the checkpoint of a causal language model, or a task with a head."
    )


def _called(key: str, names: Iterable[str], whole: PreTrainedModel) -> str | None:
    """Which of the `names` in a checkpoint transformers loads as `key`: older releases called some parts otherwise."""
    renamings = [one for one in get_model_conversion_mapping(whole) if isinstance(one, WeightRenaming)]
    found = [name for name in names if name == key or rename_source_key(name, renamings, [])[0] == key]
    return key if key in found else next(iter(found), None)


def _files_by_key(name: str, source: str) -> Mapping[str, str]:
    """The file of every tensor of the checkpoint at `source`, by the name that it has there."""
    options: dict[str, Any] = {"_raise_exceptions_for_missing_entries": False}
    index: str | None = cached_file(source, SAFE_WEIGHTS_INDEX_NAME, **options)
    if index is None:
        single: str | None = cached_file(source, SAFE_WEIGHTS_NAME, **options)
        if single is None:
            return {}
        with safe_open(single, framework="pt") as opened:
            return dict.fromkeys(opened.keys(), single)
    shards: Mapping[str, str] = read_json(Path(index), f"The index of {name!r}", BackboneError).get("weight_map", {})
    files = {shard: cached_file(source, shard, **options) for shard in set(shards.values())}
    return {key: file for key, shard in shards.items() if (file := files[shard]) is not None}
