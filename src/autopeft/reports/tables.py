"""Tables of text: of a front, of retrained architectures, of trials, failures and times, of facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autopeft.fidelity import Fidelity
from autopeft.objective import Objective
from autopeft.objectives import NOMINAL
from autopeft.pictures.labels import brief, metric_label
from autopeft.reports.rows import RetrainSummary, failure_rows, front_rows, search_seconds, timing
from autopeft.rungs import RungCorrelation, SearchCost
from autopeft.trial import Trial, TrialState, front_of, with_cost

_MOST_ROWS = 500
"""Trials that a page lists: every one of thousands would make it megabytes long, and nobody reads them."""

_MOST_NUMBERS = 30


@dataclass(frozen=True)
class Table:
    """A table of text. Columns named in `numeric` are set to the right."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    numeric: frozenset[str] = frozenset()


def front_table(trials: Sequence[Trial], *, cost: Objective = NOMINAL, is_answering: bool = False) -> Table:
    """The front by increasing cost, numbered as in its picture.

    Three counts, metric and split, seed, time, latency and memory of each point.
    """
    rows = tuple(
        (
            str(place),
            f"#{row.number}",
            cost.number(row.cost),
            f"{row.nominal:,}",
            f"{row.stored:,}",
            f"{row.trained:,}",
            f"{row.value:.4f}",
            str(row.seed),
            f"{row.seconds:.4g}",
            f"{row.search_seconds:.4g}",
            f"{1000 * row.latency:.3g}",
            f"{row.peak_memory / 2**20:,.0f}",
            row.origin,
            row.label,
        )
        for place, row in enumerate(front_rows(trials, cost=cost, is_answering=is_answering), start=1)
    )
    metric = metric_label(trials)
    counts = (cost.heading, "nominal", "stored", "trained")
    numbers = ("point", "trial", *counts, metric, "seed", "seconds", "search seconds", "ms a batch", "peak MiB")
    caption = f"Front by increasing cost; {metric}, single seed a row."
    return Table((*numbers, "origin", "architecture"), rows, caption, frozenset(numbers))


def retrained_table(retrained: Sequence[RetrainSummary], *, cost: Objective = NOMINAL) -> Table:
    """Retrained architectures: mean, standard deviation (n - 1), median, n, split, three counts."""
    rows = tuple(
        (
            s.name,
            "" if (value := s.cost(cost)) is None else cost.number(value),
            f"{s.counts.nominal:,}",
            f"{s.counts.stored:,}",
            f"{s.counts.trained:,}",
            s.metric,
            s.split,
            f"{s.mean:.4f}",
            "single seed" if s.std is None else f"{s.std:.4f}",
            f"{s.median:.4f}",
            str(s.n),
            ", ".join(map(str, s.seeds)),
        )
        for s in retrained
    )
    header = ("architecture", cost.heading, "nominal", "stored", "trained", "metric", "split", "mean", "std", "median")
    numeric = frozenset(header) - {"architecture", "metric", "split"} | {"n"}
    caption = "Mean, sample standard deviation (n − 1) and median over seeds."
    return Table((*header, "n", "seeds"), rows, caption, numeric)


def trials_table(trials: Sequence[Trial], *, cost: Objective = NOMINAL) -> Table:
    """Every trial with its state; of very many the front, the best and the last, as the caption says."""
    shown, spent = _shown(trials, cost), {t.number: value for t, _, value in with_cost(trials, cost)}
    rows = tuple(
        (
            f"#{t.number}",
            t.origin,
            _stands(t),
            cost.number(spent[t.number]) if t.number in spent else "",
            f"{t.measurement.value:.4f}" if t.measurement else "",
            f"{t.measurement.seconds:.4g}" if t.measurement else "",
            str(t.seed),
            brief(t.candidate),
        )
        for t in shown
    )
    header = ("trial", "origin", "state", cost.heading, metric_label(trials), "seconds", "seed", "architecture")
    caption = "Every trial, in order"
    if len(shown) < len(trials):
        caption = (
            f"{len(shown):,} of {len(trials):,} trials, in order: the front, the best and the last. The report in JSON "
            "(`--to report.json`) has all."
        )
    return Table(header, rows, caption, frozenset(header) - {"origin", "state", "architecture"})


def _shown(trials: Sequence[Trial], cost: Objective) -> Sequence[Trial]:
    """All, or the front, the best and the last of very many, in order."""
    if len(trials) <= _MOST_ROWS:
        return trials
    # The last ones too: whoever watches a search that runs wants to see what it does now.
    kept = {int(point.key) for point in front_of(trials, cost).points} | {t.number for t in trials[-_MOST_ROWS // 5 :]}
    # A page of many thousand rows takes a browser seconds to show, while the JSON report, which has all, is read by
    # programs.
    best = sorted((t for t in trials if t.measurement), key=lambda t: -t.measurement.value if t.measurement else 0.0)
    for trial in best:
        if len(kept) >= _MOST_ROWS:
            break
        kept.add(trial.number)
    return [trial for trial in trials if trial.number in kept]


def _numbers(numbers: Sequence[int]) -> str:
    shown = ", ".join(f"#{n}" for n in numbers[:_MOST_NUMBERS])
    return shown if len(numbers) <= _MOST_NUMBERS else f"{shown} and {len(numbers) - _MOST_NUMBERS} more"


def _stands(trial: Trial) -> str:
    """What became of it. A value at a rung stands beside its rung, never among those at the end."""
    if trial.state is TrialState.PAUSED and trial.reached:
        return f"paused at {trial.reached[-1].fidelity}: {trial.reached[-1].value:.4f}"
    return trial.state.value if trial.failure is None else f"failed: {trial.failure.kind}"


def failures_table(trials: Sequence[Trial]) -> Table:
    """Failures by kind, the most frequent first."""
    found = failure_rows(trials)
    rows = tuple((r.kind, str(r.count), _numbers(r.numbers), r.message) for r in found)
    return Table(("kind", "count", "trials", "last message"), rows, "", frozenset({"count"}))


def timing_table(
    trials: Sequence[Trial], retrained: Sequence[RetrainSummary] = (), *, is_answering: bool = False
) -> Table:
    """Where the time went, and what the search took in multiples of a retraining."""
    spent = timing(trials)
    searched = search_seconds(trials, is_answering=is_answering)
    rows = (
        ("from first start to last end", duration(spent.wall)),
        ("training and evaluation, summed", duration(spent.measuring)),
        ("median of one trial", duration(spent.per_trial)),
        ("failed trials, summed", duration(spent.failing)),
        ("proposing, summed", duration(spent.proposing)),
        ("search" + (" (proposing alone)" if is_answering else " (all of these)"), duration(searched)),
        *((f"search / one retraining of {s.name}", f"{searched / s.seconds:.2f}") for s in retrained if s.seconds),
    )
    return Table(("time", "spent"), rows, "", frozenset({"spent"}))


def cost_table(cost: SearchCost) -> Table:
    """What a search trained, in the three units in which searches are compared."""
    rows = (
        ("full trainings, the sweep's among them", f"{cost.trainings:.4g}"),
        ("examples that were trained on", "not counted" if cost.examples is None else f"{cost.examples:,}"),
        ("training and evaluation", duration(cost.seconds)),
    )
    return Table(("cost of the search", "spent"), rows, "", frozenset({"spent"}))


def reached_table(counts: Mapping[Fidelity, int]) -> Table:
    """How many trials came to each rung; 100 % is the end of the training."""
    rows = tuple((str(fidelity), str(n)) for fidelity, n in counts.items())
    return Table(("rung", "trials that reached it"), rows, "", frozenset({"trials that reached it"}))


def rungs_table(correlations: Sequence[RungCorrelation]) -> Table:
    """How well the order at a rung agrees with that at a later one."""
    rows = tuple(
        (
            str(one.lower),
            str(one.upper),
            str(one.n),
            "" if one.value is None else f"{one.value:.3f}",
            "" if one.interval is None else f"{one.interval[0]:.3f} to {one.interval[1]:.3f}",
        )
        for one in correlations
    )
    header = ("rung", "later rung", "trials", "rank correlation", "95 % interval")
    caption = "Spearman's rank correlation of the metric between rungs; 100 % is the end of the training."
    return Table(header, rows, caption, frozenset(header) - {"rung", "later rung"})


def duration(seconds: float) -> str:
    """``3 h 04 min``, ``5 min 07 s``, ``2.31 s``."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02d} min" if hours else f"{minutes} min {rest:02d} s"


def fact_tables(facts: Mapping[str, Any]) -> tuple[Table, ...]:
    """Plain facts in one table, then a table for every mapping and every list of mappings."""
    plain = tuple((key, _fact(value)) for key, value in facts.items() if not _is_table(value))
    tables = [Table(("fact", "value"), plain)] if plain else []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            tables.append(Table((key, "value"), tuple((str(k), _fact(v)) for k, v in value.items())))
        elif _is_table(value):
            tables.append(records_table(value, key))
    return tuple(tables)


def records_table(records: Sequence[Mapping[str, Any]], caption: str = "") -> Table:
    """Mappings as rows; the columns are all their keys, in order of appearance."""
    header = tuple(dict.fromkeys(str(key) for record in records for key in record))
    rows = tuple(tuple(_fact(record[key]) if key in record else "" for key in header) for record in records)
    values = {key: [record[key] for record in records if key in record] for key in header}
    # The records may come from a user's settings, so what a column holds is seen from its values and not from its name.
    numeric = {key for key, found in values.items() if all(isinstance(v, int | float) for v in found)}
    return Table(header, rows, caption, frozenset(numeric))


def _is_table(value: Any) -> bool:
    if isinstance(value, Mapping):
        return True
    is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return is_list and bool(value) and all(isinstance(item, Mapping) for item in value)


def _fact(value: Any) -> str:
    # Truth values are whole numbers to Python, so they are asked for before numbers are.
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_fact(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_fact, value))
    return str(value)
