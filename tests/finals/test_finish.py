"""`autopeft finish` from the command line, on a tiny model."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from autopeft.cli.finish import FinalsAsked, _keep_earlier
from autopeft.session import Session
from autopeft.session.parts import load_data
from autopeft.training.retraining import write_cell
from small_case import Case, call

FEW = ("--learning-rates", "1e-3,1e-2", "--widen", 0, "--first", 2, "--last", 2, "--each", 1, "--set", "recipe.steps=2")


@pytest.fixture(scope="module")
def study(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finish")
    found = call("search", case.write(folder / "asked.yaml"), "--out", folder / "run")
    assert found.code == 0, found.err
    return folder / "run"


def test_finals_end_with_a_verdict_and_are_not_run_twice(study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(study, folder)
    asked = ("finish", folder, "--at", "1%-100%", "--baselines", "serial,bitfit", *FEW)
    first = call(*asked)
    assert first.code == 0, first.err
    assert "1%-100%: no better than " in first.out
    assert "95 % interval" in first.out
    assert "Cost in runs of this recipe: search 3.0, finals 9.0." in first.out  # 3 finalists: 2 rates, 1 more seed
    told = json.loads((folder / "finals.json").read_text())
    assert {entry["name"] for entry in told["entries"]} >= {"bitfit"}
    assert [verdict["band"] for verdict in told["verdicts"]] == ["1%-100%"]
    runs = {path.name: path.stat().st_mtime_ns for path in (folder / "finals").iterdir()}
    assert len([name for name in runs if not name.startswith("use-")]) == 9
    again = call(*asked, "--json")
    assert json.loads(again.out)["verdicts"] == told["verdicts"]
    assert not (folder / "finals-1.json").exists()
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "finals").iterdir()} == runs


def test_the_outcome_of_other_finals_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "finals.json"
    _keep_earlier(path, {"verdicts": [1]})
    for number, outcome in enumerate(({"verdicts": (1, 0.1, math.nan)}, {"verdicts": [2]}, {"verdicts": [3]})):
        for _ in range(2):  # the same command again has nothing to keep
            _keep_earlier(path, outcome)
            write_cell(path, outcome)
        kept = {item.name: json.loads(item.read_text()) for item in tmp_path.iterdir()}
        assert len(kept) == 1 + number
    assert kept["finals-1.json"]["verdicts"][:2] == [1, 0.1]
    assert kept["finals-2.json"] == {"verdicts": [2]}
    assert kept["finals.json"] == {"verdicts": [3]}


def test_what_cannot_be_held_is_said_before_anything_is_trained(study: Path) -> None:
    for wrong, message in (
        (("--at", "1-2"), "No measured trial has"),
        (("--at", "pony"), "A budget is a share"),
        (("--at", "50%", "--baselines", "pony"), "pony"),
        (("--at", "50%", "--first", 1), "Finals need 2 <= first <= last"),
        (("--at", "50%", "--margin", "inf"), "The margin of equal values is finite and not below 0, but got inf"),
    ):
        found = call("finish", study, *wrong)
        assert found.code == 2, found.err
        assert message in found.err
    assert not (study / "finals").exists()


def test_a_file_of_somebody_s_is_not_written_over(study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(study, folder)
    (folder / "finals.json").write_text('{"mine": 1}')
    found = call("finish", folder, "--at", "1%-100%", *FEW)
    assert found.code == 2
    assert (folder / "finals.json").read_text() == '{"mine": 1}'
    assert not (folder / "finals").exists()


@pytest.mark.slow
def test_a_search_can_be_finished_in_one_command_that_tells_its_total_before(case: Case, tmp_path: Path) -> None:
    few = {"methods": {"serial": {"sizes": [0, 1, 2]}}}
    asked = case.write(tmp_path / "asked.yaml", space=few, learning_rates=[1e-3], trials=2, initial=2)
    options = ("--finish", "--final-epochs", 0.5, "--final-seeds", 2, "--finalists", 1)
    found = call("search", asked, "--out", tmp_path / "run", *options)
    assert found.code == 0, found.err
    # Three bands of 7 finalists, each with a rate, none beyond it, and one seed more: 42; one rate and two trials of
    # the same length as a run of the finals before them.
    assert "At most 45.0 runs of the finals' recipe (16 examples each): 1 trainings for learning rates" in found.err
    told = json.loads((tmp_path / "run" / "finals.json").read_text())
    assert told["cost"]["search_in_full_runs"] == 3.0
    verdict = told["verdicts"][0]
    for against in verdict["comparisons"]:
        assert f"{verdict['band']}: {verdict['winner']} against {against['baseline']}: " in found.out
    assert "Cost in runs of this recipe: search 3.0, finals " in found.out
    assert "In training examples: 48 and " in found.out  # the rate and two trials of 16 examples
    # What is to be used next is a command that can be copied.
    entries = {entry["name"]: entry for entry in told["entries"]}
    rate = entries[verdict["choice"]]["learning_rate"]
    assert f"Next, for {verdict['band']}: autopeft train {tmp_path / 'run'} --" in found.out
    assert f" --learning-rates {rate:g} --epochs 0.5 --save MODEL_FOLDER" in found.out


@pytest.mark.slow
def test_finals_keep_the_limit_on_the_data_unless_all_of_it_is_asked_for(
    study: Path, case: Case, tmp_path: Path
) -> None:
    asked = case.write(tmp_path / "asked.yaml", trials=2, train_limit=16)
    folder = tmp_path / "run"
    assert call("search", asked, "--out", folder).code == 0
    for more, n in (((), 16), (("--full-data",), 32)):
        few = ("--baselines", "bitfit", *FEW[:-2], "--epochs", 1, "--at", "1%-100%")
        found = call("finish", folder, *few, *more)
        assert found.code == 0, found.err
        told = json.loads((folder / "finals.json").read_text())
        assert told["cost"]["examples_of_a_full_run"] == n
        assert ("(with --set train_limit=16: on the examples of the finals)" in found.out) == (n == 16)


def test_the_budget_of_the_space_is_that_of_the_finals_where_it_limits_the_study_s_cost(case: Case) -> None:
    limited = case.settings(space={"methods": {"serial": {"sizes": [0, 1, 2]}}, "budget": "1%-2%"})
    assert FinalsAsked().budgets(limited) == ("1%-2%",)
    assert FinalsAsked(at=("3%",)).budgets(limited) == ("3%",)
    assert FinalsAsked().budgets(limited.with_changes(cost="stored-count")) == ()
    assert FinalsAsked().budgets(case.settings()) == ()


def test_the_finals_of_a_search_share_its_model_and_data(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session.build(case.settings(train_limit=16))
    loaded: list[str] = []
    monkeypatch.setattr("autopeft.session.session.load_data", lambda *given: loaded.append("data") or load_data(*given))
    monkeypatch.setattr("autopeft.backbones.Backbone.from_pretrained", lambda *given, **more: loaded.append("model"))
    after = Session.build(FinalsAsked(epochs=3.0).after(session.settings), like=session)
    assert loaded == []
    assert after.backbone is session.backbone
    assert (after.settings.recipe.epochs, after.evaluator.n_train) == (3.0, 16)
    full = Session.build(FinalsAsked(full_data=True).after(session.settings), like=session)
    assert loaded == ["data"]
    assert full.evaluator.n_train == 32


def test_finals_of_a_study_with_another_cost_have_bands_of_that_cost(case: Case, tmp_path: Path) -> None:
    asked = case.write(tmp_path / "asked.yaml", cost="stored-count", trials=2)
    folder = tmp_path / "run"
    assert call("search", asked, "--out", folder).code == 0
    few = ("--learning-rates", "1e-3", "--widen", 0, "--first", 2, "--last", 2, "--each", 1, "--set", "recipe.steps=1")
    found = call("finish", folder, "--at", "100-5000", "--baselines", "serial", *few)
    assert found.code == 0, found.err
    (serial,) = [one for one in json.loads((folder / "finals.json").read_text())["entries"] if "serial:" in one["name"]]
    units = serial["architecture"]["placements"][0][2]
    stored = 3 * (65 * units + 32)  # three layers of width 32, both biases among them
    assert stored <= 5000 < stored + 3 * 65
