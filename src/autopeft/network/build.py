"""The modules of an architecture: what they cost, whether they fit, and how they are made; nothing is hooked in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from torch import nn

from autopeft import methods
from autopeft.architecture import Architecture, Cost, Counts, total
from autopeft.backbones import Backbone, Site
from autopeft.errors import ArchitectureError
from autopeft.methods import HasScale, Method, is_readable, unreadable
from autopeft.spaces.build import stands_at

Key = tuple[str, str]  # (site, method)


def prices(backbone: Backbone, architecture: Architecture) -> list[tuple[Cost, int]]:
    """The cost and the size of every placement."""
    return [(methods.lookup(p.method).cost(backbone.site(p.site)), p.size) for p in architecture]


def count(backbone: Backbone, architecture: Architecture, head: int = 0) -> Counts:
    """The three parameter counts, exact, without building anything.

    Args:
        head: parameters of the task head, which enter `trained` only.
    """
    priced = prices(backbone, architecture)
    trained = head
    for method, sized in _by_method(backbone, architecture):
        # By method and not by placement, since the trunk of a prefix's reparametrisation is trained once for all sites.
        trained += method.trained(sized)
    return Counts(total(priced, "nominal"), total(priced, "stored"), trained, backbone.n_parameters)


def _by_method(backbone: Backbone, architecture: Architecture) -> Iterator[tuple[Method, list[tuple[Site, int]]]]:
    # Modules draw their first weights one after the other, so their order must not depend on how placements are sorted.
    order = {key: position for position, key in enumerate(backbone.sites)}
    for name in architecture.methods:
        placed = [(backbone.site(p.site), p.size) for p in architecture if p.method == name]
        yield methods.lookup(name), sorted(placed, key=lambda pair: order[pair[0].key])


def build(backbone: Backbone, architecture: Architecture) -> dict[Key, nn.Module]:
    """Fresh modules by (site, method), initialised from torch's current generator.

    Raises:
        ArchitectureError, UnknownNameError, BackboneError: as `attach`.
    """
    _check(backbone, architecture)
    modules: dict[Key, nn.Module] = {}
    # DoRA starts from the lengths of the frozen weight's rows, so that a method is given the modules it stands at.
    frozen = {key: backbone.module(backbone.site(key).entry) for key in {placement.site for placement in architecture}}
    for method, placed in _by_method(backbone, architecture):
        modules.update({(site, method.name): module for site, module in method.build(placed, frozen).items()})
    # Multiplied afterwards, so that what a module starts from does not depend on its scale: candidates that differ in
    # it alone are compared from the same random numbers.
    for placement in architecture:
        module = modules.get((placement.site, placement.method))
        if placement.scale != 1 and isinstance(module, HasScale):
            module.scale *= placement.scale
    return modules


def stored_shapes(backbone: Backbone, architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """The shapes of what `Attached.state` gives after folding, by name; nothing takes memory.

    Raises:
        ArchitectureError, UnknownNameError, BackboneError: as `attach`.
    """
    # Everything is built as it would be, so a shape can never be computed by a second rule that differs.
    with torch.device("meta"):
        modules = build(backbone, architecture)
    found = {}
    if any(methods.lookup(name).seam == "backbone" for name in architecture.methods):
        found = {f"model/full/{name}": tuple(value.shape) for name, value in backbone.own_parameters().items()}
    for (site, method), module in modules.items():
        fold(module)
        found.update({f"{site}/{method}/{name}": tuple(p.shape) for name, p in module.named_parameters()})
    return found


def fold(module: nn.Module) -> None:
    """Replace what `module` trains for the sake of training by what has to be stored; most have nothing of the kind."""
    fold = getattr(module, "fold", None)
    if fold is not None:
        fold()


def _check(backbone: Backbone, architecture: Architecture) -> None:
    wrong = []
    for placement in architecture:
        method, site = methods.lookup(placement.method), backbone.site(placement.site)
        if method.seam == "backbone" and backbone.quantized:
            wrong.append(f"{placement}: weights in {backbone.quantized} take no gradients, load them as they are")
        elif method.seam != site.seam:
            wrong.append(f"{placement}: {method.name} stands at {', '.join(method.roles)}")
        elif not stands_at(method, site, [site.role]):
            wrong.append(f"{placement}: {method.name} stands in {' and '.join(method.stacks)} stacks only")
        elif method.seam == "delta" and not is_readable(method.reads, site):
            wrong.append(f"{placement}: {unreadable(method.name, site)}")
        elif method.seam == "kv" and site.key not in backbone.reached:
            wrong.append(f"{placement}: the attention there takes no prefix in this release, so it would do nothing")
        elif not method.is_sized and placement.size != 1:
            wrong.append(f"{placement}: the only size of {method.name} is 1")
        elif not method.has_scale and placement.scale != 1:
            wrong.append(f"{placement}: {method.name} has no scale")
    # An attention has room for one prefix: a second would take its place without a word.
    prefixed = [p.site for p in architecture if methods.lookup(p.method).seam == "kv"]
    wrong += [f"{site} holds two prefixes" for site, n in Counter(prefixed).items() if n > 1]
    if wrong:
        raise ArchitectureError(f"These placements do not fit {backbone.name}: {'; '.join(sorted(wrong))}.")
