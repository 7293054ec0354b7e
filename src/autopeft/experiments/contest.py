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
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any, ClassVar

from autopeft.architecture import Architecture, ParameterBudget
from autopeft.backbones import Backbone
from autopeft.candidate import Candidate
from autopeft.errors import AutopeftError, BudgetError
from autopeft.experiments._contest_tables import Row, overview, page
from autopeft.experiments._experiment import (
    Origin,
    Page,
    Place,
    merged,
    wrong_samplers,
    wrong_seeds,
    wrong_settings,
)
from autopeft.experiments._provenance import provenance
from autopeft.experiments._results import Result
from autopeft.experiments._tuning import tuned
from autopeft.finals.finalists import resized
from autopeft.network.build import count
from autopeft.objective import Measurement
from autopeft.reports.rows import search_seconds
from autopeft.rules import raise_if_any
from autopeft.session import Session, answers_budgets
from autopeft.settings import Settings
from autopeft.training.evaluator import Evaluator
from autopeft.training.rate_sweep import sweep
from autopeft.training.retraining import BASELINES, retrain
from autopeft.trial import Trial, front_of


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
        retraining_seeds: each is also the seed of the cut of the data.
        recipe: entries of the recipe for retraining, in place of the search's.
        controls: name of a rival without a search to a baseline, which stands everywhere at the largest size that the
            budget allows.
        rates: learning rates among which each found architecture chooses by the validation part of the search, once,
            before it is trained again; empty keeps the recipe's for all.
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
    controls: Mapping[str, str] = field(default_factory=dict)
    rates: tuple[float, ...] = ()

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
            retraining_seeds=tuple(after["seeds"]),
            recipe=after.get("recipe") or {},
            controls=raw.get("controls") or {},
            rates=tuple(float(rate) for rate in after.get("learning_rates") or ()),
        )
        origin.settings(merged(found.settings.as_dict(), {"recipe": found.recipe}))
        for cell in found.cells():
            found.settings_of(cell)  # mistakes in a sampler's changes show now, not after hours
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

    def evaluator(self, search: Session, seed: int) -> Evaluator:
        """What a retraining with `seed` is done with: another cut of the data, unless that moves the test part."""
        changed = {**merged(search.settings.as_dict(), {"recipe": self.recipe}), "data_seed": seed}
        again = self.origin.settings(changed)
        found = Session.build(again).evaluator
        if found.splits.test.digest() == search.evaluator.splits.test.digest():
            return found
        return Session.build(again.with_changes(data_seed=search.settings.data_seed)).evaluator

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
            ended = _uniform(self.controls[cell.rival], session.backbone, _limit(session))
            return _result(self, session, [ended], _Searched())
        return _run(self, session, place.work / cell.name)

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
        """Means over all columns, a column a task and budget, of the tasks that are complete."""
        complete = {task: (part, found) for task, (part, found) in done.items() if len(found) == len(part.cells())}
        controls = {part.control for part, _ in complete.values()}
        # A mean over tasks that lack cells would compare rivals on different tasks, and one over different controls
        # nothing.
        if len(complete) < 2 or len(controls) > 1:
            return ()
        rows = {task: part.rows(found) for task, (part, found) in complete.items()}
        return overview(rows, controls.pop(), [task for task in done if task not in complete])

    @property
    def control(self) -> str:
        """The rival that the others are compared with: a random assignment, or else the first."""
        return _CONTROL if _CONTROL in self.samplers else next(iter(self.samplers))


_CONTROL = "apet"


def _wrong_contest(raw: Mapping[str, Any]) -> list[str]:
    wrong, budgets, after = [], raw["budgets"], raw["retraining"]
    if not isinstance(budgets, list) or not budgets or not all(isinstance(item, str) for item in budgets):
        wrong.append(f'`budgets` is a list of limits such as "0.2%", but got {budgets!r}')
    is_known = isinstance(after, Mapping) and not set(after) - {"seeds", "recipe", "learning_rates"}
    if not is_known or wrong_seeds(after.get("seeds")):
        wrong.append(
            "`retraining` is a mapping of `seeds` (a list) and perhaps `recipe` and `learning_rates`, "
            f"but got {after!r}"
        )
    elif not _are_rates(rates := after.get("learning_rates") or []):
        wrong.append(f"`retraining.learning_rates` is a list of numbers above 0, but got {rates!r}")
    return wrong + _wrong_controls(raw.get("controls") or {}, raw["samplers"])


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
        f"`controls.{name}` is one of {', '.join(BASELINES)}, but got {baseline!r}"
        for name, baseline in controls.items()
        if baseline not in BASELINES
    ]
    twice = [name for name in controls if isinstance(samplers, Mapping) and name in samplers]
    return wrong + [f"{name!r} is among `samplers` and among `controls`" for name in twice]


@dataclass(frozen=True)
class _Ended:
    """What a rival ended at.

    Args:
        name: a trial's number, or a baseline with its size.
        trial: the number of the trial; None where nothing was searched.
        origin: who proposed it.
        value: what the search had measured of it, or None.
    """

    name: str
    candidate: Candidate
    trial: int | None
    origin: str
    value: float | None = None


@dataclass(frozen=True)
class _Searched:
    """What a search took; nothing for a rival without one."""

    seconds: float = 0.0
    n_trials: int = 0
    sampler: Mapping[str, Any] = field(default_factory=dict)


def _limit(session: Session) -> ParameterBudget:
    # The limit is kept in parameters as well, since a share of another backbone would be another limit.
    space = session.settings.space
    return ParameterBudget.parse(str(space.budget), session.backbone.n_parameters, space.count)


def _uniform(name: str, backbone: Backbone, limit: ParameterBudget) -> _Ended:
    """The largest form of a baseline within the budget, by the count that the budget is on.

    Raises:
        BudgetError: even its smallest form costs more, or it has no place on the backbone.
    """

    def price(architecture: Architecture) -> float:
        return count(backbone, architecture, 0).of(limit.count)

    fitted = resized(BASELINES[name], backbone, limit.most, price)
    if fitted is None:
        raise BudgetError(f"The baseline {name} has no form within {limit.most:,} {limit.count} parameters here.")
    units, architecture = fitted
    return _Ended(f"{name}:{units}" if units else name, Candidate.of(architecture), None, "baseline")


def _run(asked: Contest, session: Session, folder: Path) -> dict[str, Any]:
    is_answering = answers_budgets(session.settings.sampler)
    with session.begin(folder) as study:
        session.run(study, None, folder=folder)
        trials = study.trials()
        sampler = dict(study.settings["sampler_settings"])
    ended = [
        _Ended(
            str(trial.number),
            trial.candidate,
            trial.number,
            trial.origin,
            None if trial.measurement is None else trial.measurement.value,
        )
        for trial in _chosen(trials, is_answering)
    ]
    seconds = search_seconds(trials, is_answering=is_answering)
    return _result(asked, session, ended, _Searched(seconds, len(trials), sampler))


def _result(asked: Contest, session: Session, ended: Sequence[_Ended], searched: _Searched) -> dict[str, Any]:
    found = _retrained(ended, session, asked)
    first = found[0]
    ratio = searched.seconds / mean(one["seconds"] for one in found)
    spread = "single run" if first["summary"]["std"] is None else f"± {first['summary']['std']:.4f}"
    limit = _limit(session)
    return {
        "title": asked.origin.title,
        "headline": f"{first['objective']} {first['summary']['mean']:.4f} {spread} on test, "
        f"{first['counts']['stored']:,} stored; search {searched.seconds:.0f} s, {ratio:.2f} times a retraining",
        "retraining": {
            "seeds": list(asked.retraining_seeds),
            "recipe": dict(asked.recipe),
            **({"learning_rates": list(asked.rates)} if asked.rates else {}),
        },
        "sampler_settings": dict(searched.sampler),
        "budget": {"text": session.settings.space.budget, "most": limit.most, "count": limit.count},
        "search": {"seconds": searched.seconds, "trials": searched.n_trials, "per_retraining": ratio},
        "found": found,
        "counts": first["counts"],
        "objective": first["objective"],
        "split": first["split"],
        **provenance(session, open_test=True),
    }


def _chosen(trials: Sequence[Trial], is_answering: bool) -> list[Trial]:
    """What a search ended at: every answer, or the best point on validation."""
    if is_answering:
        found = [trial for trial in trials if trial.is_complete and trial.origin != "initial"]
    else:
        # The space of a cell holds only what keeps to the budget, so the best of the front is the best that was
        # allowed.
        number = max(front_of(trials).points, key=lambda point: point.value, default=None)
        found = [trial for trial in trials if number is not None and trial.number == number.key]
    if not found:
        raise AutopeftError(f"None of the {len(trials)} trials was measured, so there is nothing to retrain.")
    return found


def _rated(ended: Sequence[_Ended], search: Session, asked: Contest) -> list[float | None]:
    """The learning rate that each chooses, on the cut of the search, whose validation part chose the architecture."""
    if not asked.rates:
        return [None for _ in ended]
    evaluator = search.evaluator.with_recipe(**asked.recipe)
    return [sweep(evaluator, one.candidate, asked.rates, search.settings.seed, widen=0).chosen for one in ended]


def _retrained(ended: Sequence[_Ended], search: Session, asked: Contest) -> list[dict[str, Any]]:
    rates = _rated(ended, search, asked)
    runs: list[list[tuple[Measurement, float]]] = [[] for _ in ended]
    # Seeds are the outer loop, for each has a cut of the data of its own, which is read and tokenised once for all.
    for seed in asked.retraining_seeds:
        evaluator = asked.evaluator(search, seed)
        for one, rate, own in zip(ended, rates, runs, strict=True):
            used = evaluator if rate is None else evaluator.with_recipe(learning_rate=rate)
            once = retrain(used, one.name, one.candidate, (seed,))
            own.append((once.test[0], once.validation[0]))
    return [
        {**_told(one, own, asked.retraining_seeds), **({} if rate is None else {"learning_rate": rate})}
        for one, rate, own in zip(ended, rates, runs, strict=True)
    ]


def _told(ended: _Ended, runs: Sequence[tuple[Measurement, float]], seeds: Sequence[int]) -> dict[str, Any]:
    first, values = runs[0][0], [run.value for run, _ in runs]
    return {
        "trial": ended.trial,
        "origin": ended.origin,
        **ended.candidate.as_dict(),
        "described": str(ended.candidate),
        "counts": first.counts.as_dict(),
        "objective": first.objective,
        "split": first.split,
        "searched_value": ended.value,
        "seeds": list(seeds),
        "values": values,
        "metrics": [dict(run.metrics) for run, _ in runs],
        "validation": [value for _, value in runs],
        "seconds": mean(run.seconds for run, _ in runs),
        "summary": {
            "mean": mean(values),
            "std": stdev(values) if len(values) > 1 else None,
            "median": median(values),
            "n": len(values),
        },
    }


MEMBERS = {"contest": Contest}
