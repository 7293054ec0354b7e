"""`autopeft schema`: what a file of settings may hold, for editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from autopeft.cli.app import app
from autopeft.cli.terminal import say


@app.command()
def schema(
    out: Annotated[Path | None, typer.Option(help="Write it into this file instead of showing it.")] = None,
) -> None:
    """Show the JSON Schema of a file of settings, by which an editor completes and checks one."""
    from autopeft.rules import schema as schema_of
    from autopeft.settings import Settings
    from autopeft.writing import SCHEMA, check_file, write_whole

    check_file("--out", out, SCHEMA)
    text = json.dumps(schema_of(Settings), indent=1, ensure_ascii=False)
    if out is None:
        print(text)
        return
    with write_whole(out) as part:
        part.write_text(text + "\n", encoding="utf-8")
    say(f"wrote {out}")
