"""The weights of a saved folder: compared by names, shapes and types before one of them is read, and then finite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from autopeft.architecture import Architecture
from autopeft.backbones import Backbone
from autopeft.errors import ArchitectureError
from autopeft.network.build import stored_shapes
from autopeft.reading import is_pointer
from autopeft.saved.record import file_digest
from autopeft.training.heads import Head

WEIGHTS = "model.safetensors"
"""The file in a saved folder with the added modules and the head."""

HEAD = "head/"
"""What the names of the head's weights begin with."""

_REAL = ("F64", "F32", "F16", "BF16")


def read_weights(folder: Path, record: Mapping[str, Any], backbone: Backbone) -> dict[str, Tensor]:
    """The weights that a saved folder holds for this `record`, on the device of `backbone`.

    Raises:
        ArchitectureError: the file cannot be read, is another than the one that was saved, or holds other names,
            shapes or types than the architecture has, or a number that is not finite.
    """
    path = folder / WEIGHTS
    try:
        check_digest(folder, record)
        wanted = _expected(record, backbone)
        with safe_open(path, framework="pt", device=str(backbone.device)) as file:
            wrong = _differences(file, wanted)
            if wrong:
                told = f"do not belong to this architecture; they differ in {'; '.join(wrong[:5])}"
                raise ArchitectureError(f"The weights {str(path)!r} {told}.")
            found = {name: file.get_tensor(name) for name in wanted}
    except (OSError, SafetensorError) as error:
        raise ArchitectureError(f"The weights {str(path)!r} cannot be read: {error}.") from error
    # One NaN makes every answer NaN, which would be shown as a prediction.
    odd = [name for name, value in found.items() if not bool(value.isfinite().all())]
    if odd:
        raise ArchitectureError(f"The weights {str(path)!r} hold numbers that are not finite, in {', '.join(odd[:5])}.")
    return found


def check_digest(folder: Path, record: Mapping[str, Any]) -> None:
    """Refuse weights that are not those that were saved with the record.

    Raises:
        ArchitectureError: they are others, or none. Folders of versions that wrote no digest pass.
        OSError: the file cannot be read.
    """
    path, wanted = folder / WEIGHTS, record["digests"].get("weights")
    if is_pointer(path):  # before its digest, which would be told to be another
        raise ArchitectureError(
            f"The weights {str(path)!r} are a pointer of git-lfs, not weights: fetch them with `git lfs pull`."
        )
    if wanted is not None and (found := file_digest(path)) != wanted:
        raise ArchitectureError(
            f"The weights {str(path)!r} are not those that were saved with this architecture: their digest "
            f"is {found[:16]}, not {wanted[:16]}."
        )


def _expected(record: Mapping[str, Any], backbone: Backbone) -> dict[str, tuple[int, ...]]:
    found = stored_shapes(backbone, Architecture.from_dict(record["architecture"]))
    if record["n_outputs"]:
        with torch.device("meta"):
            head = Head(backbone.hidden_size, record["n_outputs"]).state_dict()
        found.update({HEAD + name: tuple(value.shape) for name, value in head.items()})
    return found


def _differences(file: Any, wanted: Mapping[str, tuple[int, ...]]) -> list[str]:
    names = set(file.keys())
    found = [f"{name} is missing" for name in wanted if name not in names]
    found += [f"{name:.99} is not wanted" for name in sorted(names - wanted.keys())]
    for name in [name for name in wanted if name in names]:
        # From the header alone: a file that claims terabytes is refused before memory is asked for.
        header = file.get_slice(name)
        shape, kind = tuple(header.get_shape()), header.get_dtype()
        if shape != wanted[name]:
            found.append(f"{name} of shape {shape} instead of {wanted[name]}")
        elif kind not in _REAL:
            found.append(f"{name} of type {kind}, which is not one of {', '.join(_REAL)}")
    return found
