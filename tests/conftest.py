"""Fixtures that several test files share."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import typer.main
from optuna.storages._rdb.storage import _VersionManager

pytest.register_assert_rewrite("autopeft.testing")

# No test may depend on a hub; one that asked would be told again and again for half a minute that there is none.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

for _number, _usual in {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}.items():
    # A shell starts what it runs in the background with interrupts ignored, `nohup` ignores the end of the terminal,
    # and the tests' own processes inherit both.
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)

import small_case  # noqa: E402  what it imports is rewritten only if that is said before
from autopeft.cli.app import add_commands  # noqa: E402
from autopeft.objectives import latency  # noqa: E402

# A busy machine is no mistake of the code, so there is no deadline. The cases are the same at every run, so that nobody
# meets by chance what was never met before; new ones are looked for by the fuzzers, and with HYPOTHESIS_PROFILE=search.
hypothesis.settings.register_profile("same", deadline=None, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the package keeps in a user's cache goes into a folder of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _nothing_made_twice() -> Iterator[None]:
    """What a process of its own makes once is made once for all tests, which call the command line a thousand times.

    typer puts the commands together, and alembic reads every script of Optuna's database to find the newest, three
    times for a new one: together a quarter of what a call takes.
    """
    real, known = _VersionManager._create_alembic_script, list[Any]()

    def scripts(manager: _VersionManager) -> Any:
        known[:] = known or [real(manager)]
        return known[0]

    # All of them, for what is put together once has to hold whatever a later test calls.
    add_commands()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        patch.setattr(_VersionManager, "_create_alembic_script", scripts)
        yield


@pytest.fixture(scope="session", autouse=True)
def _few_passes_by_the_clock() -> Iterator[None]:
    """Trials of tests answer three batches and not thirty for a latency that nobody reads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "_PASSES", (2, 2))
        patch.setattr(latency, "_WARM_UP", 1)
        yield


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> small_case.Case:
    """A tiny model and its data on disk."""
    return small_case.make(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="session")
def searched(case: small_case.Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished search of three trials; to be read only."""
    folder = tmp_path_factory.mktemp("searched")
    found = small_case.call("search", case.write(folder / "asked.yaml"), "--out", folder / "run")
    assert found.code == 0, found.err
    return folder / "run"
