"""What an experiment came to: one Markdown page with pictures, made of the cells that are done.

The page is ``results/<name>/README.md``. It is written anew from the cells alone, at any time, and says which cells
are missing and how to run them.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from autopeft.architecture import Counts
from autopeft.errors import SettingsError
from autopeft.experiments.comparison import Comparison, compare
from autopeft.experiments.contest_report import contested
from autopeft.experiments.experiment import Experiment, read_result
from autopeft.markup import code, escape, fenced, image
from autopeft.objective import Scale
from autopeft.paired import paired
from autopeft.pictures import canvas
from autopeft.pictures.cloud import cloud_data
from autopeft.pictures.fronts import fronts_data
from autopeft.pictures.hypervolume import hypervolume_data
from autopeft.pictures.points import Picture
from autopeft.pictures.results import results_data
from autopeft.reports.markdown import markdown_table
from autopeft.reports.rows import RetrainSummary
from autopeft.reports.tables import Table
from autopeft.training.rate_sweep import ProxySignal, beyond_edge
from autopeft.writing import write_whole

_BUDGETS = (0.1, 0.5, 1.0, 5.0)
"""Percent of the backbone at which the best architectures are compared, beside no limit."""

_SCALES: tuple[Scale, ...] = ("linear", "log")

_EXPLAINED = (
    "Hypervolume is the area between a front and the reference point: with the cost linear in percent (AutoPEFT's "
    "figure 8; large architectures weigh most), and with the logarithm of the cost to base 10 (every halving of the "
    "cost weighs alike, down to the cheapest architecture above the reference metric; what the preset "
    '"recommended" maximises). Both are always given. Paired: rivals of one seed share the initial design, so '
    "differences are taken seed by seed; the interval of their mean is Student's at 95 %. Every point is a single "
    "training run, measured on the validation part that the search looks at: the best of many is optimistic, for "
    "every sampler alike."
)


def write_summary(experiment: Experiment, results: Path) -> Path:
    """Write the page and its pictures into the experiment's folder of results.

    Returns:
        The path of the page.

    Raises:
        SettingsError: no cell is done yet.
    """
    folder = results / experiment.name
    cells = done(experiment, results)
    if not cells:
        raise SettingsError(f"No cell of {experiment.name!r} is done in {str(folder)!r}; it has {experiment.cells()}.")
    if experiment.kind == "contest":
        body, pictures = contested(experiment, cells)
    else:
        body, pictures = (_compared if experiment.kind == "compare" else _retrained)(experiment, cells, folder)
    lines = [f"# {escape(experiment.title)}", "", *_missing(experiment, results), *_setting(cells), *body]
    for name, data in pictures.items():
        canvas.save(canvas.picture(data), folder / f"{name}.png")
        lines += [image(data.alt, f"{name}.png"), ""]
    page = folder / "README.md"
    with write_whole(page) as part:
        part.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return page


def done(experiment: Experiment, results: Path) -> dict[str, Mapping[str, Any]]:
    """The cells that have a result, by name, in the experiment's order."""
    folder = results / experiment.name
    return {
        cell: read_result(folder / f"{cell}.json") for cell in experiment.cells() if (folder / f"{cell}.json").exists()
    }


def _missing(experiment: Experiment, results: Path) -> list[str]:
    missing, path = experiment.missing(results), shlex.quote(str(experiment.path))
    if not missing:
        command = f"autopeft experiment {path} --data FOLDER"
        return [f"All {len(experiment.cells())} cells are done. They come from {code(command)}.", ""]
    commands = [f"autopeft experiment {path} --data FOLDER --cell {shlex.quote(cell)}" for cell in missing]
    head = f"**{len(missing)} of {len(experiment.cells())} cells are missing**; each is one command:"
    return [head, "", fenced("\n".join(commands), "sh"), ""]


def _setting(cells: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What all cells share, in a paragraph."""
    cell = next(iter(cells.values()))
    settings, splits = cell["settings"], cell["splits"]
    recipe = settings["recipe"]
    runs = f"{_length(recipe)} a run"
    if "retraining" in cell:
        last = recipe | cell["retraining"]["recipe"]
        runs = (
            f"{_length(recipe)} a run of the search unless its options say otherwise, {_length(last)} a retraining at "
            f"a learning rate of {last['learning_rate']:g}"
        )
    counts = next(one["counts"] for one in cell.get("trials", [cell]) if "counts" in one)  # a failed trial has none
    parts = ", ".join(
        f"{name} {splits[name]['size']:,}" for name in ("train", "validation", "test") if _size(splits, name)
    )
    versions = ", ".join(f"{name} {version}" for name, version in sorted(cell["versions"].items()))
    return [
        f"Model {escape(settings['model'])} ({counts['backbone']:,} parameters), task {escape(splits['task'])}, "
        f"protocol {settings['protocol']} ({parts}), {runs}, batches of {recipe['batch_size']}, {settings['device']}. "
        f"Versions: {versions}.",
        "",
    ]


def _length(recipe: Mapping[str, Any]) -> str:
    if recipe["steps"]:
        return f"{recipe['steps']:,} steps"
    return f"{recipe['epochs']:g} epoch{'' if recipe['epochs'] == 1 else 's'}"


def _size(splits: Mapping[str, Any], name: str) -> bool:
    return isinstance(splits.get(name), Mapping) and "size" in splits[name]


# -- searches --------------------------------------------------------------------------------------------------


def _compared(
    experiment: Experiment, cells: Mapping[str, Mapping[str, Any]], folder: Path
) -> tuple[list[str], dict[str, Picture]]:
    keyed = {(name.rpartition("-seed")[0], int(name.rpartition("-seed")[2])): cell for name, cell in cells.items()}
    found = compare(keyed, against=_against(experiment))
    tables = [_finals_table(found, experiment, scale) for scale in _SCALES]
    tables += [_budgets_table(found), _time_table(found)]
    lines = [*_sweep(folder), "## Verdict", "", *verdicts(found), "", "## Numbers", ""]
    cost, value = found.reference
    lines += [f"Reference point of every hypervolume: {cost:.4g} % and {value:.4g}. {_EXPLAINED}", ""]
    for table in tables:
        lines += [markdown_table(table), ""]
    return [*lines, "## Pictures", ""], _pictures(found)


def _against(experiment: Experiment) -> str:
    """The sampler to compare with: random search, or else the first."""
    names = [name for name in experiment.samplers if experiment.settings_of(f"{name}-seed0").sampler == "random"]
    return (names or list(experiment.samplers))[0]


def _sweep(folder: Path) -> list[str]:
    path = folder / "proxy.json"
    return (
        [f"Learning rate, shared by all cells: {ProxySignal.from_dict(read_result(path))}", ""] if path.exists() else []
    )


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
    return f"{text}; evaluations until it had the other's final hypervolume: {counts}."


def _count(evaluations: int | None) -> str:
    return "never" if evaluations is None else str(evaluations)


def _finals_table(found: Comparison, experiment: Experiment, scale: Scale) -> Table:
    seeds = experiment.seeds
    header = (
        "sampler",
        *(f"seed {seed}" for seed in seeds),
        "mean",
        "standard error",
        "paired difference",
        "reached at",
    )
    rows = []
    for sampler in experiment.samplers:
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


def _budgets_table(found: Comparison) -> Table:
    limits = [*_BUDGETS, float("inf")]
    header = ("sampler", *(f"≤ {limit:g} %" if limit < float("inf") else "no limit" for limit in limits))
    rows = [(name, *(_mean(found.best_within(name, limit)) for limit in limits)) for name in found.runs]
    return Table(
        header, tuple(rows), "Best metric on validation within a budget, mean over seeds.", frozenset(header[1:])
    )


def _mean(values: Mapping[int, float]) -> str:
    return f"{fmean(values.values()):.4f} (n = {len(values)})" if values else "none"


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
    common = sorted(set.intersection(*(set(seeds) for seeds in found.runs.values())))
    pooled = {name: [t for seed in common for t in seeds[seed]] for name, seeds in found.runs.items()}
    return {
        "hypervolume": hypervolume_data(runs, found.reference),
        "hypervolume-log": hypervolume_data(runs, found.reference, scale="log"),
        "fronts": fronts_data(runs),
        **({"cloud": cloud_data(pooled)} if common else {}),
    }


# -- retraining ------------------------------------------------------------------------------------------------


def _retrained(
    experiment: Experiment, cells: Mapping[str, Mapping[str, Any]], folder: Path
) -> tuple[list[str], dict[str, Picture]]:
    points = {name: RetrainSummary.from_dict(name, cell).point for name, cell in cells.items()}
    wanted = experiment.architectures
    names = {name for name in wanted if isinstance(wanted[name], str) or "baseline" in wanted[name]}
    lines = ["## Numbers", "", markdown_table(retrained_table(cells)), "", *rates_tried(cells), *untuned(cells)]
    searched = [name for name in cells if name not in names]
    if searched and names & set(cells):
        lines += [markdown_table(differences_table(cells, searched, [n for n in cells if n in names])), ""]
    picture = results_data(
        [points[name] for name in searched],
        [points[name] for name in cells if name in names],
        metric=str(next(iter(cells.values()))["objective"]),
        title=experiment.title,
    )
    return [*lines, "## Pictures", ""], {"results": picture}


def retrained_table(cells: Mapping[str, Mapping[str, Any]]) -> Table:
    """Mean, standard deviation (n - 1), median, n, the three counts, learning rate and split of every cell."""
    counts = ("% nominal", "nominal", "stored", "trained")
    header = ("architecture", *counts, "learning rate", "split", "metric", "mean", "std", "median", "n", "placements")
    rows = []
    for name, cell in sorted(cells.items(), key=lambda item: int(item[1]["counts"]["nominal"])):
        summary, own = cell["summary"], Counts(**cell["counts"])
        rows.append(
            (
                name,
                f"{own.percent():.4g}",
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


def _rate(cell: Mapping[str, Any]) -> str:
    """The learning rate, and the methods that had a multiple of it."""
    factors = sorted((cell.get("rate_factors") or {}).items())
    return ", ".join([f"{cell['learning_rate']:.3g}", *(f"{name} times {factor:g}" for name, factor in factors)])


def rates_tried(cells: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Which learning rates each architecture chose from and what the recipe was meanwhile, as lines; none if given."""
    groups: dict[str, list[str]] = {}
    for name, cell in cells.items():
        if cell["sweep"] is not None:
            rates = ", ".join(f"{rate:.3g}" for rate, _ in cell["sweep"]["values"])
            changes = ", ".join(f"{key} {value}" for key, value in sorted((cell.get("tuning") or {}).items()))
            groups.setdefault(f"{rates} with {changes or 'the whole recipe'}", []).append(name)
    tried = "; ".join(f"{how}: {escape(', '.join(names))}" for how, names in groups.items())
    return [f"Learning rates tried, in this order: {tried}.", ""] if tried else []


def untuned(cells: Mapping[str, Mapping[str, Any]]) -> list[str]:
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


def differences_table(
    cells: Mapping[str, Mapping[str, Any]], searched: Sequence[str], baselines: Sequence[str]
) -> Table:
    """Paired differences, searched less baseline, with their 95 % intervals."""
    rows = tuple((name, *(_difference(cells[name], cells[other]) for other in baselines)) for name in searched)
    caption = (
        "Searched architecture less baseline on the same seeds: mean and 95 % interval by Student's t, not corrected "
        "for the number of comparisons."
    )
    return Table(("architecture", *baselines), rows, caption, frozenset(baselines))


def _difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    ours, theirs = (dict(zip(cell["seeds"], cell["values"], strict=True)) for cell in (first, second))
    found = paired(ours, theirs)
    if found.interval is None:
        return f"{found.mean:+.4f} ({found.verdict})"
    low, high = found.interval
    return f"{found.mean:+.4f} ({low:+.4f} to {high:+.4f})"
