"""Where the command line writes: two consoles, plain lines, JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

# What goes into a file or a pipe is not cut to the width of a terminal that is not there. Names of the user's are shown
# as they are: no brackets in them are markup, and no colons an emoji.
out, err = (
    Console(stderr=stderr, width=None if sys.stdout.isatty() else 160, markup=False, emoji=False, highlight=False)
    for stderr in (False, True)
)


def say(text: str, console: Console = out) -> None:
    """One line of text, not wrapped: a command in it is copied whole."""
    console.print(text, soft_wrap=True)


def complain(word: str, message: object) -> None:
    """An error: the word in red, then the message, to standard error."""
    err.print(Text.assemble((word, "bold red"), f" {message}"), soft_wrap=True)


def print_json(data: Any) -> None:
    """`data` as JSON, to standard output."""
    print(json.dumps(data, indent=1, ensure_ascii=False, default=str))
