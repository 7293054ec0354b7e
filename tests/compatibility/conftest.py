"""The files of every earlier commit, each in a copy that a test may work in."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

FILES = Path(__file__).parent / "files"


@pytest.fixture(scope="session", params=sorted(path.name for path in FILES.iterdir()))
def copied(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what one commit made."""
    return Path(shutil.copytree(FILES / request.param, tmp_path_factory.mktemp("then") / request.param))


@pytest.fixture
def then(copied: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same as the current folder: all that is named in the files is relative to it. To be read only."""
    monkeypatch.chdir(copied)
    return copied
