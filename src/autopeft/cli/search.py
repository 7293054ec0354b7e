"""`autopeft search`, `worker` and `check`: to search, to join a search, to see what one would be."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from autopeft.cli.app import app
from autopeft.cli.finish import RESULTS, FinalsAsked, asked_in_search, hold, show_finals
from autopeft.cli.flags import asked, takes
from autopeft.cli.studies import AsJson, Database, StudyFolder, TrustRemoteCode, opened
from autopeft.cli.terminal import err, out, print_json, say
from autopeft.cli.total import Total
from autopeft.collecting import import_for_good
from autopeft.errors import AutopeftError, ProposalFailure, SearchIncompleteError
from autopeft.masking import STORAGE_VARIABLE
from autopeft.settings import Settings
from autopeft.workers import DEVICE_VARIABLE
from autopeft.writing import FINALS, PICTURE, STUDY, check_file, check_folder

if TYPE_CHECKING:
    from autopeft.session import Session
    from autopeft.study.study import Study

PICTURE_FILE = "front.png"
"""The file inside a study's folder that shows its front."""


Finish = Annotated[
    bool, typer.Option("--finish", help="Then hold the finals, see `autopeft finish`, and say what to use.")
]


@app.command()
@takes(asked, asked_in_search)
def search(
    settings: Settings,
    finals: FinalsAsked,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder of the study; the same folder continues.")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(envvar=STORAGE_VARIABLE, help="Database URL for several machines; default: a file."),
    ] = None,
    finish: Finish = False,
) -> None:
    """Search, or continue a search, and print its front."""
    import_for_good("autopeft.session", "autopeft.cli.console")
    from autopeft.cli.console import SearchProgress, progress_bar
    from autopeft.cli.fronts import front_table
    from autopeft.session import carry_out, with_workers
    from autopeft.study.opening import check_storage

    # The same settings name the same folder, so that the command without one goes on as well.
    folder = folder or Path("runs") / _name(settings)
    check_folder("--out", folder, STUDY, settings.inputs())
    check_file("The picture", folder / PICTURE_FILE, PICTURE)
    check_storage(storage, folder, settings.inputs())
    if finish:
        check_file("The outcome", folder / RESULTS, FINALS)
    after = None
    with _study(settings, folder, storage) as (session, study):
        if finish:
            after = _finals_session(session, finals)
            say(Total.of(session, finals, after).told, err)
        with progress_bar(err) as progress:
            show = SearchProgress(progress, study, session.total)
            signal = session.proxy(study, show.say, folder)
            if session.settings.rates == "rule":
                show.say(f"learning rate {session.settings.recipe.learning_rate:g}, by the rule for this width")
            if signal is not None:
                progress.console.print(str(signal), style="" if signal.has_signal else "bold yellow")
            session = with_workers(session, study, progress.console.print)
            # One process says what it does trial by trial; of several only the ends are seen.
            if session.settings.n_workers > 1:
                show.say(f"{session.settings.n_workers} workers")
            try:
                carry_out(session, study, signal, folder, show, storage)
            except ProposalFailure:
                # What has been measured before the proposal failed is paid for, and is shown.
                if len(study.front()):
                    out.print(front_table(study, out.width))
                raise
        _say_unused(study, session)
        _show_found(study, folder)
        _check_complete(study, folder)
    if after is not None:
        show_finals(hold(folder, after, finals, storage), folder, after.settings)


def _finals_session(session: Session, finals: FinalsAsked) -> Session:
    """The session of a search's finals, which shares its model and, unless more is asked for, its data."""
    from autopeft.session import Session

    return Session.build(finals.after(session.settings), is_begun=True, like=session)


def _say_unused(study: Study, session: Session) -> None:
    """Say where the trials have come to their end before the budget in trainings has, which nothing else shows."""
    from autopeft.rungs import search_cost

    most, trials = session.settings.trainings, study.trials(with_history=False)
    spent, n = search_cost(trials).trainings, sum(trial.counts_as_finished for trial in trials)
    # With less than a whole training no other trial might have been begun either.
    if most is not None and n >= session.total and spent <= most - 1:
        say(
            f"All {n} trials are made and have taken {spent:.4g} of {most:g} trainings. To use the rest, run the same "
            "search with more trials (--trials).",
            err,
        )


def _show_found(study: Study, folder: Path) -> None:
    from autopeft.cli.console import budgets_line, database_option
    from autopeft.cli.fronts import front_table, write_front_picture
    from autopeft.trial import TrialState

    if not len(study.front()):
        _check_complete(study, folder)
        paused = sum(trial.state is TrialState.PAUSED for trial in study.trials(with_history=False))
        if paused:
            raise AutopeftError(
                f"No trial came to its end; paused at a rung: {paused}. Give the same search more trials: of each rung "
                "the best few go on, and of few trials none may."
            )
        raise AutopeftError(f"No trial was measured; see `autopeft report {shlex.quote(str(folder))}`.")
    out.print(front_table(study, out.width))
    write_front_picture(study, folder, folder / PICTURE_FILE)
    if answered := budgets_line(study):
        say(answered)
    say(
        f"Study: {folder}. Picture: {folder / PICTURE_FILE}. "
        f"Next: autopeft train {shlex.quote(str(folder))} {_a_point(study)}{database_option(study, folder)}"
    )


def _check_complete(study: Study, folder: Path) -> None:
    """Raise where trials were given up because their workers were lost: what killed those may have been mended.

    Raises:
        SearchIncompleteError: there are such trials.
    """
    from autopeft.cli.console import database_option

    found = study.trials(with_history=False)
    numbers = [trial.number for trial in found if trial.failure is not None and trial.failure.is_given_up]
    if numbers:
        n, are = sum(trial.counts_as_finished for trial in found), "is" if len(numbers) == 1 else "are"
        raise SearchIncompleteError(
            f"{len(numbers)} of {n} trials {are} missing, because their workers were lost again and again: "
            f"{', '.join(map(str, numbers))}. See what kills them (memory?), then: autopeft reopen "
            f"{shlex.quote(str(folder))}{database_option(study, folder)}, and run the same search again."
        )


def _a_point(study: Study) -> str:
    """Options of `train` that name a point of the front: the usual budget, or where none fits it the cheapest one."""
    # The command that is suggested must work for this front, or the first thing a newcomer copies is an error.
    cheapest = study.front().points[0]
    usual = next((mark for mark in study.cost.marks if mark >= 0.5), None)
    if usual is None or cheapest.cost > usual:
        return f"--trial {cheapest.key}"
    return f"--at {study.cost.text(usual, 'g').replace(' ', '')}"


@app.command()
def worker(
    folder: StudyFolder,
    storage: Database = None,
    device: Annotated[str | None, typer.Option(envvar=DEVICE_VARIABLE, help="Device of this worker.")] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Join a search that has begun, from this or another machine, and work until it is done."""
    import_for_good("autopeft.session")
    from autopeft.session import join

    join(folder, storage=storage, device=device, trust_remote_code=trust_remote_code).close()


@app.command()
def reopen(
    folder: StudyFolder,
    trial: Annotated[int | None, typer.Option(help="This trial alone, whatever it failed of.")] = None,
    storage: Database = None,
) -> None:
    """Give trials whose workers were lost too often another chance; the next search or worker repeats them."""
    with opened(folder, storage) as study:
        numbers = study.reopen(trial)
    if not numbers:
        say("No trial was given up.")
        return
    listed = ", ".join(map(str, numbers))
    say(f"Reopened: {listed}. The same `autopeft search` goes on with {'them' if len(numbers) > 1 else 'it'}.")


@app.command()
@takes(asked, asked_in_search)
def check(
    settings: Settings,
    finals: FinalsAsked,
    steps: Annotated[int, typer.Option(help="Training steps to time; 0 for none.")] = 5,
    finish: Finish = False,
    as_json: AsJson = False,
) -> None:
    """Dry run: what would be searched, what it costs, and how long it takes. Nothing is written."""
    import_for_good("autopeft.session")
    from autopeft.cli.dry_run import forecast
    from autopeft.session import Session, settled

    session = Session.build(settings)
    if steps:
        session = settled(session, None, tell=lambda line: say(f"precision: {line}", err))
    facts = forecast(session, steps, Total.of(session, finals, _finals_session(session, finals)) if finish else None)
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        out.print(Text.assemble((name.replace("_", " "), "bold"), f": {_shown(value)}"), soft_wrap=True)


@contextmanager
def _study(settings: Settings, folder: Path, storage: str | None) -> Iterator[tuple[Session, Study]]:
    """A session and its study; what the search sees is told first."""
    from autopeft.session import Session, as_begun, has_begun, settled
    from autopeft.tasks._protocols import data_lines
    from autopeft.training.precision_choice import choice_from
    from autopeft.training.tokens import token_lines

    built = Session.build(as_begun(settings, folder), is_begun=has_begun(folder))
    session = settled(built, folder, storage, tell=lambda line: say(f"precision: {line}", err))
    with session.begin(folder, storage) as study:
        for part, told in {**data_lines(study.fact("data")), **token_lines(session.evaluator)}.items():
            say(f"{part}: {told}", err)
        if (chosen := choice_from(study.fact)) is not None:
            say(f"precision: {chosen}", err)
        yield session, study


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(_shown, value))
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _name(settings: Settings) -> str:
    what = settings.task or (Path(settings.files.parts()["train"][0]).stem if settings.files else "own")
    return f"{what.replace('/', '-')}-{Path(settings.model).name}"
