"""One search at one parameter budget, and what it found trained again: a row of BIPEFT's tables.

The search sees the training and the validation part. What it found is trained afresh with several seeds, each with a
cut of the data of its own, the same for every rival, so that results can be compared pair by pair. Where the test part
would move with the cut (protocol "bipeft" on small tasks, own files without a test part), all keep the cut of the
search, or what it has seen would be tested on. Seconds of the search and of training are kept apart: their ratio is
BIPEFT's table 3 (EMNLP Findings 2024).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from autopeft import settings as settings_module
from autopeft.architecture import Architecture, ParameterBudget
from autopeft.errors import AutopeftError, SettingsError
from autopeft.experiments.provenance import provenance
from autopeft.objective import Measurement
from autopeft.reports.rows import search_seconds
from autopeft.session import Session, answers_budgets
from autopeft.settings import Settings
from autopeft.training.evaluator import Evaluator
from autopeft.training.retraining import retrain
from autopeft.trial import Trial, front_of


@dataclass(frozen=True)
class Contest:
    """What is asked of every rival.

    Args:
        budgets: upper limits such as "0.2%", on the count that the settings' space names.
        seeds: of retraining; each is also the seed of the cut of the data.
        recipe: entries of the recipe for retraining, in place of the search's.
        samplers: name of a rival to changes of the settings.
    """

    budgets: tuple[str, ...]
    seeds: tuple[int, ...]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    samplers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def cells(self, seeds: Sequence[int]) -> dict[str, tuple[str, str, int]]:
        """Name of each cell to rival, budget and search seed: seed by seed, budget by budget."""
        return {
            f"{name}-at{budget.removesuffix('%')}-seed{seed}": (name, budget, seed)
            for seed in seeds
            for budget in self.budgets
            for name in self.samplers
        }

    def settings(self, shared: Settings, sampler: str, budget: str, seed: int) -> Settings:
        """The settings of one search: the budget limits its space, so that every sampler keeps to it.

        Raises:
            SettingsError: the changes are none of settings.
        """
        base, changes = shared.as_dict(), dict(self.samplers[sampler])
        if isinstance(changes.get("recipe"), Mapping):
            changes["recipe"] = {**base["recipe"], **changes["recipe"]}
        found = {**base, **changes, "seed": seed, "data_seed": seed}
        found["space"] = {**found["space"], "budget": budget}
        return settings_module.from_dict(found, trust_remote_code=shared.trust_remote_code)

    def evaluator(self, search: Session, seed: int) -> Evaluator:
        """What a retraining with `seed` is done with: another cut of the data, unless that moves the test part."""
        base, trust = search.settings.as_dict(), search.settings.trust_remote_code
        changed = {**base, "recipe": {**base["recipe"], **self.recipe}, "data_seed": seed}
        again = settings_module.from_dict(changed, trust_remote_code=trust)
        found = Session.build(again).evaluator
        if found.splits.test.digest() == search.evaluator.splits.test.digest():
            return found
        return Session.build(again.with_changes(data_seed=search.settings.data_seed)).evaluator


def contest(raw: Mapping[str, Any], path: str | Path) -> Contest:
    """What an experiment's file asks of its rivals.

    Raises:
        SettingsError: `budgets` or `retraining` are not what they must be; all mistakes are told.
    """
    wrong = []
    budgets, after = raw["budgets"], raw["retraining"]
    if not isinstance(budgets, list) or not budgets or not all(isinstance(item, str) for item in budgets):
        wrong.append(f'`budgets` is a list of limits such as "0.2%", but got {budgets!r}')
    if not isinstance(after, Mapping) or set(after) - {"seeds", "recipe"} or not _are_seeds(after.get("seeds")):
        wrong.append(f"`retraining` is a mapping of `seeds` (a list) and perhaps `recipe`, but got {after!r}")
    if wrong:
        raise SettingsError(f"The experiment {str(path)!r} cannot be used: {'; '.join(wrong)}.")
    return Contest(tuple(budgets), tuple(after["seeds"]), after.get("recipe") or {}, raw["samplers"])


def _are_seeds(found: Any) -> bool:
    return isinstance(found, list) and bool(found) and all(type(seed) is int and seed >= 0 for seed in found)


def run_cell(title: str, settings: Settings, asked: Contest, folder: Path) -> dict[str, Any]:
    """Search, or finish the search in `folder`, retrain what it found, and tell everything, JSON-ready.

    Raises:
        ProposalFailure: the search diverged or ran out of memory.
        TrialFailure: a retraining did.
    """
    session = Session.build(settings)
    is_answering = answers_budgets(settings.sampler)
    with session.begin(folder) as study:
        session.run(study, None, folder=folder)
        trials = study.trials()
        sampler = dict(study.settings["sampler_settings"])
    chosen = _chosen(trials, is_answering)
    seconds = search_seconds(trials, is_answering=is_answering)
    found = _retrained(chosen, session, asked)
    first = found[0]
    limit = ParameterBudget.parse(str(settings.space.budget), session.backbone.n_parameters, settings.space.count)
    ratio = seconds / mean(one["seconds"] for one in found)
    spread = "single run" if first["summary"]["std"] is None else f"± {first['summary']['std']:.4f}"
    return {
        "title": title,
        "headline": f"{first['objective']} {first['summary']['mean']:.4f} {spread} on test, "
        f"{first['counts']['stored']:,} stored; search {seconds:.0f} s, {ratio:.2f} times a retraining",
        "retraining": {"seeds": list(asked.seeds), "recipe": dict(asked.recipe)},
        "sampler_settings": sampler,
        "budget": {"text": settings.space.budget, "most": limit.most, "count": limit.count},
        "search": {"seconds": seconds, "trials": len(trials), "per_retraining": ratio},
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
        number = max(front_of(trials).points, key=lambda point: point.value, default=None)
        found = [trial for trial in trials if number is not None and trial.number == number.key]
    if not found:
        raise AutopeftError(f"None of the {len(trials)} trials was measured, so there is nothing to retrain.")
    return found


def _retrained(chosen: Sequence[Trial], search: Session, asked: Contest) -> list[dict[str, Any]]:
    runs: list[list[tuple[Measurement, float]]] = [[] for _ in chosen]
    for seed in asked.seeds:
        evaluator = asked.evaluator(search, seed)
        for trial, own in zip(chosen, runs, strict=True):
            once = retrain(evaluator, str(trial.number), trial.architecture, (seed,))
            own.append((once.test[0], once.validation[0]))
    return [_told(trial, own, asked.seeds) for trial, own in zip(chosen, runs, strict=True)]


def _told(trial: Trial, runs: Sequence[tuple[Measurement, float]], seeds: Sequence[int]) -> dict[str, Any]:
    first, values = runs[0][0], [run.value for run, _ in runs]
    architecture: Architecture = trial.architecture
    return {
        "trial": trial.number,
        "architecture": architecture.as_dict(),
        "described": str(architecture),
        "counts": first.counts.as_dict(),
        "objective": first.objective,
        "split": first.split,
        "searched_value": None if trial.measurement is None else trial.measurement.value,
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
