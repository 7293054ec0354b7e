"""The tables of a contest: what every rival reached at every budget, at which cost, and how long the search took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean, median, stdev
from typing import Any

from autopeft.architecture import Architecture, Counts
from autopeft.experiments.experiment import Experiment
from autopeft.paired import paired
from autopeft.pictures.points import NamedPoint, Picture
from autopeft.pictures.results import results_data
from autopeft.reports.markdown import markdown_table
from autopeft.reports.tables import Table

Cells = Mapping[str, Mapping[str, Any]]

EXPLAINED = (
    "Each search sees the training and the validation part of one cut of the data. What it ended at is trained afresh "
    "once a seed, each time on another cut, the same for all; the metric is that of the test part, which no search "
    "saw where it is a part of its own. A budget is an upper limit on the nominal count unless said otherwise. Search "
    "seconds are those of the search alone: of supernets for samplers that answer budgets, of all trials for the "
    "others; seconds of one retraining are a mean over runs."
)

_CONTROL = "apet"


def contested(experiment: Experiment, cells: Cells) -> tuple[list[str], dict[str, Picture]]:
    """Lines of Markdown and pictures for the cells that are done."""
    asked = experiment.contest
    assert asked is not None  # the file was read as a contest
    lines = [EXPLAINED, "", "## Numbers", "", markdown_table(results_table(experiment, cells)), ""]
    control = _CONTROL if _CONTROL in asked.samplers else next(iter(asked.samplers))
    table = differences_table(experiment, cells, control)
    if table.rows:
        lines += [markdown_table(table), ""]
    lines += [markdown_table(found_table(experiment, cells)), ""]
    points = [_point(f"{name} {budget}", name, found) for name, budget, found in _rows(experiment, cells)]
    metric = str(next(iter(cells.values()))["objective"])
    picture = results_data(points, [], metric=metric, title=experiment.title)
    return [*lines, "## Pictures", ""], {"results": picture}


def _rows(experiment: Experiment, cells: Cells) -> list[tuple[str, str, list[Mapping[str, Any]]]]:
    """Rival, budget and the cells of all its search seeds, budget by budget; none where no cell is done."""
    asked, found = experiment.contest, dict[tuple[str, str], list[Mapping[str, Any]]]()
    assert asked is not None
    for cell, (name, budget, _) in asked.cells(experiment.seeds).items():
        if cell in cells:
            found.setdefault((budget, name), []).append(cells[cell])
    return [(name, budget, found[budget, name]) for budget, name in found]


def _values(found: Sequence[Mapping[str, Any]]) -> list[float]:
    return [value for cell in found for one in cell["found"] for value in one["values"]]


def results_table(experiment: Experiment, cells: Cells) -> Table:
    """A row a rival and budget: three counts, the metric over all runs, seconds and their ratio."""
    numbers = ("% nominal", "nominal", "stored", "trained", "mean", "std", "median", "n")
    times = ("search s", "one retraining s", "search / retraining")
    rows = []
    for name, budget, found in _rows(experiment, cells):
        values = _values(found)
        every = [one for cell in found for one in cell["found"]]
        counts = [f"{fmean(one['counts'][kind] for one in every):,.0f}" for kind in ("nominal", "stored", "trained")]
        percent = fmean(Counts(**one["counts"]).percent() for one in every)
        search = fmean(cell["search"]["seconds"] for cell in found)
        again = fmean(one["seconds"] for one in every)
        spread = f"{stdev(values):.4f}" if len(values) > 1 else "single run"
        rows.append(
            (name, budget, f"{percent:.4g}", *counts, f"{fmean(values):.4f}", spread, f"{median(values):.4f}",
             str(len(values)), f"{search:.1f}", f"{again:.1f}", f"{search / again:.2f}")
        )  # fmt: skip
    caption = "Test metric over all runs of all that a search ended at; counts are means over the same."
    return Table(("rival", "budget", *numbers, *times), tuple(rows), caption, frozenset((*numbers, *times)))


def differences_table(experiment: Experiment, cells: Cells, control: str) -> Table:
    """Paired differences to `control` by budget.

    Retrainings of one search are no independent draws: where there are several search seeds, these are the pairs.
    """
    runs_of = _by_search if len(experiment.seeds) > 1 else _by_run
    found = {(name, budget): runs_of(own) for name, budget, own in _rows(experiment, cells)}
    rows = []
    for name, budget in found:
        if name != control and (control, budget) in found:
            pairs = paired(found[name, budget], found[control, budget])
            interval = "" if pairs.interval is None else "{:+.4f} to {:+.4f}".format(*pairs.interval)
            rows.append((name, budget, f"{pairs.mean:+.4f}", interval, str(len(pairs.values)), pairs.verdict))
    header = ("rival", "budget", "mean difference", "95 % interval", "pairs", "verdict")
    paired_by = "search seed, each the mean of its retrainings" if len(experiment.seeds) > 1 else "seed of retraining"
    caption = (
        f"Rival less {control} on the same cuts and seeds, paired by {paired_by}; Student's t, not corrected for the "
        "number of comparisons."
    )
    return Table(header, tuple(rows), caption, frozenset({"mean difference", "95 % interval", "pairs"}))


def found_table(experiment: Experiment, cells: Cells) -> Table:
    """What every search ended at: how many modules of each method and size, of its first architecture."""
    rows = []
    for name, budget, found in _rows(experiment, cells):
        first = Architecture.from_dict(found[0]["found"][0]["architecture"])
        modules = Counter((item.method, item.size) for item in first)
        told = ", ".join(f"{n} {method}={size}" for (method, size), n in sorted(modules.items()))
        rows.append((name, budget, told))
    caption = "Modules of what each search ended at, with their sizes (first search seed, first architecture)."
    return Table(("rival", "budget", "modules"), tuple(rows), caption)


def _by_search(found: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """The mean over all retrainings of what a search ended at, by search seed."""
    return {int(cell["settings"]["seed"]): fmean(_values([cell])) for cell in found}


def _by_run(found: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """The mean over what the one search ended at, by seed of retraining."""
    runs: dict[int, list[float]] = {}
    for cell in found:
        for one in cell["found"]:
            for seed, value in zip(one["seeds"], one["values"], strict=True):
                runs.setdefault(int(seed), []).append(float(value))
    return {run: fmean(values) for run, values in runs.items()}


def _point(name: str, rival: str, found: Sequence[Mapping[str, Any]]) -> NamedPoint:
    values = _values(found)
    percent = fmean(Counts(**one["counts"]).percent() for cell in found for one in cell["found"])
    std = stdev(values) if len(values) > 1 else None
    is_one = sum(len(cell["found"]) for cell in found) == 1  # else the runs are of several architectures
    split = str(found[0]["split"])
    return NamedPoint(name, percent, fmean(values), std, len(values), split, "seeds" if is_one else "runs", rival)
