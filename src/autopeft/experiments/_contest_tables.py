"""The page of a contest: what every rival reached at every budget, at which cost, and how long the search took."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import correlation, fmean, median, stdev
from typing import Any, Literal

from autopeft.architecture import Architecture, Counts
from autopeft.experiments._experiment import Page
from autopeft.experiments._results import Result, grain_of
from autopeft.experiments._written import written
from autopeft.objectives import NOMINAL, nominal
from autopeft.paired import Paired, paired
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
    def distinct(self) -> list[Mapping[str, Any]]:
        """`found`, without what is trained again word for word: runs that two searches end at are no more than one."""
        keys = ("architecture", "learning_rate", "seeds", "values")
        return list({repr([one.get(key) for key in keys]): one for one in self.found}.values())

    @property
    def values(self) -> list[float]:
        """The metric of every run of all that was found."""
        return [float(value) for one in self.distinct for value in one["values"]]

    @property
    def spent(self) -> float:
        """The mean share of the budget, in the count that the budget is on."""
        return fmean(
            one["counts"][cell["budget"]["count"]] / cell["budget"]["most"]
            for cell in self.cells
            for one in cell["found"]
        )

    @property
    def cost(self) -> float:
        """The mean cost of what was found, in nominal parameters: budgets are of those."""
        return fmean(nominal(Counts(**one["counts"])) for one in self.found)


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
    choices = choices_table(rows)
    if choices.rows:
        lines += [markdown_table(choices), ""]
    examples = examples_table(rows)
    if examples.rows:
        lines += [markdown_table(examples), ""]
    repeats = repeats_table(rows)
    if repeats.rows:
        lines += [markdown_table(repeats), ""]
    lines += _written(rows)
    points = [_point(row) for row in rows]
    picture = results_data(points, [], metric=str(rows[0].cells[0]["objective"]), title=title)
    return Page(lines, {"results": picture})


def _written(rows: Sequence[Row]) -> list[str]:
    """All metrics where texts were written, and texts of each rival's first search at each budget."""
    named = {f"{row.rival} {row.budget}": row.found for row in rows}
    metrics = {name: [run for one in found for run in one.get("metrics", ())] for name, found in named.items()}
    # Cells of earlier commits have no texts.
    return written(metrics, {name: found[0].get("texts", ()) for name, found in named.items()})


def results_table(rows: Sequence[Row]) -> Table:
    """A row a rival and budget: three counts, the metric over all runs, seconds and their ratio."""
    numbers = (NOMINAL.heading, "of the budget", "nominal", "stored", "trained", "mean", "std", "median", "n")
    times = ("search s", "one retraining s", "search / retraining")
    told = []
    for row in rows:
        values, every = row.values, row.found
        counts = [f"{fmean(one['counts'][kind] for one in every):,.0f}" for kind in ("nominal", "stored", "trained")]
        search = fmean(cell["search"]["seconds"] for cell in row.cells)
        again = fmean(one["seconds"] for one in every)
        spread = f"{stdev(values):.4f}" if len(values) > 1 else "single run"
        told.append(
            (row.rival, row.budget, NOMINAL.number(row.cost), f"{row.spent:.0%}", *counts, f"{fmean(values):.4f}",
             spread, f"{median(values):.4f}", str(len(values)), f"{search:.1f}", f"{again:.1f}",
             f"{search / again:.2f}")
        )  # fmt: skip
    caption = "Test metric over all runs of all that a search ended at; counts are means over the same."
    return Table(("rival", "budget", *numbers, *times), tuple(told), caption, frozenset((*numbers, *times)))


def examples_of(row: Row) -> tuple[float, float] | None:
    """Mean examples of a search and of one retraining; None where a cell has not counted them."""
    counts = [cell["search"].get("examples") for cell in row.cells], [one.get("examples") for one in row.found]
    search, once = ([float(one) for one in own if one is not None] for own in counts)
    is_counted = len(search) == len(counts[0]) and len(once) == len(counts[1])
    return (fmean(search), fmean(once)) if is_counted else None


def examples_table(rows: Sequence[Row]) -> Table:
    """What searches and retrainings took in examples, which no other load moves; of those that counted."""
    told = []
    for row in rows:
        if (spent := examples_of(row)) is not None:
            search, once = spent
            told.append((row.rival, row.budget, f"{search:,.0f}", f"{once:,.0f}", f"{search / once:.2f}"))
    numbers = ("search", "one retraining", "search / retraining")
    caption = "Training examples that went through the model, repetitions counted, as means over searches and runs."
    return Table(("rival", "budget", *numbers), tuple(told), caption, frozenset(numbers))


def differences_table(rows: Sequence[Row], n_seeds: int, control: str) -> Table:
    """Paired differences to `control` by budget.

    Retrainings of one search are no independent draws: where there are several search seeds, these are the pairs.
    """
    found = {(row.rival, row.budget): row for row in rows}
    told = []
    for name, budget in found:
        if name != control and (control, budget) in found:
            pairs = pairs_of(found[name, budget], found[control, budget], n_seeds)
            interval = "" if pairs.interval is None else "{:+.4f} to {:+.4f}".format(*pairs.interval)
            told.append((name, budget, f"{pairs.mean:+.4f}", interval, str(len(pairs.values)), pairs.verdict))
    header = ("rival", "budget", "mean difference", "95 % interval", "pairs", "verdict")
    paired_by = "search seed, each the mean of its retrainings" if n_seeds > 1 else "seed of retraining"
    caption = (
        f"Rival less {control} on the same cuts and seeds, paired by {paired_by}; Student's t, not corrected for the "
        f"number of comparisons.{REPEATED if any(map(is_repeated, rows)) else ''}"
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


def choices_table(rows: Sequence[Row]) -> Table:
    """What each rival chose among, with the metric on the validation part that decided."""
    told = []
    for row in rows:
        for cell in row.cells:
            given = cell.get("chosen_of") or []
            if len(given) > 1:
                best = cell["found"][0]["described"]
                among = "; ".join(f"{one['described']}: {one['validation']:.4f}" for one in given)
                told.append((row.rival, row.budget, str(cell["settings"]["seed"]), best, among))
    header = ("rival", "budget", "search seed", "chosen", "among, with the metric on the validation part")
    caption = "What a rival ended at is several; the best on the validation part of its search was trained again."
    return Table(header, tuple(told), caption, frozenset({"search seed"}))


def repeats_table(rows: Sequence[Row]) -> Table:
    """How far searches of several seeds end at the same: placements in common, and whether their sizes agree."""
    told = []
    # A control ends at the same with every seed, which says nothing of a search.
    for row in (row for row in rows if row.found[0].get("origin") != "baseline"):
        ended = [Architecture.from_dict(cell["found"][0]["architecture"]) for cell in row.cells]
        # Asked of what was found, not of the methods: a page must outlive the names that methods have today.
        kinds = Counter(method for method, _ in {(item.method, item.size) for one in ended for item in one})
        sized = {method for method, n_sizes in kinds.items() if n_sizes > 1}
        pairs = [(_sizes(first), _sizes(second)) for first, second in itertools.combinations(ended, 2)]
        if pairs:
            shares = [len(first.keys() & second.keys()) / len(first.keys() | second.keys()) for first, second in pairs]
            both = [(key, first, second) for first, second in pairs for key in first.keys() & second.keys()]
            sizes = [(first[key], second[key]) for key, first, second in both if key[1] in sized]
            told.append((row.rival, row.budget, f"{fmean(shares):.0%}", *_correlation(sizes)))
    header = ("rival", "budget", "placements in common", "correlation of their sizes", "pairs of sizes")
    caption = (
        "Between every two search seeds: the placements that both have, of those that either has; and over these, the "
        "correlation of the logarithms of their sizes, of methods found at more than one size."
    )
    return Table(header, tuple(told), caption, frozenset(header[2:]))


def _sizes(architecture: Architecture) -> dict[tuple[str, str], int]:
    return {(item.site, item.method): item.size for item in architecture}


def _correlation(pairs: Sequence[tuple[int, int]]) -> tuple[str, str]:
    """Of the logarithms, and of how many pairs; of a handful it says nothing."""
    sized = [(math.log2(a), math.log2(b)) for a, b in pairs]
    if len({a for a, _ in sized}) < 2 or len({b for _, b in sized}) < 2 or len(sized) < 8:
        return "too few", str(len(sized))
    return f"{correlation(*zip(*sized, strict=True)):+.2f}", str(len(sized))


def _proposer(cell: Result, found: Mapping[str, Any]) -> str:
    """Whose proposal a search ended at; older results have the trial's number alone."""
    if found.get("origin") == "baseline":
        return "nobody: uniform"
    initial = int(cell["settings"].get("initial") or 0)
    is_initial = found["origin"] == "initial" if "origin" in found else found.get("trial", initial) < initial
    return "initial design" if is_initial else "the search"


REPEATED = (
    " A rival of which several search seeds ended at the same runs is paired by seed of retraining: the luck of those "
    "runs is in all pairs of search seeds alike, and an interval over these would not know it."
)


def is_repeated(row: Row) -> bool:
    """Whether several searches ended at the same runs, as where a control looks for nothing but its rate."""
    return len(row.distinct) < len(row.found)


def pairs_of(first: Row, second: Row, n_seeds: int) -> Paired:
    """The differences of two rivals at a budget, see `REPEATED`.

    Pairs are means by search seed, or by seed of retraining where one search seed alone was asked for.
    """
    by = _by_run if n_seeds == 1 or is_repeated(first) or is_repeated(second) else _by_search
    return paired(by(first.cells), by(second.cells), grain_of([*first.cells, *second.cells]))


def _by_search(found: Sequence[Result]) -> dict[int, float]:
    """The mean over all runs of what a search ended at, by its seed."""
    return {int(cell["settings"]["seed"]): fmean(v for one in cell["found"] for v in one["values"]) for cell in found}


def _by_run(found: Sequence[Result]) -> dict[int, float]:
    """The mean over all that searches ended at, by seed of retraining."""
    runs: dict[int, list[float]] = {}
    for cell in found:
        for one in cell["found"]:
            for seed, value in zip(one["seeds"], one["values"], strict=True):
                runs.setdefault(int(seed), []).append(float(value))
    return {run: fmean(values) for run, values in runs.items()}


def _point(row: Row) -> NamedPoint:
    values, found = row.values, row.distinct
    std = stdev(values) if len(values) > 1 else None
    counted: Literal["seeds", "runs"] = "seeds" if len(found) == 1 else "runs"  # else the runs are of several
    name, split = f"{row.rival} {row.budget}", str(row.cells[0]["split"])
    return NamedPoint(name, row.cost, fmean(values), std, len(values), split, counted, row.rival, row.budget)
