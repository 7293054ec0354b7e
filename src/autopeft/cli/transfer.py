"""`autopeft transfer`: an architecture found on one model, put on another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autopeft.cli.app import app
from autopeft.cli.studies import AsJson, Database, Overwrite, TrustRemoteCode, opened, picked
from autopeft.cli.terminal import print_json, say
from autopeft.errors import SettingsError
from autopeft.writing import ARCHITECTURE, check_file

if TYPE_CHECKING:
    from autopeft.candidate import Candidate


@app.command()
def transfer(
    source: Annotated[
        Path,
        typer.Argument(help="A study's folder, a saved model's folder, or an architecture file.", metavar="SOURCE"),
    ],
    to: Annotated[str, typer.Option(help="The model that it is for: a folder, a name on the Hub, or minilm.")],
    found_on: Annotated[
        str | None, typer.Option("--from", help="The model that it was found on, where the source does not say.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="The task that it is for, where it is another one: see `autopeft list tasks`.")
    ] = None,
    at: Annotated[str | None, typer.Option(help="Of a study: the best point of the front within a budget.")] = None,
    trial: Annotated[int | None, typer.Option(help="Of a study: the architecture of this trial.")] = None,
    file: Annotated[
        Path | None, typer.Option("--out", help="Write the architecture here, for `autopeft train --architecture`.")
    ] = None,
    overwrite: Overwrite = False,
    storage: Database = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Put an architecture on another model, by relative depth and width. Nothing is trained."""
    check_file("--out", file, ARCHITECTURE, {"the source": source, "the model": to}, overwrite=overwrite)
    from autopeft import tasks
    from autopeft.backbones import Backbone
    from autopeft.network.build import count
    from autopeft.objectives import NOMINAL, nominal
    from autopeft.spaces.transfer import Shape
    from autopeft.spaces.transfer import transfer as transferred
    from autopeft.training.retraining import write_cell

    if task is not None:
        tasks.lookup(task)
    candidate, about, name = _read(source, storage, at, trial)
    there = found_on or name
    if there is None:
        raise SettingsError(f"{str(source)!r} does not say what model it was found on: name it with --from.")
    # Shapes are enough to move an architecture, and the old model may be gone: the study kept its configuration.
    old = Backbone.without_weights(there, None if found_on else about, trust_remote_code=trust_remote_code)
    new = Backbone.without_weights(to, trust_remote_code=trust_remote_code)
    architecture = candidate.architecture
    moved = transferred(architecture, old, new)
    counts = [count(backbone, item) for backbone, item in ((old, architecture), (new, moved))]
    told: dict[str, Any] = {
        **replace(candidate, architecture=moved).as_dict(),  # its changes of the recipe go with it
        "backbone": {"name": to, **Shape.of(new).as_dict()},
        "transferred_from": {"name": there, **Shape.of(old).as_dict(), **architecture.as_dict()},
        "counts": counts[1].as_dict(),
        **({} if task is None else {"task": task}),
    }
    if file is not None:
        write_cell(file, told)
    if as_json:
        print_json(told)
        return
    for model, item, counted in ((there, architecture, counts[0]), (to, moved, counts[1])):
        say(f"{model}: {item} ({counted.nominal:,} parameters, {NOMINAL.text(nominal(counted))})")
    if file is not None:
        say(f"Written: {file}. Next: autopeft {_following(file, to, task)}")


def _following(file: Path, to: str, task: str | None) -> str:
    """What to call next: for another task an architecture is where a search begins."""
    if task is None:
        return f"train SETTINGS.yaml --architecture {file}"
    return f"search --model {to} --task {task} --warm-start {file} --out FOLDER"


def _read(
    source: Path, storage: str | None, at: str | None, trial: int | None
) -> tuple[Candidate, dict[str, Any] | None, str | None]:
    """The candidate, the configuration of the model that it was found on, and that model's name."""
    from autopeft.candidate import Candidate
    from autopeft.errors import ArchitectureError
    from autopeft.reading import read_json
    from autopeft.writing import STUDY

    is_study = source.is_dir() and (storage is not None or STUDY.stands_at(source))
    if is_study != ((at is None) + (trial is None) == 1):
        raise SettingsError("Give one of --at and --trial with a study, and none with an architecture.")
    if is_study:
        with opened(source, storage) as study:
            number = trial if trial is not None else picked(study, at or "", study.cost)
            model = dict(study.fact("model") or {})
            return study.trial(number).candidate, model.get("config"), study.settings.get("model")
    path = source / "architecture.json" if source.is_dir() else source
    data = read_json(path, "The architecture file", ArchitectureError)
    about = data.get("backbone") if isinstance(data, dict) else None
    about = about if isinstance(about, dict) else {}
    return Candidate.load(path), about.get("identity", {}).get("config"), about.get("name")
