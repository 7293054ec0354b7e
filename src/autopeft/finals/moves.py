"""Moves of units between the layers, or between the modules, of an architecture, at no more than its cost.

A move takes half or all of what a method has in one layer (or at one kind of module) and gives it to another, as many
units as the freed parameters pay for. What a move promises is estimated from the importance of every placement, the
sum of |w dL/dw| over its parameters. As in one-shot selection, k units are taken to be worth s times the root of k: the
first unit of a place brings most, so that emptying one layer for another has to be paid for by a large difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from autopeft.architecture import Architecture, Placement
from autopeft.backbones import LINEAR, Backbone, Site
from autopeft.methods import Method, is_readable, lookup
from autopeft.spaces.build import stands_at

Key = tuple[str, str]
"""A site and a method."""

SHARES = (0.5, 1.0)
"""Of the giver's units that a move takes."""


@dataclass(frozen=True)
class Move:
    """One neighbour of an architecture.

    Args:
        told: what is moved, in words, layers counted from 1.
        architecture: the neighbour.
        promise: what the importances say that it gains; only the order means something.
    """

    told: str
    architecture: Architecture
    promise: float


def places(architecture: Architecture, backbone: Backbone) -> dict[Key, int]:
    """Where the sized methods of `architecture` stand or might stand, and their units there, 0 for none.

    That is every layer of the roles that a method has; and of what stands at linear maps, every linear map.
    """
    units = {(item.site, item.method): item.size for item in architecture}
    found: dict[Key, int] = {}
    for name in architecture.methods:
        method = lookup(name)
        if not method.is_sized:
            continue
        roles = {backbone.site(site).role for site, held in units if held == name}
        roles |= set(LINEAR) if set(method.roles) <= set(LINEAR) else set()
        found |= {
            (site.key, name): units.get((site.key, name), 0)
            for site in backbone.sites.values()
            if _may_stand(method, site, tuple(roles), backbone)
        }
    return found


def _may_stand(method: Method, site: Site, roles: tuple[str, ...], backbone: Backbone) -> bool:
    if site.layer is None or site.seam != method.seam or not stands_at(method, site, roles):
        return False
    return site.key in backbone.reached if site.seam == "kv" else is_readable(method.reads, site)


def widened(architecture: Architecture, backbone: Backbone) -> Architecture:
    """`architecture` with one unit wherever `places` has none, so that every place has an importance."""
    more = [Placement(site, name, 1) for (site, name), units in places(architecture, backbone).items() if not units]
    return Architecture((*architecture, *more))


def moves(architecture: Architecture, backbone: Backbone, importance: Mapping[Key, float]) -> list[Move]:
    """All neighbours, what promises most first; each pair of a giver and a taker once, by its more promising share.

    Args:
        importance: of every placement of `widened`.
    """
    held = places(architecture, backbone)
    # The importance of k units is s times the root of k, so that this is s.
    worth = {key: importance[key] / math.sqrt(max(units, 1)) for key, units in held.items()}
    best: dict[Architecture, Move] = {}
    for giver, taker, told in _pairs(held, backbone):
        found = [_moved(architecture, backbone, giver, taker, share) for share in SHARES]
        tried = [
            Move(f"{_part(share)} of {told}", one, _promise(held, places(one, backbone), worth))
            for share, one in zip(SHARES, found, strict=True)
            if one is not None
        ]
        if tried:
            chosen = max(tried, key=lambda move: move.promise)
            best.setdefault(chosen.architecture, chosen)
    return sorted(best.values(), key=lambda move: (-move.promise, move.told))


def _part(share: float) -> str:
    return "all" if share == 1 else "half"


def _pairs(held: Mapping[Key, int], backbone: Backbone) -> Iterator[tuple[list[Key], list[Key], str]]:
    """Givers and takers: a method's layers among one another, and its roles among one another."""
    groups: dict[tuple[str, str, str], list[Key]] = {}
    for site, name in held:
        where = backbone.site(site)
        # A layer of a decoder is another one than that of the encoder with its number.
        number = f"layer {(where.layer or 0) + 1}"
        layer = number if where.stack == "encoder" else f"{where.stack} {number}"
        groups.setdefault((name, "layer", layer), []).append((site, name))
        groups.setdefault((name, "role", where.role), []).append((site, name))
    for (name, kind, giver), keys in groups.items():
        if not any(held[key] for key in keys):
            continue
        for (other, same, taker), others in groups.items():
            if (other, same) == (name, kind) and taker != giver:
                yield keys, others, f"{name} from {giver} to {taker}"


def _moved(
    architecture: Architecture, backbone: Backbone, giver: list[Key], taker: list[Key], share: float
) -> Architecture | None:
    """The neighbour; None where nothing would be moved."""
    held = places(architecture, backbone)
    units = {**held, **{key: held[key] - math.ceil(share * held[key]) for key in giver}}
    freed = sum(_cost(backbone, key, held[key]) - _cost(backbone, key, units[key]) for key in giver)
    # Roles that the giving layer lacks stay away from the taking one: a move changes where, and not what.
    used = {backbone.site(key[0]).role for key in giver if held[key]}
    inside = [key for key in taker if held[key] or backbone.site(key[0]).role in used or _is_role(giver, backbone)]
    more = _spent(backbone, {key: units[key] for key in inside}, freed)
    return None if more == {key: units[key] for key in inside} else _with_units(architecture, units | more)


def _spent(backbone: Backbone, units: Mapping[Key, int], freed: int) -> dict[Key, int]:
    """`units` and as many more as `freed` parameters pay for: rounds of one unit to all of them, then one to each."""
    found = dict(units)

    def price(key: Key) -> int:
        return _cost(backbone, key, found[key] + 1) - _cost(backbone, key, found[key])

    while found and sum(map(price, found)) <= freed:
        freed -= sum(map(price, found))
        found = {key: n + 1 for key, n in found.items()}
    for key in found:
        if price(key) <= freed:
            freed -= price(key)
            found[key] += 1
    return found


def _is_role(keys: list[Key], backbone: Backbone) -> bool:
    """Whether a group is one role in several layers."""
    return len({backbone.site(site).role for site, _ in keys}) == 1 and len(keys) > 1


def _cost(backbone: Backbone, key: Key, units: int) -> int:
    site, name = key
    return lookup(name).cost(backbone.site(site)).nominal.at(units) if units else 0


def _with_units(architecture: Architecture, units: Mapping[Key, int]) -> Architecture:
    """`architecture` with these units; what is new stands at its method's scale of elsewhere."""
    scales = {item.method: item.scale for item in architecture}
    kept = [
        replace(item, size=units.get((item.site, item.method), item.size))
        for item in architecture
        if units.get((item.site, item.method), item.size)
    ]
    known = {(item.site, item.method) for item in kept}
    more = [Placement(*key, n, scales[key[1]]) for key, n in units.items() if n and key not in known]
    return Architecture((*kept, *more))


def _promise(before: Mapping[Key, int], after: Mapping[Key, int], worth: Mapping[Key, float]) -> float:
    # A place that the neighbour does not know any more has no units there.
    return math.fsum(s * (math.sqrt(after.get(key, 0)) - math.sqrt(before[key])) for key, s in worth.items())
