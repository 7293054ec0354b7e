"""The page of a contest: what every rival reached at every budget, at which cost, and how long the search took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import Any, Literal

from autopeft.architecture import Architecture, Counts
from autopeft.experiments._experiment import Page
from autopeft.experiments._results import Result
from autopeft.paired import paired
from autopeft.pictures.points import NamedPoint
from autopeft.pictures.results import results_data
from autopeft.reports.markdown import markdown_table
from autopeft.reports.tables import Table

EXPLAINED = (
    "Each search sees the training and the validation part of one cut of the data. What it ended at is trained afresh "
    "once a seed, each time on another cut, the same for all; the metric is that of the test part, which no search "
    "saw where it is a part of its own. A budget is an upper limit on the nominal count unless said otherwise. Search "
    "seconds are those of the search alone: of supernets for samplers that answer budgets, of all trials for the "
    "others; seconds of one retraining are a mean over runs."
)


@dataclass(frozen=True)
class Row:
    """A rival at a budget.

    Args:
        cells: the results of its searches, seed by seed; one at least.
    """

    rival: str
    budget: str
    cells: Sequence[Result]

    @property
    def found(self) -> list[Mapping[str, Any]]:
        """All that its searches ended at."""
        return [one for cell in self.cells for one in cell["found"]]

    @property
    def values(self) -> list[float]:
        """The metric of every run of all that was found."""
        return [float(value) for one in self.found for value in one["values"]]

    @property
    def percent(self) -> float:
        """The mean cost of what was found."""
        return fmean(Counts(**one["counts"]).percent() for one in self.found)


def page(rows: Sequence[Row], n_seeds: int, control: str, title: str) -> Page:
    """The page of the searches that are done.

    Args:
        rows: budget by budget.
        n_seeds: how many search seeds were asked for.
        control: the rival that the others are compared with.
        title: of the picture.
    """
    lines = [EXPLAINED, "", "## Numbers", "", markdown_table(results_table(rows)), ""]
    table = differences_table(rows, n_seeds, control)
    if table.rows:
        lines += [markdown_table(table), ""]
    lines += [markdown_table(found_table(rows)), ""]
    points = [_point(row) for row in rows]
    picture = results_data(points, [], metric=str(rows[0].cells[0]["objective"]), title=title)
    return Page(lines, {"results": picture})


def results_table(rows: Sequence[Row]) -> Table:
    """A row a rival and budget: three counts, the metric over all runs, seconds and their ratio."""
    numbers = ("% nominal", "nominal", "stored", "trained", "mean", "std", "median", "n")
    times = ("search s", "one retraining s", "search / retraining")
    told = []
    for row in rows:
        values, every = row.values, row.found
        counts = [f"{fmean(one['counts'][kind] for one in every):,.0f}" for kind in ("nominal", "stored", "trained")]
        search = fmean(cell["search"]["seconds"] for cell in row.cells)
        again = fmean(one["seconds"] for one in every)
        spread = f"{stdev(values):.4f}" if len(values) > 1 else "single run"
        told.append(
            (row.rival, row.budget, f"{row.percent:.4g}", *counts, f"{fmean(values):.4f}", spread,
             f"{median(values):.4f}", str(len(values)), f"{search:.1f}", f"{again:.1f}", f"{search / again:.2f}")
        )  # fmt: skip
    caption = "Test metric over all runs of all that a search ended at; counts are means over the same."
    return Table(("rival", "budget", *numbers, *times), tuple(told), caption, frozenset((*numbers, *times)))


def differences_table(rows: Sequence[Row], n_seeds: int, control: str) -> Table:
    """Paired differences to `control` by budget.

    Retrainings of one search are no independent draws: where there are several search seeds, these are the pairs.
    """
    runs_of = _by_search if n_seeds > 1 else _by_run
    found = {(row.rival, row.budget): runs_of(row.cells) for row in rows}
    told = []
    for name, budget in found:
        if name != control and (control, budget) in found:
            pairs = paired(found[name, budget], found[control, budget])
            interval = "" if pairs.interval is None else "{:+.4f} to {:+.4f}".format(*pairs.interval)
            told.append((name, budget, f"{pairs.mean:+.4f}", interval, str(len(pairs.values)), pairs.verdict))
    header = ("rival", "budget", "mean difference", "95 % interval", "pairs", "verdict")
    paired_by = "search seed, each the mean of its retrainings" if n_seeds > 1 else "seed of retraining"
    caption = (
        f"Rival less {control} on the same cuts and seeds, paired by {paired_by}; Student's t, not corrected for the "
        "number of comparisons."
    )
    return Table(header, tuple(told), caption, frozenset({"mean difference", "95 % interval", "pairs"}))


def found_table(rows: Sequence[Row]) -> Table:
    """What every search ended at: who proposed it, and how many modules of each method and size it has."""
    told = []
    for row in rows:
        first = row.found[0]
        modules = Counter((item.method, item.size) for item in Architecture.from_dict(first["architecture"]))
        sizes = ", ".join(f"{n} {method}={size}" for (method, size), n in sorted(modules.items()))
        told.append((row.rival, row.budget, sizes, _proposer(row.cells[0], first)))
    caption = "Modules of what each search ended at, with their sizes (first search seed, first architecture)."
    return Table(("rival", "budget", "modules", "proposed by"), tuple(told), caption)


def _proposer(cell: Result, found: Mapping[str, Any]) -> str:
    """Whose proposal a search ended at; older results have the trial's number alone."""
    initial = int(cell["settings"].get("initial") or 0)
    is_initial = found["origin"] == "initial" if "origin" in found else found.get("trial", initial) < initial
    return "initial design" if is_initial else "the search"


def _by_search(found: Sequence[Result]) -> dict[int, float]:
    """The mean over all runs of what a search ended at, by its seed."""
    return {int(cell["settings"]["seed"]): fmean(v for one in cell["found"] for v in one["values"]) for cell in found}


def _by_run(found: Sequence[Result]) -> dict[int, float]:
    """The mean over what the one search ended at, by seed of retraining."""
    runs: dict[int, list[float]] = {}
    for cell in found:
        for one in cell["found"]:
            for seed, value in zip(one["seeds"], one["values"], strict=True):
                runs.setdefault(int(seed), []).append(float(value))
    return {run: fmean(values) for run, values in runs.items()}


def _point(row: Row) -> NamedPoint:
    values, found = row.values, row.found
    std = stdev(values) if len(values) > 1 else None
    counted: Literal["seeds", "runs"] = "seeds" if len(found) == 1 else "runs"  # else the runs are of several
    name, split = f"{row.rival} {row.budget}", str(row.cells[0]["split"])
    return NamedPoint(name, row.percent, fmean(values), std, len(values), split, counted, row.rival)
