"""Saving what was trained, and loading it as a ready transformers model.

A folder holds ``architecture.json`` (the architecture, the task's labels, where the backbone came from, and facts
about the training), ``model.safetensors`` (the added modules and the head; never the backbone, unless it was
fine-tuned in full) and ``README.md`` (a model card). Nothing is pickled.
"""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from autopeft.architecture import Architecture
from autopeft.backbones import Backbone
from autopeft.backbones._identity import differences
from autopeft.backbones._quantized import is_available
from autopeft.errors import ArchitectureError, BackboneError
from autopeft.network.attach import Attached, attach
from autopeft.network.build import count
from autopeft.saved.card import card
from autopeft.saved.record import FORMAT, RECORD, base_of, file_digest, folders_of, read_record, sealed
from autopeft.saved.weights import HEAD, WEIGHTS, check_digest, read_weights
from autopeft.training.heads import Head, HeadedModel, LabelScale, check_savable
from autopeft.writing import SAVED_MODEL, check_folder, write_whole

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Described:
    """What a saved folder says of the model, beyond the weights.

    Args:
        problem: the kind of answer, a name of `autopeft.tasks._answers`.
        label_names: classes by id; empty for the others.
        inputs: names of the text columns it was trained on.
        prompt, verbalisers: for a text-to-text model, what begins its input and what it says for each class.
        threshold: where there may be several labels, the probability above which one is predicted.
        facts: model, data and its split, seeds, metrics: whatever the trainer wants to be known.
    """

    problem: str
    label_names: tuple[str, ...]
    inputs: tuple[str, ...]
    facts: Mapping[str, Any]
    prompt: str = ""
    verbalisers: tuple[str, ...] = ()
    threshold: float = 0.5


def save(folder: str | Path, attached: Attached, model: torch.nn.Module, about: Described) -> None:
    """Write a trained architecture to `folder`, which is made if need be. Reparametrisations are folded first.

    Args:
        attached: the trained modules.
        model: the model with the head, or the text-to-text model itself.
        about: what goes into ``architecture.json`` and the card.

    Raises:
        SettingsError: the folder holds something else than an earlier saved model; nothing has been written.
        WriteError: the disk is full, or the folder is protected; an earlier model there still stands.
    """
    path = Path(folder)
    check_folder("A saved model", path, SAVED_MODEL, overwrite=True)
    # What is trained for the sake of training is not stored, and counts are those of what is stored.
    attached.fold()
    # A view into a larger tensor would be refused by the format, or written whole.
    state = {name: value.contiguous() for name, value in attached.state().items()}
    head = model.head if isinstance(model, HeadedModel) else None
    scale = model.scale if isinstance(model, HeadedModel) else None
    if head is not None:
        state.update({HEAD + name: value.detach().contiguous() for name, value in head.state_dict().items()})
    # All are written before one takes its place, and the first here does so last: it makes the folder a saved model.
    with (
        write_whole(path / RECORD) as facts,
        write_whole(path / "README.md") as page,
        write_whole(path / WEIGHTS) as weights,
    ):
        save_file(state, weights, metadata={"format": "pt"})
        record = sealed({**_record(attached, head, about, path), **_scale_facts(scale)}, file_digest(weights))
        facts.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        page.write_text(card(record))


def load(
    folder: str | Path,
    *,
    backbone: Backbone | None = None,
    model: str | Path | None = None,
    device: str = "cpu",
    dequantize: bool = False,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """The saved model, ready to be called: logits equal those at saving time bit for bit, given the same backbone.

    Args:
        folder: what `save` wrote.
        backbone: the backbone if it is in memory already; otherwise it is loaded from where it came.
        model: where the backbone is now, if not where it was: see `autopeft.saved.record.base_of`.
        dequantize: whether a backbone that was quantised in training is loaded as it is; it then computes something
            slightly different.

    Returns:
        A `HeadedModel`, or the model that writes, in evaluation mode, with the modules attached; the tokenizer
        is its attribute ``tokenizer``, what ``architecture.json`` holds its attribute ``record``.

    Raises:
        ArchitectureError: the folder is not such a folder, its files are not those that were saved, or the backbone
            is not the one that it was trained on or holds an architecture already.
        BackboneError: the backbone cannot be loaded.
    """
    path = Path(folder)
    record = read_record(path)
    backbone = backbone or load_base(
        path, record, model, device=device, dequantize=dequantize, trust_remote_code=trust_remote_code
    )
    # Before the weights are read: they may have the shapes of many models, and compute nonsense on all but one.
    check_base(path, record, backbone)
    state = read_weights(path, record, backbone)
    attached = attach(backbone, Architecture.from_dict(record["architecture"]))
    try:
        attached.load_state({name: value for name, value in state.items() if not name.startswith(HEAD)})
        head = {name.removeprefix(HEAD): value for name, value in state.items() if name.startswith(HEAD)}
        found = _with_head(backbone, record, head)
    # The backbone may be shared and was clean before: a refused folder must not leave modules on it.
    except BaseException:
        attached.detach()
        raise
    attached.train(False)
    # Kept by the model, or the hooks would go with the last reference to what made them.
    found.tokenizer, found.record, found.attached = backbone.tokenizer, record, attached
    attached.show(found)
    if not isinstance(found, HeadedModel):
        found.save_pretrained = partial(_save_pretrained, backbone)
    return found.eval()


def load_base(
    folder: Path,
    record: Mapping[str, Any],
    model: str | Path | None = None,
    *,
    device: str = "cpu",
    dequantize: bool = False,
    trust_remote_code: bool = False,
) -> Backbone:
    """The backbone that a saved folder was trained on, loaded from `model` or from where it came.

    Args:
        dequantize: whether one that was quantised is loaded as it is.

    Raises:
        BackboneError: it cannot be loaded.
        ArchitectureError: the weights of the folder are not those that were saved; the backbone has not been loaded.
    """
    with suppress(OSError):  # told with the other mistakes of that file, when it is read
        # Weights that were exchanged are told before a base of gigabytes is loaded for them.
        check_digest(folder, record)
    name = str(model) if model is not None else base_of(record, folder)
    hint = f"The base of {str(folder)!r} is looked for there; say where it is now with `model` (--model)."
    if model is None and record["backbone"].get("folders") and not Path(name).exists():
        # What stood in a folder is not asked of a hub, where somebody else's model may have its name.
        raise BackboneError(f"The model {name!r} cannot be loaded: there is no such folder any more. {hint}")
    dtype: torch.dtype = getattr(torch, record["backbone"]["dtype"])
    quantize = None if dequantize else record["backbone"].get("quantize")
    if quantize is not None and not is_available():
        raise BackboneError(
            f"{str(folder)!r} was trained on its base in {quantize}, which needs bitsandbytes: pip install "
            "'autopeft[quantized]', or load the base as it is with `dequantize` (--dequantize)."
        )
    options: dict[str, Any] = {"device": device, "quantize": quantize, "trust_remote_code": trust_remote_code}
    try:
        return Backbone.from_pretrained(name, dtype=dtype, **options)
    except BackboneError as error:
        if model is not None:
            raise
        raise BackboneError(f"{error} {hint}") from error


def check_base(folder: Path, record: Mapping[str, Any], backbone: Backbone) -> None:
    """Refuse a backbone that the saved folder was not trained on.

    Raises:
        ArchitectureError: its type, its weights, its tokenizer or its configuration is another. What folders of earlier
            versions do not say is not compared.
    """
    about, given = record["backbone"], backbone.model.config.model_type
    if given != about["model_type"]:
        raise ArchitectureError(
            f"{str(folder)!r} was trained on a {about['model_type']!r}, but got a {given!r} as its backbone."
        )
    if "identity" not in about:
        return
    here = backbone.identity()
    # Another precision is a choice that the user may make, and the digest of rounded weights says nothing.
    if here["dtype"] != about["identity"].get("dtype"):
        _log.warning("%s was trained in %s and is used in %s.", folder, about["identity"].get("dtype"), here["dtype"])
    if wrong := list(differences(about["identity"], here)):
        raise ArchitectureError(
            f"{str(folder)!r} was trained on another model than {backbone.name!r} is now: {'; '.join(wrong)}."
        )


def _scale_facts(scale: LabelScale | None) -> dict[str, Any]:
    return {} if scale is None else {"scale": asdict(scale)}


def _record(attached: Attached, head: Head | None, about: Described, folder: Path) -> dict[str, Any]:
    n_head = 0 if head is None else sum(parameter.numel() for parameter in head.parameters())
    return {
        "format": FORMAT,
        "architecture": attached.architecture.as_dict(),
        "backbone": {
            "name": attached.backbone.name,
            "model_type": attached.backbone.model.config.model_type,
            "dtype": str(attached.backbone.model.dtype).removeprefix("torch."),
            **({} if attached.backbone.quantized is None else {"quantize": attached.backbone.quantized}),
            "folders": folders_of(attached.backbone.name, folder),
            "identity": attached.base_identity(),
        },
        "counts": count(attached.backbone, attached.architecture, n_head).as_dict(),
        "problem": about.problem,
        "label_names": list(about.label_names),
        "inputs": list(about.inputs),
        "prompt": about.prompt,
        "verbalisers": list(about.verbalisers),
        "threshold": about.threshold,
        "n_outputs": 0 if head is None else head.out.out_features,
        "facts": dict(about.facts),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def _with_head(backbone: Backbone, record: Mapping[str, Any], state: Mapping[str, Tensor]) -> Any:
    if not record["n_outputs"]:
        return backbone.language_model
    head = Head(backbone.hidden_size, int(record["n_outputs"])).to(backbone.device)
    head.load_state_dict(dict(state))
    scale = LabelScale(**record["scale"]) if record.get("scale") else None
    model = HeadedModel(backbone, head, record["problem"], scale)
    names = record["label_names"]
    if names:
        model.config.id2label = dict(enumerate(names))
        model.config.label2id = {name: index for index, name in enumerate(names)}
    return model


def _save_pretrained(backbone: Backbone, *args: Any, **kwargs: Any) -> None:
    """That of a model that writes, where nothing is attached."""
    check_savable(backbone)
    # Through the class, as the instance's own attribute is what is being run.
    type(backbone.language_model).save_pretrained(backbone.language_model, *args, **kwargs)
