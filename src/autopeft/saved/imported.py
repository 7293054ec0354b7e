"""Reading an adapter of Hugging Face PEFT: its architecture in our words, and its weights under our names.

What stands where is read from the tensors: their names say at which module, their shapes how large, whatever patterns
and layers of the configuration brought them there. The configuration says what they are multiplied by. Whatever it
says besides that changes what the adapter computes is refused with its value: half an adapter is another one.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from autopeft.architecture import Architecture, Placement
from autopeft.backbones import LINEAR, Backbone, Site
from autopeft.errors import ArchitectureError
from autopeft.network.attach import attach
from autopeft.reading import read_json
from autopeft.saved.forms import ROOT, pattern_value
from autopeft.saved.save import Described, save

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

# Fields that are read, are about training alone, or say what the tensors say as well.
_KNOWN = frozenset(
    (
        *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        *("inference_mode", "r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out"),
        *("use_rslora", "use_dora", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern"),
        *("feedforward_modules", "init_ia3_weights", "eva_config", "qalora_group_size", "runtime_config"),
    )
)
# Of fields whose value for "nothing" is not empty: those that change nothing of what is computed.
_HARMLESS: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "bias": ("none",),
        "megatron_core": ("megatron.core",),
        # Other ways to begin, such as PiSSA, take something out of the base, which is then another model.
        "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
    }
)
_TENSOR = re.compile(r"(?P<path>.+)\.(?P<end>lora_A\.weight|lora_B\.weight|lora_magnitude_vector|ia3_l)(\.weight)?")
_SHOWN = 5


@dataclass(frozen=True)
class Imported:
    """An adapter in our words.

    Args:
        architecture: what stands where.
        state: its weights by the names of `autopeft.network.attach.Attached.state`.
    """

    architecture: Architecture
    state: Mapping[str, Tensor]


def base_named(folder: str | Path) -> str | None:
    """The model that an adapter of PEFT says it belongs to; None where it names none.

    Raises:
        ArchitectureError: there is no adapter.
    """
    name = _config(Path(folder)).get("base_model_name_or_path")
    return name if isinstance(name, str) and name else None


def from_peft(folder: str | Path, backbone: Backbone) -> Imported:
    """The LoRA, DoRA or IA3 in `folder`, which PEFT wrote for `backbone` or its model with a vocabulary.

    A fused projection whose parts are places of their own gets one module a part, which share the lower factor's
    values: together they compute the same, and count more parameters.

    Raises:
        ArchitectureError: it is none of these, changes what no method here changes, stands where the backbone has no
            linear map, or its tensors are not those that its configuration describes. Everything is named with its
            value.
    """
    path = Path(folder)
    config = _config(path)
    _check(path, config)
    grouped = _grouped(path)
    read = _read_lora if config["peft_type"] == "LORA" else _read_ia3
    placements, state, wrong = [], dict[str, Tensor](), []
    for module, parts in sorted(grouped.items()):
        try:
            for item, own in read(config, module, parts, _sites(backbone, module)):
                placements.append(item)
                state.update({f"{item.site}/{item.method}/{name}": value for name, value in own.items()})
        except ArchitectureError as error:
            wrong.append(str(error))
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise ArchitectureError(f"The adapter {str(path)!r} cannot be read: {'; '.join(wrong[:_SHOWN])}{more}.")
    return Imported(Architecture(tuple(placements)), state)


def save_imported(found: Imported, backbone: Backbone, folder: str | Path, source: str) -> None:
    """Write what was read as a saved model that writes, which `autopeft.load` and `autopeft.saved.export` take.

    Raises:
        BackboneError: the model does not write.
        ArchitectureError: the weights do not fit the architecture.
    """
    model = backbone.language_model
    with attach(backbone, found.architecture) as attached:
        attached.load_state(found.state)
        save(folder, attached, model, Described("text", (), ("prompt",), {"imported_from": source}))


def _config(folder: Path) -> dict[str, Any]:
    found = read_json(folder / CONFIG, f"{str(folder)!r} does not hold an adapter of PEFT: {CONFIG}", ArchitectureError)
    if not isinstance(found, dict):
        raise ArchitectureError(f"{str(folder / CONFIG)!r} must hold an object, but holds {found!r:.60}.")
    return found


def _check(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse what the configuration says that would be lost."""
    kind = config.get("peft_type")
    if kind not in ("LORA", "IA3"):
        raise ArchitectureError(f"The adapter {str(folder)!r} is of the kind {kind!r}; LORA and IA3 can be read.")
    wrong = [
        f"{name} is {value!r:.60}"
        for name, value in sorted(config.items())
        if name not in _KNOWN and value not in (None, False, {}, [], "") and value not in _HARMLESS.get(name, ())
    ]
    if wrong:
        raise ArchitectureError(f"The adapter {str(folder)!r} computes what no method here does: {'; '.join(wrong)}.")


def _grouped(folder: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors by the path of their module in the model that PEFT was given, and by the end of their names."""
    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ArchitectureError(f"The weights {str(path)!r} cannot be read: {error}.") from error
    found: dict[str, dict[str, Tensor]] = defaultdict(dict)
    odd = []
    for name, value in tensors.items():
        match = _TENSOR.fullmatch(name.removeprefix(ROOT))
        if match is None or not bool(value.isfinite().all()):
            odd.append(f"{name} {tuple(value.shape)}")
        else:
            found[match["path"]][match["end"]] = value
    if odd or not found:
        told = ", ".join(sorted(odd)[:_SHOWN]) or "nothing"
        raise ArchitectureError(f"The weights {str(path)!r} hold what is neither LoRA nor IA3, or no numbers: {told}.")
    return found


def _sites(backbone: Backbone, module: str) -> list[Site]:
    """The places whose module is `module`, in the model itself or in the one with a vocabulary around it."""
    inner = module.removeprefix(f"{backbone.model.base_model_prefix}.")
    found = [site for site in backbone.sites.values() if site.entry in (module, inner) and site.exit == site.entry]
    if not found:
        raise ArchitectureError(f"there is no place at {module}")
    return found


def _linear(module: str, sites: Sequence[Site]) -> list[Site]:
    found = [site for site in sites if site.role in LINEAR]
    if not found:
        raise ArchitectureError(f"{module} is no linear map that is a place")
    return found


Read = Iterator[tuple[Placement, dict[str, Tensor]]]


def _read_lora(config: Mapping[str, Any], module: str, parts: Mapping[str, Tensor], sites: Sequence[Site]) -> Read:
    wanted = {"lora_A.weight", "lora_B.weight", *(["lora_magnitude_vector"] if config.get("use_dora") else [])}
    if parts.keys() != wanted:
        raise ArchitectureError(f"{module} has {', '.join(sorted(parts))} instead of {', '.join(sorted(wanted))}")
    down, up = parts["lora_A.weight"], parts["lora_B.weight"]
    rank, said = len(down), pattern_value(config.get("rank_pattern") or {}, module, config.get("r"))
    if rank != said or up.shape[1] != rank:
        raise ArchitectureError(f"{module} has tensors of rank {rank} and {up.shape[1]}, but its rank is {said!r}")
    alpha = pattern_value(config.get("alpha_pattern") or {}, module, config.get("lora_alpha"))
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not alpha > 0:
        raise ArchitectureError(f"{module} has the alpha {alpha!r}, which is no number above 0")
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    for site in _linear(module, sites):
        rows = slice(None) if site.part is None else slice(*site.part)
        own = {"down.weight": down, "up.weight": up[rows]}
        if config.get("use_dora"):
            own["magnitude"] = parts["lora_magnitude_vector"].reshape(-1)[rows]
        name = "dora" if config.get("use_dora") else "lora"
        _check_shapes(module, site, down.shape[1], len(own["up.weight"]))
        yield Placement(site.key, name, rank, scale), own


def _read_ia3(config: Mapping[str, Any], module: str, parts: Mapping[str, Tensor], sites: Sequence[Site]) -> Read:
    if parts.keys() != {"ia3_l"}:
        raise ArchitectureError(f"{module} has {', '.join(sorted(parts))} instead of ia3_l")
    factor = parts["ia3_l"]
    # A row multiplies the input of the module, a column its output.
    is_before = factor.shape[0] == 1
    fitting = [site for site in sites if site.is_before] if is_before else _linear(module, sites)
    if not fitting:
        raise ArchitectureError(
            f"the input of {module} is no place, but is multiplied by {tuple(factor.shape)} factors"
        )
    for site in fitting:
        rows = slice(None) if site.part is None else slice(*site.part)
        weight = factor.reshape(-1)[rows] - 1
        _check_shapes(module, site, site.d_in, len(weight))
        yield Placement(site.key, "ia3", 1), {"weight": weight}


def _check_shapes(module: str, site: Site, d_in: int, d_out: int) -> None:
    if (d_in, d_out) != (site.d_in, site.d_out):
        raise ArchitectureError(
            f"{module} is adapted from {d_in} to {d_out} coordinates, but has {site.d_in} and {site.d_out}"
        )
