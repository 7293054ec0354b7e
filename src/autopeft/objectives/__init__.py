"""Costs that a search can minimise beside the metric, one file each.

A file exports ``MEMBERS = {"its-name": Objective(...)}``; nothing else is edited. See `autopeft.objective.Objective`
for what an objective says of itself.
"""

from __future__ import annotations

from autopeft.objectives._bench import Bench, Probe
from autopeft.objectives._costing import PACKAGE, Costing, largest_fact, lookup, names, recorded
from autopeft.objectives.parameters import NOMINAL, nominal

__all__ = ["NOMINAL", "PACKAGE", "Bench", "Costing", "Probe", "largest_fact", "lookup", "names", "nominal", "recorded"]
