"""A paper's printed table joined with results of ours: our number, theirs, and the difference."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from types import MappingProxyType
from typing import Any

from autopeft.architecture import Counts
from autopeft.errors import SettingsError
from autopeft.experiments._results import Result
from autopeft.objective import percent
from autopeft.reading import read_json
from autopeft.reports.tables import Table
from autopeft.rules import raise_if_any


@dataclass(frozen=True)
class Printed:
    """A table as a paper prints it.

    Args:
        name: such as "Table 1".
        paper: which one.
        means: by row and column; None where the value is not known.
    """

    name: str
    paper: str
    means: Mapping[tuple[str, str], float | None]

    @classmethod
    def load(cls, path: Path) -> Printed:
        """The table in a file of ``experiments/expected``.

        Raises:
            SettingsError: it cannot be read, or is no such table.
        """
        data = read_json(path, "The printed table", SettingsError)
        try:
            found = [((str(cell["row"]), str(cell["column"])), cell["mean"]) for cell in data["cells"]]
            table, paper = str(data["table"]), str(data["paper"])
        except (KeyError, TypeError) as error:
            raise SettingsError(f"The printed table {str(path)!r} has no paper, table and cells.") from error
        places = [place for place, _ in found]
        wrong = [
            f"the mean in row {row!r}, column {column!r} is a number or null, but got {mean!r}"
            for (row, column), mean in found
            if mean is not None and (isinstance(mean, bool) or not isinstance(mean, int | float))
        ]
        twice = dict.fromkeys(place for place in places if places.count(place) > 1)
        wrong += [f"row {row!r}, column {column!r} stands once, but is there several times" for row, column in twice]
        raise_if_any(f"The printed table {str(path)!r} cannot be used", wrong)
        return cls(table, paper, dict(found))

    @property
    def rows(self) -> tuple[str, ...]:
        """In the order of print."""
        return tuple(dict.fromkeys(row for row, _ in self.means))

    @property
    def columns(self) -> tuple[str, ...]:
        """In the order of print."""
        return tuple(dict.fromkeys(column for _, column in self.means))


@dataclass(frozen=True)
class Joined:
    """One cell of a table: metrics and shares in percent, as papers print them.

    Args:
        ours: None where nothing has been measured.
        std: over our runs; None from a single one, and where it has no meaning.
        theirs: None where nothing is printed.
    """

    row: str
    column: str
    ours: float | None
    std: float | None
    theirs: float | None

    @property
    def difference(self) -> float | None:
        """Ours less theirs."""
        return None if self.ours is None or self.theirs is None else self.ours - self.theirs

    def __str__(self) -> str:
        spread = "" if self.std is None else f" ± {self.std:.2f}"
        ours = "missing" if self.ours is None else f"{self.ours:.2f}{spread}"
        if self.theirs is None:
            return "" if self.ours is None else ours
        difference = "" if self.difference is None else f"; {self.difference:+.2f}"
        return f"{ours} ({self.theirs:g}{difference})"


def is_average(column: str) -> bool:
    """Whether a column holds the mean of the others."""
    return column.lower().rstrip(".") == "avg"


def values_of(result: Result) -> list[float]:
    """The metric of every run, of a retraining or of all that a contest's search ended at."""
    found = result.get("found", [result])
    return [float(value) for one in found for value in one["values"]]


def _share(result: Result, count: Any) -> float:
    return fmean(percent(Counts(**one["counts"]), count) for one in result.get("found", [result]))


def _search_minutes(result: Result) -> float:
    return _known(result.get("search", {}).get("seconds")) / 60


def _retraining_minutes(result: Result) -> float:
    return fmean(one["seconds"] for one in result["found"]) / 60 if "search" in result else math.nan


def _search_examples(result: Result) -> float:
    return _known(result.get("search", {}).get("examples"))


def _retraining_examples(result: Result) -> float:
    return fmean(_known(one.get("examples")) for one in result["found"]) if "search" in result else math.nan


def _known(number: float | None) -> float:
    # Not a number is how a mean over results says that one of them has not counted, or is of no search.
    return math.nan if number is None else number


QUANTITIES: Mapping[str, Callable[[Result], float]] = {
    "percent": lambda result: _share(result, "nominal"),
    "per-ten-thousand": lambda result: 100 * _share(result, "stored"),
    "search-minutes": _search_minutes,
    "retraining-minutes": _retraining_minutes,
    "search-ratio": lambda result: _search_minutes(result) / _retraining_minutes(result),
    "search-examples": _search_examples,
    "retraining-examples": _retraining_examples,
    "examples-ratio": lambda result: _search_examples(result) / _retraining_examples(result),
}
"""What a column may hold beside the metric on a task: nominal share, stored share, and of a contest the minutes and the
examples that went through the model, which do not depend on what else the machine did."""


def together(results: Sequence[Result]) -> Result:
    """Results of several search seeds as one: all runs, and the mean of what the searches took."""
    if len(results) == 1:
        return results[0]
    # A retraining is of no search, and its name may end as if it were.
    every = [found for one in results for found in one.get("found", [one])]
    if not all("search" in one for one in results):
        return {"found": every}
    counts = [_known(one["search"].get("examples")) for one in results]
    spent = {"seconds": fmean(one["search"]["seconds"] for one in results)}
    return {
        "found": every,
        "search": {**spent, "examples": None if any(map(math.isnan, counts)) else fmean(counts)},
    }


def joined(
    printed: Printed,
    columns: Mapping[str, str],
    ours: Mapping[tuple[str, str], Result],
    tasks: Sequence[str],
    beside: Mapping[str, str] = MappingProxyType({}),
) -> list[Joined]:
    """Every cell of a printed table with what was measured.

    Args:
        columns: printed column to a task or to one of `QUANTITIES`; others stay missing, but for averages.
        ours: results by printed row and task.
        tasks: those that quantities are means over, as far as there are results.
        beside: columns that are not printed, each to one of `QUANTITIES`.
    """
    measured = [column for column, meaning in columns.items() if meaning not in QUANTITIES]
    wanted = [column for column in printed.columns if column not in columns and not is_average(column)]
    cells = []
    for row in printed.rows:
        own: dict[str, tuple[float | None, float | None]] = {
            column: _quantity(meaning, [ours[row, task] for task in tasks if (row, task) in ours])
            if meaning in QUANTITIES
            else _metric(ours.get((row, meaning)))
            for column, meaning in columns.items()
        }
        means = [own[column][0] for column in measured]
        known = [mean for mean in means if mean is not None]
        # An average over other columns than theirs is no number to compare.
        average = fmean(known) if known and len(known) == len(means) and not _are_metrics(wanted) else None
        for column in printed.columns:
            value, std = (average, None) if is_average(column) else own.get(column, (None, None))
            if (row, column) in printed.means:
                cells.append(Joined(row, column, value, std, printed.means[row, column]))
        mine = [ours[row, task] for task in tasks if (row, task) in ours]
        cells += [Joined(row, column, *_quantity(meaning, mine), None) for column, meaning in beside.items()]
    return cells


def _are_metrics(columns: Sequence[str]) -> bool:
    """Whether any of these columns would enter an average: shares and times are told by their unit in brackets."""
    return any("(" not in column for column in columns)


def _metric(result: Result | None) -> tuple[float | None, float | None]:
    if result is None:
        return None, None
    values = [100 * value for value in values_of(result)]
    return fmean(values), stdev(values) if len(values) > 1 else None


def _quantity(name: str, results: Sequence[Result]) -> tuple[float | None, float | None]:
    value = fmean(QUANTITIES[name](result) for result in results) if results else math.nan
    return (None if math.isnan(value) else value), None


def table_of(printed: Printed, cells: Sequence[Joined]) -> Table:
    """The joined table, as printed: our mean and deviation over runs, theirs and the difference in brackets."""
    by_place = {(cell.row, cell.column): str(cell) for cell in cells}
    columns = tuple(dict.fromkeys([*printed.columns, *(cell.column for cell in cells)]))
    rows = tuple((row, *(by_place.get((row, column), "") for column in columns)) for row in printed.rows)
    caption = f"{printed.name} of {printed.paper}: ours ± standard deviation over runs (theirs; difference)."
    return Table(("", *columns), rows, caption, frozenset(columns))


def told(cells: Sequence[Joined]) -> str:
    """How much of the table there is and how far it is from the printed one, averages and shares left out."""
    # Shares and times have other units: a mean over them and accuracies would be no number of anything.
    metrics = [cell for cell in cells if cell.theirs is not None and "(" not in cell.column and "#" not in cell.column]
    metrics = [cell for cell in metrics if not is_average(cell.column)]
    differences = [cell.difference for cell in metrics if cell.difference is not None]
    text = f"{len(differences)} of {len(metrics)} printed metrics have a number of ours"
    if not differences:
        return f"{text}."
    return f"{text}; mean difference {fmean(differences):+.2f}, largest {max(differences, key=abs):+.2f}."
