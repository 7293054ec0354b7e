"""What a command imports before it needs it: help, lists and fronts are there at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autopeft.cli import listing
from autopeft.cli.app import COMMANDS

HEAVY = ("torch", "transformers", "botorch", "sklearn", "datasets", "matplotlib", "scipy")
FOLDER = Path(listing.__file__).parent


def loaded(*arguments: object, cache: Path | None = None) -> set[str]:
    """Heavy packages that the command has imported at its end."""
    words = [str(word) for word in arguments]
    script = (
        "import sys\n"
        f"sys.argv = {['autopeft', *words]!r}\n"
        "from autopeft.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    environment = {**os.environ, **({"XDG_CACHE_HOME": str(cache)} if cache else {})}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("search", "--help"), ("train", "--help")])
def test_help_needs_nothing_heavy(arguments: tuple[str, ...]) -> None:
    assert loaded(*arguments) == set()


def test_a_front_needs_no_torch(searched: Path) -> None:
    assert loaded("front", searched) == set()
    assert loaded("front", searched, "--json") == set()
    assert loaded("front", searched, "--at", "100%") == set()


@pytest.mark.slow
def test_a_list_is_made_once_and_then_read(tmp_path: Path) -> None:
    assert "torch" in loaded("list", cache=tmp_path)
    (kept,) = (tmp_path / "autopeft").glob("listing-*.json")
    assert json.loads(kept.read_text()) == listing.ask()
    assert loaded("list", cache=tmp_path) == set()
    kept.write_text("{")  # what cannot be read is made anew
    assert "torch" in loaded("list", cache=tmp_path)
    assert json.loads(kept.read_text()) == listing.ask()


def test_a_list_that_cannot_be_kept_is_still_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "lora" in listing.listing("methods")["methods"]


def test_every_command_is_in_a_file_that_is_named() -> None:
    files = {path.stem for path in FOLDER.glob("*.py") if "@app.command" in path.read_text()}
    assert files == set(COMMANDS)
