"""Every command that writes against everything that may stand where it is told to: one row a command and option.

What is right is the same in every row: refused before any work, exit 2, with what stands there named, and nothing there
has changed. A command that has no row here fails.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
import yaml

from autopeft.architecture import Architecture, Placement
from autopeft.cli.app import add_commands
from small_case import Case, call

PLACE, NAME, ABOVE = "{place}", "{name}", "{above}"
"""What is written to: its path, or where a command puts the name of what it makes below a folder, both parts of it."""

STANDING = (
    "model", "model/", "nowhere/../model", "link", "./link/.", "data", "theirs", "saved", "exported", "other", ".",
    "data/notes.db", "data/train.csv", "data/linked.csv", "data/hard.csv", "asked.yaml", "found.yaml",
    "architecture.json",
    "model/config.json", "model/model.safetensors", "link/tokenizer.json", "saved/architecture.json",
    "saved/model.safetensors", "exported/adapter_model.safetensors", "other/study.db", "other/settings.yaml",
    "theirs/photo.png", "theirs/notes.txt", "theirs/page.html", "theirs/predictions.csv", "theirs/schema.json",
    "theirs/placements.json", "theirs/found.json",
    # What is new there, in folders that hold one thing alone.
    "model/new", "link/sub/new.json", "saved/new.json", "saved/new.png", "exported/new.csv", "exported/sub/new",
)  # fmt: skip
"""Folders and files that a person may have, by their paths from the folder that a command is called in."""


@dataclass(frozen=True)
class Row:
    """A command that writes.

    Args:
        words: of the command line.
        renewed: what stands there and is an earlier result of the same command that is made anew, or goes on.
    """

    words: tuple[str, ...]
    renewed: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        return self.words[0]


ROWS = (
    Row(("search", "asked.yaml", "--out", PLACE)),
    Row(("search", "asked.yaml", "--out", "new-study", "--storage", PLACE)),
    Row(("search", "asked.yaml", "--finish", "--out", PLACE)),
    Row(("submit", "asked.yaml", "--cluster", "local", "--out", PLACE)),
    Row(("submit", "asked.yaml", "--cluster", "local", "--out", "new-study", "--storage", PLACE)),
    Row(("worker", PLACE), ("other",)),
    Row(("worker", "other", "--storage", PLACE)),
    Row(("reopen", PLACE), ("other",)),
    Row(("reopen", "other", "--storage", PLACE)),
    Row(("finish", PLACE), ("other",)),
    Row(("finish", "other", "--storage", PLACE)),
    Row(("train", "asked.yaml", "--baseline", "lora", "--save", PLACE)),
    Row(("train", "asked.yaml", "--baseline", "lora", "--save", PLACE, "--overwrite"), ("saved",)),
    Row(("train", "other", "--trial", "0", "--save", PLACE)),
    Row(("train", "asked.yaml", "--architecture", "architecture.json", "--to", PLACE)),
    Row(("train", "other", "--trial", "0", "--to", PLACE, "--overwrite")),
    Row(("front", "other", "--plot", PLACE)),
    Row(("report", "other", "--to", PLACE)),
    Row(("transfer", "architecture.json", "--from", "model", "--to", "model", "--out", PLACE)),
    Row(("transfer", "saved", "--to", "model", "--out", PLACE, "--overwrite"), ("architecture.json",)),
    Row(("predict", "saved", "good", "--to", PLACE)),
    Row(("predict", "saved", "--file", "data/train.csv", "--to", PLACE, "--overwrite")),
    Row(("export", "saved", "--to", PLACE)),
    Row(("export", "saved", "--to", PLACE, "--overwrite"), ("exported",)),
    Row(("import", "exported", "--model", "model", "--out", PLACE)),
    Row(("import", "exported", "--model", "model", "--save", PLACE, "--overwrite"), ("saved",)),
    Row(("experiment", f"experiments/{NAME}.yaml", "--results", ABOVE, "--work", "new-work")),
    # Cells get new folders inside of it, as they may in any plain folder or study.
    Row(
        ("experiment", f"experiments/{NAME}.yaml", "--results", "new-results", "--work", ABOVE),
        ("data", "theirs", "other"),
    ),
    Row(("schema", "--out", PLACE)),
)

WRITES_NOTHING = ("check", "doctor", "list")
"""Commands that have no place to write to."""


@pytest.fixture(scope="module")
def home(case: Case, searched: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with everything in `STANDING`, in which the commands are called."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(case.folder / "model", home / "model")
    (home / "link").symlink_to("model")
    (home / "data").mkdir()
    shutil.copy(case.folder / "train.csv", home / "data")
    (home / "data" / "linked.csv").symlink_to("train.csv")
    os.link(home / "data" / "train.csv", home / "data" / "hard.csv")
    shutil.copytree(searched, home / "other")
    with closing(sqlite3.connect(home / "data" / "notes.db")) as connection:
        connection.execute("CREATE TABLE notes (text)")
    (home / "theirs").mkdir()
    for name in ("photo.png", "notes.txt", "page.html", "predictions.csv", "schema.json", "found.json"):
        (home / "theirs" / name).write_text('{"name": "mine"}')
    (home / "theirs" / "placements.json").write_text('{"placements": ["the left wall", "the window"]}')
    Architecture((Placement("encoder.0.ffn", "serial", 3),)).save(home / "architecture.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        _write_settings(case, home)
        made = ("train", "found.yaml", "--baseline", "lora:1", "--seeds", 1, "--epochs", 0.1, "--save", "saved")
        for words in (made, ("export", "saved", "--to", "exported")):
            found = call(*words)
            assert found.code == 0, found.err
        yield home


def _write_settings(case: Case, home: Path) -> None:
    files = {"train": "data/train.csv", "text": ["text"], "label": "label"}
    for name, seed in (("asked", 1), ("found", 2)):
        case.write(home / f"{name}.yaml", model="model", files=files, seed=seed)
    described = {
        "title": "x", "kind": "retrain", "settings": case.data(model="model", files=files), "seeds": [1],
        "learning_rates": [], "architectures": {"one": "serial"},
    }  # fmt: skip
    (home / "experiments").mkdir()
    for name in {Path(standing).name for standing in STANDING} - {""}:
        (home / "experiments" / f"{name}.yaml").write_text(yaml.safe_dump(described))


def _standing(home: Path) -> dict[str, bytes | str | None]:
    """All that is in `home`: of files their contents, of links where they lead, of folders that they are there."""
    # What SQLite keeps beside a file while it is read is no part of it.
    return {
        str(path.relative_to(home)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in home.rglob("*")
        if not path.name.endswith(("-wal", "-shm", "-claims"))
    }


def _placed(words: tuple[str, ...], place: str) -> list[str]:
    path = Path(place)
    parts = {PLACE: place, NAME: path.name, ABOVE: str(path.parent)}
    found = list(words)
    for name, part in parts.items():
        found = [word.replace(name, part) for word in found]
    return found


FEW = ("model", "link/sub/new.json", "data/train.csv", "theirs/notes.txt", "saved/new.json")
"""What every run of the tests tries; all takes a minute, since each command looks at each place."""


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(row.words))
@pytest.mark.parametrize("standing", [FEW, pytest.param(STANDING, marks=pytest.mark.slow)], ids=["few", "all"])
def test_nothing_lands_on_what_stands_there(home: Path, row: Row, standing: tuple[str, ...]) -> None:
    before = _standing(home)
    told = {}
    for place in standing:
        if place in row.renewed or (not Path(place).name and NAME in " ".join(row.words)):
            continue
        words = _placed(row.words, place)
        found = call(*words)
        now = _standing(home)
        changed = sorted(name for name in {*before, *now} if before.get(name, "none") != now.get(name, "none"))
        if found.code != 2 or changed or "Traceback" in found.err or "Retraining" in found.err:
            told[" ".join(words)] = (found.code, changed, (found.err or found.out)[-300:])
            for name in changed:  # so that one fault is not told by all that follow
                _restore(home / name, before.get(name, "none"))
    assert told == {}


def _restore(path: Path, before: bytes | str | None) -> None:
    if before == "none":
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    elif isinstance(before, bytes):
        path.write_bytes(before)


def test_every_command_has_a_row() -> None:
    known = typer.main.get_command(add_commands()).commands  # type: ignore[attr-defined]
    rows = {row.command for row in ROWS}
    assert rows | set(WRITES_NOTHING) == set(known)
    assert not rows & set(WRITES_NOTHING)


def test_every_option_that_names_a_place_has_a_row() -> None:
    known = typer.main.get_command(add_commands()).commands  # type: ignore[attr-defined]
    written = {"--out", "--save", "--to", "--plot", "--results", "--work", "--storage"}
    for name, command in known.items():
        options = {option for parameter in command.params for option in parameter.opts}
        tried = {word for row in ROWS if row.command == name for word in row.words}
        lacking = {option for option in options & written if option not in tried}
        # What is only read by it is told apart by hand: the database of a study that is shown or trained from.
        assert lacking <= {"--storage", "--to"} if name in ("front", "report", "train", "transfer") else not lacking
