"""`autopeft import`: an adapter of Hugging Face PEFT as an architecture, and as a saved model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autopeft.cli.app import app
from autopeft.cli.studies import AsJson, Overwrite, TrustRemoteCode
from autopeft.cli.terminal import print_json, say
from autopeft.errors import SettingsError
from autopeft.writing import ARCHITECTURE, SAVED_MODEL, check_file, check_folder


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(help="An adapter that PEFT saved.", metavar="ADAPTER")],
    model: Annotated[
        str | None, typer.Option(help="Its base model; else the one that the adapter names.", metavar="MODEL")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--out", help="Write the architecture here, for `autopeft train --architecture`.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Folder for it as a saved model, with its weights; of models that write.")
    ] = None,
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Read a LoRA, DoRA or IA3 of PEFT as an architecture. Nothing is trained."""
    check_file("--out", file, ARCHITECTURE, {"the adapter": folder}, overwrite=overwrite)
    check_folder("--save", save, SAVED_MODEL, {"the adapter": folder}, overwrite=overwrite)
    from autopeft.backbones import Backbone
    from autopeft.network.build import count
    from autopeft.saved.imported import base_named, from_peft, save_imported
    from autopeft.spaces.transfer import Shape
    from autopeft.training.retraining import write_cell

    base = model or base_named(folder)
    if base is None:
        raise SettingsError(f"The adapter {str(folder)!r} does not name its base model: say it with --model.")
    # The architecture alone needs no weights of the base, which may be gigabytes.
    make = Backbone.without_weights if save is None else Backbone.from_pretrained
    backbone = make(base, trust_remote_code=trust_remote_code)
    found = from_peft(folder, backbone)
    told = {
        **found.architecture.as_dict(),
        "backbone": {"name": base, **Shape.of(backbone).as_dict()},
        "counts": count(backbone, found.architecture).as_dict(),
    }
    if save is not None:
        save_imported(found, backbone, save, str(folder))
    if file is not None:
        write_cell(file, told)
    if as_json:
        print_json(told)
        return
    say(f"{base}: {found.architecture} ({told['counts']['stored']:,} parameters)")
    if file is not None:
        say(f"Written: {file}. Next: autopeft train SETTINGS.yaml --architecture {file}")
    if save is not None:
        say(f"Saved: {save}. Load it with autopeft.load({str(save)!r}).")
