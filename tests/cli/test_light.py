"""What a command imports before it needs it: help, lists and fronts are there at once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from autopeft.cli import listing
from autopeft.cli.app import COMMANDS, files_for

HEAVY = (
    "torch",
    "transformers",
    "botorch",
    "sklearn",
    "datasets",
    "matplotlib",
    "scipy",
    "optuna",
    "sqlalchemy",
    "numpy",
)
FOLDER = Path(listing.__file__).parent


def loaded(*commands: Sequence[object], cache: Path | None = None, tree: Path | None = None) -> set[str]:
    """Heavy packages that the commands, one after the other in one process, have imported at their end."""
    words = [["autopeft", *map(str, command)] for command in commands]
    script = (
        "import sys\n"
        "from autopeft.cli.app import main\n"
        f"for words in {words!r}:\n"
        "    sys.argv = words\n"
        "    try:\n        main()\n    except SystemExit as end:\n        assert not end.code, (words, end.code)\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    environment = {**os.environ, **({"XDG_CACHE_HOME": str(cache)} if cache else {})}
    environment |= {"PYTHONPATH": str(tree)} if tree else {}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def test_help_needs_nothing_heavy() -> None:
    assert loaded(("--version",), ("--help",), ("search", "--help"), ("train", "--help")) == set()


@pytest.mark.parametrize("options", [(), ("-P",)], ids=["as always", "safe path"])
def test_files_in_the_folder_of_the_call_are_not_taken_for_python_s_own(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    for name in ("queue", "logging", "secrets", "yaml", "rich", "settings"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken')\n")
    command = [sys.executable, *options, "-m", "autopeft", "schema", "--out", "schema.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "schema.json").read_text())["type"] == "object"


def test_a_front_needs_no_torch(searched: Path) -> None:
    assert loaded(("front", searched), ("front", searched, "--json"), ("front", searched, "--at", "100%")) == set()


def test_a_list_needs_nothing_heavy_where_the_package_is_as_it_was_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the very first one of a user; of files that changed since, the kind is asked once and then kept."""
    shipped = json.loads(listing.SHIPPED.read_text())
    fresh = {kind: {**shipped[kind], "digest": listing.digest(kind)} for kind in shipped}
    path = tmp_path / "listing.json"
    path.write_text(json.dumps(fresh))
    monkeypatch.setattr(listing, "SHIPPED", path)
    monkeypatch.setattr(listing, "ask", lambda kind: {"asked": kind})
    asked = {kind for kind, rows in listing.listing().items() if "asked" in rows}
    assert not asked
    path.write_text(json.dumps({**fresh, "methods": {**fresh["methods"], "digest": "another"}}))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert {kind for kind, rows in listing.listing().items() if "asked" in rows} == {"methods"}
    assert list(json.loads((tmp_path / "autopeft" / "listing.json").read_text())) == ["methods"]


def test_what_is_shipped_is_what_the_members_say() -> None:
    """A kind whose files have changed since is asked, so that only the others could be wrong."""
    for kind, said in json.loads(listing.SHIPPED.read_text()).items():
        if said["digest"] == listing.digest(kind):
            assert said["rows"] == listing.ask(kind), f"{kind}: see scripts/list"


@pytest.mark.slow
def test_a_list_is_made_once_and_then_read(tmp_path: Path) -> None:
    """In a tree where every kind has changed since the release."""
    tree = tmp_path / "src"
    shutil.copytree(FOLDER.parent, tree / "autopeft", ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "autopeft" / "cli" / "listing.json").unlink()
    assert "torch" in loaded(("list",), cache=tmp_path, tree=tree)
    kept = tmp_path / "autopeft" / "listing.json"
    rows = {kind: said["rows"] for kind, said in json.loads(kept.read_text()).items()}
    assert rows == {kind: listing.ask(kind) for kind in rows}
    assert loaded(("list",), cache=tmp_path, tree=tree) == set()
    kept.write_text("{")  # what cannot be read is made anew
    assert "torch" in loaded(("list",), cache=tmp_path, tree=tree)


def test_a_list_that_cannot_be_kept_is_still_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(listing, "SHIPPED", tmp_path / "none")
    assert "lora" in listing.listing("methods")["methods"]


def test_every_command_is_in_a_file_that_is_named() -> None:
    files = {path.stem for path in FOLDER.glob("*.py") if "@app.command" in path.read_text()}
    assert files == set(COMMANDS)


def _commands(*words: str) -> dict[str, str]:
    """The commands that a process of its own has for these words, and the file that each is in."""
    script = (
        "import json, sys, typer\n"
        "from autopeft.cli.app import add_commands\n"
        "found = typer.main.get_command(add_commands(sys.argv[1:])).commands\n"
        "print(json.dumps({name: one.callback.__module__ for name, one in found.items()}))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=120)
    return {name: module.rpartition(".")[2] for name, module in json.loads(done.stdout).items()}


def test_a_command_reads_its_own_file_alone() -> None:
    assert set(_commands("front", "study")) == set(COMMANDS["found"])
    assert files_for(["-v", "predict", "--help"]) == ("models",)
    assert files_for(["list"]) == ("listed",)


@pytest.mark.parametrize("words", [(), ("--help", "front"), ("fornt",), ("--version",), ("-vv", "front")], ids=" ".join)
def test_what_names_no_command_gets_them_all(words: tuple[str, ...]) -> None:
    assert files_for(words) == tuple(COMMANDS)


def test_commands_are_in_the_files_that_they_are_looked_for_in() -> None:
    listed = [(name, file) for file, names in COMMANDS.items() for name in names]
    assert list(_commands("--help").items()) == listed
