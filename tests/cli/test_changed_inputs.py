"""A study is trained for, by `train` and `finish`, only with the data and the model that it was measured on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import small_case
import tiny
from small_case import Case, call

TRAIN = ("--seeds", 1, "--set", "recipe.steps=1")
FINISH = ("--first", 2, "--last", 2, "--each", 1, "--widen", 0, "--baselines", "bitfit", "--at", "1%-100%")
RATES = ("--learning-rates", "1e-3", "--set", "recipe.steps=1")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Path]:
    """A case, and a study on it whose settings keep a part of the training examples."""
    folder = tmp_path_factory.mktemp("searched")
    case = small_case.make(folder)
    found = call("search", case.write(folder / "asked.yaml", trials=2, train_limit=24), "--out", folder / "run")
    assert found.code == 0, found.err
    return case, folder


@pytest.fixture
def restored(searched: tuple[Case, Path]) -> tuple[Case, Path]:
    """The case with its data and model as they were when the search began, and a copy of the study."""
    case, folder = searched
    kept = folder / "kept"
    if not kept.exists():
        shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("kept"))
    for path in (*folder.glob("*.csv"), folder / "model", folder / "run"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(kept, folder, dirs_exist_ok=True)
    return case, folder


def _a_row_less(folder: Path) -> None:
    lines = (folder / "validation.csv").read_text().splitlines(keepends=True)
    (folder / "validation.csv").write_text("".join(lines[:-1]))


def _a_training_row_less(folder: Path) -> None:
    lines = (folder / "train.csv").read_text().splitlines(keepends=True)
    (folder / "train.csv").write_text("".join([lines[0], *lines[4:]]))


def _other_weights(folder: Path) -> None:
    path = folder / "model" / "model.safetensors"
    save_file({name: value + 1 for name, value in load_file(path).items()}, path)


def _another_family(folder: Path) -> None:
    shutil.rmtree(folder / "model")
    made = tiny.backbone("roberta", with_tokenizer=True)
    made.model.save_pretrained(folder / "model")
    tiny.tokenizer("roberta").save_pretrained(folder / "model")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_a_row_less, "the validation part had 16 examples"),
        (_a_training_row_less, "the train part had 24 examples"),
        (_other_weights, "its weights had the digest"),
        (_another_family, "its configuration had"),
    ],
)
def test_what_has_changed_under_its_name_is_refused(
    restored: tuple[Case, Path], change: Callable[[Path], None], told: str
) -> None:
    _, folder = restored
    change(folder)
    run = folder / "run"
    commands = [("train", run, "--trial", 1, *TRAIN), ("train", run, "--baseline", "bitfit", *TRAIN)]
    for command in (*commands, ("finish", run, *FINISH, *RATES)):
        found = call(*command)
        assert found.code == 2, (command, found.err)
        assert "The study was measured on something else: " in found.err
        assert told in found.err
    assert not (run / "retrained").exists()
    assert not (run / "finals").exists()


def test_what_is_asked_for_in_its_place_is_trained_on(restored: tuple[Case, Path]) -> None:
    """More of the same data, another cut, other files and another model are what somebody wants."""
    _, folder = restored
    shutil.copytree(folder / "model", folder / "other", dirs_exist_ok=True)
    _other_weights(folder)
    shutil.copy(folder / "train.csv", folder / "more.csv")
    run = folder / "run"
    elsewhere = ("--set", f"model={folder / 'other'}")
    found = call("train", run, "--trial", 1, *TRAIN, *elsewhere, "--set", "data_seed=3")
    assert found.code == 0, found.err
    _a_row_less(folder)
    found = call("train", run, "--trial", 1, *TRAIN, *elsewhere)
    assert found.code == 2, found.err
    found = call("train", run, "--trial", 1, *TRAIN, *elsewhere, "--set", f"files.train={folder / 'more.csv'}")
    assert found.code == 0, found.err
