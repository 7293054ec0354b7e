"""What a command writes never lands on what it reads, nor on anything that is not an earlier result of its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml

from autopeft.cli.terminal import figure
from small_case import Case, call


def content(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def own(case: Case, tmp_path: Path) -> Path:
    """A folder with a model of one's own in ``model``, and a link to it."""
    (tmp_path / "files" / "model").mkdir(parents=True)
    for path in (case.folder / "model").iterdir():
        (tmp_path / "files" / "model" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "files" / "link").symlink_to("model")
    return tmp_path / "files"


def train(case: Case, own: Path, *options: object) -> tuple[int, str]:
    """`autopeft train` of a baseline on the model in `own`, and its error."""
    asked = case.write(own.parent / "asked.yaml", model=str(own / "model"))
    found = call("train", asked, "--baseline", "serial", "--seeds", 1, "--epochs", 0.1, *options)
    return found.code, found.err


@pytest.mark.parametrize("save", ["model", "model/", "link", "nowhere/../model", ".", "./link/.", ".."])
def test_train_does_not_save_over_its_base_model(
    case: Case, own: Path, save: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own)
    before = content(own)
    for more in ([], ["--overwrite"]):
        code, said = train(case, own, "--save", save, *more)
        assert code == 2
        assert "would write over the base model" in said
        assert "Retraining" not in said
    assert content(own) == before


def test_what_reads_no_model_writes_nothing_in_the_folder_of_one_either(own: Path, searched: Path) -> None:
    before = content(own)
    model = own / "model"
    for command in (
        ("front", searched, "--plot", model / "front.png"),
        ("report", searched, "--to", model / "sub" / "report.html"),
        ("schema", "--out", own / "link" / "schema.json"),
    ):
        found = call(*command)
        assert found.code == 2, command
        assert "which holds a model alone: give a place outside of it." in found.err
    assert content(own) == before


@pytest.mark.slow
def test_a_study_that_lies_in_the_folder_of_a_model_has_its_report_there(own: Path, searched: Path) -> None:
    study = own / "model" / "run"
    shutil.copytree(searched, study)  # as an earlier version allowed
    assert call("report", study).code == 0
    assert (study / "report.html").is_file()


@pytest.mark.parametrize("option", ["--save", "--to"])
def test_nothing_is_written_inside_of_the_folder_of_a_model(case: Case, own: Path, option: str) -> None:
    before = content(own)
    for place in ("model/sub/saved", "link/saved"):
        code, said = train(case, own, option, own / place)
        assert code == 2
        assert "lies in the folder of the base model" in said
    asked = case.write(own.parent / "asked.yaml", model=str(own / "model"))
    assert "lies in the folder of the base model" in call("search", asked, "--out", own / "model" / "run").err
    assert content(own) == before


def test_train_does_not_save_over_another_model_or_somebody_s_files(case: Case, own: Path) -> None:
    other = own / "other"
    (own / "model").copy(other) if hasattr(Path, "copy") else other.mkdir()
    (other / "config.json").write_text("{}")
    (other / "tokenizer_config.json").write_text("{}")
    (own / "notes").mkdir()
    (own / "notes" / "diary.txt").write_text("dear")
    before = content(own)
    for folder, named in ((other, "a model (config.json"), (own / "notes", "diary.txt")):
        for more in ([], ["--overwrite"]):
            code, said = train(case, own, "--save", folder, *more)
            assert (code, named in said) == (2, True), said
    code, said = train(case, own, "--save", own / "notes" / "diary.txt")
    assert code == 2
    assert "takes a folder" in said
    assert content(own) == before


def test_a_saved_model_and_its_results_are_replaced_on_demand_alone(case: Case, own: Path) -> None:
    places = ("--save", own / "saved", "--to", own / "found.json")
    code, said = train(case, own, *places)
    assert code == 0, said
    assert sorted(path.name for path in (own / "saved").iterdir()) == [
        "README.md", "architecture.json", "model.safetensors",
    ]  # fmt: skip
    before = content(own)
    code, said = train(case, own, *places)
    assert code == 2
    assert "a saved model of an earlier run: give a new folder, or --overwrite" in said
    code, said = train(case, own, *places[2:])
    assert code == 2
    assert "the results of a retraining of an earlier run: give another name, or --overwrite" in said
    assert content(own) == before
    assert train(case, own, *places, "--overwrite")[0] == 0
    (own / "saved" / "notes.txt").write_text("mine")
    code, said = train(case, own, "--save", own / "saved", "--overwrite")
    assert code == 2
    assert "notes.txt" in said
    (own / "saved" / "notes.txt").unlink()
    # The architecture that is read lies in the folder that would be replaced.
    found = call(
        "train", own.parent / "asked.yaml", "--architecture", own / "saved" / "architecture.json", "--seeds", 1,
        "--save", own / "saved", "--overwrite",
    )  # fmt: skip
    assert found.code == 2
    assert "would write over the architecture" in found.err
    # An export lands neither on the saved model nor on an adapter that somebody trained with PEFT.
    theirs = own / "theirs"
    theirs.mkdir()
    (theirs / "adapter_config.json").write_text("{}")
    (theirs / "adapter_model.safetensors").write_bytes((8).to_bytes(8, "little") + b'{"a": 0}')
    before = content(own)
    for to in (own / "saved", theirs, own / "model"):
        found = call("export", own / "saved", "--to", to, "--overwrite")
        assert found.code == 2, found.err
        assert "would write over" in found.err or "nothing there is replaced" in found.err
    assert content(own) == before


def test_results_go_into_a_file_of_their_own(case: Case, own: Path) -> None:
    code, said = train(case, own, "--to", own.parent / "asked.yaml")
    assert (code, "would replace the settings" in said) == (2, True), said
    code, said = train(case, own, "--to", own / "model" / "config.json", "--overwrite")
    assert (code, "does not hold the results of a retraining" in said) == (2, True), said
    code, said = train(case, own, "--to", own / "model")
    assert (code, "takes a file" in said) == (2, True), said
    code, said = train(case, own, "--save", own / "new", "--to", own / "new" / "found.json")
    assert (code, "lies in the folder of --save" in said) == (2, True), said
    assert not (own / "new").exists()


def test_a_search_begins_in_an_empty_folder_or_goes_on_in_its_own(case: Case, own: Path) -> None:
    (own / "data").mkdir()
    (own / "data" / "train.csv").write_bytes((case.folder / "train.csv").read_bytes())
    files = {"train": str(own / "data" / "train.csv"), "text": ["text"], "label": "label"}
    asked = case.write(own.parent / "asked.yaml", model=str(own / "model"), files=files)
    before = content(own)
    for out, named in ((own / "model", "the base model"), (own, "the base model"), (own / "data", "the train file")):
        found = call("search", asked, "--out", out)
        assert (found.code, f"would write over {named}" in found.err) == (2, True), found.err
    assert content(own) == before
    (own / "empty").mkdir()
    assert call("search", asked, "--out", own / "empty").code == 0
    # The study's own settings are read from the folder that it goes on in.
    assert call("search", own / "empty" / "settings.yaml", "--out", own / "empty", "--trials", 4).code == 0


@pytest.mark.slow
def test_pages_and_pictures_replace_pages_and_pictures_of_ours_alone(searched: Path, tmp_path: Path) -> None:
    photo, page = tmp_path / "photo.png", tmp_path / "index.html"
    photo.write_bytes(b"\x89PNG a cat")
    page.write_text("<p>My page")
    for command in (("front", searched, "--plot", photo), ("report", searched, "--to", page)):
        found = call(*command)
        assert found.code == 2
        assert "exists and does not hold" in found.err
    assert (photo.read_bytes(), page.read_text()) == (b"\x89PNG a cat", "<p>My page")
    for name in ("one.html", "one.md", "one.json"):
        for _ in range(2):
            assert call("report", searched, "--to", tmp_path / name).code == 0
    for name in ("one.png", "one.svg", "one.pdf"):
        for _ in range(2):
            assert call("front", searched, "--plot", tmp_path / name).code == 0
    os.link(searched / "study.db", tmp_path / "study.html")
    before = (searched / "study.db").read_bytes()
    assert call("report", searched, "--to", tmp_path / "study.html").code == 2
    assert (searched / "study.db").read_bytes() == before


def test_an_experiment_keeps_out_of_folders_that_are_not_its_own(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "mine"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("# My project")
    described = {
        "title": "x", "kind": "retrain", "settings": case.data(), "seeds": [1],
        "learning_rates": [], "architectures": {"one": "serial"},
    }  # fmt: skip
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(described))
    found = call("experiment", tmp_path / "mine.yaml", "--results", tmp_path / "results", "--work", tmp_path / "work")
    assert found.code == 2
    assert "--results takes a new or empty folder" in found.err, found.err
    assert (folder / "README.md").read_text() == "# My project"


def test_measurements_are_told_as_a_person_writes_them() -> None:
    assert [figure(value) for value in (0.81234, 12.3456, 10294.7, -250000.0, 0)] == [
        "0.8123", "12.35", "10,295", "-250,000", "0",
    ]  # fmt: skip
