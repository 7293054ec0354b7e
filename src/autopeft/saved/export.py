"""Exporting a saved model to the format of Hugging Face PEFT, where that format can express it.

PEFT has LoRA with a rank of its own for every module, so an architecture of LoRA placements alone is exported
exactly. It has no bottleneck adapter, and its prefix tuning cannot be mixed with anything or skip layers, so
every other architecture is refused rather than approximated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from autopeft import methods
from autopeft.architecture import Architecture, Placement
from autopeft.backbones import Backbone
from autopeft.errors import ArchitectureError
from autopeft.methods.lora import LoRA
from autopeft.saved.record import read_record
from autopeft.saved.save import check_base, load_base
from autopeft.saved.weights import read_weights
from autopeft.writing import EXPORT, PRODUCER, check_folder, write_whole

_FACTORS = {"down.weight": "lora_A.weight", "up.weight": "lora_B.weight"}


def to_peft(folder: str | Path, target: str | Path, *, backbone: Backbone | None = None) -> None:
    """Write a saved LoRA architecture as a PEFT adapter: ``adapter_config.json`` and ``adapter_model.safetensors``.

    ``peft.PeftModel.from_pretrained(AutoModel.from_pretrained(base), target)`` then computes the same hidden states;
    of a decoder that was trained to write, and of an encoder-decoder, the model with its vocabulary
    (``AutoModelForCausalLM``, ``AutoModelForSeq2SeqLM``) the same logits. A head is not part of it: PEFT saves heads as
    modules of a particular transformers class.

    Args:
        folder: what `autopeft.saved.save` wrote.
        target: the folder to write, made if need be.
        backbone: the backbone if it is in memory already; otherwise it is loaded from where it came.

    Raises:
        ArchitectureError: the architecture holds something that PEFT cannot express; every such method or placement
            is named.
        SettingsError: `target` holds something else than an earlier export; nothing has been written.
        WriteError: the disk is full, or the folder is protected.
    """
    path = Path(target)
    check_folder("An export", path, EXPORT, {"the saved model": folder}, overwrite=True)
    record = read_record(folder)
    architecture = Architecture.from_dict(record["architecture"])
    check_exportable(architecture)
    backbone = backbone or load_base(Path(folder), record)
    # An adapter of another base would be loaded without complaint and compute nonsense.
    check_base(Path(folder), record, backbone)
    _check_paths(architecture, backbone)
    state = read_weights(Path(folder), record, backbone)
    is_writing = not record["n_outputs"]
    config = peft_config(architecture, backbone, is_writing=is_writing)
    found = peft_state(architecture, backbone, state, is_writing=is_writing)
    with write_whole(path / "adapter_config.json") as facts, write_whole(path / "adapter_model.safetensors") as weights:
        facts.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
        save_file(found, weights, metadata={"format": "pt", "producer": PRODUCER})


def check_exportable(architecture: Architecture) -> None:
    """Refuse what PEFT's LoRA cannot express.

    Raises:
        ArchitectureError: there is no placement, or one that is not LoRA.
    """
    others = [name for name in architecture.methods if not isinstance(methods.lookup(name), LoRA)]
    if others or architecture.is_empty:
        raise ArchitectureError(
            f"PEFT can express LoRA alone, but this architecture holds {', '.join(others) or 'nothing'}: "
            f"{architecture}."
        )


def _check_paths(architecture: Architecture, backbone: Backbone) -> None:
    """Refuse what PEFT's names cannot hold: it has one LoRA a module, and the module is a Linear."""
    wrong, owners = [], dict[str, Placement]()
    for item in architecture:
        site = backbone.site(item.site)
        if site.entry != site.exit or not isinstance(backbone.module(site.entry), nn.Linear):
            wrong.append(f"{item} stands at no linear map")
        owner = owners.setdefault(site.entry, item)
        if owner != item:
            wrong.append(f"{owner} and {item} stand at one module")
    if wrong:
        raise ArchitectureError(f"PEFT can express one LoRA for each linear map alone, but {'; '.join(wrong)}.")


def peft_config(architecture: Architecture, backbone: Backbone, *, is_writing: bool = False) -> dict[str, Any]:
    """The fields of ``peft.LoraConfig``; ranks and alphas are given module by module.

    Args:
        is_writing: whether the model that is loaded is the one with its vocabulary.
    """
    paths = {item: _path(backbone, item, is_writing) for item in architecture}
    ranks = {paths[item]: item.size for item in architecture}
    # PEFT divides alpha by the rank, so that the scale here is multiplied by it.
    alphas = {paths[item]: _scale(item) * item.size for item in architecture}
    largest = max(ranks.values())
    return {
        "peft_type": "LORA",
        "task_type": _task_type(backbone, is_writing),
        "base_model_name_or_path": backbone.name,
        "r": largest,
        "lora_alpha": largest,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "target_modules": sorted(ranks),
        "rank_pattern": {_anchored(path): rank for path, rank in ranks.items()},
        "alpha_pattern": {_anchored(path): alpha for path, alpha in alphas.items()},
    }


def _task_type(backbone: Backbone, is_writing: bool) -> str:
    if backbone.family.is_text_to_text:
        return "SEQ_2_SEQ_LM"
    return "CAUSAL_LM" if is_writing and backbone.family.is_causal else "FEATURE_EXTRACTION"


def peft_state(
    architecture: Architecture, backbone: Backbone, state: Mapping[str, Tensor], *, is_writing: bool = False
) -> dict[str, Tensor]:
    """The weights under PEFT's names: A is ``(rank, d_in)``, B is ``(d_out, rank)``, as here."""
    found = {}
    for item in architecture:
        for ours, theirs in _FACTORS.items():
            name = f"base_model.model.{_path(backbone, item, is_writing)}.{theirs}"
            found[name] = state[f"{item.site}/{item.method}/{ours}"].contiguous()
    return found


def _path(backbone: Backbone, placement: Placement, is_writing: bool) -> str:
    """Where the module is in the model that PEFT is given: a decoder is a part of its language model."""
    path = backbone.site(placement.site).entry
    is_inner = is_writing and backbone.family.is_causal
    return f"{backbone.model.base_model_prefix}.{path}" if is_inner else path


def _anchored(path: str) -> str:
    """PEFT matches patterns at the end of a module's name; the anchor keeps layer 1 from matching layer 11."""
    return "^" + path.replace(".", r"\.")


def _scale(placement: Placement) -> float:
    method = methods.lookup(placement.method)
    assert isinstance(method, LoRA)  # checked before
    return method.scale * placement.scale
