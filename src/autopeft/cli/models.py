"""`autopeft predict` and `export`: what is done with a saved model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from autopeft.cli.app import app
from autopeft.cli.studies import AsJson, Overwrite, TrustRemoteCode
from autopeft.cli.terminal import print_json, say
from autopeft.errors import SettingsError
from autopeft.writing import EXPORT, PREDICTIONS, check_file, check_folder


@app.command()
def predict(
    folder: Annotated[Path, typer.Argument(help="What `autopeft train --save` wrote.", metavar="MODEL")],
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; without any, one a line from standard input.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Where the base model is now, if not where it was.", metavar="MODEL")
    ] = None,
    pair: Annotated[
        bool,
        typer.Option("--pair", help="Every input is texts separated by tabs: a pair, or a question and candidates."),
    ] = False,
    file: Annotated[
        Path | None, typer.Option(help="Read the texts from the columns of a data file that the model was trained on.")
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="Of the data file, such as cp1252; else UTF-8.")] = None,
    to: Annotated[Path | None, typer.Option(help="Write label, score and text to this .csv or .jsonl instead.")] = None,
    overwrite: Overwrite = False,
    dequantize: Annotated[
        bool, typer.Option("--dequantize", help="Load a base that was in 8 or 4 bits in training as it is.")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Predict labels with a saved model."""
    from autopeft.saved.predict import check_predictions_name, label_text, predictions, write_predictions

    if file is not None and (texts or pair):
        raise SettingsError("--file takes the place of texts and of --pair: give one of them.")
    check_predictions_name(to)
    check_file("--to", to, PREDICTIONS, {"the data file": file}, overwrite=overwrite)
    rows = _rows(folder, texts, pair, file, encoding)
    found = predictions(folder, rows, model=model, dequantize=dequantize, trust_remote_code=trust_remote_code)
    if to is not None:
        write_predictions(found, to)
        say(f"Predictions: {to} ({len(found):,})")
        return
    if as_json:
        print_json(found)
        return
    for item in found:
        label, text = _one_line(label_text(item["label"])), _one_line(item["text"])
        print(f"{label}\t{item['score']:.4f}\t{text}")  # rich would turn tabs into spaces


def _rows(folder: Path, texts: list[str] | None, pair: bool, file: Path | None, encoding: str | None) -> list[Any]:
    """The inputs: of a data file, of the command line, or of standard input."""
    from autopeft.saved.predict import lines_of, texts_of

    if file is not None:
        return texts_of(folder, file, encoding=encoding)
    # As bytes: the encoding of a terminal is not that of a file that is sent through a pipe.
    lines = texts or lines_of(sys.stdin.buffer.read())
    return [tuple(line.split("\t")) if pair else (line,) for line in lines]


def _one_line(text: str) -> str:
    """A line a text, whatever breaks there are in it: `--json` has them as they are."""
    return " ".join(text.splitlines())


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="What `autopeft train --save` wrote.", metavar="MODEL")],
    to: Annotated[Path, typer.Option(help="Folder of the PEFT adapter, or of the merged model, new or empty.")],
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge it into the base instead: a plain folder for transformers.")
    ] = False,
    as_lora: Annotated[
        bool,
        typer.Option("--as-lora", help="Convert what changes linear maps to LoRA, and say how well that can be done."),
    ] = False,
    rank: Annotated[int | None, typer.Option(min=1, help="With --as-lora: of any map at most.")] = None,
    most_error: Annotated[
        float | None, typer.Option(min=0, help="With --as-lora: what may be left out of a map's change, 1e-5 of it.")
    ] = None,
    to_hub: Annotated[
        str | None, typer.Option("--push", help="Put the folder on the Hub as well.", metavar="OWNER/NAME")
    ] = None,
    is_public: Annotated[bool, typer.Option("--public", help="With --push: for everybody to see.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a saved LoRA, DoRA, IA3 or LNFit in the format of Hugging Face PEFT, or merge it into its base."""
    _check_export(merge, as_lora, rank, most_error, to_hub, is_public)
    if merge:
        from autopeft.saved.merge import merge as merged

        found = merged(folder, to)
        say(f"Merged: {to}. Its outputs differ by {found.difference:.1e} at most, of {found.largest:.1f} at most.")
        if found.quantized is not None:
            by = "unknown without bitsandbytes" if found.rounding is None else f"{found.rounding:.1e} at most"
            say(f"It was trained beside its base in {found.quantized} and merged into the base as it is: {by} between.")
    else:
        check_folder("--to", to, EXPORT, {"the saved model": folder}, overwrite=overwrite)
        _export_adapter(folder, to, as_lora, rank, most_error)
    if to_hub is not None:
        from autopeft.saved.hub import push

        say(f"Pushed: {push(to, to_hub, is_public=is_public)}")


def _check_export(
    merge: bool, as_lora: bool, rank: int | None, most_error: float | None, to_hub: str | None, is_public: bool
) -> None:
    """Refuse options that say nothing together, and a push that cannot be, before any work."""
    if merge and as_lora:
        raise SettingsError("Give one of --merge and --as-lora: what is merged is no adapter any more.")
    if not as_lora and (rank is not None or most_error is not None):
        raise SettingsError("--rank and --most-error go with --as-lora.")
    if is_public and to_hub is None:
        raise SettingsError("--public goes with --push.")
    if to_hub is not None:
        from autopeft.saved.hub import check_push

        check_push(to_hub)


def _export_adapter(folder: Path, to: Path, as_lora: bool, rank: int | None, most_error: float | None) -> None:
    if not as_lora:
        from autopeft.saved.export import to_peft

        to_peft(folder, to)
        say(f"Exported: {to}. Load it with peft.PeftModel.from_pretrained(base, {str(to)!r}).")
        return
    from autopeft.saved.converted import MOST_ERROR, to_lora

    found = to_lora(folder, to, rank=rank, most_error=MOST_ERROR if most_error is None else most_error)
    ranks = sorted(set(found.ranks.values()))
    told = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    outputs = found.outputs
    say(
        f"Converted: {to}. LoRA of rank {told} in {len(found.ranks)} maps; of no map's change more than "
        f"{found.error:.1e} is left out. Outputs differ by {outputs.difference:.1e} at most, of {outputs.largest:.1f} "
        f"at most. Load it with peft.PeftModel.from_pretrained(base, {str(to)!r})."
    )
