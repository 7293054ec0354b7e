"""Full fine-tuning: every weight of the backbone is trained. A baseline that costs 100 %."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from autopeft.architecture import Cost, Line
from autopeft.backbones import Seam, Site
from autopeft.methods import Frozen, Reads, Traits, sum_of_stored


@dataclass(frozen=True)
class FullFineTuning(Traits):
    """Unfreezes the backbone. Stands at the site ``model`` only; `attach` keeps a copy of the weights to restore."""

    name: str = "full"
    roles: tuple[str, ...] = ("model",)
    seam: Seam = "backbone"
    # It takes part in no order: it changes the frozen maps themselves, before any delta sees their output.
    order: int = 0
    reads: Reads = Reads.INPUT
    is_sized: bool = False

    def cost(self, site: Site) -> Cost:
        """Every parameter of the backbone."""
        return Cost(nominal=Line(site.d_out, 0), stored=Line(site.d_out, 0))

    def trained(self, placements: Sequence[tuple[Site, int]]) -> int:
        """Every parameter of the backbone."""
        return sum_of_stored(self, placements)

    def build(self, placements: Sequence[tuple[Site, int]], frozen: Frozen) -> Mapping[str, nn.Module]:
        """Nothing is added to the network."""
        return {}


MEMBERS = {"full": FullFineTuning(about="full fine-tuning: every weight of the backbone")}
