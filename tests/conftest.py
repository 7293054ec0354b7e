"""Fixtures that several test files share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

pytest.register_assert_rewrite("autopeft.testing")

import small_case  # noqa: E402  what it imports is rewritten only if that is said before

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no mistake of the code
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the package keeps in a user's cache goes into a folder of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
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
