"""`autopeft experiment`: comparisons described in YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autopeft.cli.app import app
from autopeft.cli.studies import TrustRemoteCode
from autopeft.cli.terminal import say
from autopeft.collecting import import_for_good
from autopeft.errors import AutopeftError, InputError
from autopeft.writing import STUDY, SUMMARY, check_folder


@app.command()
def experiment(
    file: Annotated[Path, typer.Argument(help="An experiment, such as experiments/search.yaml.")],
    data: Annotated[str | None, typer.Option(help="Folder with the task's files.")] = None,
    results: Annotated[Path, typer.Option(help="Folder of results.")] = Path("results"),
    work: Annotated[Path, typer.Option(help="Folder of the studies.")] = Path("runs"),
    cell: Annotated[str | None, typer.Option(help="Run just this cell.")] = None,
    dry: Annotated[bool, typer.Option("--missing", help="Only list the cells that have no result yet.")] = False,
    summary: Annotated[
        bool, typer.Option("--summary", help="Only write the page and the pictures of the cells that are done.")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Run an experiment: cells that have a result are not run again."""
    import_for_good("autopeft.session")
    from autopeft import experiments

    found = experiments.read(file, data, trust_remote_code=trust_remote_code)
    if dry:
        say("\n".join(found.missing(results)) or "nothing is missing")
        return
    check_folder("--results", results / found.name, SUMMARY)
    # Before the first cell: an experiment runs for days, and a folder that is taken would end it in the middle.
    for one in found.missing(results):
        check_folder("--work", work / found.name / one, STUDY)
    try:
        if not summary:
            experiments.run(found, results, work, say, cell)
    except InputError:
        raise
    except AutopeftError:
        # What is done by then is shown, for cells that failed are told by the error that goes on.
        if found.has_page(results):
            say(f"Summary: {experiments.write_summary(found, results)}")
        raise
    say(f"Summary: {experiments.write_summary(found, results)}")
