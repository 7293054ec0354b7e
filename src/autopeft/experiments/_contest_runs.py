"""How a cell of a contest is run: what a search ended at, or a uniform control, and its training again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from statistics import mean, median, stdev
from typing import TYPE_CHECKING, Any

from autopeft.architecture import Architecture, ParameterBudget
from autopeft.backbones import Backbone
from autopeft.candidate import Candidate
from autopeft.errors import AutopeftError, BudgetError
from autopeft.experiments._provenance import provenance
from autopeft.finals.finalists import resized
from autopeft.finals.heats import examples_of_a_run, examples_of_a_trial
from autopeft.network.build import count
from autopeft.objective import Measurement
from autopeft.reports.rows import search_seconds
from autopeft.session import Session, answers_budgets
from autopeft.training.rate_sweep import sweep
from autopeft.training.retraining import BASELINES, retrain
from autopeft.trial import Trial, front_of

if TYPE_CHECKING:
    from autopeft.experiments.contest import Contest


@dataclass(frozen=True)
class Ended:
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
class Searched:
    """What a search took; nothing for a rival without one.

    Args:
        examples: that went through the model, repetitions counted; None where an interruption has lost the count.
    """

    seconds: float = 0.0
    n_trials: int = 0
    sampler: Mapping[str, Any] = field(default_factory=dict)
    examples: int | None = 0


def limit_of(session: Session) -> ParameterBudget:
    """The budget of a cell, in parameters of its backbone."""
    # The limit is kept in parameters as well, since a share of another backbone would be another limit.
    space = session.settings.space
    return ParameterBudget.parse(str(space.budget), session.backbone.n_parameters, space.count)


def uniform(name: str, backbone: Backbone, limit: ParameterBudget) -> Ended:
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
    return Ended(f"{name}:{units}" if units else name, Candidate.of(architecture), None, "baseline")


def uniforms(names: Sequence[str], backbone: Backbone, limit: ParameterBudget) -> list[Ended]:
    """`uniform` of every baseline that has a form within the budget.

    Raises:
        BudgetError: none has.
    """
    found = []
    for name in names:
        try:
            found.append(uniform(name, backbone, limit))
        except BudgetError:
            if name == names[-1] and not found:
                raise
    return found


def run_search(asked: Contest, session: Session, folder: Path) -> dict[str, Any]:
    """Search, or finish the search in `folder`, and train what it ended at again.

    Raises:
        ProposalFailure: the search diverged or ran out of memory.
        TrialFailure: a retraining did.
    """
    is_answering = answers_budgets(session.settings.sampler)
    with session.begin(folder) as study:
        session.run(study, None, folder=folder)
        trials = study.trials()
        sampler = dict(study.settings["sampler_settings"])
        told = session.told(study)
    ended = [
        Ended(
            str(trial.number),
            trial.candidate,
            trial.number,
            trial.origin,
            None if trial.measurement is None else trial.measurement.value,
        )
        for trial in _chosen(trials, is_answering)
    ]
    seconds = search_seconds(trials, is_answering=is_answering)
    examples = _examples(session, trials, told if is_answering else None)
    return result_of(asked, session, ended, Searched(seconds, len(trials), sampler, examples))


def _examples(session: Session, trials: Sequence[Trial], told: Mapping[str, Mapping[str, Any]] | None) -> int | None:
    """Examples of a search: what it tells itself, or those of its trials."""
    if told is None:
        return sum(examples_of_a_trial(session.evaluator, trial.measurement) for trial in trials)
    counts = [int(one["examples"]) for one in told.values() if "examples" in one]
    # A search that was interrupted, or is a stranger's, does not tell.
    return sum(counts) if counts and len(counts) == len(told) else None


def result_of(asked: Contest, session: Session, ended: Sequence[Ended], searched: Searched) -> dict[str, Any]:
    """What a cell keeps: what was `ended` at, trained again, and what it took."""
    rated = _rated(ended, session, asked)
    found = _retrained(_best(rated) if asked.is_choosing else rated, session, asked)
    first = found[0]
    ratio = searched.seconds / mean(one["seconds"] for one in found)
    spread = "single run" if first["summary"]["std"] is None else f"± {first['summary']['std']:.4f}"
    limit = limit_of(session)
    return {
        "title": asked.origin.title,
        "headline": f"{first['objective']} {first['summary']['mean']:.4f} {spread} on test, "
        f"{first['counts']['stored']:,} stored; search {searched.seconds:.0f} s, {ratio:.2f} times a retraining",
        "retraining": asked.retraining(session.settings.seed),
        "sampler_settings": dict(searched.sampler),
        "budget": {"text": session.settings.space.budget, "most": limit.most, "count": limit.count},
        "search": {
            "seconds": searched.seconds,
            "trials": searched.n_trials,
            "per_retraining": ratio,
            "examples": searched.examples,
        },
        "found": found,
        **({"chosen_of": [one.as_dict() for one in rated]} if asked.is_choosing else {}),
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


@dataclass(frozen=True)
class Rated:
    """What a rival ended at, with the learning rate that it chose.

    Args:
        rate: None for the recipe's.
        value: the metric on the validation part that it was chosen by; None where nothing had to be chosen.
    """

    ended: Ended
    rate: float | None = None
    value: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        return {
            "name": self.ended.name,
            "described": str(self.ended.candidate),
            "learning_rate": self.rate,
            "validation": self.value,
        }


def _rated(ended: Sequence[Ended], search: Session, asked: Contest) -> list[Rated]:
    """The learning rate that each chooses, on the cut of the search, whose validation part chose the architecture."""
    if not asked.rates and not (asked.is_choosing and len(ended) > 1):
        return [Rated(one) for one in ended]
    evaluator, found = search.evaluator.with_recipe(**asked.recipe), list[Rated]()
    own = evaluator.recipe.learning_rate
    # What the study has trained by the very recipe is not trained again.
    is_same = not asked.recipe and not search.settings.learning_rates
    for one in ended:
        known = {own: one.value} if is_same and one.value is not None else {}
        try:
            swept = sweep(evaluator, one.candidate, asked.rates or (own,), search.settings.seed, known=known)
        except AutopeftError:
            # Of several that are chosen among one that cannot be trained is not chosen; if none can, the last says why.
            if not asked.is_choosing or (one is ended[-1] and not found):
                raise
        else:
            found.append(Rated(one, swept.chosen if asked.rates else None, swept.best))
    return found


def _best(rated: Sequence[Rated]) -> list[Rated]:
    """The best of them on the validation part; of equals the first, whose place is the rival's own order."""
    return [max(rated, key=lambda one: -inf if one.value is None else one.value)]


def _retrained(rated: Sequence[Rated], search: Session, asked: Contest) -> list[dict[str, Any]]:
    seeds = asked.seeds_after(search.settings.seed)
    runs: list[list[tuple[Measurement, float]]] = [[] for _ in rated]
    # Seeds are the outer loop, for each has a cut of the data of its own, which is read and tokenised once for all.
    for seed in seeds:
        evaluator = asked.evaluator(search, seed)
        for one, own in zip(rated, runs, strict=True):
            used = evaluator if one.rate is None else evaluator.with_recipe(learning_rate=one.rate)
            once = retrain(used, one.ended.name, one.ended.candidate, (seed,))
            own.append((once.test[0], once.validation[0]))
    spent = examples_of_a_run(search.evaluator.with_recipe(**asked.recipe))
    return [
        {**_told(one.ended, own, seeds), "examples": spent} | ({} if one.rate is None else {"learning_rate": one.rate})
        for one, own in zip(rated, runs, strict=True)
    ]


def _told(ended: Ended, runs: Sequence[tuple[Measurement, float]], seeds: Sequence[int]) -> dict[str, Any]:
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
        **({"texts": first.extra["texts"]} if "texts" in first.extra else {}),
    }
