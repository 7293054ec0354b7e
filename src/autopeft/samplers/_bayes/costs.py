"""What Bayesian optimisation knows of the cost of a configuration before it is measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property

import numpy as np

from autopeft.architecture import SUMMED, Counts, ParameterBudget
from autopeft.errors import BudgetError
from autopeft.objective import replaced
from autopeft.objectives import Costing
from autopeft.samplers._bayes.outcome import CostAxis, CostScale, Values
from autopeft.spaces.lattice import Configuration, SearchSpace

# Beyond the reference of a band, so that what lies there neither is improved upon nor improves anything.
_OUTSIDE = 2.0


class LatticeCosts:
    """Costs of configurations on the axis that the hypervolume is spanned on.

    Nominal and stored parameters are sums over the lattice, so that thousands of configurations are priced in one step.
    Other costs that are known before training are asked for one architecture at a time, and kept.

    Attributes:
        objective: what is minimised.
        is_known: False where only a measurement tells; then the cost has to be modelled, and `positions` is not asked.
        band: costs that are all alike while all others are worth nothing, or None for the axis of `scale`.
        aim: what is proposed from: the space, or the part of it within the band.

    Args:
        share: of the space's budget, from which on the band reaches up to it; None to seek a front of all costs.
    """

    def __init__(self, space: SearchSpace, scale: CostScale, costing: Costing, share: float | None = None) -> None:
        self._space, self._scale, self._costing = space, scale, costing
        self.objective = costing.objective
        kind = self.objective.count
        self._kind = kind if kind in SUMMED else None
        self.is_known = self._kind is not None or costing.price is not None
        self._kept: dict[tuple[int, ...], float] = {}
        self.band = None if share is None else self._sought(share)
        self.aim = space if self.band is None else space.within(self.band)

    def _sought(self, share: float) -> ParameterBudget | None:
        """The band of the space's budget; None where it has none, or one of another count than is minimised."""
        limit = self._space.budget
        if limit is None or limit.count != self._kind:
            return None
        # Whoever gave a least cost has said what the band is.
        band = replace(limit, least=limit.least or math.ceil(share * limit.most))
        try:
            self._space.within(band)
        except BudgetError:
            return None  # the space ends below half of the budget, or has a gap there
        return band

    def under(self, most: float) -> LatticeCosts:
        """The same, but that costs up to `most` are all alike and all others are worth nothing.

        Returns:
            Itself where the cost is no sum over the lattice, or the space has a budget of another count.
        """
        limit = self._space.budget
        if self._kind is None or (limit is not None and limit.count != self._kind):
            return self
        low, high = self._space.cost_range(self._kind)
        allowed = high if limit is None else min(limit.most, high)
        # The space's own budget stays a hard limit, its lower end too.
        found, held = copy(self), 0 if limit is None else limit.least
        found.band = ParameterBudget(round(max(1, low, held, min(most, allowed))), held, self._kind)
        try:
            found.aim = self._space.within(found.band)
        except BudgetError:
            return self  # nothing that is allowed is so cheap
        return found

    @cached_property
    def axis(self) -> CostAxis:
        """Where costs lie between the cheapest and the dearest."""
        if self._kind is not None:
            return CostAxis.of(self._space, self._scale, self._kind)
        return CostAxis.priced(self._space, self._scale, self._price)

    def positions(self, configurations: Sequence[Configuration]) -> Values:
        """Positions on the axis, smaller is better; ``(n,)``."""
        if self._kind is not None:
            rows = np.array([c.indices for c in configurations], dtype=np.int64).reshape(-1, self._space.n_choices)
            costs = self._space.costs(rows, self._kind)
            if self.band is not None:
                # All at one place: the hypervolume that a candidate adds is what it improves the best value by.
                return np.where((costs >= self.band.least) & (costs <= self.band.most), 0.0, _OUTSIDE)
            return self.axis(costs)
        return self.axis(np.array([self._price(one) for one in configurations], dtype=np.float64))

    @property
    def farthest(self) -> float:
        """The reference on the axis."""
        return 1.0 if self.band is not None else self.axis.worst

    def worst(self, counts: Counts) -> float | None:
        """The largest cost that is allowed, in the unit of the objective; None where only a measurement tells.

        Args:
            counts: of any architecture on the same backbone.
        """
        if not self.is_known:
            return None
        if self._kind is not None and self.objective.counted is not None:
            return self.objective.counted(replaced(counts, int(self.axis.high)))
        return self.axis.high

    def _price(self, configuration: Configuration) -> float:
        key = self._space.identity(configuration)
        if key not in self._kept:
            assert self._costing.price is not None  # `is_known` said so
            price = self._costing.price(self._space.decode(configuration))
            assert price is not None  # and so did the objective
            self._kept[key] = price
        return self._kept[key]
