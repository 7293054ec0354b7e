"""The page of rival searches: verdicts, tables, and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median, stdev

from autopeft.experiments._comparison import Comparison
from autopeft.experiments._experiment import Page
from autopeft.markup import escape
from autopeft.objective import Objective, Scale
from autopeft.pictures.cloud import cloud_data
from autopeft.pictures.fronts import fronts_data
from autopeft.pictures.hypervolume import hypervolume_data
from autopeft.pictures.points import Picture
from autopeft.reports.markdown import markdown_table
from autopeft.reports.tables import Table
from autopeft.training.rate_card import RateCard
from autopeft.training.rate_sweep import ProxySignal

_SCALES: tuple[Scale, ...] = ("linear", "log")

_EXPLAINED = (
    "Hypervolume is the area between a front and the reference point: with the cost as it is (AutoPEFT's "
    "figure 8; large architectures weigh most), and with the logarithm of the cost to base 10 (every halving of the "
    "cost weighs alike, down to the cheapest architecture above the reference metric; what the preset "
    '"recommended" maximises). Both are always given. Paired: rivals of one seed share the initial design, so '
    "differences are taken seed by seed; the interval of their mean is Student's at 95 %. Every point is a single "
    "training run, measured on the validation part that the search looks at, so the best of many is optimistic: the "
    "more so, the more of them there are. Within a budget rivals have tried very different numbers, see the last table."
)


def page(found: Comparison, names: Sequence[str], seeds: Sequence[int], sweep: ProxySignal | RateCard | None) -> Page:
    """The page of finished searches.

    Args:
        names: all samplers, those without a finished search too.
        seeds: all search seeds.
        sweep: of the learning rate that all share; None when there was none.
    """
    tables = [_finals_table(found, names, seeds, scale) for scale in _SCALES]
    tables += [_budgets_table(found), _within_table(found), _time_table(found)]
    lines = [f"Learning rate, shared by all cells: {sweep}", ""] if sweep is not None else []
    lines += ["## Verdict", "", *verdicts(found), "", "## Numbers", ""]
    worst, value = found.reference
    lines += [f"Reference point of every hypervolume: {found.cost.text(worst)} and {value:.4g}. {_EXPLAINED}", ""]
    for table in tables:
        lines += [markdown_table(table), ""]
    return Page(lines, _pictures(found))


def verdicts(found: Comparison) -> list[str]:
    """A sentence a rival and scale of the cost: the paired difference, its interval, and what may be said."""
    rivals = [sampler for sampler in found.runs if sampler != found.against]
    lines = [_verdict(found, sampler, scale) for sampler in rivals for scale in _SCALES]
    return lines or [f"* Only {escape(found.against)} has finished searches: there is nothing to compare yet."]


def _verdict(found: Comparison, sampler: str, scale: Scale) -> str:
    pairs, base = found.difference(sampler, scale), found.finals(found.against, scale)
    names = f"{escape(sampler)} against {escape(found.against)}"
    text = f"* **{names}, {scale} cost: {pairs.verdict}.** Paired seeds: {len(pairs.values)}"
    if not pairs.values:
        return f"{text}."
    share = pairs.mean / fmean(base[seed] for seed in pairs.seeds)
    text += f"; mean difference of the final hypervolume {pairs.mean:+.4f} ({share:+.2%})"
    if pairs.interval is not None:
        low, high = pairs.interval
        text += f", standard error {pairs.standard_error:.4f}, interval {low:+.4f} to {high:+.4f}"
    counts = ", ".join(_count(found.reached(sampler, seed, scale)) for seed in pairs.seeds)
    text += f"; evaluations until it had the other's final hypervolume: {counts}"
    left = found.left(sampler, scale)
    text += f"; what is left when the other is given the cheapest point of its front: {left.mean:+.4f}"
    return f"{text}." if left.interval is None else "{} ({:+.4f} to {:+.4f}).".format(text, *left.interval)


def _count(evaluations: int | None) -> str:
    return "never" if evaluations is None else str(evaluations)


def _finals_table(found: Comparison, names: Sequence[str], seeds: Sequence[int], scale: Scale) -> Table:
    by_seed = tuple(f"seed {seed}" for seed in seeds)
    header = ("sampler", *by_seed, "mean", "standard error", "paired difference", "reached at")
    rows = []
    for sampler in names:
        finals, pairs = found.finals(sampler, scale), found.difference(sampler, scale)
        error = stdev(finals.values()) / len(finals) ** 0.5 if len(finals) > 1 else None
        reached = [found.reached(sampler, seed, scale) for seed in pairs.seeds]
        rows.append(
            (
                sampler,
                *(f"{finals[seed]:.4f}" if seed in finals else "missing" for seed in seeds),
                f"{fmean(finals.values()):.4f}" if finals else "",
                "" if error is None else f"{error:.4f}",
                "" if sampler == found.against or not pairs.values else f"{pairs.mean:+.4f}",
                ", ".join(map(_count, reached)),
            )
        )
    caption = (
        f"Final hypervolume, {scale} cost. Reached at: evaluations until the final hypervolume of {found.against}, "
        "by seed."
    )
    return Table(header, tuple(rows), caption, frozenset(header[1:]))


def _limits(cost: Objective) -> tuple[dict[float, str], tuple[float, ...]]:
    """Where the best architectures are compared: at the usual limits of the cost, and without one."""
    told = {limit: f"≤ {cost.text(limit, 'g')}" for limit in cost.marks} | {float("inf"): "no limit"}
    return told, tuple(told)


def _budgets_table(found: Comparison) -> Table:
    names, limits = _limits(found.cost)
    header = ("sampler", *names.values())
    rows = [(name, *(_mean(found.best_within(name, limit)) for limit in limits)) for name in found.runs]
    return Table(
        header, tuple(rows), "Best metric on validation within a budget, mean over seeds.", frozenset(header[1:])
    )


def _mean(values: Mapping[int, float]) -> str:
    return f"{fmean(values.values()):.4f} (n = {len(values)})" if values else "none"


def _within_table(found: Comparison) -> Table:
    names, limits = _limits(found.cost)
    header = ("sampler", *names.values())
    rows = []
    for name in found.runs:
        within = [found.proposals_within(name, limit) for limit in limits]
        rows.append((name, *(f"{few} of {every}" for few, every in within)))
    caption = "Own proposals that were measured within a budget, all seeds: those whose best the table before shows."
    return Table(header, tuple(rows), caption, frozenset(header[1:]))


def _time_table(found: Comparison) -> Table:
    header = ("sampler", "trials", "failed", "median seconds a trial", "mean seconds a proposal")
    rows = []
    for name, runs in found.runs.items():
        trials = [trial for seed in runs.values() for trial in seed]
        seconds = [m.seconds for t in trials if (m := t.measurement) is not None]
        waits = [t.proposal_seconds for t in trials if t.origin != "initial"]
        failed = sum(t.failure is not None for t in trials)
        rows.append(
            (name, str(len(trials)), str(failed), f"{median(seconds):.1f}", f"{fmean(waits):.2f}" if waits else "")
        )
    caption = "Seconds as they were during the search, with whatever else ran beside it."
    return Table(header, tuple(rows), caption, frozenset(header[1:]))


def _pictures(found: Comparison) -> dict[str, Picture]:
    runs = {name: list(seeds.values()) for name, seeds in found.runs.items()}
    # Clouds of unlike seeds would show whose seeds were luckier, so only those that all have are pooled.
    common = sorted(set.intersection(*(set(seeds) for seeds in found.runs.values())))
    pooled = {name: [t for seed in common for t in seeds[seed]] for name, seeds in found.runs.items()}
    return {
        "hypervolume": hypervolume_data(runs, found.reference, cost=found.cost),
        "hypervolume-log": hypervolume_data(runs, found.reference, cost=found.cost, scale="log"),
        "fronts": fronts_data(runs, cost=found.cost),
        **({"cloud": cloud_data(pooled, cost=found.cost)} if common else {}),
    }
