"""Rates and scales as choices, from settings to a model that was loaded: one small search at the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import autopeft
from autopeft.methods import HasScale
from small_case import Case, call, trials

# Single factors are taken, so that every candidate has changes whatever is drawn.
DIALS = {"rate_factors": {"all": [3], "serial": [0.5]}, "scales": {"serial": [4]}}


@pytest.fixture(scope="module")
def searched(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two trials."""
    place = tmp_path_factory.mktemp("dialled")
    space = {"methods": {"serial": {"sizes": [1, 2]}}, **DIALS}
    found = call("search", case.write(place / "s.yaml", space=space, trials=2), "--out", place / "study")
    assert found.code == 0, found.err
    assert "×4" in found.out
    assert "rate×3 rate.serial×0.5" in found.out
    return place / "study"


def test_the_front_says_what_was_changed(searched: Path) -> None:
    rows = json.loads(call("front", searched, "--json").out)
    assert all(row["changes"] == {"rate_factor": 3, "rate_factors": {"serial": 0.5}} for row in rows)
    assert all(placement[3] == 4 for row in rows for placement in row["architecture"]["placements"])
    measured = [trial.measurement for trial in trials(searched)]
    assert [found.extra["learning_rate"] for found in measured] == pytest.approx([3e-3, 3e-3])
    report = searched / "report.md"
    assert call("report", searched, "--to", report).code == 0
    assert "×4" in report.read_text()
    assert "rate×3 rate.serial×0.5" in report.read_text()


def test_a_point_is_retrained_saved_and_loaded_as_it_was_found(searched: Path, tmp_path: Path) -> None:
    saved, result = tmp_path / "saved", tmp_path / "t.json"
    found = call(
        "train", searched, "--trial", 0, "--seeds", 1, "--save", saved, "--to", result, "--set", "recipe.steps=2"
    )
    assert found.code == 0, found.err
    told = json.loads(result.read_text())
    assert told["changes"] == {"rate_factor": 3, "rate_factors": {"serial": 0.5}}
    assert told["learning_rate"] == pytest.approx(3e-3)
    model = autopeft.load(saved)
    assert model.record["facts"]["recipe"]["rate_factors"] == {"serial": 0.5}
    modules = list(model.attached.modules.values())
    assert modules
    assert all(isinstance(module, HasScale) and module.scale == 4 for module in modules)


def test_what_the_front_says_can_be_trained_as_a_file(searched: Path, tmp_path: Path) -> None:
    (row, *_) = json.loads(call("front", searched, "--json").out)
    (tmp_path / "row.json").write_text(json.dumps(row))
    result = tmp_path / "t.json"
    arguments = ("--architecture", tmp_path / "row.json", "--seeds", 1, "--to", result, "--set", "recipe.steps=1")
    found = call("train", searched, *arguments)
    assert found.code == 0, found.err
    assert json.loads(result.read_text())["changes"] == row["changes"]


def test_a_search_in_a_supernet_refuses_before_anything_is_written(case: Case, tmp_path: Path) -> None:
    path = case.write(
        tmp_path / "s.yaml", sampler="bipeft", space={"name": "S2", "budget": "50%", "scales": {"lora": [1, 2]}}
    )
    found = call("search", path, "--out", tmp_path / "study")
    assert found.code == 2
    assert "cannot tell apart: leave out `space.rate_factors`, `space.scales`, " in " ".join(found.err.split())
    assert not (tmp_path / "study").exists()
