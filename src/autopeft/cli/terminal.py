"""Where the command line writes: two consoles, plain lines, JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from autopeft.masking import Secrets

# What goes into a file or a pipe is not cut to the width of a terminal that is not there. Names of the user's are shown
# as they are: no brackets in them are markup, and no colons an emoji.
out, err = (
    Console(stderr=stderr, width=None if sys.stdout.isatty() else 160, markup=False, emoji=False, highlight=False)
    for stderr in (False, True)
)


def say(text: str, console: Console = out) -> None:
    """One line of text, not wrapped: a command in it is copied whole."""
    console.print(text, soft_wrap=True)


def say_error(word: str, message: object) -> None:
    """An error: the word in red, then the message, to standard error; without what is secret in it."""
    err.print(Text.assemble((word, "bold red"), f" {without_secrets(str(message))}"), soft_wrap=True)


def without_secrets(text: str) -> str:
    """`text` with the password of this process's storage hidden, and every other that can be recognised."""
    return Secrets.of_process(sys.argv, os.environ).hide(text)


class DiscreetFormatter(logging.Formatter):
    """Log lines and their tracebacks without what is secret in them; other libraries' lines, too."""

    def format(self, record: logging.LogRecord) -> str:
        """The line as it is shown."""
        # When the line is whole, for a secret may come from an argument, an exception or the library's own text.
        return without_secrets(super().format(record))


def figure(value: float) -> str:
    """A measurement as a person writes it: four digits, and whole with separators from a thousand on."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def print_json(data: Any) -> None:
    """`data` as JSON, to standard output."""
    print(json.dumps(data, indent=1, ensure_ascii=False, default=str))
