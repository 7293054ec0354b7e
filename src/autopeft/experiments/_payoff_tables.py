"""The page of a pay-off: what every rival reached for the same cost, and ours less each of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from autopeft.architecture import Counts
from autopeft.experiments._experiment import Page
from autopeft.experiments._results import Result, grain_of
from autopeft.experiments._written import written
from autopeft.objectives import NOMINAL, nominal
from autopeft.paired import Paired, holm, paired
from autopeft.pictures.points import NamedPoint
from autopeft.pictures.results import results_data
from autopeft.reports.markdown import markdown_table
from autopeft.reports.tables import Table

EXPLAINED = (
    "Every rival may spend the same number of training examples, told in full trainings; learning rates that are "
    "tried, initial designs, searches and further seeds of the best are all counted. What it chooses by the validation "
    "part is trained again with seeds of its own, which is the same for all and not counted, and measured on the test "
    "part. Rivals of one search seed have the same training and validation part. Seconds are of training and "
    "evaluation, as they were when a training was done first: rivals share what they train alike."
)

Cells = Sequence[Result]

SMALL = 0.25
"""What share of another's parameters counts as far fewer."""


@dataclass(frozen=True)
class Outcome:
    """What a rival reached with one search.

    Args:
        value: the mean of its retrainings on the test part.
        nominal: parameters.
    """

    value: float
    nominal: int


def page(cells: Cells, rivals: Sequence[str], ours: Sequence[str], title: str) -> Page:
    """The page of the cells that are done.

    Args:
        rivals: all, in the order of the file.
        ours: the rivals whose differences to the others are told.
        title: of the picture.
    """
    by_rival = {name: own for name in rivals if (own := [cell for cell in cells if cell["rival"] == name])}
    lines = [EXPLAINED, "", "## Numbers", "", markdown_table(results_table(by_rival)), ""]
    grain = grain_of(cells)
    for one in (name for name in ours if name in by_rival and len(by_rival) > 1):
        lines += [markdown_table(_differences(by_rival, one, grain)), ""]
        lines += [markdown_table(sizes_table({name: _by_seed(own) for name, own in by_rival.items()}, one)), ""]
    lines += [markdown_table(chosen_table(by_rival)), "", *_written(by_rival)]
    points = [_point(name, own) for name, own in by_rival.items()]
    return Page(lines, {"results": results_data(points, [], metric=str(cells[0]["objective"]), title=title)})


def _written(by_rival: Mapping[str, Cells]) -> list[str]:
    """All metrics where texts were written, and texts of each rival's first search seed."""
    metrics = {name: [run for cell in cells for run in cell["tested"]["metrics"]] for name, cells in by_rival.items()}
    firsts = {name: min(cells, key=lambda cell: int(cell["seed"])) for name, cells in by_rival.items()}
    # Cells of earlier commits have none.
    return written(metrics, {name: cell["tested"].get("texts", ()) for name, cell in firsts.items()})


def _differences(by_rival: Mapping[str, Cells], ours: str, grain: float) -> Table:
    """Paired by search seed; with one of these, by seed of retraining, which says less."""
    if any(len(own) > 1 for own in by_rival.values()):
        keyed = {name: {int(cell["seed"]): _mean(cell) for cell in own} for name, own in by_rival.items()}
        return differences_table(keyed, ours, "search seed, each the mean of its retrainings", grain)
    keyed = {name: _by_retraining(own[0]) for name, own in by_rival.items()}
    by = "seed of retraining: intervals are of what one search chose, and not of how rivals choose"
    return differences_table(keyed, ours, by, grain)


def _by_seed(cells: Cells) -> dict[int, Outcome]:
    return {int(cell["seed"]): _outcome(cell) for cell in cells}


def _outcome(cell: Result) -> Outcome:
    return Outcome(_mean(cell), int(cell["counts"]["nominal"]))


def _by_retraining(cell: Result) -> dict[int, float]:
    tested = cell["tested"]
    return {int(seed): float(value) for seed, value in zip(tested["seeds"], tested["values"], strict=True)}


def results_table(by_rival: Mapping[str, Cells]) -> Table:
    """A row a rival: test and validation metric, parameters, and what was spent on what."""
    numbers = ("search seeds", "test", "std", "n", "validation", NOMINAL.heading, "nominal", "trainings")
    more = ("of these rates", "search", "finals", "seconds")
    rows = []
    for name, cells in by_rival.items():
        values = _values(cells)
        spread = f"{stdev(values):.4f}" if len(values) > 1 else "single run"
        full = [cell["cost"]["full_training"] for cell in cells]
        stages = [
            f"{fmean(cell['cost']['stages'].get(stage, 0) / n for cell, n in zip(cells, full, strict=True)):.1f}"
            for stage in ("rates", "search", "finals")
        ]
        rows.append(
            (name, str(len(cells)), f"{fmean(values):.4f}", spread, str(len(values)), f"{_validation(cells):.4f}",
             NOMINAL.number(fmean(map(_cost, cells))), f"{fmean(cell['counts']['nominal'] for cell in cells):,.0f}",
             f"{fmean(cell['cost']['trainings'] for cell in cells):.1f}", *stages,
             f"{fmean(cell['cost']['seconds'] for cell in cells):.0f}")
        )  # fmt: skip
    caption = (
        "Test: mean and standard deviation over all runs of what was chosen; validation: of the same runs. Parameters, "
        "cost and seconds are means over the search seeds."
    )
    return Table(("rival", *numbers, *more), tuple(rows), caption, frozenset((*numbers, *more)))


def differences_table(keyed: Mapping[str, Mapping[int, float]], ours: str, by: str, grain: float) -> Table:
    """Ours less each other rival.

    Args:
        keyed: the mean test metric by rival and pair.
        by: what pairs share, in words.
        grain: see `autopeft.paired.paired`.
    """
    pairs = {name: paired(keyed[ours], own, grain) for name, own in keyed.items() if name != ours}
    # One pair has no p value; the correction is for the comparisons that can be made.
    known = {name: pair.p_value for name, pair in pairs.items() if pair.p_value is not None}
    corrected = dict(zip(known, holm(list(known.values())), strict=True)) if known else {}
    header = (f"{ours} less", "mean difference", "95 % interval", "pairs", "p", "Holm's p", "detectable", "finding")
    rows = tuple((name, *_difference(pair, corrected.get(name))) for name, pair in pairs.items())
    caption = (
        f"On the test part, paired by {by}; Student's t. The finding is by Holm's p, corrected for the number of "
        "rivals; detectable is the difference that would have been seen in four of five cases."
    )
    return Table(header, rows, caption, frozenset(header[1:-1]))


def sizes_table(keyed: Mapping[str, Mapping[int, Outcome]], ours: str) -> Table:
    """How large what ours chose is beside what each other rival chose.

    Args:
        keyed: by rival and pair.
    """
    rows = []
    for name, own in keyed.items():
        pairs = [(keyed[ours][n], own[n]) for n in own if n in keyed[ours] and own[n].nominal]
        if name == ours or not pairs:
            continue
        small = [(one, other) for one, other in pairs if one.nominal <= SMALL * other.nominal]
        as_good = sum(one.value >= other.value for one, other in small)
        ratio = median(one.nominal / other.nominal for one, other in pairs)
        rows.append((name, f"{ratio:.2f}", str(len(pairs)), str(len(small)), str(as_good)))
    header = (f"{ours} beside", "parameters, median ratio", "pairs", "at most a quarter", "of these no worse")
    caption = (
        "Nominal parameters of what was chosen. No worse: a mean on the test part that is no lower, whatever the noise."
    )
    return Table(header, tuple(rows), caption, frozenset(header[1:]))


def _difference(pair: Paired, corrected: float | None) -> tuple[str, ...]:
    n, p = str(len(pair.values)), pair.p_value
    if pair.interval is None or pair.detectable is None or p is None or corrected is None:
        told = f"{pair.mean:+.4f}" if pair.values else ""
        return told, "", n, "", "", "", pair.verdict
    low, high = pair.interval
    finding = "no difference shown" if corrected >= 0.05 else pair.verdict
    interval = f"{low:+.4f} to {high:+.4f}"
    return f"{pair.mean:+.4f}", interval, n, f"{p:.2g}", f"{corrected:.2g}", f"{pair.detectable:.4f}", finding


def chosen_table(by_rival: Mapping[str, Cells]) -> Table:
    """What each search ended at, a row a search seed."""
    rows = []
    for name, cells in by_rival.items():
        for cell in cells:
            chosen = cell["chosen"]
            factors = ", ".join(f"{method} times {factor:.3g}" for method, factor in chosen["rate_factors"].items())
            rate = f"{chosen['learning_rate']:.3g}" + (f" ({factors})" if factors else "")
            if chosen["found_by"] == "none":  # nothing was trained
                rate = ""
            validation = [value for value in chosen["validation"] if value is not None]
            mean = f"{fmean(validation):.4f} (n = {len(validation)})"
            tested = f"{_mean(cell):.4f}"
            rows.append(
                (name, str(cell["seed"]), chosen["name"], chosen["found_by"], rate, f"{cell['counts']['nominal']:,}",
                 mean, tested, chosen["described"])
            )  # fmt: skip
    header = ("rival", "seed", "chosen", "found by", "learning rate", "nominal", "chosen at", "test", "placements")
    caption = "Chosen at: the mean on the validation part that decided, which is the best of many and so too good."
    return Table(header, tuple(rows), caption, frozenset({"seed", "nominal", "chosen at", "test"}))


def overview(cells: Mapping[str, Cells], rivals: Sequence[str], ours: Sequence[str]) -> list[str]:
    """Means over tasks and ours less each other over all pairs of task and search seed; none where ours are missing.

    Args:
        cells: by task.
    """
    found: dict[str, dict[int, Outcome]] = {name: {} for name in rivals}
    # A pair is a task and a search seed; pairs are numbered, for differences are told by number.
    numbers = {pair: n for n, pair in enumerate((task, int(c["seed"])) for task, own in cells.items() for c in own)}
    for task, own in cells.items():
        for cell in own:
            found[cell["rival"]][numbers[task, int(cell["seed"])]] = _outcome(cell)
    found = {name: own for name, own in found.items() if own}
    keyed = {name: {n: one.value for n, one in own.items()} for name, own in found.items()}
    # Of one task its own table says the same.
    told = [name for name in ours if name in keyed]
    if not told or len(keyed) < 2 or len(cells) < 2:
        return []
    # Tasks have other grains: two equal differences are no more certain than the coarsest of them.
    grain = grain_of(cell for own in cells.values() for cell in own)
    by = "task and search seed, each the mean of its retrainings"
    tables = (table for name in told for table in (differences_table(keyed, name, by, grain), sizes_table(found, name)))
    means = markdown_table(_means_table(cells, keyed, {n: pair for pair, n in numbers.items()}))
    return ["## Over all tasks", "", means, "", *(line for one in tables for line in (markdown_table(one), ""))]


def _means_table(
    cells: Mapping[str, Cells], keyed: Mapping[str, Mapping[int, float]], pairs: Mapping[int, tuple[str, int]]
) -> Table:
    """The mean test metric of each rival by task, over the pairs that all rivals have, and over the tasks."""
    # A rival must not look better for lacking the harder task.
    common = set.intersection(*(set(own) for own in keyed.values()))
    tasks = [task for task in cells if any(pairs[n][0] == task for n in common)]
    rows = []
    for name, own in keyed.items():
        means = [fmean(own[n] for n in common if pairs[n][0] == task) for task in tasks]
        rows.append((name, *(f"{value:.4f}" for value in means), f"{fmean(means):.4f}" if means else ""))
    caption = (
        f"Test metric over the {len(common)} pairs of task and search seed that all have, and its mean over tasks."
    )
    return Table(("rival", *tasks, "mean"), tuple(rows), caption, frozenset((*tasks, "mean")))


def _values(cells: Cells) -> list[float]:
    return [float(value) for cell in cells for value in cell["tested"]["values"]]


def _mean(cell: Result) -> float:
    return fmean(cell["tested"]["values"])


def _validation(cells: Cells) -> float:
    return fmean(float(value) for cell in cells for value in cell["tested"]["validation"])


def _cost(cell: Result) -> float:
    return nominal(Counts(**cell["counts"]))


def _point(name: str, cells: Cells) -> NamedPoint:
    values = _values(cells)
    std = stdev(values) if len(values) > 1 else None
    split = str(cells[0]["split"])
    return NamedPoint(name, fmean(map(_cost, cells)), fmean(values), std, len(values), split, "runs", name)
