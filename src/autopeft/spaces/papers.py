"""The search spaces of the papers, by name.

AutoPEFT (arXiv 2301.12132, section 4 and figure 9): one size a method, shared by all layers that are on.

* ``SA``: a serial adapter in every layer; only its size is searched.
* ``SA-Layer``, ``SA-PA-Layer``, ``PA-PT-Layer``: the layers are searched too, with these methods.
* ``SA-PA-PT-Layer``: the whole space, 5,451,776 points on BERT-base.
* ``Scaling``: all layers on, all three methods at one common size.

* ``SA-Switch``: a serial adapter of an eighth of the hidden size, or none, in each layer (table 6).

BIPEFT (EMNLP Findings 2024, section 4.1): every placement has a size of its own, 0, 1, 4 or 8; a bias or a norm
is there or not.

* ``S1``: serial and parallel adapters at the feed-forward, prefixes at self-attention.
* ``S2``: LoRA, low-rank adapters, BitFit and LNFit.

The names S1 and S2 are the paper's; its release has them the other way round.

S3Delta (arXiv 2206.07382, section 4): every placement is there or not, at rank 1.

* ``S3Delta-M``: as S2, with LoRA's scale (16) and the low-rank adapters' start (not at zero) of its release.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from autopeft import methods
from autopeft.architecture import ParameterBudget
from autopeft.backbones import LINEAR, NORMS, Backbone
from autopeft.errors import UnknownNameError
from autopeft.spaces._named_space import NamedSpace
from autopeft.spaces.build import BackboneLike
from autopeft.spaces.lattice import Axis, Choice, SearchSpace

_AUTOPEFT: Mapping[str, tuple[str, ...]] = {
    "SA": ("serial",),
    "SA-Layer": ("serial",),
    "SA-PA-Layer": ("serial", "parallel"),
    "PA-PT-Layer": ("parallel", "prefix"),
    "SA-PA-PT-Layer": ("serial", "parallel", "prefix"),
    "Scaling": ("serial", "parallel", "prefix"),
}

_BY_PLACEMENT: Mapping[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "S1": (("serial_bipeft", ("ffn",)), ("parallel_bipeft", ("ffn",)), ("prefix_direct", ("kv",))),
    "S2": (
        ("lora", LINEAR),
        ("adapter_lr", ("attention", "ffn")),
        ("bitfit", (*LINEAR, *NORMS)),
        ("lnfit", NORMS),
    ),
    "S3Delta-M": (
        ("lora_s3delta", LINEAR),
        ("adapter_lr_s3delta", ("attention", "ffn")),
        ("bitfit", (*LINEAR, *NORMS)),
        ("lnfit", NORMS),
    ),
}

_SWITCH = "SA-Switch"

NAMES = (*_AUTOPEFT, _SWITCH, *_BY_PLACEMENT)
"""Every space that can be named."""

BIPEFT_SIZES = (0, 1, 4, 8)
"""Candidate sizes of BIPEFT's spaces; 0 is absence."""

_SIZES: Mapping[str, tuple[int, ...]] = {"S3Delta-M": (0, 1)}


def named(
    name: str,
    backbone: BackboneLike,
    *,
    budget: ParameterBudget | None = None,
    sizes: Sequence[int] | None = None,
) -> SearchSpace:
    """The space called `name` on `backbone`, an encoder, a decoder or both.

    Args:
        budget: a hard limit, or None.
        sizes: other candidate sizes than the paper's; 0 among them means absent.

    Raises:
        UnknownNameError: there is no such space.
        SettingsError: a method of the space stands nowhere on this backbone.
        BudgetError: nothing in the space satisfies the budget.
    """
    if name not in NAMES:
        raise UnknownNameError("space", name, NAMES)
    chosen = None if sizes is None else tuple(sizes)
    if name == _SWITCH:
        # 128 on BERT-large, the size of all those in the paper's table 6 that leave layers out.
        axis = Axis(methods.lookup("serial"), chosen or (0, backbone.hidden_size // 8))
        return SearchSpace.build(backbone, [axis], sharing="placement", layers="all", budget=budget)
    if name in _BY_PLACEMENT:
        return SearchSpace.build(
            backbone,
            _axes(_BY_PLACEMENT[name], chosen or _SIZES.get(name, BIPEFT_SIZES)),
            sharing="placement",
            layers="all",
            budget=budget,
        )
    axes = [Axis(methods.lookup(method), chosen) for method in _AUTOPEFT[name]]
    if name == "Scaling":
        # The budget comes last, as it is about the points of the one coordinate and not about those it was made of.
        return _in_step(SearchSpace.build(backbone, axes, layers="all")).within(budget)
    return SearchSpace.build(backbone, axes, layers="all" if name == "SA" else "search", budget=budget)


def about(name: str) -> str:
    """The methods of the space called `name`, and what is searched, in a line.

    Raises:
        UnknownNameError: there is no such space.
    """
    if name not in NAMES:
        raise UnknownNameError("space", name, NAMES)
    if name in _BY_PLACEMENT:
        searched = "a switch for every placement" if name in _SIZES else "a size for every placement"
        return f"{', '.join(method for method, _ in _BY_PLACEMENT[name])}: {searched}"
    if name == _SWITCH:
        return "serial: of one size, or none, in each layer"
    others = {"SA": "one size, all layers on", "Scaling": "one common size, all layers on"}
    return f"{', '.join(_AUTOPEFT[name])}: {others.get(name, 'a size for each, a switch for every layer')}"


def _axes(parts: Sequence[tuple[str, tuple[str, ...]]], sizes: tuple[int, ...]) -> list[Axis]:
    found = []
    for name, roles in parts:
        method = methods.lookup(name)
        found.append(Axis(method, sizes if method.is_sized else (0, 1), roles))
    return found


def _in_step(space: SearchSpace) -> SearchSpace:
    """All sizes become one coordinate without 0: 10 points on BERT-base."""
    sizes = sorted({value for choice in space.choices for value in choice.sizes if value})
    slots = tuple(replace(slot, size=0) for slot in space.slots)
    return SearchSpace((Choice("common", tuple(sizes)),), slots)


def _member(name: str) -> NamedSpace:
    def build(
        backbone: Backbone,
        *,
        budget: ParameterBudget | None = None,
        bands: int | None = None,
        axes: Sequence[Axis] = (),
    ) -> SearchSpace:
        return named(name, backbone, budget=budget)

    return NamedSpace(name=name, about=about(name), build=build)


MEMBERS = {name: _member(name) for name in NAMES}
