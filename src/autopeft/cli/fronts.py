"""The front of a study for a terminal, and its picture: all that `autopeft front` shows, and imports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table

from autopeft.objective import Objective
from autopeft.reports.rows import FrontRow, front_rows, retrained_in
from autopeft.study.reading import Readable
from autopeft.trial import Trial

WIDE = 120
"""Columns from which on a table of the front has room for the architectures."""


def front_table(
    study: Readable, width: int = WIDE, by: Objective | None = None, found: Sequence[FrontRow] | None = None
) -> RenderableType:
    """The front for a terminal of `width` columns, by increasing cost.

    Below `WIDE` columns the architectures stand in a table of their own, where they are not cut to pieces.

    Args:
        by: the cost that it is tabulated by; the study's own when None.
        found: the front's rows, where they have been made before.
    """
    cost = by or study.cost
    rows = found
    if rows is None:
        rows = front_rows(study.trials(with_history=False), cost=cost, is_answering=answers(study))
    metric, is_wide = study.objective, width >= WIDE
    points = "1 point" if len(rows) == 1 else f"{len(rows)} points"
    title = f"Pareto front: {points}, {metric} on validation, one seed each"
    numbers = plain_table(("trial", cost.heading, "nominal", "stored", "trained", metric, "seconds"), title)
    # A name that is broken over lines cannot be copied; in a narrow terminal it gets a table of its own.
    names = numbers if is_wide else plain_table(("trial",))
    names.add_column("architecture (layers from 1)", overflow="fold")
    for row in rows:
        counts = [f"{value:,}" for value in (row.nominal, row.stored, row.trained)]
        cells = [str(row.number), cost.number(row.cost), *counts, f"{row.value:.4f}", f"{row.seconds:.1f}"]
        numbers.add_row(*cells, *([str(row.candidate)] if is_wide else []))
        if not is_wide:
            names.add_row(str(row.number), str(row.candidate))
    return numbers if is_wide else Group(numbers, names)


def plain_table(numbers: Sequence[str], title: str | None = None) -> Table:
    """A table whose only line is below the header, with columns of numbers."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def answers(study: Readable) -> bool:
    """Whether the study's sampler answers budgets by a search of its own."""
    return bool(study.settings.get("sampler_settings", {}).get("budgets"))


def write_front_picture(
    study: Readable, folder: Path, path: Path, by: Objective | None = None, trials: Sequence[Trial] | None = None
) -> None:
    """The picture of the front as PNG, SVG or PDF, by the ending of `path`, with the baselines trained beside it."""
    from autopeft.pictures import canvas
    from autopeft.pictures.front import front_data

    cost = by or study.cost
    baselines = [point for one in retrained_in(folder) if one.is_baseline and (point := one.point(cost))]
    found = study.trials(with_history=False) if trials is None else trials
    canvas.save(canvas.picture(front_data(found, baselines, cost=cost)), path)
