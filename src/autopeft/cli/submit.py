"""`autopeft submit`: a search whose workers are jobs of Slurm."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
import yaml

from autopeft.cli.app import app
from autopeft.cli.flags import takes_a_search
from autopeft.cli.studies import Database
from autopeft.cli.terminal import say
from autopeft.errors import SettingsError
from autopeft.reading import followed
from autopeft.settings import Settings
from autopeft.writing import STUDY, check_folder


@app.command()
@takes_a_search
def submit(
    settings: Settings,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder of the study, on a disk that every machine sees.")
    ] = None,
    slurm: Annotated[
        list[str], typer.Option(help="An option of the jobs, such as slurm_partition=gpu or timeout_min=600.")
    ] = [],  # noqa: B006
    cluster: Annotated[
        str, typer.Option(help="slurm, or local: the same jobs on this machine, to try them.")
    ] = "slurm",
    storage: Database = None,
) -> None:
    """Begin a search, or continue one, with its workers as jobs of Slurm; needs the extra `slurm`."""
    from autopeft import slurm as jobs
    from autopeft.session import Session, as_begun, has_begun, settled, worker_command, worker_environment
    from autopeft.study.opening import check_storage

    options = _options(slurm)
    if folder is None:
        raise SettingsError("Jobs need a folder that every machine sees: give --out.")
    if cluster not in ("slurm", "local"):
        raise SettingsError(f"--cluster is slurm or local, but got {cluster!r}.")
    where: jobs.Cluster = "local" if cluster == "local" else "slurm"
    check_folder("--out", folder, STUDY, settings.inputs())
    check_storage(storage, folder, settings.inputs())
    jobs.check(where, storage)
    if settings.workers == "auto":
        raise SettingsError("--workers auto measures this machine, and jobs run on others: say how many jobs.")
    # Built here, so that a mistake is told at the prompt and not in the log of a job that waited for hours.
    built = Session.build(as_begun(settings, folder), is_begun=has_begun(folder))
    # The jobs run on other machines than this one, so that steps that are timed here say nothing of theirs.
    session = settled(built, folder, storage, measures=False)
    session.begin(folder, storage).close()
    command = worker_command(followed(folder), trust_remote_code=settings.trust_remote_code)
    environment = worker_environment(storage, os.environ)
    ids = jobs.submit(command, session.settings.n_workers, followed(folder) / "jobs", options, environment, where)
    say(f"Study: {folder}. Jobs: {', '.join(ids)}. Logs: {folder / 'jobs'}.")


def _options(pairs: list[str]) -> dict[str, object]:
    """``key=value`` as a mapping, with numbers as numbers.

    Raises:
        SettingsError: one has another form.
    """
    found: dict[str, object] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise SettingsError(f"--slurm takes key=value, but got {pair!r}.")
        # Only digits become numbers: YAML would make a time of 10:30 a number of minutes.
        found[key] = yaml.safe_load(value) if value.replace(".", "", 1).isdigit() else value
    return found
