"""Where the command line writes: two consoles, plain lines, JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from autopeft.masking import Secrets

# What goes into a file or a pipe is not cut to the width of a terminal that is not there. Names of the user's are shown
# as they are: no brackets in them are markup, and no colons an emoji.
for _name in ("stdout", "stderr"):
    # Python has none where a shell has closed it (`>&-`), and what is said then goes nowhere instead of failing.
    if getattr(sys, _name) is None:
        setattr(sys, _name, Path(os.devnull).open("w"))

out, err = (
    Console(stderr=stderr, width=None if sys.stdout.isatty() else 160, markup=False, emoji=False, highlight=False)
    for stderr in (False, True)
)

LONGEST_LINE = 1000
"""Characters of a line of a message: more than any that this package writes without repeating what it was given."""


def say(text: str, console: Console = out) -> None:
    """One line of text, not wrapped: a command in it is copied whole."""
    console.print(text, soft_wrap=True)


def say_error(word: str, message: object) -> None:
    """An error: the word in red, then the message, to standard error; see `shown`."""
    err.print(Text.assemble((word, "bold red"), f" {shown(message)}"), soft_wrap=True)


def shown(message: object) -> str:
    """A message without what is secret in it, and without the middle of lines longer than `LONGEST_LINE`."""
    # A message repeats what it refuses, and that may be a whole file: the contents of a cell, of a name, of an option.
    # Cut when nothing is secret any more, since half a password is not recognised.
    return "\n".join(map(_shortened, without_secrets(str(message)).split("\n")))


def _shortened(line: str) -> str:
    ends = LONGEST_LINE // 2 - 20
    left_out = len(line) - 2 * ends
    return line if len(line) <= LONGEST_LINE else f"{line[:ends]} [{left_out:,} characters] {line[-ends:]}"


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
