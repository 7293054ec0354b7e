"""What the cells of a contest answer, whatever there is of them, over all tasks and budgets.

A column is a task at a budget. Four questions: is a rival better than the one that all are compared with, on average
over the columns; is it within one standard error of the best other search in each; is it better than every uniform
control; and what does it take of a retraining. Every answer says how many cells it is made of, so that none passes for
more.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from autopeft.experiments._contest_tables import REPEATED, Row, examples_of, is_repeated, pairs_of
from autopeft.paired import Paired
from autopeft.reports.markdown import markdown_table
from autopeft.reports.tables import Table

_LEVEL = 0.95
_ROUNDING = 1e-12
_MOST_OF_A_RETRAINING = 0.6
"""What a search may take of one retraining to be called cheap: BIPEFT's table 3 has 0.59 and 0.65."""

_EXPLAINED = (
    "Of the cells that are done; those that are missing are named at the head of this page with their commands. A "
    "column is a task at a budget. Intervals are of 95 %, by Student's t and not corrected for the number of rivals: "
    "those in these columns speak of further {} on the same tasks and budgets, those over columns of further tasks."
)


@dataclass(frozen=True)
class Column:
    """One task at one budget.

    Args:
        rows: by rival, of those that have a cell.
    """

    task: str
    budget: str
    rows: Mapping[str, Row]

    @property
    def name(self) -> str:
        """It, among the columns."""
        return " ".join(part for part in (self.task, self.budget) if part)


def columns_of(rows: Mapping[str, Sequence[Row]]) -> list[Column]:
    """The columns of `rows`, by task."""
    budgets = [(task, budget) for task, own in rows.items() for budget in dict.fromkeys(row.budget for row in own)]
    return [
        Column(task, budget, {row.rival: row for row in rows[task] if row.budget == budget}) for task, budget in budgets
    ]


def answers(rows: Mapping[str, Sequence[Row]], control: str, uniform: Collection[str], n_seeds: int) -> list[str]:
    """Lines with the answers; none where no rival can be compared with another.

    Args:
        rows: by task, of the cells that are done.
        control: the rival that the others are compared with.
        uniform: rivals without a search.
        n_seeds: how many search seeds were asked for; with one, pairs are seeds of retraining.
    """
    columns = columns_of(rows)
    names = dict.fromkeys(name for column in columns for name in column.rows)
    searches = [name for name in names if name not in uniform]
    tables = [
        better_table(columns, [name for name in names if name != control], control, n_seeds),
        near_table(columns, searches),
        uniform_table(columns, searches, [name for name in names if name in uniform], n_seeds),
    ]
    if not any(table.rows for table in tables):
        return []
    # With one search seed nothing can be said of others: a search may have been lucky, and be trained again as often.
    further = "search seeds" if n_seeds > 1 else "retrainings of the same searches"
    has_repeated = any(is_repeated(row) for column in columns for row in column.rows.values())
    lines = ["## Answers", "", _EXPLAINED.format(further) + (REPEATED if has_repeated else ""), ""]
    for table in [*tables, cost_table(columns, [name for name in searches if name != control])]:
        lines += [markdown_table(table), ""] if table.rows else []
    return lines


def better_table(columns: Sequence[Column], names: Sequence[str], control: str, n_seeds: int) -> Table:
    """Whether each rival is better than `control` on average over the columns that both have."""
    told = []
    for name in names:
        pairs = [
            found
            for column in columns
            if {name, control} <= column.rows.keys() and (found := _pairs(column, name, control, n_seeds)).values
        ]
        if pairs:
            here = interval_of(pairs)
            grain = max(one.grain for one in pairs)
            over = Paired(tuple(range(len(pairs))), tuple(one.mean for one in pairs), grain).interval
            told.append(
                (name, f"{fmean(one.mean for one in pairs):+.4f}", _told(here), _told(over), _verdict(here),
                 str(sum(one.mean > 0 for one in pairs)), f"{len(pairs)} of {len(columns)}",
                 str(sum(len(one.values) for one in pairs)))
            )  # fmt: skip
    header = ("rival", "mean difference", "in these columns", "over columns", "verdict", "above", "columns", "pairs")
    caption = (
        f"Better than {control} on average over all columns? The mean over columns of the test metric less that of "
        f"{control}; the verdict is by the interval in these columns; above in so many of them."
    )
    return Table(header, tuple(told), caption, frozenset(header[1:]) - {"verdict"})


def near_table(columns: Sequence[Column], searches: Sequence[str]) -> Table:
    """Whether each search is within one standard error of the best other search, column by column."""
    told = []
    for name in searches:
        gaps = {
            column.name: _gap(column, name, others)
            for column in columns
            if name in column.rows and (others := [one for one in searches if one != name and one in column.rows])
        }
        behind = [f"{column}: {gap:+.4f} to {best}" for column, (gap, best, is_near) in gaps.items() if not is_near]
        if gaps:
            near = f"{len(gaps) - len(behind)} of {len(gaps)}"
            told.append((name, "no" if behind else "yes", near, "; ".join(behind), _cells(columns, name)))
    header = ("search", "in every column", "columns", "not in", "cells")
    caption = (
        "Within one standard error of the best other search in every column? By the means over all runs and the "
        "standard error of the best other one, uniform controls left out."
    )
    return Table(header, tuple(told), caption, frozenset({"columns", "cells"}))


def uniform_table(columns: Sequence[Column], searches: Sequence[str], uniform: Sequence[str], n_seeds: int) -> Table:
    """Whether each search is better than every uniform control of the same budget, column by column."""
    told = []
    for name in searches:
        higher, shown, below, closest = 0, 0, [], list[Paired]()
        for column in columns:
            own = [_pairs(column, name, one, n_seeds) for one in uniform if {name, one} <= column.rows.keys()]
            own = [one for one in own if one.values]
            if own:
                least = min(own, key=lambda one: one.mean)
                closest.append(least)
                higher += least.mean > 0
                shown += all(one.verdict == "better" for one in own)
                below += [] if least.mean > 0 else [f"{column.name}: {least.mean:+.4f}"]
        if n := len(closest):
            most, here = "yes" if 2 * higher > n else "no", _told(interval_of(closest))
            told.append(
                (name, most, f"{higher} of {n}", f"{shown} of {n}", f"{fmean(one.mean for one in closest):+.4f}", here,
                 "; ".join(below), _cells(columns, name))
            )  # fmt: skip
    numbers = ("above all", "shown better than all", "mean difference", "in these columns")
    header = ("search", "on most columns", *numbers, "not above in", "cells")
    caption = (
        f"Better than every uniform control ({', '.join(uniform)}) at the same budget? By the least of the paired "
        "differences to those that are done; shown where every single interval is above 0. "
        "The mean difference is to the control that is closest in each column."
    )
    return Table(header, tuple(told), caption, frozenset({*numbers, "cells"}))


def cost_table(columns: Sequence[Column], searches: Sequence[str]) -> Table:
    """What a search takes of one retraining, in seconds and in examples."""
    told = []
    for name in searches:
        rows = [column.rows[name] for column in columns if name in column.rows]
        if rows:
            seconds = [
                fmean(cell["search"]["seconds"] for cell in row.cells) / fmean(one["seconds"] for one in row.found)
                for row in rows
            ]
            examples = [spent[0] / spent[1] for row in rows if (spent := examples_of(row)) is not None]
            is_cheap = max(examples if len(examples) == len(rows) else seconds) <= _MOST_OF_A_RETRAINING
            told.append((name, "yes" if is_cheap else "no", _spread(seconds), _spread(examples), _cells(columns, name)))
    header = ("search", "in every column", "seconds", "examples", "cells")
    caption = (
        f"At most {_MOST_OF_A_RETRAINING:g} of a retraining? The mean over columns of search / retraining, and the "
        "largest. Answered by examples where all cells have counted them, else by seconds, which other load moves."
    )
    return Table(header, tuple(told), caption, frozenset({"seconds", "examples", "cells"}))


def interval_of(pairs: Sequence[Paired]) -> tuple[float, float] | None:
    """Of the mean over columns of the mean differences, each of which varies by itself (Welch and Satterthwaite).

    Equal differences spread by their grain, as in `Paired`. None where a column has one pair alone, of
    which nobody knows how far it varies, or where all are equal and have no grain.
    """
    if any(len(one.values) < 2 for one in pairs):
        return None
    parts = [_spread_of(one) ** 2 / len(one.values) for one in pairs]
    mean, whole = fmean(one.mean for one in pairs), sum(parts)
    # A handful of equal differences must not look certain: the metric moves in steps of an example.
    if whole == 0:
        return None
    freedom = whole**2 / sum(part**2 / (len(one.values) - 1) for part, one in zip(parts, pairs, strict=True))
    from scipy.stats import t as student

    reach = float(student.ppf(0.5 + _LEVEL / 2, freedom)) * math.sqrt(whole) / len(pairs)
    return mean - reach, mean + reach


def _spread_of(pairs: Paired) -> float:
    """At least one grain; 0 where they differ by no more than floating point does."""
    spread = max(stdev(pairs.values), pairs.grain)
    return spread if spread > _ROUNDING else 0.0


def _pairs(column: Column, name: str, other: str, n_seeds: int) -> Paired:
    return pairs_of(column.rows[name], column.rows[other], n_seeds)


def _gap(column: Column, name: str, others: Sequence[str]) -> tuple[float, str, bool]:
    """How far it is from the best other one, who that is, and whether that is within its standard error."""
    best = max(others, key=lambda one: fmean(column.rows[one].values))
    values = column.rows[best].values
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    gap = fmean(column.rows[name].values) - fmean(values)
    return gap, best, gap >= -error


def _cells(columns: Sequence[Column], name: str) -> str:
    return str(sum(len(column.rows[name].cells) for column in columns if name in column.rows))


def _spread(ratios: Sequence[float]) -> str:
    return f"{fmean(ratios):.2f}, at most {max(ratios):.2f}" if ratios else ""


def _told(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else "{:+.4f} to {:+.4f}".format(*interval)


def _verdict(interval: tuple[float, float] | None) -> str:
    if interval is None:
        return "too few pairs"
    low, high = interval
    return "better" if low > 0 else "worse" if high < 0 else "no difference shown"
