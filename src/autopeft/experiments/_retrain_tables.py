"""The page of retrained architectures beside baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autopeft.architecture import Counts
from autopeft.experiments._experiment import Page
from autopeft.experiments._results import Result
from autopeft.experiments._written import written
from autopeft.markup import escape
from autopeft.objectives import NOMINAL, nominal
from autopeft.paired import paired
from autopeft.pictures.results import results_data
from autopeft.reports.markdown import markdown_table
from autopeft.reports.rows import RetrainSummary
from autopeft.reports.tables import Table
from autopeft.training.rate_sweep import ProxySignal, beyond_edge

Cells = Mapping[str, Result]


def page(cells: Cells, searched: Sequence[str], who: Mapping[str, str], title: str) -> Page:
    """The page of the architectures that are trained.

    Args:
        searched: names of those that are no baselines.
        who: found them, in words; by name.
        title: of the picture.
    """
    points = {name: RetrainSummary.from_dict(name, dict(cell)).point() for name, cell in cells.items()}
    names = [name for name in cells if name not in searched]
    lines = ["## Numbers", "", markdown_table(retrained_table(cells)), "", *rates_tried(cells), *untuned(cells)]
    lines += found_by(who)
    if searched and names:
        lines += [markdown_table(differences_table(cells, searched, names)), ""]
    lines += written(
        {name: cell["metrics"] for name, cell in cells.items()},
        {name: cell.get("texts", ()) for name, cell in cells.items()},  # cells of earlier commits have none
    )
    picture = results_data(
        [point for name in searched if (point := points[name])],
        [point for name in names if (point := points[name])],
        metric=str(next(iter(cells.values()))["objective"]),
        title=title,
    )
    return Page(lines, {"results": picture})


def found_by(who: Mapping[str, str]) -> list[str]:
    """Who found each searched architecture, as lines; none where none was searched."""
    return ["Found by:", "", *(f"* {escape(name)}: {escape(told)}" for name, told in who.items()), ""] if who else []


def retrained_table(cells: Cells) -> Table:
    """Mean, standard deviation (n - 1), median, n, the three counts, learning rate and split of every cell."""
    counts = (NOMINAL.heading, "nominal", "stored", "trained")
    header = ("architecture", *counts, "learning rate", "split", "metric", "mean", "std", "median", "n", "placements")
    rows = []
    for name, cell in sorted(cells.items(), key=lambda item: int(item[1]["counts"]["nominal"])):
        summary, own = cell["summary"], Counts(**cell["counts"])
        rows.append(
            (
                name,
                NOMINAL.number(nominal(own)),
                *(f"{value:,}" for value in (own.nominal, own.stored, own.trained)),
                _rate(cell),
                cell["split"],
                cell["objective"],
                f"{summary['mean']:.4f}",
                "single seed" if summary["std"] is None else f"{summary['std']:.4f}",
                f"{summary['median']:.4f}",
                str(summary["n"]),
                cell["described"],
            )
        )
    caption = "Over seeds; each architecture at the learning rate that was best for its first seed on validation."
    return Table(header, tuple(rows), caption, frozenset(header) - {"architecture", "split", "metric", "placements"})


def _rate(cell: Result) -> str:
    """The learning rate, and the methods that had a multiple of it."""
    factors = sorted((cell.get("rate_factors") or {}).items())
    return ", ".join([f"{cell['learning_rate']:.3g}", *(f"{name} times {factor:g}" for name, factor in factors)])


def rates_tried(cells: Cells) -> list[str]:
    """Which learning rates each architecture chose from and what the recipe was meanwhile, as lines; none if given."""
    groups: dict[str, list[str]] = {}
    for name, cell in cells.items():
        if cell["sweep"] is not None:
            rates = ", ".join(f"{rate:.3g}" for rate, _ in cell["sweep"]["values"])
            changes = ", ".join(f"{key} {value}" for key, value in sorted((cell.get("tuning") or {}).items()))
            groups.setdefault(f"{rates} with {changes or 'the whole recipe'}", []).append(name)
    tried = "; ".join(f"{how}: {escape(', '.join(names))}" for how, names in groups.items())
    return [f"Learning rates tried, in this order: {tried}.", ""] if tried else []


def untuned(cells: Cells) -> list[str]:
    """Warnings, as lines: architectures whose best rate was the smallest or largest, and those that no rate helped."""
    swept = {name: ProxySignal.from_dict(cell["sweep"]) for name, cell in cells.items() if cell["sweep"] is not None}
    blind = [name for name, sweep in swept.items() if not sweep.has_signal]
    edges = [name for name, sweep in swept.items() if sweep.has_signal and beyond_edge(sweep.values) is not None]
    lines = []
    if edges:
        lines += [
            f"**At the edge:** {escape(', '.join(edges))}. The best learning rate was the smallest or the largest "
            "tried, so a better one may lie beyond it.",
            "",
        ]
    if blind:
        lines += [
            f"**Not tuned:** {escape(', '.join(blind))}. At none of the learning rates was the metric on validation "
            "two standard errors above a constant answer's, so that these numbers say little about the architecture.",
            "",
        ]
    return lines


def differences_table(cells: Cells, searched: Sequence[str], baselines: Sequence[str]) -> Table:
    """Paired differences, searched less baseline, with their 95 % intervals."""
    rows = tuple((name, *(_difference(cells[name], cells[other]) for other in baselines)) for name in searched)
    caption = (
        "Searched architecture less baseline on the same seeds: mean and 95 % interval by Student's t, not corrected "
        "for the number of comparisons."
    )
    return Table(("architecture", *baselines), rows, caption, frozenset(baselines))


def _difference(first: Result, second: Result) -> str:
    ours, theirs = (dict(zip(cell["seeds"], cell["values"], strict=True)) for cell in (first, second))
    found = paired(ours, theirs)
    if found.interval is None:
        return f"{found.mean:+.4f} ({found.verdict})"
    low, high = found.interval
    return f"{found.mean:+.4f} ({low:+.4f} to {high:+.4f})"
