"""Kind ``payoff``: what rivals find for one task at the same total cost, whatever they spend it on.

The cost is counted in training examples and holds everything: learning rates that are tried, an initial design, a
search, further seeds of the best. A cell is one rival with one search seed. What it chooses by the validation part is
trained again with seeds of its own, the same for all rivals and not counted, and then, once, measured on the test part.
The search seed also draws the training and the validation part, so that rivals of one seed are pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, ClassVar

from autopeft.experiments._experiment import Origin, Page, Place
from autopeft.experiments._payoff_finals import Asked, Entrant, Rival, settle
from autopeft.experiments._payoff_purse import FAILED, Ledger, Purse
from autopeft.experiments._payoff_rivals import read_rival
from autopeft.experiments._payoff_tables import overview, page
from autopeft.experiments._provenance import provenance
from autopeft.experiments._results import Result
from autopeft.experiments._unlike import as_written
from autopeft.experiments._wrong import wrong_mapping, wrong_seeds, wrong_settings
from autopeft.finals.heats import examples_of_a_run
from autopeft.rules import Count, misfit, raise_if_any
from autopeft.session import Session
from autopeft.settings import Settings

_TRAININGS = "trainings"
"""The folder of the trainings that all cells of a part share."""

_MORE_SEEDS = 100
"""The first seed of the finals of search seed 0; a hundred a search seed, so that none is used twice."""


@dataclass(frozen=True)
class PayoffCell:
    """One rival with one search seed."""

    rival: str
    seed: int

    @property
    def name(self) -> str:
        """``RIVAL-seedN``."""
        return f"{self.rival}-seed{self.seed}"


@dataclass(frozen=True)
class Payoff:
    """What is asked of every rival on one task.

    Args:
        origin: where this was read.
        settings: shared by all; their recipe is that of a full training.
        rivals: by name.
        ours: the rivals, a name or a list of names, whose differences to the others are told.
        cost: full trainings that each may spend, everything included.
        seeds: of the searches.
        retraining_seeds: with which the chosen is trained again.
        entries: what the file says of each rival, as it is written there.
    """

    required: ClassVar[frozenset[str]] = frozenset(
        {"title", "settings", "rivals", "ours", "cost", "seeds", "retraining"}
    )
    optional: ClassVar[frozenset[str]] = frozenset()
    is_derived: ClassVar[bool] = False

    origin: Origin
    settings: Settings
    rivals: Mapping[str, Rival]
    ours: tuple[str, ...]
    cost: int
    seeds: tuple[int, ...]
    retraining_seeds: tuple[int, ...]
    entries: Mapping[str, str]

    @classmethod
    def read(cls, raw: Mapping[str, Any], origin: Origin) -> Payoff:
        """The comparison that `raw` describes.

        Raises:
            SettingsError: a value is wrong.
        """
        wrong = [*wrong_settings(raw), *wrong_mapping(raw, "rivals"), *wrong_seeds(raw["seeds"]), *_wrong_payoff(raw)]
        raise_if_any(f"The experiment {origin.told} cannot be used", wrong)
        found = cls(
            origin=origin,
            settings=origin.settings(raw["settings"]),
            rivals={str(name): read_rival(str(name), own, origin) for name, own in raw["rivals"].items()},
            ours=_names(raw["ours"]),
            cost=int(raw["cost"]),
            seeds=tuple(raw["seeds"]),
            retraining_seeds=tuple(raw["retraining"]["seeds"]),
            entries={str(name): as_written(own) for name, own in raw["rivals"].items()},
        )
        for cell in found.cells():
            found.rivals[cell.rival].check_settings(found.asked(cell, Path()))  # mistakes show now, not after hours
        return found

    def cells(self) -> tuple[PayoffCell, ...]:
        """Seed by seed, so that rivals can be compared early."""
        return tuple(PayoffCell(name, seed) for seed in self.seeds for name in self.rivals)

    def asked(self, cell: PayoffCell, work: Path) -> Asked:
        """What the rival of a cell is asked; its studies are below `work`."""
        # The seed draws the data as well, so that pairs of rivals differ in nothing but the rival.
        settings = self.settings.with_changes(seed=cell.seed, data_seed=cell.seed, trials=self.cost)
        return Asked(self.origin, settings, work / cell.name, 1 - self.rivals[cell.rival].finals)

    def asks(self, cell: PayoffCell) -> Mapping[str, Any]:
        """The shared settings, among them the cost, the rival and the seeds of the retraining, as a result has them."""
        settings, seeds = self.asked(cell, Path()).settings.as_dict(), list(self.retraining_seeds)
        return {"settings": settings, "asked": self.entries[cell.rival], "tested": {"seeds": seeds}}

    def check(self, cells: Sequence[PayoffCell], place: Place) -> None:
        """Every rival can be built."""
        for name in dict.fromkeys(cell.rival for cell in cells):
            self.rivals[name].check(self.asked(PayoffCell(name, self.seeds[0]), place.work))

    def run(self, cell: PayoffCell, place: Place) -> Result:
        """Spend the purse, choose, and train what is chosen again.

        Raises:
            TrialFailure: a retraining failed.
            AutopeftError: nothing could be trained.
        """
        asked = self.asked(cell, place.work)
        session = Session.build(asked.settings)
        # The unit of cost is one training by the shared recipe, whatever recipe a rival chooses for its own.
        full = examples_of_a_run(session.evaluator)
        purse = Purse(Ledger(place.work / _TRAININGS), self.cost * full)
        entrants = self.rivals[cell.rival].propose(asked, purse)
        # Seeds of the finals differ from those of the search, of other search seeds and of the retraining.
        first = _MORE_SEEDS * (cell.seed + 1)
        chosen = settle(purse, entrants, range(first, first + _MORE_SEEDS))
        place.announce(f"{cell.name}: {chosen.name} ({chosen.candidate}), {purse.examples / full:.4g} trainings")
        return self._told(cell, session, purse, chosen, full)

    def _told(self, cell: PayoffCell, session: Session, purse: Purse, chosen: Entrant, full: int) -> dict[str, Any]:
        # The ledger and not the purse: opening the test part is the same for all, and nothing is chosen by it.
        runs = [purse.ledger.test(chosen.evaluator, chosen.candidate, seed) for seed in self.retraining_seeds]
        first, values = runs[0], [run.value for run in runs]
        recipe = chosen.candidate.recipe_for(chosen.evaluator.recipe)
        spread = "single seed" if len(values) < 2 else f"± {stdev(values):.4f}"
        return {
            "title": self.origin.title,
            "headline": f"{first.objective} {mean(values):.4f} {spread} on test, {first.counts.nominal:,} nominal",
            "rival": cell.rival,
            "asked": self.entries[cell.rival],
            "seed": cell.seed,
            "chosen": {
                "name": chosen.name,
                "found_by": chosen.found_by,
                **chosen.candidate.as_dict(),
                "described": str(chosen.candidate),
                "learning_rate": recipe.learning_rate,
                "rate_factors": dict(recipe.rate_factors),
                "validation": [None if value == FAILED else value for value in chosen.values],
            },
            "cost": {**purse.as_dict(), "full_training": full, "trainings": purse.examples / full},
            "tested": {
                "seeds": list(self.retraining_seeds),
                "values": values,
                "metrics": [dict(run.metrics) for run in runs],
                "validation": [run.extra["validation"] for run in runs],
                "seconds": [run.seconds for run in runs],
                **({"texts": first.extra["texts"]} if "texts" in first.extra else {}),
            },
            "counts": first.counts.as_dict(),
            "objective": first.objective,
            "split": first.split,
            **provenance(session, open_test=True),
        }

    def page(self, found: Mapping[str, Result], place: Place) -> Page:
        """Tables and the picture of the cells that are done."""
        return page(list(found.values()), tuple(self.rivals), self.ours, self.origin.title)

    @classmethod
    def overview(cls, done: Mapping[str, tuple[Payoff, Mapping[str, Result]]]) -> Sequence[str]:
        """Ours against every other over tasks and seeds."""
        # A task may have rivals of its own.
        rivals = tuple(dict.fromkeys(name for part, _ in done.values() for name in part.rivals))
        ours = tuple(dict.fromkeys(name for part, _ in done.values() for name in part.ours))
        cells = {task: list(found.values()) for task, (_, found) in done.items()}
        return overview(cells, rivals, ours)


def _wrong_payoff(raw: Mapping[str, Any]) -> list[str]:
    wrong, after = [], raw["retraining"]
    if misfit("cost", Count, raw["cost"]):
        wrong.append(f"`cost` is a whole number of full trainings, at least 1, but got {raw['cost']!r}")
    if not isinstance(after, Mapping) or set(after) != {"seeds"} or wrong_seeds(after["seeds"]):
        wrong.append(f"`retraining` is a mapping of `seeds` (a list, each once), but got {after!r}")
    known = raw["rivals"] if isinstance(raw["rivals"], Mapping) else {}
    if not raw["ours"] or not set(_names(raw["ours"])) <= set(known):
        wrong.append(f"`ours` is one of the rivals, or several in a list, but got {raw['ours']!r}")
    return wrong


def _names(ours: Any) -> tuple[str, ...]:
    return tuple(map(str, ours)) if isinstance(ours, list) else (str(ours),)


MEMBERS = {"payoff": Payoff}
