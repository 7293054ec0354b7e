"""`autopeft doctor`: what a search would find here, and what to change."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from autopeft.cli import options
from autopeft.cli.app import app
from autopeft.cli.flags import Quantized, Sets, TrainFiles
from autopeft.cli.studies import AsJson, TrustRemoteCode
from autopeft.cli.terminal import print_json, say


@app.command()
def doctor(
    model: Annotated[
        str,
        typer.Argument(help="A folder, a name on the Hub, minilm, or settings in YAML.", metavar="MODEL|SETTINGS.yaml"),
    ],
    task: Annotated[str | None, typer.Option(help="A task, see `autopeft list tasks`.")] = None,
    train: TrainFiles = [],  # noqa: B006
    text: Annotated[list[str], typer.Option(help="Text column of your file; twice for pairs.")] = [],  # noqa: B006
    label: Annotated[str | None, typer.Option(help="Label column of your file.")] = None,
    quantize: Quantized = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    trust_remote_code: TrustRemoteCode = False,
    sets: Sets = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Look at the machine, the packages, a model and data, and say what to change. Nothing is trained."""
    from autopeft.cli.checkup import examine

    is_file = Path(model).suffix in (".yaml", ".yml") and Path(model).is_file()
    has_data = is_file or bool(task or train)
    given: dict[str, Any] = {
        "model": None if is_file else model,
        # Settings need a task; without data it is not looked at.
        "task": task if has_data else "glue/sst2",
        "files.train": train[0] if len(train) == 1 else train or None,
        "files.text": text or None,
        "files.label": label,
        "quantize": quantize,
        "device": device,
    }
    settings = options.read(Path(model) if is_file else None, given, sets, trust_remote_code=trust_remote_code)
    found = examine(settings, has_data=has_data)
    if as_json:
        print_json(found.as_dict())
    else:
        for about, rows in found.facts.items():
            say(about)
            for name, value in rows.items():
                say(f"  {name}: {_shown(value)}")
        for one in found.advice:
            say(f"{one.weight}: {one.what}")
        if not found.advice:
            say("Nothing to change was found.")
    if not found.is_well:
        raise typer.Exit(1)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{n} {key}" for key, n in value.items())
    return "no" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
