"""`autopeft train`: retraining a point, an architecture or a baseline on several seeds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autopeft.cli import options
from autopeft.cli.app import app
from autopeft.cli.flags import Sets, TruncationSide
from autopeft.cli.studies import (
    AsJson,
    Cost,
    Database,
    Overwrite,
    TrustRemoteCode,
    cost_of,
    opened,
    opened_for_reading,
    picked,
)
from autopeft.cli.terminal import err, figure, print_json, say
from autopeft.collecting import import_for_good
from autopeft.errors import SettingsError
from autopeft.reading import followed
from autopeft.writing import RETRAINING, SAVED_MODEL, check_file, check_folder, check_place

if TYPE_CHECKING:
    from autopeft.candidate import Candidate
    from autopeft.session import Session
    from autopeft.settings import Settings
    from autopeft.study.study import Study
    from autopeft.training.checkpoint import Checkpoints
    from autopeft.training.retraining import Retrained

Rates = Annotated[
    str | None, typer.Option("--learning-rates", help="Candidates, such as 3e-4,1e-3,3e-3, chosen on validation.")
]


@app.command()
def train(
    source: Annotated[
        Path, typer.Argument(help="A study's folder, or settings in YAML.", metavar="STUDY|SETTINGS.yaml")
    ],
    at: Annotated[str | None, typer.Option(help="The best point within a limit on the cost: 0.5%, 20ms.")] = None,
    by: Cost = None,
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
    truncation_side: TruncationSide = None,
    rates: Rates = None,
    widen: Annotated[
        int, typer.Option(min=0, help="Further candidates while the best is the smallest or largest.")
    ] = 2,
    save: Annotated[Path | None, typer.Option(help="Folder for the best run's weights.")] = None,
    to: Annotated[Path | None, typer.Option(help="Write the results as JSON, anew after every seed.")] = None,
    overwrite: Overwrite = False,
    storage: Database = None,
    trust_remote_code: TrustRemoteCode = False,
    sets: Sets = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Retrain an architecture on several seeds and measure it on the test part."""
    changes = {"epochs": epochs, "patience": patience, "truncation_side": truncation_side}
    given = {"learning_rates": options.rates(rates), **{f"recipe.{name}": value for name, value in changes.items()}}
    settings = options.for_retraining(source, given, sets, trust_remote_code=trust_remote_code)
    import_for_good("autopeft.session")
    from autopeft.training.retraining import DEFAULT_SEEDS, retrain

    if sum(item is not None for item in (at, trial, architecture, baseline)) != 1:
        raise SettingsError("Give exactly one of --at, --trial, --architecture and --baseline.")
    if not 1 <= seeds <= len(DEFAULT_SEEDS):
        raise SettingsError(f"--seeds is 1 to {len(DEFAULT_SEEDS)}, but got {seeds}.")
    read = {**settings.inputs(), "the settings" if source.is_file() else "the study": source}
    _check_outputs(source, save, to, {**read, "the architecture": architecture}, overwrite)
    session, usual = _session(settings, source, storage)
    name, chosen = _chosen(session, source, pick := _Pick(storage, at, trial, by), architecture, baseline)
    say(f"Retraining {name}: {chosen}", err)
    _say_tokens(session)
    files = _results(source, name, to)
    found = retrain(
        session.evaluator.with_checkpoints(_checkpoints(source, name, save, to)),
        name,
        chosen,
        DEFAULT_SEEDS[:seeds],
        learning_rates=usual if rates is None else settings.learning_rates,
        widen=widen,
        save_to=save,
        facts={"model": settings.model, "seeds": list(DEFAULT_SEEDS[:seeds])},
        on_run=lambda so_far: _show_run(_retrained(session, so_far, baseline), files),
    )
    told = {**_retrained(session, found, baseline), "search": _searched(source, pick, found.seconds)}
    _write_all(files, told)
    _show_retrained(told, as_json, save)


def _session(settings: Settings, source: Path, storage: str | None) -> tuple[Session, tuple[float, ...]]:
    """A session at the rates by method of the study's card, and the rates that are tried; see `carded`.

    Raises:
        StudyMismatchError: the study was measured on other data or weights than there are now.
    """
    from autopeft.session import Session, check_retraining
    from autopeft.session.rates import carded

    session = Session.build(settings, is_begun=source.is_dir())
    # A baseline needs no trial, so that a folder whose study is kept elsewhere will do for one.
    if source.is_dir() and (storage is not None or (source / "study.db").exists()):
        with opened_for_reading(source, storage) as kept:
            check_retraining(session, kept, source)
    # Whatever is trained, a baseline too, gets the card's rates; only a study with a card has to be opened for that.
    if session.settings.rates != "card" or not source.is_dir():
        return session, session.settings.learning_rates
    with opened(source, storage) as study:
        return carded(session, study)


@dataclass(frozen=True)
class _Pick:
    """How a trial of a study is named: by its number, or as the best within a limit on a cost."""

    storage: str | None
    at: str | None
    trial: int | None
    by: str | None

    @property
    def is_empty(self) -> bool:
        return self.at is None and self.trial is None

    def number(self, study: Study) -> int:
        return self.trial if self.trial is not None else picked(study, self.at or "", cost_of(study, self.by))


def _results(source: Path, name: str, to: Path | None) -> list[Path]:
    """Where the results go: the file that was asked for, and the study, unless that may only be read."""
    from autopeft.reports.rows import retraining_file

    # A study that may only be read is retrained all the same, with its results elsewhere.
    is_kept = source.is_dir() and os.access(source, os.W_OK)
    return [*([to] if to else []), *([retraining_file(source, name)] if is_kept else [])]


def _checkpoints(source: Path, name: str, save: Path | None, to: Path | None) -> Checkpoints | None:
    """Where the runs are written down until all are done: beside the results, or nowhere where there are none."""
    from autopeft.training.checkpoint import Checkpoints

    beside = [to, save, *_results(source, name, None)]
    place = next((path for path in beside if path is not None), None)
    return None if place is None else Checkpoints(place.with_name(f".{name}.checkpoints"), is_held=True)


def _check_outputs(
    source: Path, save: Path | None, to: Path | None, read: Mapping[str, str | Path | None], overwrite: bool
) -> None:
    """Better told now than after hours: see `autopeft.writing`."""
    if source.is_dir() and to is None:  # a study that may only be read is retrained to a file elsewhere
        check_place("The study", source, is_folder=True)
    kept = {"the study's retrainings": source / "retrained"} if source.is_dir() else {}
    check_folder("--save", save, SAVED_MODEL, {**read, **kept}, overwrite=overwrite)
    check_file("--to", to, RETRAINING, read, overwrite=overwrite)
    if save is not None and to is not None and followed(save) in (followed(to), *followed(to).parents):
        raise SettingsError(f"--to {str(to)!r} lies in the folder of --save, which holds a saved model alone.")


def _say_tokens(session: Session) -> None:
    """Tell of texts that are cut and of words that the tokenizer does not know."""
    from autopeft.training.tokens import token_lines

    for about, told in token_lines(session.evaluator).items():
        say(f"{about}: {told}", err)


def _retrained(session: Session, so_far: Retrained, baseline: str | None) -> dict[str, Any]:
    # The recipe that was used, with the changes of the candidate, and not the one that was asked for.
    trained_with = so_far.candidate.recipe_for(session.evaluator.recipe)
    recipe = {**trained_with.as_dict(), "learning_rate": so_far.learning_rate}
    return {**so_far.as_dict(), "recipe": recipe, "is_baseline": baseline is not None}


def _show_run(so_far: dict[str, Any], files: list[Path]) -> None:
    """Tell of the last run, and write what there is by now: a later run may fail."""
    objective, last = so_far["objective"], so_far["metrics"][-1]
    rest = "".join(f", {name} {figure(value)}" for name, value in last.items() if name != objective)
    say(f"seed {so_far['seeds'][-1]}: {objective} {so_far['values'][-1]:.4f}{rest} on test", err)
    _write_all(files, so_far)


def _write_all(files: list[Path], content: Any) -> None:
    from autopeft.training.retraining import write_cell

    for path in files:
        write_cell(path, content)


def _searched(source: Path, pick: _Pick, retraining: float) -> dict[str, Any] | None:
    """Seconds of the search that the architecture came from, in all and as a multiple of one retraining run."""
    if not source.is_dir() or pick.is_empty:
        return None
    from autopeft.cli.fronts import answers
    from autopeft.reports.rows import search_seconds

    with opened(source, pick.storage) as study:
        number = pick.number(study)
        seconds = search_seconds(study.trials(), number, is_answering=answers(study))
    return {"seconds": seconds, "per_retraining": seconds / retraining if retraining else None}


def _show_retrained(found: dict[str, Any], as_json: bool, save: Path | None) -> None:
    if as_json:
        print_json(found)
        return
    summary, counts = found["summary"], found["counts"]
    spread = "single seed" if summary["std"] is None else f"± {summary['std']:.4f} (n = {summary['n']})"
    say(
        f"{found['name']}: {found['objective']} on test {summary['mean']:.4f} {spread}, "
        f"median {summary['median']:.4f}{_other_means(found)}; "
        f"nominal {counts['nominal']:,}, stored {counts['stored']:,}, trained {counts['trained']:,}; "
        f"learning rate {found['learning_rate']:g}"
    )
    if found["search"] is not None and found["search"]["per_retraining"] is not None:
        search = found["search"]
        ratio = search["per_retraining"]
        say(f"Search: {search['seconds']:.1f} s, {ratio:.2f} times a retraining run.")
    if save is not None:
        say(f"Saved: {save}. Load it with autopeft.load({str(save)!r}).")


def _other_means(found: dict[str, Any]) -> str:
    """The means over the seeds of the metrics beside the objective."""
    every = found["metrics"]
    names = [name for name in every[0] if name != found["objective"]]
    return "".join(f", {name} {figure(sum(one[name] for one in every) / len(every))}" for name in names)


def _chosen(
    session: Session, source: Path, pick: _Pick, file: Path | None, baseline: str | None
) -> tuple[str, Candidate]:
    from autopeft.candidate import Candidate
    from autopeft.training.retraining import baseline as named

    if file is not None:
        _check_backbone(file, session)
        return file.stem, Candidate.load(file)
    if baseline is not None:
        return baseline, Candidate(named(baseline, session.backbone))
    if not source.is_dir():
        raise SettingsError("--at and --trial pick from a study: give its folder instead of settings.")
    with opened(source, pick.storage) as study:
        number = pick.number(study)
        return f"trial-{number}", study.trial(number).candidate


def _check_backbone(file: Path, session: Session) -> None:
    """Refuse a file that says it is of a backbone of another shape: its sites may be here too, elsewhere."""
    from autopeft.reading import read_json
    from autopeft.spaces.transfer import check_shape

    data = read_json(file, "The architecture file", SettingsError)
    about = data.get("backbone") if isinstance(data, dict) else None
    if not isinstance(about, dict) or "layers" not in about:
        return  # an architecture alone says nothing of where it was found
    if why := check_shape(about, session.backbone):
        raise SettingsError(
            f"The architecture in {str(file)!r} is for another model: {why}. "
            f"`autopeft transfer {file} --to {session.settings.model}` puts it on this one."
        )
