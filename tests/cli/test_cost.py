"""The cost of a search is chosen by a setting alone, and a front is tabulated by another one from what is stored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autopeft import objectives
from small_case import Case, call, make, trials


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="module")
def searched(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that minimised operations, with a proposal of an evolution that reads them."""
    folder = tmp_path_factory.mktemp("studies")
    options = {"population": 2, "tournament": 2}
    file = case.write(folder / "asked.yaml", cost="operations", sampler="evolution", sampler_options=options)
    found = call("search", file, "--out", folder / "run")
    assert found.code == 0, found.err
    assert "operations, GFLOP" in found.out or "GFLOP" in found.out
    return folder / "run"


def test_the_front_is_that_of_the_cost(searched: Path) -> None:
    rows = json.loads(call("front", searched, "--json").out)
    cost = objectives.lookup("operations")
    stored = {t.number: cost.of(t.measurement) for t in trials(searched) if t.measurement is not None}
    assert [row["cost"] for row in rows] == sorted(stored[row["number"]] for row in rows)
    assert {(row["cost_name"], row["cost_unit"]) for row in rows} == {("operations", "GFLOP")}
    assert all({"examples", "tokens", "value"} <= set(t.measurement.costs["operations"]) for t in trials(searched))


def test_every_trial_says_each_cost_that_is_cheap_to_have(searched: Path) -> None:
    wanted = {one.name for one in objectives.recorded(objectives.NOMINAL)}
    assert {"bytes", "operations"} <= wanted
    assert all(set(t.measurement.costs) == wanted for t in trials(searched))


@pytest.mark.parametrize("name", objectives.names())
def test_a_front_is_tabulated_by_another_cost(searched: Path, name: str, tmp_path: Path) -> None:
    cost = objectives.lookup(name)
    rows = json.loads(call("front", searched, "--cost", name, "--json").out)
    assert rows
    assert [row["cost"] for row in rows] == sorted(row["cost"] for row in rows)
    dearest = rows[-1]
    limit = "99%" if cost.count else f"{dearest['cost'] * 1.01:.17g}"
    told = call("front", searched, "--cost", name, "--at", limit)
    assert told.code == 0, told.err
    assert f"trial {dearest['number']}:" in told.out
    assert cost.text(dearest["cost"]) in told.out
    assert call("front", searched, "--cost", name, "--plot", tmp_path / "front.svg").code == 0
    assert call("report", searched, "--cost", name, "--to", tmp_path / "page.md").code == 0
    assert cost.heading in (tmp_path / "page.md").read_text()


def test_a_point_is_retrained_by_its_cost(searched: Path, tmp_path: Path) -> None:
    found = call(
        "train", searched, "--at", "1", "--seeds", 1, "--set", "recipe.steps=1", "--to", tmp_path / "again.json"
    )
    assert found.code == 0, found.err
    assert set(json.loads((tmp_path / "again.json").read_text())["costs"]) >= {"bytes", "operations"}


def test_a_study_of_another_cost_is_another_study(searched: Path, case: Case, tmp_path: Path) -> None:
    found = call("search", case.write(tmp_path / "asked.yaml"), "--out", searched)
    assert found.code == 2
    assert "cost is only there ('operations')" in found.err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cost": "latencies"}, "Unknown cost 'latencies'"),
        ({"cost": "bytes", "sampler": "bipeft"}, "'bipeft' answers budgets of parameters and of nothing else"),
        ({"cost": "math:pi"}, "A cost is an `Objective`"),
    ],
)
def test_a_cost_that_cannot_be_had_is_refused_before_any_work(
    case: Case, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    found = call("search", case.write(tmp_path / "asked.yaml", **changes), "--out", tmp_path / "run")
    assert (found.code, found.err.count("error:")) == (2, 1)
    assert message in found.err
    assert not (tmp_path / "run").exists()


def test_an_old_study_says_what_its_trials_lack(searched: Path) -> None:
    old = Path(__file__).parent.parent / "compatibility/files/0d8ff55/studies/random"
    found = call("front", old, "--cost", "bytes")
    assert found.code == 2
    assert "measured trials has stored the cost 'bytes', which is known before training" in found.err
    for name in ("stored", "trained-count"):
        assert call("front", old, "--cost", name).code == 0
