"""A saved model as one LoRA of PEFT: the change of every linear map, factored, and cut where that loses little enough.

What a linear map can take in (several LoRAs at one map, at a part of a fused one or beside IA3 and DoRA) changes its
weight by a matrix, and every matrix is a LoRA of some rank: the first singular vectors of it are the LoRA of a rank
that is nearest. The change is computed in double precision, so that the rounding of weights is not taken for a part of
it. Adapters with an activation, prefixes, norms and biases are no such matrix and are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from autopeft.architecture import Architecture, Placement, reasons_told
from autopeft.backbones import Backbone, Site, linear_weight
from autopeft.errors import ArchitectureError, SettingsError
from autopeft.saved.card import export_card
from autopeft.saved.export import config_of, path_in_peft, write_adapter
from autopeft.saved.forms import ROOT, LoraForm
from autopeft.saved.merge import Merged, opened, parameters_at, take_in
from autopeft.writing import EXPORT, check_folder

MOST_ERROR = 1e-5
"""The relative error of a change that is allowed unless another is: what single precision rounds away."""


@dataclass(frozen=True)
class Factors:
    """A change as ``up @ down``.

    Args:
        down, up: ``(rank, d_in)`` and ``(d_out, rank)``.
        error: the part of the change that is left out, by Frobenius' norm.
    """

    down: Tensor
    up: Tensor
    error: float

    @property
    def rank(self) -> int:
        """Units."""
        return len(self.down)


@dataclass(frozen=True)
class Converted:
    """What was made.

    Args:
        ranks: by path of the map.
        error: the largest relative error of a map's change.
        outputs: how the outputs with the LoRA differ from those of the saved model.
    """

    ranks: Mapping[str, int]
    error: float
    outputs: Merged


def to_lora(
    folder: str | Path, target: str | Path, *, rank: int | None = None, most_error: float = MOST_ERROR
) -> Converted:
    """Write the saved model in `folder` as a LoRA of PEFT, see `autopeft.saved.export.to_peft`.

    Args:
        folder: what `autopeft.saved.save` wrote.
        target: the folder to write, made if need be.
        rank: of any map at most; None for as much as the error needs.
        most_error: the relative error of a map's change, by Frobenius' norm, above which nothing is written. No map
            gets a larger rank than this needs.

    Raises:
        ArchitectureError: it holds what is no change of a linear map's weight, or the error is above `most_error`;
            every placement is told.
        SettingsError: `rank` or `most_error` is none, or `target` holds something else than an earlier export; nothing
            has been written.
        WriteError: the disk is full, or the folder is protected.
    """
    # No number compares with NaN, so that any error would be allowed.
    if not 0 <= most_error < math.inf or (rank is not None and rank < 1):
        raise SettingsError(
            f"A rank is at least 1 and an error finite and not below 0, but got {rank} and {most_error}."
        )
    path = Path(target)
    check_folder("An export", path, EXPORT, {"the saved model": folder}, overwrite=True)
    given = opened(folder)
    architecture, backbone = given.architecture, given.backbone
    with torch.no_grad():
        _check_linear(architecture, backbone, given.modules)
        factors = _factored(architecture, backbone, given.modules, rank, most_error)
        _check_errors(architecture, backbone, factors, most_error)
        with _added(backbone, factors):
            outputs = given.compared()
    config = _config(backbone, factors, is_writing=given.is_writing)
    tensors = dict(_tensors(backbone, factors, is_writing=given.is_writing))
    ranks = {name: one.rank for name, one in factors.items()}
    found = Converted(ranks, max(one.error for one in factors.values()), outputs)
    write_adapter(path, config, tensors, export_card(given.record, config, found.error))
    return found


def factor(change: Tensor, rank: int | None, most_error: float) -> Factors:
    """The smallest LoRA that is as near to `change`, ``(d_out, d_in)``, as `most_error` says, of `rank` at most."""
    left, values, right = torch.linalg.svd(change.double(), full_matrices=False)
    # Summed from the smallest on: what is left out is tiny beside the whole, and would drown in a difference of sums.
    lost = values.square().flip(0).cumsum(0).flip(0).sqrt()
    lost = torch.cat([lost, lost.new_zeros(1)]) / lost[0].clamp_min(torch.finfo(lost.dtype).tiny)
    needed = max(1, int((lost > most_error).sum()))
    kept = needed if rank is None else min(rank, needed)
    root = values[:kept].sqrt()
    return Factors(root[:, None] * right[:kept], left[:, :kept] * root, float(lost[kept]))


def _check_linear(architecture: Architecture, backbone: Backbone, modules: Mapping[Any, nn.Module]) -> None:
    """Refuse what changes something else than the weight of a linear map."""
    wrong = []
    for item in architecture:
        site = backbone.site(item.site)
        weight, bias = parameters_at(backbone, site)
        if site.epsilon is not None:
            wrong.append((item, "changes a norm"))
            continue
        shifted = modules[item.site, item.method].merged(weight, bias, site)[1]  # type: ignore[operator]
        if bias is not None and shifted is not None and not torch.equal(shifted, bias):
            wrong.append((item, "changes a bias"))
    if wrong or architecture.is_empty:
        told = "; ".join(reasons_told(wrong)) or "there is nothing"
        raise ArchitectureError(
            f"This cannot be converted to LoRA, which changes weights of linear maps alone: {told}."
        )


def _maps(architecture: Architecture, backbone: Backbone) -> dict[str, Site]:
    """The linear maps that something stands at, by path; of a fused one all of it."""
    sites = [backbone.site(item.site) for item in architecture]
    return {site.entry: replace(site, part=None) for site in sites}


def _factored(
    architecture: Architecture,
    backbone: Backbone,
    modules: Mapping[Any, nn.Module],
    rank: int | None,
    most_error: float,
) -> dict[str, Factors]:
    """The change of every map, and the weights of the backbone as they were."""
    maps, dtype = _maps(architecture, backbone), backbone.model.dtype
    kept = {path: linear_weight(backbone.module(path), site)[0].clone() for path, site in maps.items()}
    # In single precision the difference of two weights would hold their rounding, which has every rank.
    backbone.model.double()
    for module in modules.values():
        module.double()
    try:
        take_in(architecture, backbone, modules)
        return {
            path: factor(linear_weight(backbone.module(path), site)[0] - kept[path].double(), rank, most_error)
            for path, site in maps.items()
        }
    finally:
        backbone.model.to(dtype)
        for path, site in maps.items():
            linear_weight(backbone.module(path), site)[0].copy_(kept[path])


def _check_errors(
    architecture: Architecture, backbone: Backbone, factors: Mapping[str, Factors], most_error: float
) -> None:
    wrong = list[tuple[Placement, str]]()
    for item in architecture:
        found = factors[backbone.site(item.site).entry]
        if found.error > most_error:
            wrong.append((item, f"at rank {found.rank} has an error of {found.error:.1e}"))
    if wrong:
        raise ArchitectureError(
            f"Nothing is written, as the error of a change may be {most_error:g} at most: "
            f"{'; '.join(reasons_told(wrong))}. Raise the rank, or the error that is allowed."
        )


@contextmanager
def _added(backbone: Backbone, factors: Mapping[str, Factors]) -> Any:
    """Within it the maps compute what they do with the LoRA."""
    weights = {path: backbone.module(path).weight for path in factors}
    kept = {path: weight.clone() for path, weight in weights.items()}  # type: ignore[operator]
    for path, one in factors.items():
        change = one.up @ one.down
        weights[path].add_(change.T if isinstance(backbone.module(path), Conv1D) else change)  # type: ignore[operator]
    try:
        yield
    finally:
        for path, weight in weights.items():
            weight.copy_(kept[path])  # type: ignore[operator]


def _config(backbone: Backbone, factors: Mapping[str, Factors], *, is_writing: bool) -> dict[str, Any]:
    sites = {site.entry: site for site in backbone.sites.values() if site.entry in factors}
    placed = {
        path_in_peft(backbone, path, is_writing=is_writing): (Placement(sites[path].key, "lora", one.rank), sites[path])
        for path, one in factors.items()
    }
    found = config_of(LoraForm("LoRA", is_decomposed=False), placed, backbone, is_writing=is_writing)
    # PEFT has to be told of maps that are stored the other way round.
    return {**found, "fan_in_fan_out": all(isinstance(backbone.module(path), Conv1D) for path in factors)}


def _tensors(backbone: Backbone, factors: Mapping[str, Factors], *, is_writing: bool) -> Any:
    for path, one in factors.items():
        name = ROOT + path_in_peft(backbone, path, is_writing=is_writing)
        yield f"{name}.lora_A.weight", one.down.float().contiguous()
        yield f"{name}.lora_B.weight", one.up.float().contiguous()
