"""Experiments: cells that are run once, and resume."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from autopeft.architecture import Architecture, Placement
from autopeft.errors import AutopeftError, SettingsError, UnknownNameError
from autopeft.experiments import Experiment, Part, read, run, write_summary
from autopeft.experiments import compare as module
from autopeft.experiments._results import Results
from autopeft.experiments.compare import Compare, SearchCell
from autopeft.experiments.retrain import Retrain
from autopeft.objective import hypervolume, reference_point
from autopeft.session import Session
from autopeft.study.study import Study
from small_case import Case, call

CELLS = ("random-seed0", "evolution-seed0", "random-seed1", "evolution-seed1")


def comparison(case: Case, path: Path, **changes: Any) -> Path:
    samplers = {"random": {"sampler": "random"}, "evolution": {"sampler": "evolution", "recipe": {"clip": 0.5}}}
    settings = case.data(learning_rates=[1e-3, 1e30], trials=4)
    data = {"kind": "compare", "title": "Two ways", "settings": settings, "samplers": samplers, "seeds": [0, 1]}
    path.write_text(yaml.safe_dump({**data, **changes}, sort_keys=False))
    return path


def part(experiment: Experiment) -> Part:
    """The only part of an experiment without ``tasks``."""
    return experiment.parts[""]


def compared(experiment: Experiment) -> Compare:
    found = part(experiment)
    assert isinstance(found, Compare)
    return found


def lose(results: Path, name: str) -> None:
    """Take the result of one cell away."""
    path = results / "cells.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if json.loads(line)["cell"] != name))


def cell(results: Path, name: str) -> dict[str, Any]:
    return dict(Results(results).read()[name])


@pytest.fixture(scope="module")
def done(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``two.yaml``, all of its cells in ``results`` and their studies in ``work``."""
    folder = tmp_path_factory.mktemp("experiment")
    path = comparison(case, folder / "two.yaml")
    run(read(path), folder / "results", folder / "work", lambda text: None)
    return folder


def test_cells_are_listed_seed_by_seed(case: Case, tmp_path: Path) -> None:
    found = read(comparison(case, tmp_path / "two.yaml"))
    assert (found.name, found.cells()) == ("two", CELLS)
    assert found.missing(tmp_path) == CELLS
    Results(tmp_path / "two").append("random-seed0", {"headline": "done"})
    assert found.missing(tmp_path) == CELLS[1:]


def test_a_cell_has_the_shared_settings_with_its_own_changes(case: Case, tmp_path: Path) -> None:
    found = read(comparison(case, tmp_path / "two.yaml"))
    shared, cell = compared(found).settings, SearchCell("evolution", 1)
    own = compared(found).settings_of(cell)
    assert (own.sampler, own.seed, own.recipe.clip, own.recipe.steps) == ("evolution", 1, 0.5, 2)
    tuned = replace(shared, recipe=replace(shared.recipe, learning_rate=0.5))
    assert compared(found).settings_of(cell, tuned).recipe.learning_rate == 0.5
    assert compared(found).settings_of(SearchCell("random", 0)) == shared.with_changes(seed=0)


def test_every_cell_holds_its_trials_front_and_curve(done: Path) -> None:
    results = done / "results" / "two"
    assert [path.name for path in results.iterdir()] == ["cells.jsonl"]
    assert set(Results(results).read()) == {*CELLS, "proxy"}
    assert cell(results, "proxy")["chosen"] == 1e-3
    for name in CELLS:
        found = cell(results, name)
        assert [trial["origin"] for trial in found["trials"]] == ["initial"] * 2 + [name.partition("-")[0]] * 2
        points = [(trial["percent"], trial["value"]) for trial in found["trials"]]
        assert found["hypervolume"][-1] == pytest.approx(hypervolume(points, tuple(found["reference"])))
        assert found["front"] == sorted(found["front"], key=lambda point: point[1])
        assert found["settings"]["recipe"]["learning_rate"] == 1e-3
        assert found["reference"][0] == pytest.approx(100 * 1152 / 32_032)
        with Study.open(done / "work" / "two" / name / "study.db") as study:
            assert [t.measurement and t.measurement.value for t in study.trials()] == [p[1] for p in points]


def test_rivals_share_an_initial_design_and_seeds_do_not(done: Path) -> None:
    first, second, third, fourth = (
        [trial["indices"] for trial in cell(done / "results" / "two", name)["trials"][:2]] for name in CELLS
    )
    assert first == second != third == fourth


def test_a_rival_that_trains_alike_is_not_trained_again(case: Case, tmp_path: Path) -> None:
    samplers = {"random": {"sampler": "random"}, "evolution": {"sampler": "evolution"}}
    changes: dict[str, Any] = {"samplers": samplers, "seeds": [0]}
    path = comparison(case, tmp_path / "two.yaml", settings=case.data(), **changes)
    run(read(path), tmp_path / "r", tmp_path / "w", lambda text: None)
    seconds = [[t["seconds"] for t in cell(tmp_path / "r" / "two", f"{name}-seed0")["trials"]] for name in samplers]
    assert seconds[0][:2] == seconds[1][:2]  # to the last bit: read, not measured


def test_a_rival_that_trains_otherwise_is(done: Path) -> None:
    results = done / "results" / "two"  # evolution clips gradients, random does not
    seconds = [[trial["seconds"] for trial in cell(results, name)["trials"]] for name in CELLS[:2]]
    assert seconds[0][0] != seconds[1][0]


def test_what_is_done_is_not_done_again(done: Path, case: Case, tmp_path: Path) -> None:
    found, said = read(done / "two.yaml"), list[str]()
    run(found, done / "results", done / "work", said.append)
    assert said == []
    before = cell(done / "results" / "two", "random-seed1")
    lose(done / "results" / "two", "random-seed1")
    assert found.missing(done / "results") == ("random-seed1",)
    run(found, done / "results", done / "work", said.append)  # its study is complete: nothing is trained
    assert cell(done / "results" / "two", "random-seed1") == before
    assert said[0] == "two: random-seed1 (1 of 1)"
    assert said[1].startswith("two: random-seed1 done: hypervolume ")


def test_one_cell_alone_and_a_cell_that_does_not_exist(case: Case, tmp_path: Path) -> None:
    found = read(comparison(case, tmp_path / "two.yaml"))
    with pytest.raises(UnknownNameError, match="Did you mean 'random-seed1'"):
        run(found, tmp_path / "r", tmp_path / "w", print, "random-seed12")
    assert not (tmp_path / "r").exists()
    run(found, tmp_path / "r", tmp_path / "w", lambda text: None, "evolution-seed1")
    assert found.missing(tmp_path / "r") == ("random-seed0", "evolution-seed0", "random-seed1")


def test_an_interrupted_cell_continues_in_its_study(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read(comparison(case, tmp_path / "two.yaml", settings=case.data(), seeds=[0]))
    monkeypatch.setattr(module, "search_result", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(found, tmp_path / "r", tmp_path / "w", lambda text: None, "random-seed0")
    assert found.missing(tmp_path / "r") == CELLS[:2]
    monkeypatch.undo()
    with Study.open(tmp_path / "w" / "two" / "random-seed0" / "study.db") as study:
        seconds = [trial.measurement and trial.measurement.seconds for trial in study.trials()]
    run(found, tmp_path / "r", tmp_path / "w", lambda text: None, "random-seed0")
    assert [trial["seconds"] for trial in cell(tmp_path / "r" / "two", "random-seed0")["trials"]] == seconds


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_search_without_a_measurement_is_no_result(case: Case, tmp_path: Path) -> None:
    recipe = {"steps": 2, "batch_size": 8, "max_length": 16, "learning_rate": 1e30}
    found = read(comparison(case, tmp_path / "two.yaml", settings=case.data(recipe=recipe)))
    with pytest.raises(AutopeftError, match="None of the 3 trials was measured"):
        run(found, tmp_path / "r", tmp_path / "w", lambda text: None, "random-seed0")
    assert found.done(tmp_path / "r") == {}


# -- retraining ----------------------------------------------------------------------------------------------


def retraining(case: Case, path: Path, **changes: Any) -> Path:
    architectures = {
        "small": {"experiment": "two", "at": "1%"},
        "best": {"experiment": "two", "cells": ["random-seed0"]},
        "serial": "serial:2",
    }
    data = {"kind": "retrain", "title": "Points", "settings": case.data(), "architectures": architectures}
    data = {**data, "seeds": [40, 41], "learning_rates": [1e-3, 3e-3], **changes}
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def test_points_of_fronts_and_baselines_are_retrained(done: Path, case: Case) -> None:
    found = read(retraining(case, done / "points.yaml"))
    run(found, done / "results", done / "work", lambda text: None)
    searched = [trial for name in sorted(CELLS) for trial in cell(done / "results" / "two", name)["trials"]]
    small = cell(done / "results" / "points", "small")
    fitting = [trial for trial in searched if trial["percent"] <= 1]
    best = max(fitting, key=lambda trial: (trial["value"], -trial["percent"]))
    assert small["architecture"] == best["architecture"]
    assert (small["split"], small["seeds"], len(small["values"])) == ("test", [40, 41], 2)
    assert small["splits"]["test"]["size"] == 16
    serial = cell(done / "results" / "points", "serial")
    assert serial["counts"]["nominal"] == 3 * 2 * 32 * 2
    assert serial["headline"].startswith("accuracy ")
    assert found.missing(done / "results") == ()


def test_a_point_among_the_first_trials_of_a_search(done: Path, case: Case, tmp_path: Path) -> None:
    data = cell(done / "results" / "two", "random-seed0")
    for number, trial in enumerate(data["trials"]):
        trial["value"] = number / 10  # the best is the last
    Results(tmp_path / "r" / "two").append("random-seed0", data)
    wanted = {"second": {"experiment": "two", "trials": 2}, "last": {"experiment": "two"}}
    found = read(retraining(case, tmp_path / "first.yaml", architectures=wanted, seeds=[40]))
    run(found, tmp_path / "r", tmp_path / "w", lambda text: None)
    for name, number in (("second", 1), ("last", -1)):
        assert cell(tmp_path / "r" / "first", name)["architecture"] == data["trials"][number]["architecture"]


def test_a_point_of_a_search_that_was_not_run(case: Case, tmp_path: Path) -> None:
    found = read(retraining(case, tmp_path / "points.yaml"))
    with pytest.raises(SettingsError, match=r"No finished search of 'two' has a point of at most 1"):
        run(found, tmp_path / "r", tmp_path / "w", lambda text: None)


def test_an_architecture_from_a_file_and_a_learning_rate_of_its_own(case: Case, tmp_path: Path) -> None:
    own = Architecture((Placement("encoder.1.ffn", "serial", 3),))
    (tmp_path / "files").mkdir()
    own.save(tmp_path / "files" / "own.json")
    wanted = {"own": {"file": "files/own.json", "learning_rate": "2e-4"}, "full": {"baseline": "full"}}
    found = read(retraining(case, tmp_path / "points.yaml", architectures=wanted, seeds=[40]))
    run(found, tmp_path / "r", tmp_path / "w", lambda text: None)
    cells = {name: cell(tmp_path / "r" / "points", name) for name in wanted}
    assert (cells["own"]["architecture"], cells["own"]["learning_rate"]) == (own.as_dict(), 2e-4)
    assert cells["own"]["sweep"] is None
    assert cells["full"]["learning_rate"] in (pytest.approx(1e-3 / 30), pytest.approx(3e-3 / 30))


def test_learning_rates_may_be_chosen_under_another_recipe(case: Case, tmp_path: Path) -> None:
    path = retraining(case, tmp_path / "points.yaml", architectures={"lora": "lora:2"}, seeds=[40])
    path.write_text(path.read_text() + "tuning: {epochs: 0.5}\n")
    found = part(read(path))
    assert isinstance(found, Retrain)
    assert found.tuning == {"epochs": 0.5}
    run(read(path), tmp_path / "r", tmp_path / "w", lambda text: None)
    assert cell(tmp_path / "r" / "points", "lora")["tuning"] == {"epochs": 0.5}
    path.write_text(path.read_text().replace("epochs: 0.5", "epcohs: 1"))
    with pytest.raises(SettingsError, match=r"did you mean `recipe\.epochs`"):
        read(path)


@pytest.mark.parametrize(
    "wanted", [3, {}, {"search": "two"}, {"file": "a", "baseline": "b"}, {"file": "a", "at": 1}, {"cells": ["a"]}]
)
def test_an_architecture_that_is_not_described(case: Case, tmp_path: Path, wanted: Any) -> None:
    with pytest.raises(SettingsError, match=r"`architectures\.a` is a baseline's name"):
        read(retraining(case, tmp_path / "points.yaml", architectures={"a": wanted}))
    for wrong in ({"at": "much"}, {"at": -1}, {"trials": 0}, {"trials": 1.5}):
        with pytest.raises(SettingsError, match=r"`architectures\.a` has numbers above 0"):
            read(retraining(case, tmp_path / "p.yaml", architectures={"a": {"experiment": "two", **wrong}}))


@pytest.mark.slow
def test_rates_by_method_and_beyond_the_edge(case: Case, tmp_path: Path) -> None:
    wanted = {"by-method": {"baseline": "mam:2", "rate_factors": {"prefix": "1e-1", "parallel": 0.5}}, "one": "lora:2"}
    found = read(retraining(case, tmp_path / "points.yaml", architectures=wanted, seeds=[40], widen=1))
    run(found, tmp_path / "r", tmp_path / "w", lambda text: None)
    cells = {name: cell(tmp_path / "r" / "points", name) for name in wanted}
    assert cells["by-method"]["rate_factors"] == {"prefix": 0.1, "parallel": 0.5}
    assert cells["one"]["rate_factors"] == {}
    for data in cells.values():  # the best of two is always at an edge
        assert len(data["sweep"]["values"]) == 3
    text = write_summary(found, tmp_path / "r").read_text()
    assert f"{cells['by-method']['learning_rate']:.3g}, parallel times 0.5, prefix times 0.1 |" in text
    for factors in (3, {"prefix": 0}, {"prefix": "slow"}):
        with pytest.raises(SettingsError, match=r"each of `rate_factors`"):
            read(
                retraining(case, tmp_path / "p.yaml", architectures={"a": {"baseline": "mam", "rate_factors": factors}})
            )
    for rates in (1e-3, ["fast"], [0], [True]):
        with pytest.raises(SettingsError, match="`learning_rates` is a list of numbers above 0"):
            read(retraining(case, tmp_path / "p.yaml", learning_rates=rates))
    for widen in (-1, 1.5, "x"):
        with pytest.raises(SettingsError, match="`widen` is a whole number"):
            read(retraining(case, tmp_path / "p.yaml", widen=widen))


def test_a_rate_of_an_unknown_method(case: Case, tmp_path: Path) -> None:
    wanted = {"a": {"baseline": "mam:2", "rate_factors": {"prefx": 0.1}}}
    found = read(retraining(case, tmp_path / "points.yaml", architectures=wanted, seeds=[40]))
    with pytest.raises(SettingsError, match="prefx"):
        run(found, tmp_path / "r", tmp_path / "w", lambda text: None)


def test_architectures_of_all_cells_are_found_before_the_first_is_trained(case: Case, tmp_path: Path) -> None:
    wanted = {"serial": "serial:2", "typo": "lroa", "none": {"file": "none.json"}, "far": {"file": "far.json"}}
    Architecture((Placement("encoder.9.ffn", "serial", 3),)).save(tmp_path / "far.json")
    path = retraining(case, tmp_path / "points.yaml", architectures=wanted)
    found = call("experiment", path, "--results", tmp_path / "r", "--work", tmp_path / "w")
    assert found.code == 2
    for part in ("`architectures.typo`", "'lroa'", "`architectures.none`", "none.json", "`architectures.far`", "9.ffn"):
        assert part in found.err
    assert not (tmp_path / "r").exists()
    assert call("experiment", path, "--results", path / "r").code == 2  # no folder


@pytest.mark.slow
def test_a_search_that_measures_nothing_costs_no_other_its_cell(case: Case, tmp_path: Path) -> None:
    wild = {"sampler": "random", "recipe": {"learning_rate": 1e30}}
    samplers = {"wild": wild, "tame": {"sampler": "random"}}
    path = comparison(case, tmp_path / "two.yaml", settings=case.data(), samplers=samplers, seeds=[0])
    found = call("experiment", path, "--results", tmp_path / "r", "--work", tmp_path / "w")
    assert found.code == 1
    assert "the cell wild-seed0 failed: None of the 3 trials was measured" in found.err
    assert read(path).missing(tmp_path / "r") == ("wild-seed0",)
    assert f"Summary: {tmp_path / 'r' / 'two' / 'README.md'}" in found.out
    assert "1 of 2 cells are missing" in (tmp_path / "r" / "two" / "README.md").read_text()


def test_the_reference_point_is_that_of_the_initial_design(
    done: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read(done / "two.yaml")
    session = Session.build(compared(found).settings_of(SearchCell("random", 0)))
    with Study.open(done / "work" / "two" / "random-seed0" / "study.db") as study:
        first, second, *rest = study.trials()
        trials = (first, replace(second, measurement=None), *rest)  # failed
        monkeypatch.setattr(study, "trials", lambda: trials)
        result = module.search_result("t", session, study)
    assert first.measurement is not None
    cost = 100 * session.space.cost(session.space.largest()) / session.backbone.n_parameters
    expected = reference_point([(first.measurement.percent, first.measurement.value)], cost)
    assert result["reference"] == list(expected)


# -- files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"kind": "compete"}, "one of compare, contest, payoff, retrain, table, but got 'compete'"),
        ({"architectures": {}}, r"exactly \[.*\]; see \['architectures'\]"),
        ({"settings": 3}, "`settings` is a mapping, but got 3"),
        ({"samplers": []}, "`samplers` is a mapping with one entry at least"),
        ({"samplers": {"random": "random"}}, "`samplers.random` is a mapping of settings"),
        ({"samplers": {"random": {"smapler": "random"}}}, "unknown key `smapler`, did you mean `sampler`"),
        ({"seeds": 3}, "`seeds` is a list of whole numbers"),
        ({"seeds": [1, "x"]}, "`seeds` is a list of whole numbers"),
        ({"settings": {"task": "mrpc", "trails": 1}}, "unknown key `trails`"),
    ],
)
def test_mistakes_in_the_file(case: Case, tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        read(comparison(case, tmp_path / "two.yaml", **changes))


def test_the_data_folder_can_be_given_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("{kind: compare, title: t, settings: {task: mrpc}, samplers: {a: {}}, seeds: [0]}")
    assert compared(read(path, data="/some/where")).settings.data == "/some/where"


def test_the_command_runs_what_is_missing(case: Case, tmp_path: Path) -> None:
    path = comparison(case, tmp_path / "two.yaml", settings=case.data(), seeds=[0])
    folders = ("--results", tmp_path / "r", "--work", tmp_path / "w")
    assert call("experiment", path, *folders, "--missing").out.split() == list(CELLS[:2])
    assert not (tmp_path / "r").exists()
    assert call("experiment", path, *folders, "--cell", "random-seed0").code == 0
    assert call("experiment", path, *folders, "--missing").out.split() == ["evolution-seed0"]
    found = call("experiment", path, *folders)
    assert "evolution-seed0 (1 of 1)" in found.out
    assert call("experiment", path, *folders, "--missing").out == "nothing is missing\n"
    assert call("experiment", path, *folders, "--cell", "evolutoin-seed0").code == 2
    assert isinstance(read(path), Experiment)


def test_a_search_that_answers_budgets_needs_no_random_trial(case: Case, tmp_path: Path) -> None:
    own = {"sampler": "apet", "sampler_options": {"budgets": ["2%"]}, "space": {"name": "S1"}}
    settings = case.data(trials=1, initial=0)
    found = read(comparison(case, tmp_path / "one.yaml", settings=settings, samplers={"apet": own}, seeds=[0]))
    run(found, tmp_path / "r", tmp_path / "w", lambda text: None)
    data = cell(tmp_path / "r" / "one", "apet-seed0")
    assert [trial["origin"] for trial in data["trials"]] == ["apet"]
    assert write_summary(found, tmp_path / "r").exists()
