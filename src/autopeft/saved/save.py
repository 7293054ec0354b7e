"""Saving what was trained, and loading it as a ready transformers model.

A folder holds ``architecture.json`` (the architecture, the task's labels, where the backbone came from, and facts
about the training), ``model.safetensors`` (the added modules and the head; never the backbone, unless it was
fine-tuned in full) and ``README.md`` (a model card). Nothing is pickled.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from autopeft.architecture import Architecture
from autopeft.backbones import Backbone
from autopeft.errors import ArchitectureError
from autopeft.network.attach import Attached, attach, count
from autopeft.saved.card import card
from autopeft.training.heads import Head, HeadedModel, check_savable
from autopeft.writing import SAVED_MODEL, check_folder, whole

WEIGHTS = "model.safetensors"
"""The file in a saved folder with the added modules and the head."""

FORMAT = 1
"""Version of the folder's format."""

_HEAD = "head/"
_NEEDED = frozenset(("architecture", "backbone", "problem", "label_names", "n_outputs"))


@dataclass(frozen=True)
class Described:
    """What a saved folder says of the model, beyond the weights.

    Args:
        problem: "classification", "regression" or "multiple_choice".
        label_names: classes by id; empty for the others.
        inputs: names of the text columns it was trained on.
        prompt, verbalisers: for a text-to-text model, what begins its input and what it says for each class.
        facts: model, data and its split, seeds, metrics: whatever the trainer wants to be known.
    """

    problem: str
    label_names: tuple[str, ...]
    inputs: tuple[str, ...]
    facts: Mapping[str, Any]
    prompt: str = ""
    verbalisers: tuple[str, ...] = ()


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
    attached.fold()
    state = {name: value.contiguous() for name, value in attached.state().items()}
    head = model.head if isinstance(model, HeadedModel) else None
    if head is not None:
        state.update({_HEAD + name: value.detach().contiguous() for name, value in head.state_dict().items()})
    record = _record(attached, head, about)
    # All are written before one takes its place, and the first here does so last: it makes the folder a saved model.
    with (
        whole(path / "architecture.json") as facts,
        whole(path / "README.md") as page,
        whole(path / WEIGHTS) as weights,
    ):
        facts.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        page.write_text(card(record), encoding="utf-8")
        save_file(state, weights, metadata={"format": "pt"})


def load(
    folder: str | Path, *, backbone: Backbone | None = None, device: str = "cpu", trust_remote_code: bool = False
) -> PreTrainedModel:
    """The saved model, ready to be called: logits equal those at saving time bit for bit, given the same backbone.

    Args:
        folder: what `save` wrote.
        backbone: the backbone if it is in memory already; otherwise it is loaded from where it came.

    Returns:
        A `HeadedModel`, or the text-to-text model, in evaluation mode, with the modules attached; the tokenizer
        is its attribute ``tokenizer``, what ``architecture.json`` holds its attribute ``record``.

    Raises:
        ArchitectureError: the folder is not such a folder, or `backbone` is of another type than the one it was
            trained on or holds an architecture already.
        BackboneError: the backbone cannot be loaded.
    """
    path = Path(folder)
    record = read_record(path)
    backbone = backbone or Backbone.from_pretrained(
        record["backbone"]["name"],
        dtype=getattr(torch, record["backbone"]["dtype"]),
        device=device,
        trust_remote_code=trust_remote_code,
    )
    state = _weights(path, record, backbone)
    attached = attach(backbone, Architecture.from_dict(record["architecture"]))
    try:
        attached.load_state({name: value for name, value in state.items() if not name.startswith(_HEAD)})
        head = {name.removeprefix(_HEAD): value for name, value in state.items() if name.startswith(_HEAD)}
        model = _with_head(backbone, record, head)
    except BaseException:
        attached.detach()
        raise
    attached.train(False)
    model.tokenizer, model.record, model.attached = backbone.tokenizer, record, attached
    if model is backbone.model:
        model.save_pretrained = partial(_save_pretrained, backbone)
    return model.eval()


def _weights(path: Path, record: Mapping[str, Any], backbone: Backbone) -> dict[str, Tensor]:
    wanted, given = record["backbone"]["model_type"], backbone.model.config.model_type
    if given != wanted:
        raise ArchitectureError(f"{str(path)!r} was trained on a {wanted!r}, but got a {given!r} as its backbone.")
    try:
        return load_file(path / WEIGHTS, device=str(backbone.device))
    except (OSError, SafetensorError) as error:
        raise ArchitectureError(f"The weights {str(path / WEIGHTS)!r} cannot be read: {error}.") from error


def read_record(folder: str | Path) -> dict[str, Any]:
    """What ``architecture.json`` of a saved folder holds.

    Raises:
        ArchitectureError: it is missing, unreadable or of a later format.
    """
    path = Path(folder) / "architecture.json"
    try:
        record = cast(dict[str, Any], json.loads(path.read_text()))
        version = int(record["format"])
        missing = sorted(_NEEDED - record.keys()) if version <= FORMAT else []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArchitectureError(f"{str(folder)!r} does not hold a saved model: {path.name}: {error}.") from error
    if version > FORMAT:
        raise ArchitectureError(f"{str(folder)!r} has format {version}; this version reads up to {FORMAT}.")
    if missing:
        raise ArchitectureError(f"{str(folder)!r} does not hold a saved model: {path.name} lacks {', '.join(missing)}.")
    return record


def _record(attached: Attached, head: Head | None, about: Described) -> dict[str, Any]:
    n_head = 0 if head is None else sum(parameter.numel() for parameter in head.parameters())
    return {
        "format": FORMAT,
        "architecture": attached.architecture.as_dict(),
        "backbone": {
            "name": attached.backbone.name,
            "model_type": attached.backbone.model.config.model_type,
            "dtype": str(attached.backbone.model.dtype).removeprefix("torch."),
        },
        "counts": count(attached.backbone, attached.architecture, n_head).as_dict(),
        "problem": about.problem,
        "label_names": list(about.label_names),
        "inputs": list(about.inputs),
        "prompt": about.prompt,
        "verbalisers": list(about.verbalisers),
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
        return backbone.model
    head = Head(backbone.hidden_size, int(record["n_outputs"])).to(backbone.device)
    head.load_state_dict(dict(state))
    model = HeadedModel(backbone, head, record["problem"])
    names = record["label_names"]
    if names:
        model.config.id2label = dict(enumerate(names))
        model.config.label2id = {name: index for index, name in enumerate(names)}
    return model


def _save_pretrained(backbone: Backbone, *args: Any, **kwargs: Any) -> None:
    """A text-to-text model's own, where nothing is attached."""
    check_savable(backbone)
    type(backbone.model).save_pretrained(backbone.model, *args, **kwargs)
