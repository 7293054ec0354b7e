"""What a backbone is, so that another in its place is noticed: its weights, its tokenizer and its configuration.

All of the weights count: two checkpoints of one training run agree in most numbers. Of the tokenizer counts what
decides on token ids, and of the configuration its values, so that a difference can be told by name and a newer
transformers, which adds fields, is no difference.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

# Set by whoever loads the model, by a head, or by a version of transformers: none changes what is computed.
_PASSING = frozenset(
    [
        *("architectures", "dtype", "torch_dtype", "transformers_version", "id2label", "label2id", "num_labels"),
        *("problem_type", "finetuning_task", "use_cache", "return_dict", "output_attentions", "output_hidden_states"),
        "gradient_checkpointing",
        # Said by the type of the weights, as it also depends on where they were rounded.
        "quantization_config",
    ]
)
_PROBE = "The Naïve café-owner's 3.14% résumé, UPPER lower\n\tß 你好 don't (re)tokenize: a_b/c <x> 😀 I'm."
"""Capitals, accents, signs, spaces and letters of several scripts: normalisers differ in what they make of them."""


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over all tensors in the order of their names: name, type, shape and bytes.

    The same on every device and machine of one byte order. MiniLM's 22.7 million numbers take 0.2 s.
    """
    found = hashlib.sha256()
    # In the order of their names, since that of a state is the order in which a version of transformers builds the
    # model.
    for name in sorted(tensors):
        value = tensors[name].detach()
        # With a separator that no name contains, or a name's end and a type's beginning could change places.
        found.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        if value.numel():
            found.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 over vocabulary, merges, special tokens and the ids of a text that is hard to cut; empty for None."""
    if tokenizer is None:
        return ""
    inner = getattr(tokenizer, "backend_tokenizer", None)  # slow tokenizers have none, and no merges to be asked for
    model = json.loads(inner.to_str())["model"] if inner is not None else {}
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model.get("merges") or ()]
    facts = [
        sorted(tokenizer.get_vocab().items()),
        model.get("vocab") if isinstance(model.get("vocab"), list) else None,  # with scores, in their order
        merges,
        [tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id],
        tokenizer(_PROBE)["input_ids"],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def config_facts(config: Any) -> dict[str, Any]:
    """The values of a transformers configuration that may change what is computed, JSON-ready."""
    # Through JSON, as it will be read back from a file: tuples are lists there, and numbers that are keys are text.
    values = json.loads(json.dumps(config.to_dict(), default=str))
    return {name: value for name, value in values.items() if name not in _PASSING and not name.startswith("_")}


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    """What keeps the backbone `here` from being the one `there`, a phrase each.

    Both are what `autopeft.backbones.Backbone.identity` gives. What only one of them knows is not compared, nor are
    weights of different types: rounding makes them others.
    """
    if there.get("dtype") == here.get("dtype") and there.get("weights") != here.get("weights"):
        yield f"its weights had the digest {_short(there, 'weights')}, but have {_short(here, 'weights')}"
    if there.get("tokenizer") and here.get("tokenizer") and there["tokenizer"] != here["tokenizer"]:
        yield f"its tokenizer had the digest {_short(there, 'tokenizer')}, but has {_short(here, 'tokenizer')}"
    then, now = there.get("config", {}), here.get("config", {})
    for name in sorted(then.keys() & now.keys()):
        if then[name] != now[name]:
            yield f"its configuration had {name} {then[name]!r:.60}, but has {now[name]!r:.60}"


def _short(identity: Mapping[str, Any], name: str) -> str:
    return str(identity.get(name))[:16]
