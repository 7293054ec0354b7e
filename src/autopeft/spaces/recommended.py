"""The space that is recommended: what a careful person would try, and everything between.

AutoPEFT's three methods (arXiv 2301.12132, section 3.1) with LoRA beside them, at the query and value maps and, by a
size of its own, at all other linear maps; DoRA, BitFit and LNFit. So every uniform baseline is a point of the space.
One size a method, shared by the layers that are on, one Boolean a layer, and one factor on all learning rates. And how
it is trained, which on few data decides more than all of these: an eighth to all of the examples a step, and dropout
or none.

Sizes are powers of 2: the cost of a module is proportional to its size, and twice the size is the least step that a
front shows. What a backbone has no place for is left out, and a line of the log says so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autopeft import methods
from autopeft.architecture import ParameterBudget
from autopeft.backbones import LINEAR, Backbone, Site
from autopeft.errors import SettingsError
from autopeft.spaces._named_space import NamedSpace
from autopeft.spaces.build import stands_at
from autopeft.spaces.lattice import Axis, SearchSpace

log = logging.getLogger(__name__)

_RANKS = (1, 2, 4, 8, 16, 32, 64)
_TOKENS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Part:
    """One choice of size: a method, the roles where it stands (its own when empty), and what the choice is called."""

    method: str
    sizes: tuple[int, ...] | None
    roles: tuple[str, ...] = ()
    label: str = ""


def build(
    backbone: Backbone, *, budget: ParameterBudget | None = None, bands: int | None = None, axes: Sequence[Axis] = ()
) -> SearchSpace:
    """The space on `backbone`; `bands` and `axes` are not looked at.

    Raises:
        SettingsError: no method of it has a place there.
        BudgetError: nothing in the space satisfies the budget.
    """
    axes, missing = [], []
    for part in _parts(backbone.hidden_size):
        sites = list(_places(backbone, part))
        if sites:
            roles = tuple(dict.fromkeys(site.role for site in sites))
            axes.append(Axis(methods.lookup(part.method), part.sizes, roles, part.label))
        else:
            missing.append(part.label or part.method)
    if missing:
        log.warning("The recommended space is without %s: no place on %s.", ", ".join(missing), backbone.name)
    if not axes:
        raise SettingsError(f"No method of the recommended space has a place on {backbone.name}.")
    return SearchSpace.build(backbone, axes, budget=budget)


def _parts(hidden_size: int) -> Iterator[Part]:
    widths = _halved(hidden_size // 2)
    attention = methods.lookup("lora").roles
    yield Part("lora", (0, *_RANKS))
    yield Part("lora", (0, *_RANKS), tuple(role for role in LINEAR if role not in attention), "lora-rest")
    yield Part("dora", (0, *_RANKS))
    yield Part("serial", (0, *widths))
    yield Part("parallel", (0, *widths))
    yield Part("prefix", (0, *_TOKENS))
    yield Part("bitfit", None)
    yield Part("lnfit", None)


def _halved(largest: int) -> tuple[int, ...]:
    """`largest` and its halvings down to 1, increasing."""
    return tuple(sorted({max(1, largest >> k) for k in range(largest.bit_length())}))


def _places(backbone: Backbone, part: Part) -> Iterator[Site]:
    """Where the part may stand; of attentions those alone that take a prefix."""
    method = methods.lookup(part.method)
    for site in backbone.sites.values():
        is_reached = site.seam != "kv" or site.key in backbone.reached
        if stands_at(method, site, part.roles or None) and site.seam == method.seam and is_reached:
            yield site


MEMBERS = {
    "recommended": NamedSpace(
        name="recommended",
        about="LoRA at q, v and at the other linear maps, DoRA, serial, parallel, prefix, BitFit, LNFit: a size for "
        "each, a switch for every layer, factors on all learning rates and on the examples a step, dropout or none",
        build=build,
        start="baselines",
        rates="card",
        rate_factors={"all": (1 / 3, 1.0, 3.0)},
        batch_factors=(0.125, 0.25, 0.5, 1.0),
        dropout_factors=(0, 1),
    )
}
