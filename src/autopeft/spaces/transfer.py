"""An architecture found on one backbone, put on another: by relative depth and relative width.

What a layer gets is decided from the new model's side: each of its layers takes what stood at the same relative depth.
So a deeper model repeats what a layer had, and a shallower one leaves layers out. Units of modules (ranks, widths of
bottlenecks) grow with the hidden size, so that the share of the parameters stays about the same; a prefix is counted in
tokens and keeps its length. AutoPEFT carries architectures from RTE to other tasks (section 4.2); from model to model
is a heuristic, whose result is a candidate and no finding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from autopeft.architecture import Architecture, Placement
from autopeft.errors import ArchitectureError
from autopeft.methods import lookup
from autopeft.spaces.build import BackboneLike

_MOST_SHOWN = 5


@dataclass(frozen=True)
class Shape:
    """What decides where an architecture can stand: the hidden size, and the layers of each stack."""

    hidden_size: int
    layers: Mapping[str, int]

    @classmethod
    def of(cls, backbone: BackboneLike) -> Shape:
        """The shape of `backbone`."""
        found: dict[str, int] = {}
        for site in backbone.sites.values():
            if site.layer is not None:
                found[site.stack] = max(found.get(site.stack, 0), site.layer + 1)
        return cls(backbone.hidden_size, found)

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        return {"hidden_size": self.hidden_size, "layers": dict(self.layers)}

    def __str__(self) -> str:
        stacks = " and ".join(f"{n} {stack}" for stack, n in self.layers.items())
        return f"{stacks} layers, hidden size {self.hidden_size}"


def transfer(architecture: Architecture, source: BackboneLike, target: BackboneLike) -> Architecture:
    """`architecture`, which stands on `source`, on `target`.

    Raises:
        ArchitectureError: it does not stand on `source`, or `target` has no place of a role that it needs, or none of
            its stacks, or nothing of it is left.
    """
    before, after = Shape.of(source), Shape.of(target)
    absent = [item.site for item in architecture if item.site not in source.sites]
    if absent:
        raise ArchitectureError(f"The architecture does not stand on its source, which has no {_listed(absent)}.")
    ratio = target.hidden_size / source.hidden_size
    moved = [
        _resized(replace(item, site=key), ratio)
        for item in architecture
        for key in _keys(source.sites[item.site], before, after)
    ]
    missing = sorted({item.site for item in moved if item.site not in target.sites})
    if missing:
        raise ArchitectureError(f"The new backbone ({after}) has no {_listed(missing)}.")
    if not moved and not architecture.is_empty:
        raise ArchitectureError(f"Nothing of the architecture is left on a backbone of {after}.")
    return Architecture(tuple(moved))


def _keys(site: Any, before: Shape, after: Shape) -> list[str]:
    """Keys of the sites of the new backbone that take what stands at `site` of the old one."""
    if site.layer is None:
        return [f"{site.stack}.{site.role}"]
    old, new = before.layers[site.stack], after.layers.get(site.stack)
    if new is None:
        raise ArchitectureError(f"The new backbone ({after}) has no {site.stack}.")
    # The middle of the new layer lies in the old layer of the same relative depth; in whole numbers, so that a
    # backbone of the same depth gets the architecture back as it was.
    return [
        f"{site.stack}.{layer}.{site.role}" for layer in range(new) if (2 * layer + 1) * old // (2 * new) == site.layer
    ]


def _resized(item: Placement, ratio: float) -> Placement:
    """With as many units as the hidden size asks for; a prefix keeps its tokens, a bias or a norm has no size."""
    method = lookup(item.method)
    if not method.is_sized or method.seam == "kv":
        return item
    # A module that is there stays there, however small it becomes: whether it stands at a layer was what was found.
    return replace(item, size=max(1, round(item.size * ratio)))


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_MOST_SHOWN]) + (
        f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    )


def check_shape(about: Mapping[str, Any], backbone: BackboneLike) -> str:
    """Why an architecture of a backbone of the shape `about` (`Shape.as_dict`) is none for `backbone`; empty if it is.

    Raises:
        ArchitectureError: `about` is no shape.
    """
    here = Shape.of(backbone)
    try:
        there = Shape(int(about["hidden_size"]), {str(name): int(n) for name, n in about["layers"].items()})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArchitectureError(f"A backbone's shape is its hidden_size and layers, but got {about!r:.99}.") from error
    return "" if there == here else f"it was found on {there}, but this model has {here}"
