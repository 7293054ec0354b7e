"""The space for decoders: LoRA at every linear map, its rank by depth, its scale and its rate as choices.

What people choose when they fine-tune a language model: ranks for the maps of attention and for those of the
feed-forward, each in a few bands of neighbouring layers; whether the scale is alpha / r with alpha fixed or falls
with the root of the rank (rsLoRA, arXiv 2312.03732); and the learning rate around a rule of thumb. With 4 bands these
are 10 coordinates, fewer than a shared rank with a switch a band has (12), and every uniform LoRA is a point of them.
More bands are more to learn from the same few trials.

Only LoRA stands in it unless other methods are asked for: it is what can be merged into the weights and what servers
load. The design begins with what is tried first by hand: all-linear LoRA of rank 16 at the rule's rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from autopeft import methods
from autopeft.architecture import ParameterBudget
from autopeft.backbones import LINEAR
from autopeft.errors import SettingsError
from autopeft.spaces._named_space import NamedSpace
from autopeft.spaces.build import BANDS, BackboneLike, stands_at
from autopeft.spaces.choices import Configuration
from autopeft.spaces.dials import with_exponents
from autopeft.spaces.lattice import Axis, SearchSpace

RANKS = (0, 1, 2, 4, 8, 16, 32, 64)

_ATTENTION = ("q", "k", "v", "qkv", "o")
_GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"attention": _ATTENTION, "ffn": tuple(role for role in LINEAR if role not in _ATTENTION)}
)
_EXPONENTS = (0.5, 1.0)
# Alpha 32 at rank 16, the usual start; the two rules agree there, so that neither is a jump from the other.
_ANCHOR, _LEVEL = 16, 2.0

# Rank at attention, rank at the feed-forward, factor on the rate.
_FIRST = (
    (16, 16, 1.0),
    (2, 2, 1.0),
    (16, 16, 2.0),
    (16, 0, 1.0),
    (0, 16, 1.0),
    (64, 64, 1.0),
    (16, 16, 0.5),
    (8, 8, 1.0),
    (1, 1, 1.0),
)


def build(
    backbone: BackboneLike,
    *,
    budget: ParameterBudget | None = None,
    bands: int | None = None,
    axes: Sequence[Axis] = (),
) -> SearchSpace:
    """The space on `backbone`.

    Args:
        bands: how many runs of neighbouring layers have ranks of their own; None for `BANDS`.
        axes: other methods instead of LoRA, with their sizes and roles. One that stands at linear maps has a size for
            attention and one for the feed-forward in each band, any other has one size a band.

    Raises:
        SettingsError: a method has no place there.
        BudgetError: nothing in the space satisfies the budget.
    """
    wanted = axes or [Axis(methods.lookup("lora"))]
    parts = [part for axis in wanted for part in _grouped(backbone, axis)]
    if not parts:
        raise SettingsError("The space 'decoder' stands at linear maps, and this backbone has none that is described.")
    space = SearchSpace.build(backbone, parts, sharing="band", layers="all", budget=budget, bands=bands or BANDS)
    return with_exponents(space, _EXPONENTS, _ANCHOR, _LEVEL)


def first(space: SearchSpace) -> Iterator[Configuration]:
    """What is tried first, as far as the budget allows: uniform LoRA in all linear maps, then its neighbours by hand.

    Other methods of the space are absent and the scale rests at alpha fixed.
    """
    for attention, ffn, factor in _FIRST:
        indices = [space.resting.get(position, 0) for position in range(space.n_choices)]
        for slot in space.slots:
            if slot.method == space.slots[0].method:
                rank = attention if slot.site.split(".")[-1] in _ATTENTION else ffn
                indices[slot.size] = _nearest(space.choices[slot.size].values, rank)
        for dial in space.dials:
            if dial.target == "rate" and not dial.methods:
                indices[dial.choice] = _nearest(space.choices[dial.choice].values, factor)
        found = Configuration(tuple(indices))
        if space.is_feasible(found):
            yield found


def _grouped(backbone: BackboneLike, axis: Axis) -> Iterator[Axis]:
    """One axis a group of roles where the method stands at linear maps; the axis itself elsewhere."""
    method = axis.method
    roles = axis.roles or (LINEAR if set(method.roles) <= set(LINEAR) else method.roles)
    if not method.is_sized or not set(roles) <= set(LINEAR):
        yield axis
        return
    for name, group in _GROUPS.items():
        held = {site.role for site in backbone.sites.values() if stands_at(method, site, roles)}
        if there := tuple(role for role in group if role in held):
            yield Axis(method, axis.sizes or RANKS, there, f"{method.name}-{name}")


def _nearest(values: Sequence[float], wanted: float) -> int:
    return min(range(len(values)), key=lambda index: abs(values[index] - wanted))


MEMBERS = {
    "decoder": NamedSpace(
        name="decoder",
        about="LoRA at attention and at the feed-forward, a rank for each in every band of layers; how the scale falls "
        "with the rank, a factor on all learning rates",
        build=build,
        takes=frozenset({"bands", "methods"}),
        start="baselines",
        n_initial=12,  # about as many as it has coordinates
        rates="rule",
        rate_factors={"all": (0.25, 0.5, 1.0, 2.0, 4.0)},
        first=first,
    )
}
