"""A saved model merged into its base: a plain folder for transformers, in which nothing of this package is left.

A linear map takes in what is linear in its input (LoRA, DoRA, IA3, biases), a norm the change of its weight. Adapters
with an activation between their maps and prefixes are no part of any weight: a low rank that came near to them would be
another model, so they are refused.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import GENERATION_CONFIG_NAME

from autopeft import methods
from autopeft.architecture import Architecture, Placement, reasons_told
from autopeft.backbones import LINEAR, Backbone, Site, linear_weight
from autopeft.backbones._quantized import is_available
from autopeft.errors import ArchitectureError, InputError, WriteError
from autopeft.methods import Mergeable
from autopeft.network.attach import attach
from autopeft.reading import read_json
from autopeft.saved.record import read_record
from autopeft.saved.save import check_base, load_base
from autopeft.saved.weights import HEAD, read_weights
from autopeft.writing import Result, check_folder

NOTE = "autopeft_merged.json"
"""The file of a merged folder that says what was merged, and how far the two differ."""

_N_TOKENS = 16


def _is_merged(folder: Path) -> bool:
    return "merged_from" in read_json(folder / NOTE, "The note", InputError)


MERGED = Result("a merged model", _is_merged, is_kept=True)


@dataclass(frozen=True)
class Merged:
    """How the merged model compares with the base and its modules, on tokens drawn from a fixed seed.

    Args:
        difference: the largest difference of an output: a logit where the model writes, else a hidden state.
        largest: the largest output, which rounding grows with.
        quantized: in how many bits the base was when the modules were trained; None where it was as it is.
        rounding: of such a base, the largest difference between what the modules give beside it and beside the base as
            it is, into which they are merged; None where bitsandbytes is not installed to tell.
    """

    difference: float
    largest: float
    quantized: str | None = None
    rounding: float | None = None


def merge(
    folder: str | Path, target: str | Path, *, model: str | Path | None = None, trust_remote_code: bool = False
) -> Merged:
    """Write the saved model in `folder` as a plain model with its tokenizer; a head is not part of it.

    Args:
        folder: what `autopeft.saved.save` wrote.
        target: a new or empty folder.
        model: where the base is now, if not where it was.

    Raises:
        ArchitectureError: it holds something that no weight of the base can take in; every placement is named.
        SettingsError: something stands at `target`.
        WriteError: the disk is full, or the folder is protected.
    """
    path = Path(target)
    check_folder("A merged model", path, MERGED, {"the saved model": folder, "the base model": model})
    given = opened(folder, model=model, trust_remote_code=trust_remote_code)
    with torch.no_grad():
        take_in(given.architecture, given.backbone, given.modules)
        found = given.compared()
    if quantized := given.record["backbone"].get("quantize"):
        rounding = None
        if is_available():
            beside = opened(folder, model=model, dequantize=False, trust_remote_code=trust_remote_code)
            rounding = float((beside.outputs - given.outputs).abs().max())
        found = replace(found, quantized=quantized, rounding=rounding)
    note = {
        "merged_from": str(folder),
        "architecture": given.architecture.as_dict(),
        "base": given.backbone.name,
        "largest_difference": found.difference,
        "largest_output": found.largest,
        **({"trained_in": found.quantized, "largest_rounding": found.rounding} if found.quantized else {}),
    }
    _write(path, given.whole, given.backbone, note)
    return found


@dataclass(frozen=True)
class Opened:
    """A saved model whose modules stand beside its base, which can take in all of them.

    Args:
        record: what ``architecture.json`` holds.
        modules: with their weights, by place and method; detached.
        outputs: what base and modules give together for a fixed input, see `outputs_of`.
    """

    record: Mapping[str, Any]
    architecture: Architecture
    backbone: Backbone
    modules: Mapping[Any, nn.Module]
    outputs: Tensor

    @property
    def is_writing(self) -> bool:
        """Whether it has no head, so that the model with its vocabulary is meant."""
        return not self.record["n_outputs"]

    @property
    def whole(self) -> nn.Module:
        """What is loaded in the place of base and modules."""
        found: nn.Module = self.backbone.language_model if self.is_writing else self.backbone.model
        return found

    def compared(self) -> Merged:
        """How what the base gives now differs from what it gave with the modules."""
        difference = (self.outputs - outputs_of(self.backbone, self.whole)).abs().max()
        return Merged(float(difference), float(self.outputs.abs().max()))


def opened(
    folder: str | Path,
    *,
    model: str | Path | None = None,
    dequantize: bool = True,
    trust_remote_code: bool = False,
) -> Opened:
    """The saved model in `folder`, for `take_in`.

    Args:
        dequantize: whether a base that was quantised in training is loaded as it is; rounded weights take in nothing.

    Raises:
        ArchitectureError: it holds something that no weight of the base can take in; every placement is named.
        BackboneError, DataError: the base cannot be loaded or is another one, or the files are damaged.
    """
    record = read_record(folder)
    architecture = Architecture.from_dict(record["architecture"])
    backbone = load_base(Path(folder), record, model, dequantize=dequantize, trust_remote_code=trust_remote_code)
    check_base(Path(folder), record, backbone)
    state = read_weights(Path(folder), record, backbone)
    with torch.no_grad(), attach(backbone, architecture) as attached:
        attached.load_state({name: value for name, value in state.items() if not name.startswith(HEAD)})
        attached.train(False)
        check_mergeable(architecture, backbone, attached.modules)
        found = Opened(record, architecture, backbone, dict(attached.modules), torch.empty(0))
        return replace(found, outputs=outputs_of(backbone, found.whole))


def check_mergeable(architecture: Architecture, backbone: Backbone, modules: Mapping[Any, nn.Module]) -> None:
    """Make sure that the weights of the base can take in everything.

    Raises:
        ArchitectureError: they cannot; every placement is told with its reason.
    """
    wrong = [(item, why) for item in architecture if (why := _why_not(item, backbone, modules))]
    if wrong:
        raise ArchitectureError(f"This cannot be merged into {backbone.name}: {'; '.join(reasons_told(wrong))}.")


def _why_not(item: Placement, backbone: Backbone, modules: Mapping[Any, nn.Module]) -> str:
    """Why the weights of the base cannot take in what stands there; empty if they can."""
    site, module = backbone.site(item.site), modules.get((item.site, item.method))
    if not isinstance(module, Mergeable):
        return "is no change of a weight"
    if site.entry != site.exit or not (site.is_before or site.role in LINEAR or site.epsilon is not None):
        return "stands at no single map"
    weight, bias = parameters_at(backbone, site)
    if bias is None and module.merged(weight, None, site)[1] is not None:
        return "is a bias, and the base has none there"
    return ""


def take_in(architecture: Architecture, backbone: Backbone, modules: Mapping[Any, nn.Module]) -> None:
    """Change the weights of `backbone` to compute what it and `modules` compute together; all must be `Mergeable`."""

    def turn(item: Placement) -> tuple[bool, int]:
        # What changes an output is multiplied from the left, the first to act first; what changes an input from the
        # right, the last to act first. DoRA, which looks at the frozen weight, is the first of all.
        order, is_before = methods.lookup(item.method).order, backbone.site(item.site).is_before
        return is_before, -order if is_before else order

    for item in sorted(architecture, key=turn):
        site, module = backbone.site(item.site), modules[item.site, item.method]
        assert isinstance(module, Mergeable)  # checked before
        weight, bias = parameters_at(backbone, site)
        new, shifted = module.merged(weight, bias, site)
        weight.copy_(new)
        if bias is not None and shifted is not None:
            bias.copy_(shifted)


def parameters_at(backbone: Backbone, site: Site) -> tuple[Tensor, Tensor | None]:
    """Views of the weight and the bias at a place; a norm's weight is one row."""
    module = backbone.module(site.entry)
    if site.epsilon is None:
        return linear_weight(module, site)
    named = dict(module.named_parameters())
    return named["weight"], named.get("bias")


def outputs_of(backbone: Backbone, whole: nn.Module) -> Tensor:
    """What `whole`, the model itself or the one that writes, gives for tokens that are drawn from a fixed seed."""
    n_words = backbone.model.get_input_embeddings().weight.shape[0]
    tokens = torch.randint(0, n_words, (2, _N_TOKENS), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": tokens.to(backbone.device)}
    if backbone.family.is_text_to_text:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    found = whole(**inputs)
    output: Tensor = found.logits if "logits" in found else found.last_hidden_state
    return output.float()


def _write(path: Path, whole: Any, backbone: Backbone, note: Mapping[str, Any]) -> None:
    """The whole folder or nothing: it is made beside its place and then put there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as made:
            new = Path(made) / path.name
            _save(whole, new)
            if backbone.tokenizer is not None:
                backbone.tokenizer.save_pretrained(new)
            (new / NOTE).write_text(json.dumps(note, indent=1) + "\n")
            if path.exists():  # an empty folder, as checked before
                path.rmdir()
            new.rename(path)
    except OSError as error:
        raise WriteError(f"The merged model {str(path)!r} cannot be written: {error.strerror}.") from error


def _save(whole: Any, folder: Path) -> None:
    """The model with how it is meant to write, as the base's files say it.

    Some published models say what contradicts itself, such as a temperature for what is not drawn. transformers loads
    them with a warning, but older releases save none of them, so that the file is written apart.
    """
    own = getattr(whole, "generation_config", None)
    if own is None or not whole.can_generate():
        whole.save_pretrained(folder)
        return
    whole.generation_config = type(own)()
    try:
        whole.save_pretrained(folder)
    finally:
        whole.generation_config = own
    own.to_json_file(folder / GENERATION_CONFIG_NAME)
