"""Any command line: what is typed is understood, or refused by a message; it never ends in a traceback.

What is called is what stands between the words and the work: the parser of the command, and the settings that it makes.
"""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis import strategies as st

from autopeft.architecture import Counts
from autopeft.cli import flags, options, submit, terminal
from autopeft.cli.app import add_commands
from autopeft.errors import InputError
from autopeft.objectives import NOMINAL
from fuzzing import N_CASES, SEED, at_once
from small_case import Case

COMMANDS: Mapping[str, Any] = typer.main.get_command(add_commands()).commands  # type: ignore[attr-defined]

OPTIONS = sorted({option for command in COMMANDS.values() for one in command.params for option in one.opts})

VALUES = st.sampled_from(
    [
        "", " ", "-", "--", "0", "-1", "1", "2", "3.5", "1e3", "1e999", "nan", "inf", "9" * 5000, "0x10", "1_000", "१",
        "0.5%", "%", "‱", "0.1%-0.5%", "0.5%-0.1%", "-0.5%", "1e400%", "nan%", "20ms", "5", "cpu", "cuda:99", "meta",
        "serial", "serial:12", "serial:", "lora,serial", ",", ",,,", "random", "recommended", "nosuch", "bipeft",
        "balanced", "good=1,bad=4", "good=nan", "=1", "a=b=c", "good", "text", "label", ";", "\0", "\ud800", "é", "\n",
        "seed=1", "seed=*a", "recipe.epochs=3", "recipe=1", "recipe.=1", ".=1", "a.b.c.d=1", "space.methods.lora=",
        "space.methods=[lora]", "space.methods.lora.sizes=[1,1]", "files.text=[[]]", "files=~", "trials=[",
        "rungs=[1,0]",
        "recipe.optimizer=!!python/name:os.system", "key=\U0001f600", "sampler_options.preset=1", "trust_remote_code=1",
        "utf-16", "hex", "rot13", "left", "right", "train.csv", "model", "/", "/dev/null", "~", "..", "{0}", "%(x)s",
    ]
)  # fmt: skip
PAIRS = st.tuples(st.sampled_from(OPTIONS), VALUES | st.text(max_size=8))
SETS = st.tuples(
    st.just("--set"),
    st.builds(
        lambda path, value: f"{'.'.join(path)}={value}",
        st.lists(st.sampled_from(["recipe", "space", "files", "methods", "lora", "seed", "epochs", "text", "", "0"])),
        VALUES,
    ),
)
LINES = st.tuples(
    st.sampled_from(["search", "search", "check", "submit", "train", *sorted(COMMANDS)]),
    st.lists(PAIRS | SETS, max_size=5).map(lambda pairs: [word for pair in pairs for word in pair]),
)


def _understand(file: Path, command: str, words: list[str]) -> None:
    """What a command does before it begins its work.

    Raises:
        InputError: it refuses the words.
    """
    given = COMMANDS[command].make_context(command, [str(file), *words]).params
    described = inspect.signature(flags.asked).parameters
    if described.keys() <= given.keys():  # a search is described
        flags.asked(**{name: given[name] for name in described})
    elif "sets" in given and "train" in given:  # a model is looked at, and data
        options.read(file, {}, list(given["sets"]))
    elif "sets" in given:
        options.for_retraining(file, {"recipe.epochs": given["epochs"]}, list(given["sets"]))
    if "rates" in given and command != "search":
        options.rates(given["rates"])
    if given.get("slurm"):
        submit._options(given["slurm"])
    if given.get("at"):
        NOMINAL.limits(given["at"], Counts(10, 10, 10, 1000))


def _is_understood_or_refused(file: Path, command: str, words: list[str]) -> None:
    told = "a message"
    with at_once():
        try:
            _understand(file, command, words)
        except InputError as error:
            told = terminal.shown(error)
        except Exception as error:
            # Errors of the parser itself are messages too, see `autopeft.cli.app.main`; so is the end of `--help`.
            if not hasattr(error, "format_message") and type(error).__name__ != "Exit":
                raise
    assert 0 < len(told) < 2000


@pytest.fixture(scope="module")
def file(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings that are right, so that what is wrong is wrong in the options."""
    return case.write(tmp_path_factory.mktemp("options") / "s.yaml")


@settings(suppress_health_check=list(HealthCheck), max_examples=150)
@given(line=LINES)
@example(line=("search", ["--trials", "9" * 5000]))
@example(line=("check", ["--set", "seed=[[[["]))
@example(line=("train", ["--at", "nan%"]))
@example(line=("search", ["--class-weights", "9" * 5000]))
def test_any_command_line_is_understood_or_refused(file: Path, line: tuple[str, list[str]]) -> None:
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
        _is_understood_or_refused(file, *line)


@pytest.mark.fuzz
@pytest.mark.timeout(0)
def test_any_of_100_000_command_lines_is_understood_or_refused(file: Path) -> None:
    def one(line: tuple[str, list[str]]) -> None:
        with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
            _is_understood_or_refused(file, *line)

    bounds = settings(max_examples=N_CASES, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    seed(SEED)(bounds(given(line=LINES)(one)))()


def test_the_options_that_are_tried_are_those_of_the_commands() -> None:
    assert {"--set", "--trials", "--budget", "--at", "--learning-rates", "--slurm"} <= set(OPTIONS), json.dumps(OPTIONS)
