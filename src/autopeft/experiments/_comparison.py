"""Rival samplers over several seeds: what their finished searches say, in numbers.

All hypervolumes of a comparison share one reference point, so that curves of different seeds can be averaged: the
largest reference cost and the lowest reference metric of its cells. Rivals of one seed share the initial design, so
differences are taken seed by seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.architecture import Architecture, Counts
from autopeft.candidate import Changes
from autopeft.errors import DataError
from autopeft.objective import Measurement, Objective, Scale
from autopeft.objectives import NOMINAL, lookup
from autopeft.paired import Paired, paired
from autopeft.pictures.hypervolume import volumes
from autopeft.spaces.lattice import Configuration
from autopeft.trial import Failure, Trial, TrialState, front_of, with_cost

Cell = Mapping[str, Any]
"""One finished search as `autopeft.experiments.compare.search_result` wrote it."""


def trial_from_cell(row: Mapping[str, Any], cell: Cell) -> Trial:
    """A trial of a finished search. A cell keeps neither times of day, nor messages of failures, nor memory.

    Args:
        row: an entry of the cell's ``trials``.
    """
    measurement, failure = None, None
    if "value" in row:
        measurement = Measurement(
            metrics={cell["objective"]: row["value"]},
            objective=cell["objective"],
            counts=Counts(**row["counts"]),
            seconds=row["seconds"],
            peak_memory=0,
            latency=row["latency"],
            split="validation",
            costs=row.get("costs", {}),
        )
    else:
        failure = Failure(row["failure"] or "preempted", "The message is in the study.")
    return Trial(
        number=row["number"],
        configuration=Configuration(tuple(row["indices"])),
        architecture=Architecture.from_dict(row["architecture"]),
        changes=Changes.from_dict(row.get("changes", {})),
        state=TrialState.COMPLETE if measurement else TrialState.FAILED,
        origin=row["origin"],
        seed=cell["settings"]["seed"],
        measurement=measurement,
        failure=failure,
        proposal_seconds=row["proposal_seconds"],
    )


def trials_of(cell: Cell) -> tuple[Trial, ...]:
    """All trials of a finished search, in order of number."""
    return tuple(trial_from_cell(row, cell) for row in cell["trials"])


@dataclass(frozen=True, eq=False)
class Comparison:
    """Finished searches of rival samplers.

    Args:
        runs: sampler to seed to its trials; samplers without a finished search are left out.
        reference: worst cost and worst metric, one for all.
        against: the sampler that the others are compared with.
        cost: what the searches minimised.
    """

    runs: Mapping[str, Mapping[int, tuple[Trial, ...]]]
    reference: tuple[float, float]
    against: str
    cost: Objective = NOMINAL

    def curve(self, sampler: str, seed: int, scale: Scale = "linear") -> NDArray[np.float64]:
        """Hypervolume after each finished trial; a failed one leaves it unchanged."""
        return volumes(self.runs[sampler][seed], self.reference, scale, self.cost)

    def finals(self, sampler: str, scale: Scale = "linear") -> dict[int, float]:
        """Final hypervolume by seed; none for a sampler without a finished search."""
        return {seed: float(self.curve(sampler, seed, scale)[-1]) for seed in self.runs.get(sampler, {})}

    def difference(self, sampler: str, scale: Scale = "linear") -> Paired:
        """Final hypervolume of `sampler` less that of `against`."""
        return paired(self.finals(sampler, scale), self.finals(self.against, scale))

    def left(self, sampler: str, scale: Scale = "linear") -> Paired:
        """What is left of `difference` once each run of `against` is given one trial of `sampler`'s run of that seed:
        the cheapest point of its front. A lead that rests on one tiny module is gone then."""
        mine, theirs = self.runs.get(sampler, {}), self.runs.get(self.against, {})
        given = {
            seed: (*theirs[seed], *(trial for trial in mine[seed] if trial.number == _cheapest(mine[seed], self.cost)))
            for seed in set(mine) & set(theirs)
        }
        raised = {seed: float(volumes(trials, self.reference, scale, self.cost)[-1]) for seed, trials in given.items()}
        return paired(self.finals(sampler, scale), raised)

    def reached(self, sampler: str, seed: int, scale: Scale = "linear") -> int | None:
        """Evaluations until `sampler` has the final hypervolume of `against` of the same seed; None if never.

        Raises:
            DataError: `against` has no such seed.
        """
        goals = self.finals(self.against, scale)
        if seed not in goals:
            raise DataError(f"{self.against!r} has no finished search with seed {seed}, only {sorted(goals)}.")
        # A sum in another order may differ in the last bit.
        enough = np.flatnonzero(self.curve(sampler, seed, scale) >= goals[seed] * (1 - 1e-12))
        return int(enough[0]) + 1 if len(enough) else None

    def best_within(self, sampler: str, limit: float) -> dict[int, float]:
        """The best metric at a cost of at most `limit`, by seed; seeds without such a trial are left out."""
        found = {}
        for seed, trials in self.runs.get(sampler, {}).items():
            fitting = [one.value for _, one, spent in with_cost(trials, self.cost) if spent <= limit]
            if fitting:
                found[seed] = max(fitting)
        return found

    def proposals_within(self, sampler: str, limit: float) -> tuple[int, int]:
        """Measured trials of all seeds that the sampler proposed: those of at most `limit`, and all of them."""
        costs = [
            spent
            for trials in self.runs[sampler].values()
            for trial, _, spent in with_cost(trials, self.cost)
            if trial.origin != "initial"
        ]
        return sum(spent <= limit for spent in costs), len(costs)


def _cheapest(trials: Sequence[Trial], cost: Objective) -> int | None:
    """The number of the trial at the cheap end of the front."""
    points = front_of(trials, cost).points
    return int(points[0].key) if points else None


def compare(cells: Mapping[tuple[str, int], Cell], against: str) -> Comparison:
    """The comparison of finished searches.

    Args:
        cells: by sampler and seed; at least one.

    Raises:
        DataError: there is none, or they are of different objectives or costs.
    """
    objectives = sorted({cell["objective"] for cell in cells.values()})
    if len(objectives) != 1:
        raise DataError(f"A comparison needs finished searches of one objective, but got {objectives or 'none'}.")
    runs: dict[str, dict[int, tuple[Trial, ...]]] = {}
    for (sampler, seed), cell in cells.items():
        runs.setdefault(sampler, {})[seed] = trials_of(cell)
    # Volumes against different references have no common scale, and each cell knows its own design alone.
    reference = _common_reference([tuple(cell["reference"]) for cell in cells.values()])
    names = {str(cell["settings"].get("cost", NOMINAL.name)) for cell in cells.values()}
    if len(names) > 1:
        raise DataError(f"A comparison needs finished searches of one cost, but got {', '.join(sorted(names))}.")
    return Comparison(runs, reference, against, lookup(*names))


def _common_reference(references: Sequence[tuple[float, ...]]) -> tuple[float, float]:
    # The worst of both: every point that counts in its own search counts here, too.
    return max(cost for cost, _ in references), min(value for _, value in references)
