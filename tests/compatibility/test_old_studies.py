"""Studies of earlier commits: read, shown and continued as if nothing had happened."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import autopeft
from autopeft.session import Session, settled
from autopeft.settings import from_dict
from readings import figures, holds, lost, trials_of
from small_case import call

STUDIES = ("random", "saas", "failed", "bipeft")
ONE_EXAMPLE = 1 / 24


def stored(path: Path) -> Any:
    return json.loads(path.read_text())


def succeeded(*arguments: object) -> str:
    found = call(*arguments)
    assert found.code == 0, found.err
    return found.out


def begun(name: str, folder: Path) -> Path:
    """A copy of a study, to be continued."""
    return Path(shutil.copytree(Path("studies") / name, folder / name))


def measured(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [trial for trial in trials if trial["value"] is not None]


def proposals(trials: list[dict[str, Any]]) -> list[Any]:
    keys = ("origin", "seed", "configuration", "architecture", "fingerprint")
    return [[trial[key] for key in keys] for trial in trials]


@pytest.mark.parametrize("name", STUDIES)
def test_every_trial_is_read_as_it_was(then: Path, name: str) -> None:
    folder = then / "studies" / name
    assert holds(trials_of(folder / "study.db"), stored(folder / "trials.json"))


@pytest.mark.parametrize("name", STUDIES)
def test_the_front_is_the_one_that_was_printed(then: Path, name: str) -> None:
    folder = then / "studies" / name
    wanted, found = stored(folder / "front.json"), json.loads(succeeded("front", folder, "--json"))
    assert wanted
    assert holds(found, wanted)
    with autopeft.Study.open(folder / "study.db") as study:
        points = [(point.key, point.cost, point.value) for point in study.front().points]
    assert points == [(row["number"], row["percent"], row["value"]) for row in wanted]


@pytest.mark.parametrize("name", STUDIES)
def test_the_report_holds_the_same_figures(then: Path, name: str, tmp_path: Path) -> None:
    wanted = figures((then / "studies" / name / "report.md").read_text())
    succeeded("report", then / "studies" / name, "--to", tmp_path / "now.md")
    assert len(wanted) > 10
    assert lost(wanted, figures((tmp_path / "now.md").read_text())) == []


@pytest.mark.slow
@pytest.mark.parametrize("command", ["search", "worker"])
def test_a_random_search_ends_as_it_would_have_without_the_interruption(
    then: Path, command: str, tmp_path: Path
) -> None:
    folder, whole = begun("random", tmp_path), stored(then / "studies/random/whole.json")
    rest = (folder / "settings.yaml", "--out", folder) if command == "search" else (folder,)
    succeeded(command, *rest)
    found = measured(trials_of(folder / "study.db"))
    assert len(whole) == 12
    assert proposals(found) == proposals(whole)
    # One exchange of neighbours among 24 changes Spearman's coefficient by 0.0009.
    assert [trial["value"] for trial in found] == pytest.approx([trial["value"] for trial in whole], abs=0.005)
    assert holds(found[:8], measured(stored(folder / "trials.json")))


@pytest.mark.parametrize("name", STUDIES)
def test_who_says_no_precision_finds_the_one_that_it_had(then: Path, tmp_path: Path, name: str) -> None:
    """Nothing is measured for it, and it is not taken for another study."""
    folder = begun(name, tmp_path)
    data = yaml.safe_load((folder / "settings.yaml").read_text())
    assert data["recipe"].pop("precision") == "float32"
    session = settled(Session.build(from_dict(data), is_begun=True), folder)
    assert (session.settings.recipe.precision, session.precision) == ("float32", None)
    with session.begin(folder) as study:
        assert study.settings["recipe"]["precision"] == "float32"


def test_a_guided_search_goes_on_at_the_rate_that_it_had_chosen(then: Path, tmp_path: Path) -> None:
    folder = begun("saas", tmp_path)
    before = stored(folder / "trials.json")
    with autopeft.Study.open(folder / "study.db") as study:
        sweep = study.fact("proxy")
    succeeded("search", folder / "settings.yaml", "--out", folder)
    *kept, last = trials_of(folder / "study.db")
    assert holds(kept, before)
    assert proposals([last]) == proposals(before[-1:])  # what was interrupted is repeated
    assert last["retry_of"] == 5
    assert last["value"] is not None
    with autopeft.Study.open(folder / "study.db") as study:
        assert study.fact("proxy") == sweep


@pytest.mark.slow
def test_a_guided_search_proposes_from_old_trials(then: Path, tmp_path: Path) -> None:
    folder = begun("saas", tmp_path)
    succeeded("search", folder / "settings.yaml", "--out", folder, "--trials", 7)
    found = measured(trials_of(folder / "study.db"))
    assert [trial["origin"] for trial in found] == ["initial"] * 3 + ["saas-nehvi"] * 4
    assert len({trial["fingerprint"] for trial in found}) == 7


@pytest.mark.slow
def test_failures_stay_and_are_not_tried_again(then: Path, tmp_path: Path) -> None:
    folder = begun("failed", tmp_path)
    before = stored(folder / "trials.json")
    succeeded("search", folder / "settings.yaml", "--out", folder, "--trials", 10)
    found = trials_of(folder / "study.db")
    assert holds(found[:8], before)
    assert [trial["failure"] and trial["failure"][0] for trial in found] == [
        *(None, None, "nan", None, "crash", None, None, None, None, None)
    ]
    assert len({trial["fingerprint"] for trial in found}) == 10


def test_an_interrupted_supernet_goes_on_from_its_checkpoint(then: Path, tmp_path: Path) -> None:
    folder, whole = begun("bipeft", tmp_path), stored(then / "studies/bipeft/whole.json")
    checkpoints = {path.name for path in (folder / "searches").glob("*.safetensors")}
    succeeded("search", folder / "settings.yaml", "--out", folder)
    found = trials_of(folder / "study.db")
    assert len(whole) == len(checkpoints) == 2
    assert proposals(found) == proposals(whole)
    assert [trial["value"] for trial in found] == pytest.approx([trial["value"] for trial in whole], abs=ONE_EXAMPLE)
    # A search that does not find its checkpoint begins one of its own.
    assert {path.name for path in (folder / "searches").glob("*.safetensors")} <= checkpoints


def test_what_an_old_study_found_is_retrained(then: Path, tmp_path: Path) -> None:
    folder = begun("random", tmp_path)
    told = json.loads(succeeded("train", folder, "--trial", 6, "--seeds", 1, "--set", "recipe.steps=2", "--json"))
    assert told["architecture"] == stored(folder / "trials.json")[6]["architecture"]
    assert told["split"] == "test"


def test_another_seed_or_space_is_still_refused(then: Path, tmp_path: Path) -> None:
    folder = begun("random", tmp_path)
    found = call("search", folder / "settings.yaml", "--out", folder, "--seed", 3)
    assert found.code == 2
    assert "the seed is 42 there, 3 here" in found.err
    found = call("search", folder / "settings.yaml", "--out", folder, "--set", "recipe.steps=3")
    assert found.code == 2
    assert "recipe.steps is 40 there, 3 here" in found.err
