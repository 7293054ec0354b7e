"""`autopeft front` and `report`: what a search has found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autopeft.cli.app import app
from autopeft.cli.studies import AsJson, Cost, Database, StudyFolder, cost_of, opened_for_reading, picked
from autopeft.cli.terminal import err, out, print_json, say
from autopeft.collecting import uncollected
from autopeft.writing import PICTURE, REPORT, check_file


@app.command()
@uncollected()
def front(
    folder: StudyFolder,
    at: Annotated[str | None, typer.Option(help="The best point within a limit on the cost: 0.5%, 20ms.")] = None,
    by: Cost = None,
    picture: Annotated[Path | None, typer.Option("--plot", help="Write the picture: .png, .svg or .pdf.")] = None,
    storage: Database = None,
    as_json: AsJson = False,
) -> None:
    """Show the Pareto front of a study, or pick a point of it by budget."""
    from autopeft.cli.fronts import answers, front_table, write_front_picture
    from autopeft.reports.rows import front_rows, lacking_note

    check_file("--plot", picture, PICTURE)
    with opened_for_reading(folder, storage) as study:
        cost, trials = cost_of(study, by), study.trials(with_history=False)
        rows = front_rows(trials, cost=cost, is_answering=answers(study))
        for note in lacking_note(trials, cost):
            say(note, err)
        if at is not None:
            number = picked(study, at, cost)
            rows = tuple(row for row in rows if row.number == number)
        if picture is not None:
            write_front_picture(study, folder, picture, cost, trials)
        if as_json:
            print_json([row.as_dict() for row in rows])
        elif at is not None:
            row = rows[0]
            say(f"trial {row.number}: {row.metric} {row.value:.4f} at {cost.text(row.cost)}: {row.candidate}")
        else:
            out.print(front_table(study, out.width, cost, rows))


@app.command()
@uncollected()
def report(
    folder: StudyFolder,
    to: Annotated[Path | None, typer.Option(help="File: .html (default), .md or .json.")] = None,
    by: Cost = None,
    storage: Database = None,
) -> None:
    """Write one self-contained page about a study, with its pictures."""
    from autopeft.cli.console import report_of
    from autopeft.reports.report import write

    target = to or folder / "report.html"
    check_file("--to" if to else "The report", target, REPORT)
    with opened_for_reading(folder, storage) as study:
        write(report_of(study, folder, cost_of(study, by)), target)
    say(f"Report: {target}")
