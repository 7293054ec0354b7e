"""Results of earlier commits' experiments: complete, tabulated alike, and the same when a cell is run again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from autopeft.experiments import results_of
from readings import figures, holds, lost
from small_case import call

EXPERIMENTS = ("searches", "retraining", "rivals")
ONE_EXAMPLE = 1 / 24
TOO_SURE = ["6", "-0.0312", "-0.1636", "+0.1011", "2"]
"""Of an early page: its two differences are nearer to each other than one example, which they vary by at least."""
AS_SURE = ["6", "-0.0312", "-0.4056", "+0.3431", "2"]
"""The same with one example, 1/24: -0.0312 and 12.706, t of one degree of freedom, times 1/24 over the root of 2."""


@pytest.fixture
def results(then: Path, tmp_path: Path) -> Path:
    """A copy of the results, beside which studies would be kept."""
    return Path(shutil.copytree(then / "results", tmp_path / "results"))


def experiment(name: str, results: Path, *options: object) -> str:
    found = call(
        "experiment", f"experiments/{name}.yaml", "--results", results, "--work", results.parent / "work", *options
    )
    assert found.code == 0, found.err
    return found.out


def cells(results: Path, name: str) -> dict[str, Any]:
    return dict(results_of(results, name))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_complete_experiment_is_not_run_again(results: Path, name: str) -> None:
    before = cells(results, name)
    assert "nothing is missing" in experiment(name, results, "--missing")
    experiment(name, results)
    assert cells(results, name) == before
    assert not (results.parent / "work").exists() or not list((results.parent / "work").rglob("study.db"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_tables_hold_the_same_figures(results: Path, name: str) -> None:
    page = results / name / "README.md"
    wanted = figures(page.read_text())
    page.unlink()
    experiment(name, results, "--summary")
    assert len(wanted) >= 4
    assert lost([AS_SURE if row == TOO_SURE else row for row in wanted], figures(page.read_text())) == []


@pytest.mark.parametrize(
    ("name", "cell"), [("searches", "random-seed1"), ("retraining", "found"), ("rivals", "random-at6-seed4")]
)
@pytest.mark.slow
def test_a_cell_that_is_lost_comes_out_as_it_was(results: Path, name: str, cell: str) -> None:
    path = results / name / f"{cell}.json"
    before = json.loads(path.read_text())
    path.unlink()
    assert experiment(name, results, "--missing").split() == [cell]
    experiment(name, results)
    assert not path.exists()  # what is run from now on is a line of a file that all cells share
    found = cells(results, name)[cell]
    assert holds(found["settings"], before["settings"])
    assert outcome(found) == pytest.approx(outcome(before), abs=ONE_EXAMPLE)
    assert architectures(found) == architectures(before)


def outcome(cell: dict[str, Any]) -> list[float]:
    """What was measured: of trials, of what a search found, or over seeds."""
    if "trials" in cell:
        return [row["value"] for row in cell["trials"]]
    return [value for one in cell.get("found", [cell]) for value in one["values"]]


def architectures(cell: dict[str, Any]) -> list[Any]:
    return [one["architecture"] for one in cell.get("trials", cell.get("found", [cell]))]
