"""Median stopping (Golovin et al. 2017, Google Vizier, section 3.2) for a metric and a cost.

A trial goes on from its rung unless it is worth less there than the median of the trials that reached the rung and
cost no more than it: a cheap trial is not asked to be as good as a dear one. Milder than successive halving, and of
use where rungs say little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from autopeft.objective import Objective
from autopeft.promotions import PromotionSpec
from autopeft.promotions._extrapolation import extrapolated
from autopeft.promotions._promotion import Promotion, Standing, standings
from autopeft.rules import Count, raise_if_any, violations
from autopeft.samplers._propose import with_options
from autopeft.trial import Trial


@dataclass(frozen=True)
class MedianSettings:
    """Options of `median`.

    Args:
        fewest: trials with which one is compared at least; with fewer it goes on.
    """

    fewest: Count = 5

    def __post_init__(self) -> None:
        raise_if_any("The promotion 'median' cannot use these options", violations(self))


class Median:
    """See the module."""

    name = "median"

    def __init__(self, settings: MedianSettings) -> None:
        self._settings = settings

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved options."""
        return asdict(self._settings)

    def order(self, trials: Sequence[Trial], cost: Objective) -> list[int]:
        """The waiting ones that are not stopped, the highest rung first. See `Promotion.order`."""
        found: list[int] = []
        for rung in reversed(standings(trials, cost)):
            found += [one.number for one in rung if one.waits and not self._is_stopped(one, rung, cost)]
        return found

    def view(self, trials: Sequence[Trial]) -> list[Trial]:
        """See `autopeft.promotions._extrapolation`."""
        return extrapolated(trials)

    def _is_stopped(self, one: Standing, rung: Sequence[Standing], cost: Objective) -> bool:
        # Its own value is left out: with few trials it would pull the median towards itself.
        others = [o.value for o in rung if o.number != one.number and not cost.better(one.cost, o.cost)]
        return len(others) >= self._settings.fewest and one.value < median(others)


def build(**options: Any) -> Promotion:
    """Median stopping with `options` (fields of `MedianSettings`)."""
    return Median(with_options(MedianSettings(), options, Median.name))


MEMBERS = {
    "median": PromotionSpec(
        "median", build, "A trial goes on unless it is below the median of what costs no more (Vizier)"
    )
}
