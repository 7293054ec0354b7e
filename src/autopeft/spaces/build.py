"""How a search space comes from a backbone and the methods that may stand at its sites.

The space knows no model: costs are numbers that are asked from the methods here, once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from autopeft.architecture import Cost
from autopeft.errors import SettingsError
from autopeft.spaces.choices import Choice, Slot

Sharing = Literal["shared", "layer", "placement", "band"]

BANDS = 4
"""Runs of neighbouring layers with sizes of their own, where nothing else is said."""


class SiteLike(Protocol):
    """What the space asks of a site of the backbone."""

    @property
    def key(self) -> str: ...
    @property
    def stack(self) -> str: ...
    @property
    def layer(self) -> int | None: ...
    @property
    def role(self) -> str: ...
    @property
    def seam(self) -> str: ...


class BackboneLike(Protocol):
    """What the space asks of a backbone."""

    @property
    def sites(self) -> Mapping[str, Any]: ...
    @property
    def hidden_size(self) -> int: ...


class MethodLike(Protocol):
    """What the space asks of a method."""

    @property
    def name(self) -> str: ...
    @property
    def roles(self) -> tuple[str, ...]: ...
    @property
    def is_sized(self) -> bool: ...
    @property
    def stacks(self) -> tuple[str, ...]: ...
    @property
    def seam(self) -> str: ...
    def cost(self, site: Any) -> Cost: ...


def stands_at(method: MethodLike, site: SiteLike, roles: Sequence[str] | None = None) -> bool:
    """Whether `method` may stand at `site`: it has one of `roles` (its own when None), in a stack that it is for."""
    return site.role in (roles or method.roles) and (not method.stacks or site.stack in method.stacks)


@dataclass(frozen=True)
class Axis:
    """One method of a space, or of two with different labels one part of its places.

    Args:
        sizes: those that are usual for the method when None; 0 among them means absent.
        roles: where it stands; the method's own when None.
        label: what its choices of a size are called; the method's name when empty.
    """

    method: MethodLike
    sizes: tuple[int, ...] | None = None
    roles: tuple[str, ...] | None = None
    label: str = ""


def binary_logarithmic_sizes(hidden_size: int) -> tuple[int, ...]:
    """0 and the halvings of the hidden size down to 1: 11 values for 768, 12 for 1024 (AutoPEFT, section 3.1)."""
    # The paper prints the values for two models and no rule; both lists are the halvings, rounded down, without
    # repeats.
    halvings = {max(1, hidden_size >> k) for k in range(hidden_size.bit_length())}
    return (0, *sorted(halvings))


class Builder:
    """Collects choices in the order in which they are first needed: layers first, as the papers list them.

    Attributes:
        slots: the places where a module may stand, so far.
    """

    def __init__(self, sharing: Sharing, is_layer_searched: bool, bands: int = 1) -> None:
        if sharing not in ("shared", "layer", "placement", "band"):
            raise SettingsError(f"sharing is 'shared', 'layer', 'placement' or 'band', but got {sharing!r}.")
        self.sharing, self.is_layer_searched, self.bands = sharing, is_layer_searched, bands
        self._choices: dict[str, Choice] = {}
        self.slots: list[Slot] = []
        self._prefixes: dict[str, str] = {}  # site to method, at the key/value seam

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The coordinates of the space, so far."""
        return tuple(self._choices.values())

    def add(self, backbone: BackboneLike, axis: Axis, allowed: frozenset[int] | None) -> None:
        """Add a slot for every site where the method of `axis` may stand, in the layers that are `allowed`.

        Raises:
            SettingsError: it stands nowhere, or `attach` would refuse it at one of its sites.
        """
        method = axis.method
        roles = axis.roles or method.roles
        sites = [site for site in backbone.sites.values() if stands_at(method, site, roles)]
        sites = [site for site in sites if allowed is None or site.layer in allowed]
        if not sites:
            known = sorted({site.role for site in backbone.sites.values()})
            raise SettingsError(
                f"The method {method.name!r} stands at {', '.join(roles)}, "
                f"but this backbone has only {', '.join(known)}."
            )
        default = binary_logarithmic_sizes(backbone.hidden_size) if method.is_sized else (0, 1)
        # Sorted, as samplers take the next index for the next larger size.
        sizes = tuple(sorted(set(axis.sizes or default)))
        wrong = [*self._misplaced(method, sites), *_misfitting(method, sizes)]
        if wrong:
            raise SettingsError(f"The method {method.name!r} does not fit this space: {'; '.join(wrong)}.")
        for site in sites:
            self._switch(site)
        depth = _depths(backbone)
        for site in sites:
            self._add_slot(axis, site, sizes, depth[site.stack])

    def _misplaced(self, method: MethodLike, sites: Sequence[SiteLike]) -> list[str]:
        """What `attach` would refuse at the first trial: to be told before there is a study."""
        wrong = []
        other = sorted({site.role for site in sites if site.seam != method.seam})
        if other:
            wrong.append(f"it stands at {', '.join(method.roles)}, not at {', '.join(other)}")
        if method.seam == "kv":
            there = sorted({self._prefixes[site.key] for site in sites if site.key in self._prefixes})
            wrong += [f"a layer holds one kind of prefix, and there is {name!r} already" for name in there]
            self._prefixes |= {site.key: method.name for site in sites}
        return wrong

    def _switch(self, site: SiteLike) -> int | None:
        if not self.is_layer_searched or site.layer is None:
            return None
        return self._index(f"layer.{site.stack}.{site.layer}", (0, 1))

    def _add_slot(self, axis: Axis, site: SiteLike, sizes: tuple[int, ...], depth: int) -> None:
        suffix = {
            "shared": "",
            "layer": f"@{site.stack}.{site.layer}",
            "placement": f"@{site.key}",
            "band": f"@{_band(site, depth, self.bands)}",
        }[self.sharing]
        method = axis.method
        size = self._index((axis.label or method.name) + suffix, sizes)
        self.slots.append(Slot(method.name, site.key, method.cost(site), size, self._switch(site)))

    def _index(self, name: str, values: tuple[int, ...]) -> int:
        # The name is the identity: slots that share a choice ask for it by one name, and a dictionary keeps the order.
        self._choices.setdefault(name, Choice(name, values))
        return list(self._choices).index(name)


def _depths(backbone: BackboneLike) -> dict[str, int]:
    """How many layers each stack has; 0 for places that are in none."""
    found: dict[str, int] = {}
    for site in backbone.sites.values():
        found[site.stack] = max(found.get(site.stack, 0), 0 if site.layer is None else site.layer + 1)
    return found


def _band(site: SiteLike, depth: int, bands: int) -> str:
    """The neighbouring layers that share a size with the site's, such as "decoder.0-7"; the stack outside of layers."""
    if site.layer is None:
        return site.stack
    # In whole numbers, so that every layer is in one band and bands differ by one layer at the most.
    n = min(bands, depth)
    inside = [layer for layer in range(depth) if layer * n // depth == site.layer * n // depth]
    return f"{site.stack}.{inside[0]}-{inside[-1]}"


def _misfitting(method: MethodLike, sizes: tuple[int, ...]) -> list[str]:
    if not sizes[-1]:
        return [f"its sizes {list(sizes)} hold nothing above 0"]
    if not method.is_sized and sizes[-1] > 1:
        return [f"its only size is 1, but got {list(sizes)}"]
    return []


def check_layers(backbone: BackboneLike, allowed: frozenset[int] | None) -> None:
    """Refuse layers that the backbone does not have.

    Raises:
        SettingsError: one of `allowed` is none of its layers.
    """
    known = {site.layer for site in backbone.sites.values()}
    wrong = sorted((allowed or frozenset()) - known)
    if wrong:
        last = max(layer for layer in known if layer is not None)
        raise SettingsError(f"Layers are numbered 0 to {last}, but got {', '.join(map(str, wrong))}.")
