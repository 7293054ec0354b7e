"""The command line. Exit codes: 0 done, 1 failed, 2 the request cannot be served (no trial was started)."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from autopeft.cli import options
from autopeft.cli.flags import Sets, takes_a_search
from autopeft.errors import AutopeftError, InputError, ProposalFailure, SettingsError
from autopeft.settings import Settings
from autopeft.writing import check_writable

if TYPE_CHECKING:
    from autopeft.session import Session
    from autopeft.study.study import Study
    from autopeft.training.retraining import Retrained

app = typer.Typer(
    help="Searches PEFT architectures for a pretrained transformer and a task.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# What goes into a file or a pipe is not cut to the width of a terminal that is not there. Names of the user's are shown
# as they are: no brackets in them are markup, and no colons an emoji.
out, err = (
    Console(stderr=stderr, width=None if sys.stdout.isatty() else 160, markup=False, emoji=False, highlight=False)
    for stderr in (False, True)
)

_INTERRUPTED = 130

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
StudyFolder = Annotated[Path, typer.Argument(help="The folder of a study.", metavar="STUDY")]
Database = Annotated[str | None, typer.Option("--storage", help="The database URL that the search was started with.")]


def main() -> None:
    """Entry point: errors become one message and an exit code."""
    try:
        code = app(standalone_mode=False)
    except InputError as error:
        _complain("error:", error)
        sys.exit(2)
    except AutopeftError as error:
        _complain("failed:", error)
        sys.exit(1)
    except (typer.Abort, KeyboardInterrupt):
        code = _INTERRUPTED
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # a usage error of the parser
            _complain("error:", error.format_message())
            sys.exit(2)
        raise
    if code == _INTERRUPTED:  # typer turns an interrupt into this code
        _say("interrupted; a search or an experiment goes on with the same command", err)
    sys.exit(code if isinstance(code, int) else 0)


def _version(wanted: bool) -> None:
    if wanted:
        from autopeft.study.identity import versions

        _say(f"autopeft {versions()['autopeft']}")
        raise typer.Exit


@app.callback()
def _root(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what the library logs.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(message)s")
    for noisy in ("transformers", "datasets", "huggingface_hub", "httpx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    # Weights of small models load in a blink; the libraries' own bars would only break ours.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


# -- searching -------------------------------------------------------------------------------------------------


@app.command()
@takes_a_search
def search(
    settings: Settings,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder of the study; the same folder continues.")
    ] = None,
    storage: Annotated[str | None, typer.Option(help="Database URL for several machines; default: a file.")] = None,
) -> None:
    """Search, or continue a search, and print its front."""
    from autopeft.cli.console import SearchProgress, front_table, progress_bar
    from autopeft.session import carry_out

    folder = folder or Path("runs") / _name(settings)
    check_writable(folder)
    with _study(settings, folder, storage) as (session, study):
        with progress_bar(err) as progress:
            show = SearchProgress(progress, study, session.total)
            signal = session.proxy(study, lambda rate, value: show.say(f"learning rate {rate:g}: {_score(value)}"))
            if signal is not None:
                progress.console.print(str(signal), style="" if signal.has_signal else "bold yellow")
            if session.settings.workers > 1:
                show.say(f"{session.settings.workers} workers")
            try:
                carry_out(session, study, signal, folder, show, storage)
            except ProposalFailure:
                if len(study.front()):
                    out.print(front_table(study, out.width))
                raise
        _show_found(study, folder)


def _show_found(study: Study, folder: Path) -> None:
    from autopeft.cli.console import budgets_line, database_option, front_table, write_front_picture

    if not len(study.front()):
        raise AutopeftError(f"No trial was measured; see `autopeft report {shlex.quote(str(folder))}`.")
    out.print(front_table(study, out.width))
    write_front_picture(study, folder, folder / "front.png")
    if answered := budgets_line(study):
        _say(answered)
    _say(
        f"Study: {folder}. Picture: {folder / 'front.png'}. "
        f"Next: autopeft train {shlex.quote(str(folder))} {_a_point(study)}{database_option(study, folder)}"
    )


def _a_point(study: Study) -> str:
    """Options of `train` that name a point of the front: the usual budget, or where none fits it the cheapest one."""
    cheapest = study.front().points[0]
    return "--at 0.5%" if cheapest.cost <= 0.5 else f"--trial {cheapest.key}"


@app.command()
def worker(
    folder: StudyFolder,
    storage: Database = None,
    device: Annotated[str | None, typer.Option(help="Device of this worker.")] = None,
) -> None:
    """Join a search that has begun, from this or another machine, and work until it is done."""
    from autopeft.session import join
    from autopeft.workers import terminate_as_interrupt

    terminate_as_interrupt()
    join(folder, storage=storage, device=device).close()


@app.command()
@takes_a_search
def check(
    settings: Settings,
    steps: Annotated[int, typer.Option(help="Training steps to time; 0 for none.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Dry run: what would be searched, what it costs, and how long it takes. Nothing is written."""
    from autopeft.cli.dry_run import forecast
    from autopeft.session import Session

    facts = forecast(Session.build(settings), steps)
    if as_json:
        _print_json(facts)
        return
    for name, value in facts.items():
        out.print(Text.assemble((name.replace("_", " "), "bold"), f": {_shown(value)}"), soft_wrap=True)


# -- what came of it -------------------------------------------------------------------------------------------


@app.command()
def front(
    folder: StudyFolder,
    at: Annotated[str | None, typer.Option(help="The best point within a budget, such as 0.5%.")] = None,
    picture: Annotated[Path | None, typer.Option("--plot", help="Write the picture: .png, .svg or .pdf.")] = None,
    storage: Database = None,
    as_json: AsJson = False,
) -> None:
    """Show the Pareto front of a study, or pick a point of it by budget."""
    from autopeft.cli.console import answers, front_table, write_front_picture
    from autopeft.reports.summary import front_rows

    check_writable(plot=picture)
    with _opened(folder, storage) as study:
        rows = front_rows(study.trials(), is_answering=answers(study))
        if at is not None:
            number = _picked(study, at)
            rows = tuple(row for row in rows if row.number == number)
        if picture is not None:
            write_front_picture(study, folder, picture)
        if as_json:
            _print_json([row.as_dict() for row in rows])
        elif at is not None:
            row = rows[0]
            _say(f"trial {row.number}: {row.metric} {row.value:.4f} at {row.percent:.4f}%: {row.architecture}")
        else:
            out.print(front_table(study, out.width))


@app.command()
def report(
    folder: StudyFolder,
    to: Annotated[Path | None, typer.Option(help="File: .html (default), .md or .json.")] = None,
    storage: Database = None,
) -> None:
    """Write one self-contained page about a study, with its pictures."""
    from autopeft.cli.console import report_of
    from autopeft.reports.report import write

    target = to or folder / "report.html"
    check_writable(to=target)
    with _opened(folder, storage) as study:
        write(report_of(study, folder), target)
    _say(f"Report: {target}")


@app.command()
def train(
    source: Annotated[
        Path, typer.Argument(help="A study's folder, or settings in YAML.", metavar="STUDY|SETTINGS.yaml")
    ],
    at: Annotated[str | None, typer.Option(help="The best point of the front within a budget.")] = None,
    trial: Annotated[int | None, typer.Option(help="The architecture of this trial.")] = None,
    architecture: Annotated[Path | None, typer.Option(help="An architecture file (JSON).")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="A baseline, see `autopeft list baselines`; serial:12 sets a size.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 5,
    epochs: Annotated[float | None, typer.Option(help="Epochs of every run; 20 unless a file says more.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Evaluations without improvement before stopping; 10 unless a file says more.")
    ] = None,
    rates: Annotated[
        str | None, typer.Option("--learning-rates", help="Candidates, such as 3e-4,1e-3,3e-3, chosen on validation.")
    ] = None,
    widen: Annotated[
        int, typer.Option(min=0, help="Further candidates while the best is the smallest or largest.")
    ] = 2,
    save: Annotated[Path | None, typer.Option(help="Folder for the best run's weights.")] = None,
    to: Annotated[Path | None, typer.Option(help="Write the results as JSON, anew after every seed.")] = None,
    storage: Database = None,
    sets: Sets = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Retrain an architecture on several seeds and measure it on the test part."""
    changes = {"recipe.epochs": epochs, "recipe.patience": patience, "learning_rates": options.rates(rates)}
    settings = options.for_retraining(source, changes, sets)
    from autopeft.reports.summary import retraining_file
    from autopeft.session import Session
    from autopeft.training.retraining import DEFAULT_SEEDS, retrain

    if sum(item is not None for item in (at, trial, architecture, baseline)) != 1:
        raise SettingsError("Give exactly one of --at, --trial, --architecture and --baseline.")
    if not 1 <= seeds <= len(DEFAULT_SEEDS):
        raise SettingsError(f"--seeds is 1 to {len(DEFAULT_SEEDS)}, but got {seeds}.")
    check_writable(save, source if source.is_dir() else None, to=to)
    session = Session.build(settings)
    name, chosen = _chosen(session, source, storage, at, trial, architecture, baseline)
    _say(f"Retraining {name}: {chosen}", err)
    files = [*([to] if to else []), *([retraining_file(source, name)] if source.is_dir() else [])]
    found = retrain(
        session.evaluator,
        name,
        chosen,
        DEFAULT_SEEDS[:seeds],
        learning_rates=settings.learning_rates,
        widen=widen,
        save_to=save,
        facts={"model": settings.model, "seeds": list(DEFAULT_SEEDS[:seeds])},
        on_run=lambda so_far: _show_run(_retrained(session, so_far, baseline), files),
    )
    search = _searched(source, storage, at, trial, found.seconds)
    told = {**_retrained(session, found, baseline), "search": search}
    _write_all(files, told)
    _show_retrained(told, as_json, save)


def _retrained(session: Session, so_far: Retrained, baseline: str | None) -> dict[str, Any]:
    recipe = {**session.evaluator.recipe.as_dict(), "learning_rate": so_far.learning_rate}
    return {**so_far.as_dict(), "recipe": recipe, "is_baseline": baseline is not None}


def _show_run(so_far: dict[str, Any], files: list[Path]) -> None:
    """Tell of the last run, and write what there is by now: a later run may fail."""
    _say(f"seed {so_far['seeds'][-1]}: {so_far['objective']} {so_far['values'][-1]:.4f} on test", err)
    _write_all(files, so_far)


def _write_all(files: list[Path], content: Any) -> None:
    from autopeft.training.retraining import write_cell

    for path in files:
        write_cell(path, content)


def _searched(
    source: Path, storage: str | None, at: str | None, trial: int | None, retraining: float
) -> dict[str, Any] | None:
    """Seconds of the search that the architecture came from, in all and as a multiple of one retraining run."""
    if not source.is_dir() or (at is None and trial is None):
        return None
    from autopeft.cli.console import answers
    from autopeft.reports.summary import search_seconds

    with _opened(source, storage) as study:
        number = trial if trial is not None else _picked(study, at or "")
        seconds = search_seconds(study.trials(), number, is_answering=answers(study))
    return {"seconds": seconds, "per_retraining": seconds / retraining if retraining else None}


def _show_retrained(found: dict[str, Any], as_json: bool, save: Path | None) -> None:
    if as_json:
        _print_json(found)
        return
    summary, counts = found["summary"], found["counts"]
    spread = "single seed" if summary["std"] is None else f"± {summary['std']:.4f} (n = {summary['n']})"
    _say(
        f"{found['name']}: {found['objective']} on test {summary['mean']:.4f} {spread}, "
        f"median {summary['median']:.4f}; "
        f"nominal {counts['nominal']:,}, stored {counts['stored']:,}, trained {counts['trained']:,}; "
        f"learning rate {found['learning_rate']:g}"
    )
    if found["search"] is not None and found["search"]["per_retraining"] is not None:
        search = found["search"]
        ratio = search["per_retraining"]
        _say(f"Search: {search['seconds']:.1f} s, {ratio:.2f} times a retraining run.")
    if save is not None:
        _say(f"Saved: {save}. Load it with autopeft.load({str(save)!r}).")


def _chosen(
    session: Session, source: Path, storage: str | None, at: Any, trial: Any, file: Path | None, baseline: str | None
) -> tuple[str, Any]:
    from autopeft.architecture import Architecture
    from autopeft.training.retraining import baseline as named

    if file is not None:
        return file.stem, Architecture.load(file)
    if baseline is not None:
        return baseline, named(baseline, session.backbone)
    if not source.is_dir():
        raise SettingsError("--at and --trial pick from a study: give its folder instead of settings.")
    with _opened(source, storage) as study:
        number = trial if trial is not None else _picked(study, at)
        return f"trial-{number}", study.trial(number).architecture


@app.command()
def predict(
    folder: Annotated[Path, typer.Argument(help="What `autopeft train --save` wrote.", metavar="MODEL")],
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; without any, one a line from standard input.")
    ] = None,
    pair: Annotated[
        bool,
        typer.Option("--pair", help="Every input is texts separated by tabs: a pair, or a question and candidates."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Predict labels with a saved model."""
    from autopeft.saved.predict import lines_of, predictions

    lines = texts or lines_of(sys.stdin.buffer.read())
    found = predictions(folder, [tuple(line.split("\t")) if pair else (line,) for line in lines])
    if as_json:
        _print_json(found)
        return
    for item in found:
        print(f"{item['label']}\t{item['score']:.4f}\t{item['text']}")  # rich would turn tabs into spaces


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="What `autopeft train --save` wrote.", metavar="MODEL")],
    to: Annotated[Path, typer.Option(help="Folder of the PEFT adapter.")],
) -> None:
    """Write a saved LoRA architecture in the format of Hugging Face PEFT."""
    from autopeft.saved.export import to_peft

    check_writable(to)
    to_peft(folder, to)
    _say(f"Exported: {to}. Load it with peft.PeftModel.from_pretrained(base, {str(to)!r}).")


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="methods, backbones, tasks, samplers, protocols, baselines, spaces")] = "",
    as_json: AsJson = False,
) -> None:
    """List what can be named."""
    from autopeft.cli.console import described
    from autopeft.cli.listing import catalogue

    known = catalogue(what)
    if as_json:
        _print_json(known)
        return
    for kind, rows in known.items():
        out.print(kind, style="bold")
        if out.is_terminal:  # a line a name where it may be filtered, columns where it is read
            out.print(described(rows))
            continue
        for name, about in rows.items():
            _say(f"  {name:20} {about}".rstrip())


@app.command()
def experiment(
    file: Annotated[Path, typer.Argument(help="An experiment, such as experiments/search-mrpc.yaml.")],
    data: Annotated[str | None, typer.Option(help="Folder with the task's files.")] = None,
    results: Annotated[Path, typer.Option(help="Folder of results.")] = Path("results"),
    work: Annotated[Path, typer.Option(help="Folder of the studies.")] = Path("runs"),
    cell: Annotated[str | None, typer.Option(help="Run just this cell.")] = None,
    dry: Annotated[bool, typer.Option("--missing", help="Only list the cells that have no result yet.")] = False,
    summary: Annotated[
        bool, typer.Option("--summary", help="Only write the page and the pictures of the cells that are done.")
    ] = False,
) -> None:
    """Run an experiment: cells that have a result are not run again."""
    from autopeft.experiments import experiment as experiments

    found = experiments.read(file, data)
    if dry:
        _say("\n".join(found.missing(results)) or "nothing is missing")
        return
    from autopeft.experiments.report import done, write_summary

    check_writable(results, work)
    try:
        if not summary:
            experiments.run(found, results, work, _say, cell)
    except InputError:
        raise
    except AutopeftError:
        if done(found, results):
            _say(f"Summary: {write_summary(found, results)}")
        raise
    _say(f"Summary: {write_summary(found, results)}")


# -- inside ----------------------------------------------------------------------------------------------------


@contextmanager
def _study(settings: Settings, folder: Path, storage: str | None) -> Iterator[tuple[Session, Study]]:
    """A session and its study; what the search sees is told first."""
    from autopeft.session import Session
    from autopeft.tasks._protocols import data_lines

    session = Session.build(settings)
    with session.begin(folder, storage) as study:
        for part, told in data_lines(study.fact("data")).items():
            _say(f"{part}: {told}", err)
        yield session, study


@contextmanager
def _opened(folder: Path, storage: str | None) -> Iterator[Study]:
    from autopeft.study.study import Study

    where, name = (folder / "study.db", None) if storage is None else (storage, folder.resolve().name)
    with Study.open(where, name) as study:
        yield study


def _picked(study: Study, at: str) -> int:
    from autopeft.architecture import ParameterBudget
    from autopeft.errors import BudgetError

    front = study.front()
    if not len(front):
        raise BudgetError("The study has no measured trial yet.")
    measured = study.trial(front.points[0].key).measurement
    assert measured is not None  # a front holds measured trials only
    backbone = measured.counts.backbone
    budget = ParameterBudget.parse(at, backbone)
    return int(front.at(100 * budget.most / backbone, 100 * budget.least / backbone).key)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(_shown, value))
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _score(value: float | None) -> str:
    return "failed" if value is None else f"{value:.4f}"


def _name(settings: Settings) -> str:
    what = settings.task or (Path(settings.files.train).stem if settings.files else "own")
    return f"{what.replace('/', '-')}-{Path(settings.model).name}"


def _say(text: str, console: Console = out) -> None:
    console.print(text, soft_wrap=True)  # a command is copied whole


def _complain(word: str, message: object) -> None:
    err.print(Text.assemble((word, "bold red"), f" {message}"), soft_wrap=True)


def _print_json(data: Any) -> None:
    print(json.dumps(data, indent=1, ensure_ascii=False, default=str))
