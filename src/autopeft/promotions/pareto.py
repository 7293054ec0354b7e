"""MO-ASHA: asynchronous successive halving for several objectives (Schmucker et al. 2021, arXiv 2106.12639).

Whenever somebody is free, the rungs are looked at from the highest one: of the n trials that reached a rung the best
n / eta, rounded down, go on, and where none of them waits something new is begun. Best is the lowest non-dominated
rank in metric and cost; within a rank the trials that cover it best come first (the paper's epsilon-net), begun with
the one of the best metric. Nobody is waited for, and nothing has to be known of how many trials there will be. A front
moves as trials come, so that over time more than one in eta goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.objective import Objective
from autopeft.promotions import PromotionSpec
from autopeft.promotions._extrapolation import extrapolated
from autopeft.promotions._promotion import Promotion, Standing, standings
from autopeft.rules import Several, raise_if_any, violations
from autopeft.samplers._propose import with_options
from autopeft.samplers.evolution import non_dominated_ranks
from autopeft.trial import Trial


@dataclass(frozen=True)
class ParetoSettings:
    """Options of `pareto`.

    Args:
        eta: one trial of so many goes on from a rung to the next.
    """

    eta: Several = 3

    def __post_init__(self) -> None:
        raise_if_any("The promotion 'pareto' cannot use these options", violations(self))


class Pareto:
    """See the module."""

    name = "pareto"

    def __init__(self, settings: ParetoSettings) -> None:
        self._settings = settings

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved options."""
        return asdict(self._settings)

    def order(self, trials: Sequence[Trial], cost: Objective) -> list[int]:
        """The waiting ones among the best of each rung, the highest rung first. See `Promotion.order`."""
        found: list[int] = []
        for rung in reversed(standings(trials, cost)):
            # Rounded down, so that nothing goes on before there are enough to choose from.
            best = best_first(rung, cost)[: len(rung) // self._settings.eta]
            found += [one.number for one in best if one.waits]
        return found

    def view(self, trials: Sequence[Trial]) -> list[Trial]:
        """See `autopeft.promotions._extrapolation`."""
        return extrapolated(trials)


def best_first(rung: Sequence[Standing], cost: Objective) -> list[Standing]:
    """By non-dominated rank, and within a rank those first that cover it best."""
    if not rung:
        return []
    # Imported here, since a command that names any promotion imports this file, and scipy.stats takes half a second.
    from scipy.stats import rankdata

    # Ranks, not values: the cost spans powers of ten, and one collapsed run would squeeze all others together.
    values = np.array([(one.value, cost.maximised(one.cost)) for one in rung])
    places = np.column_stack([rankdata(column) for column in values.T])
    fronts = non_dominated_ranks(values)
    found: list[Standing] = []
    for front in np.unique(fronts):
        members = np.flatnonzero(fronts == front)
        found += [rung[members[place]] for place in covering(places[members])]
    return found


def covering(points: NDArray[np.float64]) -> list[int]:
    """Places of `points`, ``(n, m)``: the highest in the first column, then always the one farthest from all before.

    Of several equal ones the first: the order is a function of the points alone.
    """
    chosen = [int(np.argmax(points[:, 0]))]
    distances = np.full(len(points), np.inf)
    while len(chosen) < len(points):
        distances = np.minimum(distances, np.linalg.norm(points - points[chosen[-1]], axis=1))
        # Below every distance, so that of several equal points each is taken once.
        distances[chosen] = -1.0
        chosen.append(int(np.argmax(distances)))
    return chosen


def build(**options: Any) -> Promotion:
    """MO-ASHA with `options` (fields of `ParetoSettings`)."""
    return Pareto(with_options(ParetoSettings(), options, Pareto.name))


MEMBERS = {
    "pareto": PromotionSpec(
        "pareto", build, "Of the trials at a rung one in eta goes on, by non-dominated rank (MO-ASHA)"
    )
}
