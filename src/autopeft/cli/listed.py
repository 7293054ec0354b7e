"""`autopeft list`: what can be named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from autopeft.cli.app import app
from autopeft.cli.studies import AsJson
from autopeft.cli.terminal import out, print_json, say


@app.command("list")
def list_(
    what: Annotated[
        str, typer.Argument(help="methods, backbones, tasks, samplers, promotions, costs, protocols, baselines, spaces")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List what can be named."""
    from autopeft.cli.listing import listing

    known = listing(what)
    if as_json:
        print_json(known)
        return
    for kind, rows in known.items():
        out.print(kind, style="bold")
        if out.is_terminal:  # a line a name where it may be filtered, columns where it is read
            out.print(described(rows))
            continue
        for name, about in rows.items():
            say(f"  {name:20} {about}".rstrip())


def described(rows: Mapping[str, str]) -> Table:
    """Names, and beside them what they are, wrapped within its own column."""
    table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(width=0)
    table.add_column(no_wrap=True, min_width=16)
    table.add_column(overflow="fold")
    for name, about in rows.items():
        table.add_row("", Text(name), Text(about))
    return table
