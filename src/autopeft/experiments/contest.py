"""Kind ``contest``: a search at each of several parameter budgets, and what it found trained again: a row of BIPEFT's
tables.

The search sees the training and the validation part. What it found is trained afresh with several seeds, each with a
cut of the data of its own, the same for every rival, so that results can be compared pair by pair. Where the test part
would move with the cut (protocol "bipeft" on small tasks, own files without a test part), all keep the cut of the
search, or what it has seen would be tested on. Seconds of the search and of training are kept apart: their ratio is
BIPEFT's table 3 (EMNLP Findings 2024).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from autopeft.experiments._contest_answers import answers
from autopeft.experiments._contest_runs import Searched, limit_of, result_of, run_search, uniforms
from autopeft.experiments._contest_tables import Row, page
from autopeft.experiments._experiment import Origin, Page, Place, merged
from autopeft.experiments._results import Result
from autopeft.experiments._tuning import tuned
from autopeft.experiments._unlike import as_written
from autopeft.experiments._wrong import wrong_samplers, wrong_seeds, wrong_settings
from autopeft.rules import raise_if_any
from autopeft.session import Session
from autopeft.settings import Settings
from autopeft.training.evaluator import Evaluator
from autopeft.training.retraining import BASELINES


@dataclass(frozen=True)
class ContestCell:
    """One search: whose, at which budget, and the seed."""

    rival: str
    budget: str
    seed: int

    @property
    def name(self) -> str:
        """``RIVAL-atBUDGET-seedN``, the budget without its unit."""
        return f"{self.rival}-at{self.budget.removesuffix('%')}-seed{self.seed}"


@dataclass(frozen=True)
class Contest:
    """What is asked of every rival on one task.

    Args:
        origin: where this was read.
        settings: shared by all cells.
        samplers: name of a rival to changes of the settings.
        seeds: of the searches.
        budgets: upper limits such as "0.2%", on the count that the settings' space names.
        retraining_seeds: each is also the seed of the cut of the data; empty for the seed of the search alone, so that
            seeds of searches are whole runs, each on a cut of its own, as BIPEFT's are.
        recipe: entries of the recipe for retraining, in place of the search's.
        controls: name of a rival without a search to baselines, each of which stands everywhere at the largest size
            that the budget allows.
        rates: learning rates among which each found architecture chooses by the validation part of the search, once,
            before it is trained again; empty keeps the recipe's for all.
        is_choosing: whether a rival that ends at several architectures chooses one of them by the same trainings, and
            only that is trained again; else all are.
    """

    required: ClassVar[frozenset[str]] = frozenset({"title", "settings", "samplers", "seeds", "budgets", "retraining"})
    optional: ClassVar[frozenset[str]] = frozenset({"controls"})
    is_derived: ClassVar[bool] = False

    origin: Origin
    settings: Settings
    samplers: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    budgets: tuple[str, ...]
    retraining_seeds: tuple[int, ...]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    controls: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rates: tuple[float, ...] = ()
    is_choosing: bool = False

    @classmethod
    def read(cls, raw: Mapping[str, Any], origin: Origin) -> Contest:
        """The contest that `raw` describes.

        Raises:
            SettingsError: a value is wrong.
        """
        wrong = [*wrong_settings(raw), *wrong_samplers(raw), *wrong_seeds(raw["seeds"]), *_wrong_contest(raw)]
        raise_if_any(f"The experiment {origin.told} cannot be used", wrong)
        after = raw["retraining"]
        found = cls(
            origin=origin,
            settings=origin.settings(raw["settings"]),
            samplers=raw["samplers"],
            seeds=tuple(raw["seeds"]),
            budgets=tuple(raw["budgets"]),
            retraining_seeds=() if after["seeds"] == _OF_THE_SEARCH else tuple(after["seeds"]),
            recipe=after.get("recipe") or {},
            controls={name: _several(named) for name, named in (raw.get("controls") or {}).items()},
            rates=tuple(float(rate) for rate in after.get("learning_rates") or ()),
            is_choosing=bool(after.get("choose", False)),
        )
        origin.settings(merged(found.settings.as_dict(), {"recipe": found.recipe}))
        # Mistakes in a sampler's changes show now, not after hours. Of each by each budget once: seeds change nothing.
        for cell in found.cells():
            if cell.seed == found.seeds[0]:
                found.settings_of(cell)
        return found

    @property
    def rivals(self) -> tuple[str, ...]:
        """All who are invited: those that search, then the controls."""
        return (*self.samplers, *self.controls)

    def cells(self) -> tuple[ContestCell, ...]:
        """Seed by seed, budget by budget."""
        return tuple(
            ContestCell(name, budget, seed) for seed in self.seeds for budget in self.budgets for name in self.rivals
        )

    def settings_of(self, cell: ContestCell, shared: Settings | None = None) -> Settings:
        """The settings of one search: the budget limits its space, so that every sampler keeps to it.

        Args:
            shared: what takes the place of the shared settings, with the learning rate that the sweep chose.
        """
        found = merged((shared or self.settings).as_dict(), self.samplers.get(cell.rival, {}))
        # The cut of the data follows the seed, so that the spread over seeds contains the luck of the cut.
        found |= {"seed": cell.seed, "data_seed": cell.seed, "space": {**found["space"], "budget": cell.budget}}
        return self.origin.settings(found)

    def asks(self, cell: ContestCell) -> Mapping[str, Any]:
        """The settings of one search, its rival and how what it found is trained again, as its result has them."""
        asked = {"asked": self._entry(cell), "retraining": self.retraining(cell.seed)}
        return {"settings": self.settings_of(cell).as_dict(), **asked}

    def _entry(self, cell: ContestCell) -> str:
        return as_written(self.samplers[cell.rival] if cell.rival in self.samplers else self.controls[cell.rival])

    def retraining(self, seed: int) -> dict[str, Any]:
        """How what a search of `seed` found is trained again, JSON-ready."""
        return {
            "seeds": list(self.seeds_after(seed)),
            "recipe": dict(self.recipe),
            **({"learning_rates": list(self.rates)} if self.rates else {}),
            **({"choose": True} if self.is_choosing else {}),
        }

    def evaluator(self, search: Session, seed: int) -> Evaluator:
        """What a retraining with `seed` is done with: another cut of the data, unless that moves the test part."""
        changed = {**merged(search.settings.as_dict(), {"recipe": self.recipe}), "data_seed": seed}
        again = self.origin.settings(changed)
        found = Session.build(again).evaluator
        if found.splits.test.digest() == search.evaluator.splits.test.digest():
            return found
        return Session.build(again.with_changes(data_seed=search.settings.data_seed)).evaluator

    def seeds_after(self, seed: int) -> tuple[int, ...]:
        """The seeds with which what a search of `seed` ended at is trained again."""
        return self.retraining_seeds or (seed,)

    def check(self, cells: Sequence[ContestCell], place: Place) -> None:
        """Sweep the learning rate that all share, unless that is done."""
        tuned(self.settings, place)

    def run(self, cell: ContestCell, place: Place) -> Result:
        """Search, or finish the search in the cell's folder, retrain what it found, and tell everything.

        Raises:
            ProposalFailure: the search diverged or ran out of memory.
            TrialFailure: a retraining did.
        """
        settings = self.settings_of(cell, tuned(self.settings, place))
        session = Session.build(settings)
        if cell.rival in self.controls:
            ended = uniforms(self.controls[cell.rival], session.backbone, limit_of(session))
            found = result_of(self, session, ended, Searched())
        else:
            found = run_search(self, session, place.work / cell.name)
        return {**found, "asked": self._entry(cell)}

    def page(self, found: Mapping[str, Result], place: Place) -> Page:
        """Tables and the picture of the searches that are done."""
        return page(self.rows(found), len(self.seeds), self.control, self.origin.title)

    def rows(self, found: Mapping[str, Result]) -> list[Row]:
        """Rival, budget and the results of all its search seeds, budget by budget; none where no cell is done."""
        rows = []
        for budget in self.budgets:
            for rival in self.rivals:
                names = [ContestCell(rival, budget, seed).name for seed in self.seeds]
                done = [found[name] for name in names if name in found]
                rows += [Row(rival, budget, done)] if done else []
        return rows

    @classmethod
    def overview(cls, done: Mapping[str, tuple[Contest, Mapping[str, Result]]]) -> Sequence[str]:
        """What the cells answer over all columns, a column a task and budget."""
        parts = [part for part, _ in done.values()]
        controls, n_seeds = {part.control for part in parts}, {len(part.seeds) for part in parts}
        # Differences to several controls have no mean, and pairs of searches are none of retrainings.
        if len(controls) != 1 or len(n_seeds) != 1:
            return ()
        rows = {task: part.rows(found) for task, (part, found) in done.items()}
        uniform = {name for part in parts for name in part.controls}
        return answers(rows, controls.pop(), uniform, n_seeds.pop())

    @property
    def control(self) -> str:
        """The rival that the others are compared with: a random assignment, or else the first."""
        return _CONTROL if _CONTROL in self.samplers else next(iter(self.samplers))


_CONTROL = "apet"
_OF_THE_SEARCH = "search"


def _wrong_contest(raw: Mapping[str, Any]) -> list[str]:
    wrong, budgets, after = [], raw["budgets"], raw["retraining"]
    if not isinstance(budgets, list) or not budgets or not all(isinstance(item, str) for item in budgets):
        wrong.append(f'`budgets` is a list of limits such as "0.2%", but got {budgets!r}')
    is_known = isinstance(after, Mapping) and not set(after) - {"seeds", "recipe", "learning_rates", "choose"}
    if not is_known or (after.get("seeds") != _OF_THE_SEARCH and wrong_seeds(after.get("seeds"))):
        wrong.append(
            "`retraining` is a mapping of `seeds` (a list, or `search` for that of the search, each once) and perhaps "
            "`recipe`, `learning_rates` and `choose`, "
            f"but got {after!r}"
        )
    elif not _are_rates(rates := after.get("learning_rates") or []):
        wrong.append(f"`retraining.learning_rates` is a list of numbers above 0, but got {rates!r}")
    if is_known and not isinstance(after.get("choose", False), bool):
        wrong.append(f"`retraining.choose` is true or false, but got {after['choose']!r}")
    return wrong + _wrong_controls(raw.get("controls") or {}, raw["samplers"])


def _several(given: Any) -> tuple[Any, ...]:
    return tuple(given) if isinstance(given, list) else (given,)


def _are_rates(given: Any) -> bool:
    # YAML reads 3e-4 as a text, which is a number to everybody else.
    try:
        return isinstance(given, list) and all(0 < float(rate) < math.inf for rate in given)
    except (TypeError, ValueError):
        return False


def _wrong_controls(controls: Any, samplers: Any) -> list[str]:
    if not isinstance(controls, Mapping):
        return [f"`controls` is a mapping of names to baselines, but got {controls!r}"]
    wrong = [
        f"`controls.{name}` is one of {', '.join(BASELINES)}, or several in a list, but got {given!r}"
        for name, given in controls.items()
        if not given or not all(isinstance(one, str) and one in BASELINES for one in _several(given))
    ]
    twice = [name for name in controls if isinstance(samplers, Mapping) and name in samplers]
    return wrong + [f"{name!r} is among `samplers` and among `controls`" for name in twice]


MEMBERS = {"contest": Contest}
