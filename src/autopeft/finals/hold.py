"""The finals of a search from beginning to end: invite, train, judge, and count what it all cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autopeft.errors import SettingsError, UnknownNameError
from autopeft.finals.finalists import NOMINAL_COUNT, USUAL, Finalist, bands, invite
from autopeft.finals.heats import Entry, Heats, OnRun, Plan, examples_of_a_run
from autopeft.finals.refine import Refinement, refine
from autopeft.finals.verdict import MARGIN, Verdict, judge
from autopeft.objectives import Costing
from autopeft.rungs import SearchCost, search_cost
from autopeft.samplers._bayes.smoothing import smooth
from autopeft.spaces.lattice import SearchSpace
from autopeft.training.evaluator import Evaluator
from autopeft.training.retraining import BASELINES
from autopeft.trial import Trial

OnInvited = Callable[[Sequence[Finalist]], None]


@dataclass(frozen=True)
class Finals:
    """What the finals of a search gave.

    Args:
        entries: by band, in the order of the budgets.
        verdicts: one a band.
        search: what the search cost, see `autopeft.rungs.SearchCost`; its examples are None where a trial of an
            earlier version does not say how many.
        full_run: training examples of one run of the finals' recipe, the unit in which costs are compared.
        seeds: of the last round.
        refined: what was tried around finalists, by band; empty where nothing was.
    """

    entries: tuple[tuple[Entry, ...], ...]
    verdicts: tuple[Verdict, ...]
    search: SearchCost
    full_run: int
    seeds: tuple[int, ...]
    refined: tuple[tuple[Refinement, ...], ...] = ()

    @property
    def examples(self) -> int:
        """Training examples that the finals processed, the baselines' and those of refinement included."""
        return sum(one.examples for one in self._charged)

    @property
    def seconds(self) -> float:
        """Of training and evaluation in the finals."""
        return math.fsum(one.seconds for one in self._charged)

    @property
    def _charged(self) -> Iterator[Entry | Refinement]:
        for entries in self.entries:
            yield from entries
        for refined in self.refined:
            yield from refined

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        search = self.search.examples
        return {
            "verdicts": [verdict.as_dict() for verdict in self.verdicts],
            "entries": [entry.as_dict() for band in self.entries for entry in band],
            "seeds": list(self.seeds),
            **({"refined": [one.as_dict() for band in self.refined for one in band]} if self.refined else {}),
            "cost": {
                "search_examples": search,
                "finals_examples": self.examples,
                "examples_of_a_full_run": self.full_run,
                "search_in_full_runs": None if search is None else search / self.full_run,
                "finals_in_full_runs": self.examples / self.full_run,
                "search_seconds": self.search.seconds,
                "finals_seconds": self.seconds,
            },
        }


def hold_finals(
    evaluator: Evaluator,
    space: SearchSpace,
    trials: Sequence[Trial],
    budgets: Sequence[str],
    plan: Plan,
    *,
    n: int = 3,
    baselines: Sequence[str] = USUAL,
    folder: Path | None = None,
    swept: int | SearchCost = 0,
    costing: Costing | None = None,
    margin: float = MARGIN,
    n_neighbours: int = 0,
    on_invited: OnInvited | None = None,
    on_run: OnRun | None = None,
) -> Finals:
    """Invite the best of `trials` and the baselines of their cost, train them, and judge.

    Args:
        evaluator: with the recipe that all finalists are trained with.
        space: that the trials are from.
        budgets: one band of cost each, see `bands`.
        costing: the cost that bands are of; nominal parameters when None.
        n: searched finalists a band.
        folder: where runs are kept, so that the same call goes on; None keeps none.
        margin: differences up to this count as none, see `autopeft.finals.verdict.Comparison`.
        n_neighbours: tried around every finalist of the last round, see `autopeft.finals.refine`.
        swept: what finding learning rates before the search cost, as part of its cost; see `search_cost`.
        on_invited: told, before anything is trained, who is in the finals.
        on_run: told of every run.

    Raises:
        BudgetError: a budget cannot be read, or no measured trial lies in its band. Nothing was trained.
        SettingsError: there is no budget, or fewer than one finalist a band, or the margin is none.
        UnknownNameError: there is no such baseline.
        AutopeftError: no searched candidate of a band could be trained.
    """
    if not budgets or n < 1:
        raise SettingsError(f"Finals need a budget and at least one finalist, but got {list(budgets)} and {n}.")
    # Nothing lies within NaN, and everything within what is endless.
    if not 0 <= margin < math.inf:
        raise SettingsError(f"The margin of equal values is finite and not below 0, but got {margin}.")
    for name in baselines:
        if name not in BASELINES:
            raise UnknownNameError("baseline", name, BASELINES)
    # One noisy run each is no order: the surrogate lends every trial what its neighbours tell.
    scores = smooth(space, trials, metric=evaluator.task.objective)
    backbone = evaluator.backbone
    cost, price = (NOMINAL_COUNT, None) if costing is None else (costing.objective, costing.price)
    wanted = bands(budgets, backbone, cost)
    # All bands before the first training, so that a band without candidates is told before hours are spent on others.
    invited = [invite(backbone, trials, scores, band, n, baselines, price) for band in wanted]
    if on_invited is not None:
        on_invited([finalist for finalists in invited for finalist in finalists])
    heats = Heats(evaluator, plan, folder, on_run)
    entries = tuple(heats.hold(finalists) for finalists in invited)
    refined = tuple(refine(heats, band, n_neighbours) for band in entries) if n_neighbours else ()
    # What is accepted is a finalist like the others, and what is searched for the verdict.
    entries = tuple(
        (*band, *(one.accepted for one in more if one.accepted is not None))
        for band, more in zip(entries, refined or ((),) * len(entries), strict=True)
    )
    n_test = len(evaluator.splits.test)
    verdicts = tuple(judge(band, evaluator.task.objective, n_test, margin) for band in entries)
    spent, full = search_cost(trials, swept), examples_of_a_run(evaluator)
    return Finals(entries, verdicts, spent, full, plan.seeds, refined)
