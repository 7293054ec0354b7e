"""Code that a model brings runs when whoever calls says so, and never because a file does."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from autopeft.errors import SettingsError
from autopeft.experiments import read
from autopeft.experiments.compare import Compare, SearchCell
from autopeft.session import join, worker_command
from autopeft.settings import from_dict, load
from small_case import Case, call, finished

CODE = """
from pathlib import Path

from transformers import BertConfig, BertModel

Path({marker!r}).touch()


class OwnConfig(BertConfig):
    pass


class OwnModel(BertModel):
    config_class = OwnConfig
"""


@pytest.fixture
def marker(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that the code of the model in ``own`` makes when it is run."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", [*sys.path])  # transformers puts its cache there
    folder, found = tmp_path / "own", tmp_path / "the code was run"
    shutil.copytree(case.folder / "model", folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(CODE.format(marker=str(found)))
    return found


def test_a_file_cannot_allow_it(case: Case, tmp_path: Path, marker: Path) -> None:
    asked = case.write(tmp_path / "asked.yaml", model=str(tmp_path / "own"), trust_remote_code=True)
    for command in (["check", asked, "--steps", 0], ["search", asked, "--out", tmp_path / "run"]):
        found = call(*command)
        assert found.code == 2
        assert "give --trust-remote-code at the command line" in found.err
    assert not (tmp_path / "run").exists()
    found = call("train", asked, "--baseline", "lora", "--save", tmp_path / "saved")
    assert (found.code, "--trust-remote-code" in found.err) == (2, True)
    plain = case.write(tmp_path / "plain.yaml", model=str(tmp_path / "own"))
    assert call("check", plain, "--steps", 0, "--set", "trust_remote_code=true").code == 2
    assert not marker.exists()


@pytest.mark.slow
def test_the_command_line_can_and_what_is_written_does_not(case: Case, tmp_path: Path, marker: Path) -> None:
    asked, folder = case.write(tmp_path / "asked.yaml", model=str(tmp_path / "own"), trials=1), tmp_path / "run"
    found = call("search", asked, "--out", folder, "--trust-remote-code")
    assert found.code == 0, found.err
    assert marker.exists()
    assert "trust" not in (folder / "settings.yaml").read_text()
    assert not load(folder / "settings.yaml").trust_remote_code
    marker.unlink()
    assert call("report", folder).code == 0
    assert call("front", folder).code == 0
    found = call("search", folder / "settings.yaml", "--out", folder, "--trials", 2)
    assert (found.code, "trust_remote_code is True there, False here" in found.err) == (2, True)
    assert not marker.exists()  # transformers' own class took its place
    with join(folder, trust_remote_code=True) as study:
        assert study.n_finished() == 1


def test_workers_are_told_by_their_launcher(tmp_path: Path) -> None:
    assert "--trust-remote-code" not in worker_command(tmp_path)
    assert worker_command(tmp_path, trust_remote_code=True)[-1] == "--trust-remote-code"


def test_the_launcher_hands_it_on(case: Case, tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def ran(command: list[str], *rest: object, **more: object) -> None:
        commands.append(command)
        join(tmp_path / "run", trust_remote_code="--trust-remote-code" in command).close()

    monkeypatch.setattr("autopeft.session.processes.run_workers", ran)
    asked = case.write(tmp_path / "asked.yaml", model=str(tmp_path / "own"), trials=2)
    found = call("search", asked, "--out", tmp_path / "run", "--workers", 2, "--trust-remote-code")
    assert found.code == 0, found.err
    assert "--trust-remote-code" in commands[0]
    assert finished(tmp_path / "run") == 2
    assert marker.exists()


@pytest.mark.slow
def test_a_study_of_earlier_that_was_allowed_by_a_file_can_be_read(case: Case, tmp_path: Path) -> None:
    asked, folder = case.write(tmp_path / "asked.yaml", trials=1), tmp_path / "run"
    assert call("search", asked, "--out", folder).code == 0
    data = {**yaml.safe_load((folder / "settings.yaml").read_text()), "trust_remote_code": True}
    (folder / "settings.yaml").write_text(yaml.safe_dump(data))
    assert call("report", folder).code == 0
    assert call("front", folder).code == 0
    with pytest.raises(SettingsError, match="cannot be allowed by settings"):
        load(folder / "settings.yaml")


def test_the_refusal_is_for_true_alone() -> None:
    assert from_dict({"task": "mrpc", "trust_remote_code": False}).trust_remote_code is False
    assert from_dict({"task": "mrpc"}, trust_remote_code=True).trust_remote_code is True


def test_an_experiment_hands_it_on_to_its_cells(case: Case, tmp_path: Path) -> None:
    experiment = {
        "kind": "compare",
        "title": "two",
        "settings": case.data(),
        "samplers": {"random": {"sampler": "random"}},
        "seeds": [0],
    }
    file = tmp_path / "two.yaml"
    file.write_text(yaml.safe_dump(experiment))
    found = read(file, trust_remote_code=True).parts[""]
    assert isinstance(found, Compare)
    assert found.settings_of(SearchCell("random", 0)).trust_remote_code
    found = read(file).parts[""]
    assert isinstance(found, Compare)
    assert not found.settings_of(SearchCell("random", 0)).trust_remote_code
    experiment["samplers"] = {"random": {"sampler": "random", "trust_remote_code": True}}
    file.write_text(yaml.safe_dump(experiment))
    with pytest.raises(SettingsError, match="--trust-remote-code"):
        read(file)
