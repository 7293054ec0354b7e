"""PEFT methods: what a module computes, what it costs, where it may stand.

Every method has an ordered axis of *units* (rank, bottleneck width, prefix length; 1 for a bias or a norm), and
its module accepts a mask over them, so that size ``s`` of a large module is its first ``s`` units, a zero mask is
absence, and ``mask[0]`` also switches what a module adds once (an up-projection's bias). A mask may also be a whole
number ``s``: then the weights of the first ``s`` units are cut out instead of the others being multiplied by zero,
which computes exactly what a module of that size holding those weights would, at its price.

To add one, add a file here that exports ``MEMBERS = {"its-name": member}``, each member a `Method`. The contract
tests run it on every backbone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from autopeft.architecture import Cost
from autopeft.backbones import Seam, Site
from autopeft.errors import SettingsError
from autopeft.kinds import lookup as _lookup
from autopeft.kinds import members

PACKAGE = "autopeft.methods"
"""Where the members are."""

_DECLARED = (
    *(
        "name",
        "roles",
        "seam",
        "reads",
        "order",
        "is_sized",
        "about",
        "stacks",
        "sees_padding",
        "has_scale",
        "is_scaled_apart",
        "is_random",
    ),
    *("cost", "trained", "build"),
)

Frozen = Mapping[str, nn.Module]
"""The backbone's own modules by site key: at a site of one module that module, elsewhere the first of the site's."""

Mask = Tensor | int | None
"""Factors over the units, ``(size,)``; a number of units that are cut out, at least 1; or None for all units."""


class Reads(StrEnum):
    """What a delta takes as its input at a site with input ``x``, output ``y`` and, perhaps, a norm after it."""

    INPUT = "input"
    """``x``."""
    OUTPUT = "output"
    """``y``, as changed by the deltas of lower order."""
    NORMED_SUM = "normed sum"
    """``LN(x + y)`` with the block's own frozen norm, where the site has one; ``y`` elsewhere (pre-LN)."""
    SUM = "sum"
    """``x + y`` with the site's own ``y``, before any delta."""


def is_readable(reads: Reads, site: Site) -> bool:
    """Whether a delta can take `reads` at `site`: a sum of input and output needs them to be equally wide."""
    is_sum = reads is Reads.SUM or (reads is Reads.NORMED_SUM and site.norm is not None)
    return not is_sum or site.d_in == site.d_out


def unreadable(method: str, site: Site) -> str:
    """What to say where `is_readable` is False."""
    return f"{method} reads the sum of input and output, which are {site.d_in} and {site.d_out} wide at {site.key}"


class Method(Protocol):
    """A way of changing a frozen network with few parameters.

    Attributes:
        name: what placements call it.
        roles: the roles of the sites where it stands by default.
        seam: "delta" (input/output), "kv" (attention prefix) or "backbone" (the weights themselves).
        reads: the input of its delta; without meaning at the other seams.
        order: deltas at one site apply from the lowest order to the highest.
        is_sized: False when the only size is 1.

        about: a few words for lists.
        stacks: the only stacks where it may stand; empty for all.
        sees_padding: True when its modules also take ``visible``, ``(batch, tokens)``, 0 at padding or None without it,
            and at the key/value seam ``x``, the attention's input. Without it, a delta treats every token by itself.
        has_scale: True when its modules are `HasScale`, so that a placement may say what their scale is multiplied by.
        is_scaled_apart: True when the mask enters what its modules compute more than once: they also take ``scale``, a
            scalar factor on all that they add, which would not be linear as a factor on the mask.
        is_random: True when its modules draw random numbers in training. They then do so apart from all others, so that
            an architecture draws the same beside others as alone.
    """

    @property
    def name(self) -> str: ...
    @property
    def roles(self) -> tuple[str, ...]: ...
    @property
    def seam(self) -> Seam: ...
    @property
    def reads(self) -> Reads: ...
    @property
    def order(self) -> int: ...
    @property
    def is_sized(self) -> bool: ...
    @property
    def about(self) -> str: ...
    @property
    def stacks(self) -> tuple[str, ...]: ...
    @property
    def sees_padding(self) -> bool: ...
    @property
    def has_scale(self) -> bool: ...
    @property
    def is_scaled_apart(self) -> bool: ...
    @property
    def is_random(self) -> bool: ...

    def cost(self, site: Site) -> Cost:
        """Nominal and stored parameters at `site` as a function of the size."""
        ...

    def trained(self, placements: Sequence[tuple[Site, int]]) -> int:
        """Parameters that the optimiser holds for all `placements` of this method together."""
        ...

    def build(self, placements: Sequence[tuple[Site, int]], frozen: Frozen) -> Mapping[str, nn.Module]:
        """Fresh modules by site key, initialised from torch's current generator.

        `frozen` holds, by site key, the backbone's own module at every placement, for what depends on its weights.
        At the delta seam a module maps ``(u, y, mask)`` to ``y'``; at the key/value seam it is a `PrefixModule`.
        A module that a supernet holds also offers ``cut(size)``, see `Cuttable`.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a method declares beyond its own fields, with the values that most have; see `Method`."""

    about: str = ""
    stacks: tuple[str, ...] = ()
    sees_padding: bool = False
    has_scale: bool = False
    is_scaled_apart: bool = False
    is_random: bool = False


@runtime_checkable
class HasScale(Protocol):
    """A module of a method that `has_scale`: what it adds is multiplied by `scale`, a number that is not trained."""

    scale: float


class PrefixModule(Protocol):
    """What a module of the key/value seam offers."""

    def keys_values(self, mask: Mask = None, **more: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values, each ``(heads, length, d_head)``, and the presence over the length or None.

        One that sees padding may give them for every example, ``(batch, heads, length, d_head)``.
        """
        ...


@runtime_checkable
class StartsUneven(Protocol):
    """A module whose start, as its authors have it, makes a step change more than it does in the other modules."""

    def even_start(self) -> None:
        """Put a fresh module at a start from which a step changes about as much as in LoRA."""
        ...


@runtime_checkable
class Cuttable(Protocol):
    """A module whose first units can be taken out: what a supernet needs to hand over an architecture."""

    def cut(self, size: int) -> dict[str, Tensor]:
        """The stored parameters of a module of `size` units that computes what this one does under ``mask=size``."""
        ...


@runtime_checkable
class Mergeable(Protocol):
    """A module that a linear map, or a norm, can take into its own weights without computing anything else."""

    def merged(self, weight: Tensor, bias: Tensor | None, site: Site) -> tuple[Tensor, Tensor | None]:
        """The weight and the bias that compute what the frozen module and this one compute together.

        `weight` is ``(d_out, d_in)`` of a linear map, and ``(d,)`` of a norm. Where `site` is before its module, the
        module's input is what is changed. A bias that is given back where there was none is for the caller to refuse.
        """
        ...


def lookup(name: str) -> Method:
    """The method called `name`, or at a dotted path.

    Raises:
        UnknownNameError: there is no such method.
        SettingsError: what stands at the dotted path is no method.
    """
    method: Method = _lookup("method", name, PACKAGE)
    # Asked at once and for all: a trait that is missing would otherwise be found out in the middle of a search.
    missing = [trait for trait in _DECLARED if not hasattr(method, trait)]
    if missing:
        raise SettingsError(
            f"The method {name!r} does not declare {', '.join(missing)}: let its class begin with "
            "`autopeft.methods.Traits`, which has the usual values of some, and give the others."
        )
    return method


def names() -> tuple[str, ...]:
    """Every method that can be named."""
    return tuple(members(PACKAGE))


def sum_of_stored(method: Method, placements: Sequence[tuple[Site, int]]) -> int:
    """What most methods train: exactly what they store."""
    return sum(method.cost(site).stored.at(size) for site, size in placements)
