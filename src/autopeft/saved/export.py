"""Exporting a saved model to the format of Hugging Face PEFT, where that format can express it.

PEFT has LoRA with a rank of its own for every module, DoRA, IA3 and tuned norms, so an architecture of one of these
alone is exported exactly. It has no bottleneck adapter, and its prefix tuning cannot be mixed with anything or skip
layers, so every other architecture is refused here; `autopeft.saved.converted` makes LoRA of some of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from autopeft.architecture import Architecture, Placement, reasons_told
from autopeft.backbones import Backbone, Site
from autopeft.errors import ArchitectureError
from autopeft.recognising import PRODUCER
from autopeft.saved.card import export_card
from autopeft.saved.forms import FORMS, ROOT, Form, Placed, form_of
from autopeft.saved.record import read_record
from autopeft.saved.save import check_base, load_base
from autopeft.saved.weights import read_weights
from autopeft.writing import EXPORT, check_folder, write_whole

_OTHERWISE = "What changes linear maps can be converted to LoRA: --as-lora."


def to_peft(folder: str | Path, target: str | Path, *, backbone: Backbone | None = None) -> None:
    """Write a saved architecture of LoRA, DoRA, IA3 or LNFit as a PEFT adapter.

    That is ``adapter_config.json``, ``adapter_model.safetensors`` and a model card.
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
    # Only its shapes are needed, and PEFT is given whatever base its user loads.
    backbone = backbone or load_base(Path(folder), record, dequantize=True)
    # An adapter of another base would be loaded without complaint and compute nonsense.
    check_base(Path(folder), record, backbone)
    _check_paths(architecture, backbone)
    state = read_weights(Path(folder), record, backbone)
    is_writing = not record["n_outputs"]
    config = peft_config(architecture, backbone, is_writing=is_writing)
    found = peft_state(architecture, backbone, state, is_writing=is_writing)
    write_adapter(path, config, found, export_card(record, config))


def write_adapter(folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor], page: str) -> None:
    """Write PEFT's two files and a model card.

    Raises:
        WriteError: the disk is full, or the folder is protected; an earlier adapter there still stands.
    """
    # The weights come into their place last, as they make the folder an adapter of ours.
    with (
        write_whole(folder / "adapter_model.safetensors") as weights,
        write_whole(folder / "adapter_config.json") as facts,
        write_whole(folder / "README.md") as card,
    ):
        facts.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
        card.write_text(page)
        save_file(dict(state), weights, metadata={"format": "pt", "producer": PRODUCER})


def check_exportable(architecture: Architecture) -> Form:
    """The kind of PEFT's adapters that expresses the architecture.

    Raises:
        ArchitectureError: there is no placement, or none of its kinds expresses all of them.
    """
    form = form_of(architecture.methods)
    if form is None:
        kinds = ", ".join(each.name for each in FORMS)
        raise ArchitectureError(
            f"PEFT can express {kinds}, each alone, but this architecture holds "
            f"{', '.join(_foreign(architecture) or architecture.methods) or 'nothing'}: {architecture}. {_OTHERWISE}"
        )
    return form


def _foreign(architecture: Architecture) -> list[str]:
    """The methods that no kind of PEFT's expresses."""
    return [name for name in architecture.methods if form_of([name]) is None]


def _check_paths(architecture: Architecture, backbone: Backbone) -> None:
    """Refuse what PEFT's names cannot hold: it has one adapter a module, and the module is a Linear."""
    wrong, owners = list[tuple[Placement, str]](), dict[str, Placement]()
    for item in architecture:
        site = backbone.site(item.site)
        owner = owners.setdefault(site.entry, item)
        if site.part is not None:
            wrong.append((item, "stands at a part of one"))
        elif site.entry != site.exit or not _is_plain(backbone, site):
            wrong.append((item, "stands at no linear map"))
        elif owner != item:
            wrong.append((item, f"stands beside {owner.method} at one module"))
    if wrong:
        told = "; ".join(reasons_told(wrong))
        raise ArchitectureError(f"PEFT can express one adapter for each linear map alone, but {told}. {_OTHERWISE}")


def _is_plain(backbone: Backbone, site: Site) -> bool:
    return site.epsilon is not None or isinstance(backbone.module(site.entry), nn.Linear)


def peft_config(architecture: Architecture, backbone: Backbone, *, is_writing: bool = False) -> dict[str, Any]:
    """The fields of PEFT's configuration; what differs from module to module is given module by module.

    Args:
        is_writing: whether the model that is loaded is the one with its vocabulary.
    """
    sites = [backbone.site(item.site) for item in architecture]
    paths = [path_in_peft(backbone, site.entry, is_writing=is_writing) for site in sites]
    placed = dict(zip(paths, zip(architecture, sites, strict=True), strict=True))
    return config_of(check_exportable(architecture), placed, backbone, is_writing=is_writing)


def config_of(form: Form, placed: Placed, backbone: Backbone, *, is_writing: bool) -> dict[str, Any]:
    """The fields of PEFT's configuration of what stands at `placed`."""
    return {
        "task_type": _task_type(backbone, is_writing),
        "base_model_name_or_path": backbone.name,
        "inference_mode": True,
        **form.fields(placed),
    }


def _task_type(backbone: Backbone, is_writing: bool) -> str:
    if backbone.family.is_text_to_text:
        return "SEQ_2_SEQ_LM"
    return "CAUSAL_LM" if is_writing and backbone.family.is_causal else "FEATURE_EXTRACTION"


def peft_state(
    architecture: Architecture, backbone: Backbone, state: Mapping[str, Tensor], *, is_writing: bool = False
) -> dict[str, Tensor]:
    """The weights under PEFT's names."""
    form, found = check_exportable(architecture), {}
    for item in architecture:
        begin = f"{item.site}/{item.method}/"
        own = {name.removeprefix(begin): value for name, value in state.items() if name.startswith(begin)}
        site = backbone.site(item.site)
        path = ROOT + path_in_peft(backbone, site.entry, is_writing=is_writing)
        for name, value in form.tensors(item, site, own, backbone.module(site.entry)):
            found[f"{path}.{name}"] = value.contiguous()
    return found


def path_in_peft(backbone: Backbone, path: str, *, is_writing: bool) -> str:
    """Where the module at `path` is in the model that PEFT is given: a decoder is a part of its language model."""
    is_inner = is_writing and backbone.family.is_causal
    return f"{backbone.model.base_model_prefix}.{path}" if is_inner else path
