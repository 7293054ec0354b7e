"""Loading weights and a tokenizer, and looking at what loading says.

transformers fills what a checkpoint lacks with random numbers and tells so in its log; a folder without a tokenizer's
files gives one that knows no word. Both would go on to measure noise, so both are errors here, before any training.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from autopeft.backbones._plausible import check_config, check_finite, in_one_line
from autopeft.backbones._quantized import loading_options
from autopeft.errors import BackboneError
from autopeft.reading import is_pointer, read_json

_SHOWN = 3
# What a checkpoint may lack: heads and poolers that nothing here reads.
_UNREAD = ("pooler", "lm_head", "cls", "classifier", "qa_outputs", "score")
# A tokenizer with fewer words than this share of the embedding's rows was made from nothing.
_LEAST_SHARE = 0.1


def load_model(
    name: str,
    source: str,
    *,
    is_text_to_text: bool,
    dtype: torch.dtype,
    config: Any,
    quantize: str | None = None,
    device: str | torch.device = "cpu",
    **options: Any,
) -> PreTrainedModel:
    """The pretrained model at `source`, with every weight that is read taken from the checkpoint.

    Args:
        name: what the user calls it, for messages.
        config: what `load_config` gave.
        quantize: see `autopeft.backbones._quantized`; such a model is loaded onto `device`, any other on the processor.
        options: for transformers.

    Raises:
        BackboneError: the configuration cannot be meant (`autopeft.backbones._plausible`), or weights are missing,
            misshapen, truncated, no numbers, or a pointer to a file that was not fetched.
    """
    auto = check_checkpoint(name, source, config, is_text_to_text, **options)
    try:
        model, loading = auto.from_pretrained(
            source,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # else the error names a report that nobody sees, and no tensor
            **loading_options(quantize, dtype, device),
            **options,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise BackboneError(f"The model {name!r} cannot be loaded: {in_one_line(error)}") from error
    _check_complete(name, model, loading, is_text_to_text)
    check_finite(name, model)
    return model


def check_checkpoint(name: str, source: str, config: Any, is_text_to_text: bool, **options: Any) -> Any:
    """Refuse a folder whose weights cannot be read, by the headers of its files; gives the class that loads them.

    Raises:
        BackboneError: a file is missing, cut short, or a pointer to one that was not fetched, or the configuration
            cannot be meant (`autopeft.backbones._plausible`).
    """
    # Before the model is built, since a pointer would only show as a broken header in the middle of loading.
    _check_files(name, Path(source))
    auto = AutoModelForSeq2SeqLM if is_text_to_text else AutoModel
    check_config(name, source, config, auto, **options)
    return auto


def load_config(name: str, source: str, **options: Any) -> Any:
    """The configuration at `source`.

    Raises:
        BackboneError: there is none, or it cannot be read.
    """
    try:
        return AutoConfig.from_pretrained(source, **options)
    except Exception as error:  # each model type checks its values with errors of its own
        raise BackboneError(f"The model {name!r} cannot be loaded: {in_one_line(error)}") from error


def make_config(name: str, facts: Mapping[str, Any]) -> Any:
    """The configuration whose values `autopeft.backbones._identity.config_facts` noted of the model `name`.

    Raises:
        BackboneError: transformers does not know such a model, or not with these values.
    """
    values = {key: value for key, value in facts.items() if key != "model_type"}
    try:
        return AutoConfig.for_model(str(facts.get("model_type")), **values)
    except Exception as error:  # each model type checks its values with errors of its own
        raise BackboneError(
            f"The configuration that was noted of {name!r} cannot be used: {in_one_line(error)}"
        ) from error


def load_tokenizer(name: str, source: str, model: PreTrainedModel, **options: Any) -> Any:
    """The tokenizer at `source`, one that fits the embedding of `model`.

    Raises:
        BackboneError: its files are missing, it knows fewer words than it must or more than the embedding has rows, or
            it has neither a padding nor an end token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except Exception as error:  # the Rust library raises plain exceptions for files that it cannot read
        # Of a KeyError a person would see the key alone, in quotation marks.
        told = f"it lacks {error}" if isinstance(error, KeyError) else in_one_line(error)
        raise BackboneError(f"The tokenizer of {name!r} cannot be loaded: {told}") from error
    _check_vocabulary(name, Path(source), tokenizer, model)
    return with_padding(name, tokenizer)


def with_padding(name: str, tokenizer: Any) -> Any:
    """A tokenizer without a padding token pads with its end token: padding is masked everywhere.

    Raises:
        BackboneError: it has neither.
    """
    if tokenizer is not None and tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise BackboneError(
                f"The tokenizer of {name!r} has neither a padding token nor an end token, so texts of different "
                "lengths cannot stand in one batch: set `pad_token` in its tokenizer_config.json."
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _check_files(name: str, folder: Path) -> None:
    """The files of the weights are there and whole; of the Hub's models nothing is known before they are fetched."""
    if not folder.is_dir():
        return
    for path in _weight_files(name, folder):
        if is_pointer(path):
            raise BackboneError(
                f"The model {name!r} cannot be loaded: {path.name} is a pointer of git-lfs, not the weights: fetch "
                "them with `git lfs pull`."
            )
        try:
            # Opening reads the header and compares it with the length of the file.
            with safe_open(path, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise BackboneError(
                f"The model {name!r} cannot be loaded: {path.name}, of {path.stat().st_size:,} bytes, is cut short or "
                f"damaged: {in_one_line(error)}"
            ) from error


def _weight_files(name: str, folder: Path) -> list[Path]:
    """The files that transformers reads: a single one, which it prefers, or those that an index names."""
    single, index = folder / SAFE_WEIGHTS_NAME, folder / SAFE_WEIGHTS_INDEX_NAME
    if single.exists():
        return [single]
    if not index.exists():
        others = ", ".join(sorted(path.name for path in folder.glob("*.bin")))
        raise BackboneError(
            f"The model {name!r} cannot be loaded: its folder holds neither {single.name} nor {index.name}"
            f"{f', but {others}, which is not read: save it with safetensors' if others else ''}."
        )
    facts = read_json(index, f"The index of {name!r}", BackboneError)
    shards = facts.get("weight_map") if isinstance(facts, Mapping) else None
    if not isinstance(shards, Mapping) or not shards:
        raise BackboneError(f"The model {name!r} cannot be loaded: {index.name} names no file under `weight_map`.")
    files = sorted({folder / str(shard) for shard in shards.values()})
    missing = [path.name for path in files if not path.exists()]
    if missing:
        raise BackboneError(
            f"The model {name!r} cannot be loaded: its folder lacks {len(missing)} of the {len(files)} files that "
            f"{index.name} names: {_some(missing)}."
        )
    return files


def _check_complete(name: str, model: PreTrainedModel, loading: Mapping[str, Any], is_text_to_text: bool) -> None:
    read = dict(model.named_parameters())
    missing = sorted(key for key in loading["missing_keys"] if key in read and not _is_unread(key, is_text_to_text))
    if missing:
        unexpected = sorted(loading["unexpected_keys"])
        there = f" The checkpoint has {_some(unexpected)} instead." if unexpected else ""
        raise BackboneError(
            f"The model {name!r} cannot be loaded: its checkpoint lacks {len(missing)} of {len(read)} tensors, "
            f"{_some(missing)}, and random numbers would stand in their place.{there}"
        )
    if loading["mismatched_keys"]:
        shapes = [f"{key} is {tuple(there)}, not {tuple(said)}" for key, there, said in loading["mismatched_keys"]]
        raise BackboneError(
            f"The model {name!r} cannot be loaded: its checkpoint has other shapes than its configuration says: "
            f"{_some(sorted(shapes))}."
        )


def _is_unread(key: str, is_text_to_text: bool) -> bool:
    parts = key.split(".")
    return any(part in _UNREAD for part in parts) and not (is_text_to_text and parts[0] == "lm_head")


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more


def _check_vocabulary(name: str, folder: Path, tokenizer: Any, model: PreTrainedModel) -> None:
    files = {str(file) for file in type(tokenizer).vocab_files_names.values()} | {"tokenizer.json"}
    if folder.is_dir() and not any((folder / file).exists() for file in files):
        raise BackboneError(
            f"The model {name!r} has no tokenizer: its folder holds none of {', '.join(sorted(files))}, and without "
            "them every word would be unknown."
        )
    table = model.get_input_embeddings()
    rows, known = table.num_embeddings if isinstance(table, nn.Embedding) else 0, len(tokenizer)
    if rows and known > rows:
        raise BackboneError(
            f"The tokenizer of {name!r} does not belong to it: it has {known:,} tokens, but the embedding "
            f"has {rows:,} rows."
        )
    # Vocabularies are padded to round numbers, so some rows without a token are usual; nine in ten are not.
    if rows and known < _LEAST_SHARE * rows:
        raise BackboneError(
            f"The tokenizer of {name!r} does not belong to it: it has {known:,} tokens for an embedding of "
            f"{rows:,} rows."
        )
