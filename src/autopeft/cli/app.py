"""The command line. Exit codes: 0 done, 1 failed, 2 the request cannot be served (no trial was started),
3 a search has ended and trials are missing that can be reopened.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from typing import Annotated

import typer

from autopeft.cli.terminal import DiscreetFormatter, err, say, say_error, without_secrets
from autopeft.errors import AutopeftError, InputError, SearchIncompleteError
from autopeft.interruption import Interruption, signals_interrupt

app = typer.Typer(
    help="Searches PEFT architectures for a pretrained transformer and a task.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS = (
    "search",
    "found",
    "train",
    "finish",
    "transfer",
    "models",
    "imports",
    "doctor",
    "listed",
    "schema",
    "experiment",
    "submit",
)
"""Files of this folder that add commands, in the order in which `--help` lists them."""

_INTERRUPTED = 130


def main() -> None:
    """Entry point: errors become one message and an exit code."""
    add_commands()
    try:
        with signals_interrupt():
            # In its own mode typer would print errors and end the process before they are told in this program's words.
            code = app(standalone_mode=False)
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
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # a usage error of the parser
            say_error("error:", error.format_message())
            sys.exit(2)
        # Python's own report would show the causes too, and with them what a driver says of its connection.
        sys.stderr.write(without_secrets(traceback.format_exc()))
        sys.exit(1)
    if code == _INTERRUPTED:  # typer turns an interrupt into this code
        _tell_interrupted()
    sys.exit(code if isinstance(code, int) else 0)


def _tell_interrupted() -> None:
    say("interrupted; a search or an experiment goes on with the same command", err)


def add_commands() -> typer.Typer:
    """The whole command line, with the commands of every file; none imports torch before a command needs it."""
    for name in COMMANDS:
        # Importing is what adds: each command stands in its file with a decorator, in the order of the list.
        importlib.import_module(f"autopeft.cli.{name}")
    return app


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
