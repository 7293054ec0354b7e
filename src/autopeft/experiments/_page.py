"""What an experiment came to: one Markdown page, made of the cells that are done, and pictures beside it.

The page is ``results/<name>/README.md``. It is written anew from the cells alone, at any time, and says which cells
are missing and how to run them. Pictures are told in words and drawn beside the page; they are no part of what is
kept, for they can be made again.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autopeft.errors import SettingsError
from autopeft.experiments._experiment import Experiment, Page
from autopeft.experiments._results import Result
from autopeft.markup import code, escape, fenced
from autopeft.pictures import canvas
from autopeft.pictures.points import Picture
from autopeft.writing import write_whole


def write_summary(experiment: Experiment, results: Path) -> Path:
    """Write the page and its pictures into the experiment's folder of results.

    Returns:
        The path of the page.

    Raises:
        SettingsError: no cell is done yet.
    """
    folder = results / experiment.name
    text, pictures = summary(experiment, results)
    for name, data in pictures.items():
        # Pictures before the page, so that a page never names one that is not there.
        canvas.save(canvas.picture(data), folder / f"{name}.png")
    page = folder / "README.md"
    with write_whole(page) as part:
        part.write_text(text, encoding="utf-8")
    return page


def summary(experiment: Experiment, results: Path) -> tuple[str, dict[str, Picture]]:
    """The page's text, and its pictures by the names of their files without ending.

    Raises:
        SettingsError: no cell is done yet.
    """
    done = experiment.done(results)
    pages = {task: found for task in experiment.parts if (found := _page(experiment, task, results, done)) is not None}
    if not pages:
        folder = results / experiment.name
        unlike = "; ".join(f"{cell!r}: {', '.join(told)}" for cell, told in experiment.unlike(results).items())
        others = f" Those that lie there were made by other settings than the file has: {unlike}." if unlike else ""
        raise SettingsError(
            f"No cell of {experiment.name!r} is done in {str(folder)!r}; it has {experiment.cells()}.{others}"
        )
    lines = [f"# {escape(experiment.title)}", "", *_missing(experiment, results), *_unlike(experiment.unlike(results))]
    by_task = {task: (experiment.parts[task], _of_part(experiment, task, results, done)) for task in pages}
    lines += next(iter(experiment.parts.values())).overview(by_task)
    pictures: dict[str, Picture] = {}
    for task, page in pages.items():
        own = {f"{task}-{name}" if task else name: data for name, data in page.pictures.items()}
        body = [*page.lines, *_drawn(own)]
        lines += _below(task, experiment.parts[task].origin.title, experiment.title, body) if task else body
        pictures |= own
    return "\n".join(lines).rstrip() + "\n", pictures


def _page(experiment: Experiment, task: str, results: Path, done: Mapping[str, Result]) -> Page | None:
    """The part of the page of one task; None when nothing of it is done."""
    found = _of_part(experiment, task, results, done)
    part = experiment.parts[task]
    if not found and not part.is_derived:
        return None
    page = part.page(found, experiment.place(task, results))
    return Page([*([] if part.is_derived else _setting(found)), *page.lines], page.pictures)


def _of_part(experiment: Experiment, task: str, results: Path, done: Mapping[str, Result]) -> dict[str, Result]:
    """What is done of one part, by the name of the cell in it."""
    place = experiment.place(task, results)
    return {cell.name: done[key] for cell in experiment.parts[task].cells() if (key := place.key(cell.name)) in done}


def _below(task: str, title: str, whole_title: str, body: list[str]) -> list[str]:
    """`body` under a heading of its own, its headings one level lower."""
    about = [escape(title), ""] if title != whole_title else []
    return [f"## {escape(task)}", "", *about, *(f"#{line}" if line.startswith("## ") else line for line in body), ""]


def _drawn(pictures: Mapping[str, Picture]) -> list[str]:
    if not pictures:
        return []
    head = "Drawn beside this page by `autopeft experiment FILE --summary`; in words:"
    told = [f"* {code(f'{name}.png')}: {escape(data.alt)}" for name, data in pictures.items()]
    return ["## Pictures", "", head, "", *told, ""]


def _missing(experiment: Experiment, results: Path) -> list[str]:
    unlike, path = experiment.unlike(results), shlex.quote(str(experiment.path))
    # Those cannot be run as long as their results lie there.
    missing = [cell for cell in experiment.missing(results) if cell not in unlike]
    if unlike and not missing:
        return []
    if not missing:
        command = f"autopeft experiment {path} --data FOLDER"
        return [f"All {len(experiment.cells())} cells are done. They come from {code(command)}.", ""]
    commands = [f"autopeft experiment {path} --data FOLDER --cell {shlex.quote(cell)}" for cell in missing]
    head = f"**{len(missing)} of {len(experiment.cells())} cells are missing**; each is one command:"
    return [head, "", fenced("\n".join(commands), "sh"), ""]


def _unlike(unlike: Mapping[str, Sequence[str]]) -> list[str]:
    """Cells that have a result of something else, and what differs."""
    if not unlike:
        return []
    by_told: dict[str, list[str]] = {}
    for cell, told in unlike.items():
        by_told.setdefault(", ".join(told), []).append(code(cell))
    head = (
        f"**The results of {len(unlike)} cells are of another experiment than the file describes now** and are left "
        "out here; put the file back as it was, or give it another name to run them anew:"
    )
    return [head, "", *(f"* {', '.join(cells)}: {told}" for told, cells in by_told.items()), ""]


def _setting(cells: Mapping[str, Result]) -> list[str]:
    """What all cells share, in a paragraph."""
    cell = next(iter(cells.values()))
    # A kind that trains nothing has no settings to tell, and what it keeps of a cell is its own affair.
    if not {"settings", "splits", "versions"} <= cell.keys():
        return []
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
