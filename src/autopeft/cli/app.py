"""The command line. Exit codes: 0 done, 1 failed, 2 the request cannot be served (no trial was started),
3 a search has ended and trials are missing that can be reopened.
"""

from __future__ import annotations

import errno
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer
from typer.models import CommandInfo

from autopeft.cli.terminal import DiscreetFormatter, err, say, say_error, without_secrets
from autopeft.errors import AutopeftError, InputError, SearchIncompleteError
from autopeft.interruption import Interruption, signals_interrupt

app = typer.Typer(
    help="Searches PEFT architectures for a pretrained transformer and a task.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS: Mapping[str, Sequence[str]] = {
    "search": ("search", "worker", "reopen", "check"),
    "found": ("front", "report"),
    "train": ("train",),
    "finish": ("finish",),
    "transfer": ("transfer",),
    "models": ("predict", "export"),
    "imports": ("import",),
    "doctor": ("doctor",),
    "listed": ("list",),
    "schema": ("schema",),
    "experiment": ("experiment",),
    "submit": ("submit",),
}
"""Files of this folder that add commands, and which, in the order in which `--help` lists them."""

_INTERRUPTED = 130

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)
"""What an output says that takes nothing more."""

_FLAGS = ("--verbose", "-v")
"""Options that may stand before a command and change nothing about which one it is."""


def main() -> None:
    """Entry point: errors become one message and an exit code."""
    add_commands(sys.argv[1:])
    try:
        with signals_interrupt():
            # In its own mode typer would print errors and end the process before they are told in this program's words.
            code = app(standalone_mode=False)
        # Short output is written no sooner than here; Python itself would tell of a full disk in a traceback.
        sys.stdout.flush()
    except Interruption as end:
        _tell_interrupted()
        sys.exit(end.code)
    except InputError as error:
        say_error("error:", error)
        sys.exit(2)
    except SearchIncompleteError as error:
        say_error("incomplete:", error)
        sys.exit(3)
    except AutopeftError as error:
        say_error("failed:", error)
        sys.exit(1)
    except (typer.Abort, KeyboardInterrupt):
        code = _INTERRUPTED
    except OSError as error:
        # An error that names a file is of that file, and not of what is printed.
        if error.errno not in _UNWRITABLE or error.filename is not None:
            _tell_unexpected()
        else:
            _close_output()
            # Whoever reads a pipe may stop reading, as `head` does, and that is no mistake of anybody.
            if error.errno != errno.EPIPE:
                say_error("failed:", f"The output cannot be written: {error.strerror}.")
        sys.exit(1)
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # a usage error of the parser
            say_error("error:", error.format_message())
            sys.exit(2)
        _tell_unexpected()
        sys.exit(1)
    if code == _INTERRUPTED:  # typer turns an interrupt into this code
        _tell_interrupted()
    sys.exit(code if isinstance(code, int) else 0)


def _tell_unexpected() -> None:
    # Python's own report would show the causes too, and with them what a driver says of its connection.
    sys.stderr.write(without_secrets(traceback.format_exc()))


def _close_output() -> None:
    """Let nothing more be written to standard output, which Python would try once more at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


def _tell_interrupted() -> None:
    say("interrupted; a search or an experiment goes on with the same command", err)


def add_commands(words: Sequence[str] = ()) -> typer.Typer:
    """The command line for these `words`, those after the program's name; none imports torch before a command needs it.

    With words that begin with a command's name, only that command's file is read: what a search needs would take longer
    to import than a front takes to be shown. Any others, such as `--help`, a slip, or none, get every command.
    """
    for name in files_for(words):
        importlib.import_module(f"autopeft.cli.{name}")  # which adds: each command stands there with a decorator
    order = [name for names in COMMANDS.values() for name in names]
    # A file that another one imports has added its commands before those.
    app.registered_commands.sort(key=lambda command: order.index(_name(command)))
    return app


def files_for(words: Sequence[str]) -> tuple[str, ...]:
    """The files that are read for these words, of those in `COMMANDS`: one for a command, else all."""
    asked = next((word for word in words if word not in _FLAGS), None)
    return tuple(file for file, added in COMMANDS.items() if asked in added) or tuple(COMMANDS)


def _name(command: CommandInfo) -> str:
    return command.name or (command.callback.__name__ if command.callback else "")


def _version(wanted: bool) -> None:
    if wanted:
        from autopeft.study.identity import versions

        say(f"autopeft {versions()['autopeft']}")
        raise typer.Exit


@app.callback()
def _root(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what the library logs.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(DiscreetFormatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])
    # What they warn of, such as weights that are missing, is looked at and told by this package itself.
    for noisy in ("transformers", "datasets", "huggingface_hub", "httpx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    # Weights of small models load in a blink; the libraries' own bars would only break ours.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if "transformers" in sys.modules:  # it has read that variable already
        importlib.import_module("transformers.utils.logging").disable_progress_bar()
