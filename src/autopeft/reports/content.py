"""What the report of a study says: one content, told as an HTML page, as Markdown and as JSON.

Every metric is given with the split that it was computed on, and a single seed is called one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autopeft.objective import Objective, reference_point
from autopeft.objectives import NOMINAL
from autopeft.pictures.cloud import cloud_data
from autopeft.pictures.front import front_data
from autopeft.pictures.hypervolume import HypervolumeData, hypervolume_data
from autopeft.pictures.labels import metric_label
from autopeft.pictures.layers import layers_data
from autopeft.pictures.learning import learning_data
from autopeft.pictures.points import MarkedPicture, Picture
from autopeft.pictures.rates import rates_data
from autopeft.pictures.results import results_data
from autopeft.reports.rows import RetrainSummary, failure_rows, front_rows, lacking_note, timing
from autopeft.reports.tables import (
    Table,
    cost_table,
    duration,
    fact_tables,
    failures_table,
    front_table,
    reached_table,
    records_table,
    retrained_table,
    rungs_table,
    timing_table,
    trials_table,
)
from autopeft.rungs import SearchCost, n_reached, rung_correlations, search_cost
from autopeft.training.rate_card import RateCard
from autopeft.trial import Trial, TrialState, with_cost

_COUNTS_RULE = (
    "Parameters are counted in three ways. Nominal is the papers' rule: weights only. Stored is what is shipped: "
    "biases too, prefixes folded. Trained is what the optimiser holds: the head and prefix networks too. "
    "What shares are told are of the backbone's parameters."
)


_SELECTED = (
    "Not every trial went on from a rung, and those that did were chosen by what they were worth there: a rank "
    "correlation among them is lower than it would be among all."
)


@dataclass(frozen=True)
class ReportData:
    """Everything that a report tells.

    Args:
        title: the heading, for example ``"RTE, bert-base-uncased"``.
        facts: what was done, JSON-ready: model, task, data, space, budget, sampler and preset, recipe, seeds,
            versions. A mapping or a list of mappings among the values becomes a table of its own.
        trials: every trial, in order of number.
        command: the command that runs it again.
        splits: role ("search", "pick", "report") to the split used for it.
        retrained: architectures trained again on several seeds, baselines among them; see
            `autopeft.reports.rows.retrained_in`.
        signal: the sweep that shows whether a trial says anything: one mapping a learning rate.
        swept: what finding the learning rates cost, see `autopeft.rungs.search_cost`; None for a training for each row
            of `signal`.
        card: the learning rates by method, where there are such.
        verdict: what the sweep says, in sentences.
        notes: further remarks, put first.
        largest: cost of the largest architecture of the space, a corner of every hypervolume; None takes
            that of the dearest trial.
        cost: what is minimised, or what all is tabulated by.
        is_answering: whether the sampler answers budgets, which decides what its search took; see
            `autopeft.reports.rows.search_seconds`.
    """

    title: str
    facts: Mapping[str, Any]
    trials: Sequence[Trial]
    command: str = ""
    splits: Mapping[str, str] = field(default_factory=dict)
    retrained: Sequence[RetrainSummary] = ()
    signal: Sequence[Mapping[str, Any]] = ()
    swept: int | SearchCost | None = None
    card: RateCard | None = None
    verdict: tuple[str, ...] = ()
    notes: Sequence[str] = ()
    largest: float | None = None
    is_answering: bool = False
    cost: Objective = NOMINAL

    @property
    def search_cost(self) -> SearchCost:
        """What the search trained, the learning rates that were tried before it included."""
        return search_cost(self.trials, len(self.signal) if self.swept is None else self.swept)

    @property
    def baselines(self) -> tuple[RetrainSummary, ...]:
        """What of the literature was trained beside what was found."""
        return tuple(one for one in self.retrained if one.is_baseline)


@dataclass(frozen=True)
class Section:
    """A part of the report: paragraphs, then pictures, then tables. A folded one opens on demand."""

    title: str
    paragraphs: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    marked: tuple[MarkedPicture, ...] = ()
    is_folded: bool = False


def caveats(data: ReportData) -> tuple[str, ...]:
    """What a reader must know to read the numbers: splits, seeds, and what was optimised on what."""
    measured = [t.measurement for t in data.trials if t.measurement is not None]
    splits = sorted({m.split for m in measured})
    # What somebody wrote down by hand comes first: it is about this study, and the rest about every one.
    found = [*data.notes, *lacking_note(data.trials, data.cost)]
    if measured:
        found.append(
            f"Every trial, and so every point of the front, is one training run: a single seed, measured as "
            f"{metric_label(data.trials)}. The best of many noisy values is optimistic."
        )
    # A search that went on after its data had been cut anew would look better or worse for that alone.
    if len(splits) > 1:
        found.append(f"The trials were measured on different splits ({', '.join(splits)}) and are not comparable.")
    found += [f"The {role} split is {split}." for role, split in data.splits.items()]
    # The search has chosen the architecture for what it did on this split, so several seeds on it do not undo the
    # choice.
    same = sorted({s.split for s in data.retrained} & set(splits))
    if same:
        found.append(
            f"Retrained figures on {', '.join(same)} use the split that the search optimised: they are optimistic "
            "by construction."
        )
    single = [f"{s.name} ({s.split})" for s in data.retrained if s.n == 1]
    if single:
        found.append(f"Retrained with a single seed, so without a standard deviation: {', '.join(single)}.")
    if len(data.retrained) > 1:
        found.append("The highest of several retrained figures is a choice made on the split that it is measured on.")
    if measured and not data.retrained:
        found.append("No architecture has been retrained: there is no figure with several seeds here.")
    other = [f"{b.name} ({b.split})" for b in data.baselines if b.split not in splits]
    if other:
        found.append(f"Beside the front, these baselines were measured on another split: {', '.join(other)}.")
    return tuple(found)


def default_reference(
    trials: Sequence[Trial], largest: float | None = None, cost: Objective = NOMINAL
) -> tuple[float, float] | None:
    """The reference of the hypervolume: see `objective.reference_point`.

    The initial design is the trials of origin "initial", or all when there is none. None when nothing has been
    measured.

    Args:
        largest: cost of the largest architecture; that of the dearest trial when it is None.
    """
    measured = [(trial.origin, (value, found.value)) for trial, found, value in with_cost(trials, cost)]
    if not measured:
        return None
    # The reference must not move with the search, or a curve would fall while the front grows.
    initial = [point for origin, point in measured if origin == "initial"] or [point for _, point in measured]
    dearest = max(value for _, (value, _) in measured)
    return reference_point(initial, dearest if largest is None else largest)


def progress(data: ReportData) -> HypervolumeData | None:
    """The study's curve of hypervolume; None when nothing has been measured."""
    reference = default_reference(data.trials, data.largest, data.cost)
    if reference is None:
        return None
    return hypervolume_data({_sampler(data.trials): [data.trials]}, reference, cost=data.cost)


def _sampler(trials: Sequence[Trial]) -> str:
    return ", ".join(sorted({t.origin for t in trials} - {"initial"})) or "initial design"


def headline(data: ReportData) -> tuple[tuple[str, str], ...]:
    """The few numbers that stand at the top: pairs of a value and what it is."""
    done = sum(t.is_complete for t in data.trials)
    running = sum(t.state is TrialState.RUNNING for t in data.trials)
    paused = sum(t.state is TrialState.PAUSED for t in data.trials)
    rows = front_rows(data.trials, cost=data.cost)
    failed = sum(row.count for row in failure_rows(data.trials))
    others = "".join(f", {n} {what}" for n, what in ((paused, "paused"), (running, "running")) if n)
    tiles = [(str(done), f"trials measured, {failed} failed{others}")]
    if rows:
        # A front is in the order of cost, and on it more cost always means a better metric.
        best = rows[-1]
        tiles.append((str(len(rows)), "points on the front"))
        spent = data.cost.roughly(best.cost)
        tiles.append((f"{best.value:.4f}", f"best {best.split} {best.metric}, single seed, at {spent}"))
    if data.retrained:
        searched = {t.measurement.split for t in data.trials if t.measurement is not None}
        # A figure on the split that was searched on is optimistic, and stands at the top only where there is no other.
        fresh = [s for s in data.retrained if s.split not in searched] or data.retrained
        top = max(fresh, key=lambda s: s.mean)
        spread = f"± {top.std:.4f}, {top.n} seeds" if top.std is not None else "single seed"
        tiles.append((f"{top.mean:.4f}", f"highest of {len(fresh)} retrained, {top.split} {top.metric}, {spread}"))
    tiles.append((duration(timing(data.trials).wall), "from first start to last end"))
    return tuple(tiles)


def sections(data: ReportData) -> tuple[Section, ...]:
    """The whole report in order; parts without content are left out."""
    curves, learning = progress(data), learning_data(data.trials, cost=data.cost)
    found = [point for one in data.retrained if not one.is_baseline and (point := one.point(data.cost))]
    baselines = [point for one in data.baselines if (point := one.point(data.cost))]
    front = front_table(data.trials, cost=data.cost, is_answering=data.is_answering)
    metrics = " / ".join(sorted({s.metric for s in data.retrained}))
    parts = [
        Section("Facts", (), (), fact_tables(data.facts)),
        Section("How to read the numbers", (*caveats(data), _COUNTS_RULE)),
        Section("Front", (), (), (front,), (front_data(data.trials, baselines, cost=data.cost),)),
    ]
    if data.retrained:
        shown = (results_data(found, baselines, cost=data.cost, metric=metrics),)
        parts.append(Section("Retrained architectures", (), shown, (retrained_table(data.retrained, cost=data.cost),)))
    if any(t.measurement for t in data.trials):
        parts.append(Section("Layers and sizes", (), (layers_data(data.trials, cost=data.cost),)))
        cloud = cloud_data({"study": data.trials}, cost=data.cost)
        parts.append(Section("Search", (), tuple(picture for picture in (curves, cloud) if picture)))
    if learning.curves:
        parts.append(Section("Learning curves", (), (learning,)))
    if data.signal:
        title = "Does the proxy have signal?" if data.card is None else "Learning rates by method"
        # A sweep of one rate for all methods is told by its table, and a picture of few points says no more.
        shown_rates = () if data.card is None else (rates_data(data.card),)
        parts.append(Section(title, data.verdict, shown_rates, (records_table(data.signal),)))
    failures = failures_table(data.trials)
    none_failed = () if failures.rows else ("No trial failed.",)
    parts.append(Section("Failures", none_failed, (), (failures,) if failures.rows else ()))
    parts.append(Section("Time", (), (), (timing_table(data.trials, data.retrained, is_answering=data.is_answering),)))
    parts.append(Section("Cost", (), (), (cost_table(data.search_cost),)))
    if correlations := rung_correlations(data.trials):
        reached = reached_table(n_reached(data.trials))
        is_selected = any(t.state is TrialState.PAUSED for t in data.trials)
        parts.append(Section("Rungs", (_SELECTED,) if is_selected else (), (), (rungs_table(correlations), reached)))
    parts.append(Section("All trials", (), (), (trials_table(data.trials, cost=data.cost),), is_folded=True))
    return tuple(parts)
