"""A search whose trials are paused at rungs, from settings to report, with trainings of a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import small_case
from autopeft.fidelity import FULL
from autopeft.rungs import n_reached
from autopeft.session import Session
from autopeft.trial import TrialState
from small_case import Case, call

STEPS = {"steps": 9, "batch_size": 8, "max_length": 16}
CHANGES: dict[str, Any] = {"recipe": STEPS, "rungs": ["11.2%", "33.4%"], "promotion": "pareto", "trials": 9}


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return small_case.make(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="module")
def searched(case: Case, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("studies") / "study"
    found = call("search", case.write(case.folder / "settings.yaml", **CHANGES), "--out", folder)
    assert found.code == 0, found.err
    return folder, found.out


@pytest.mark.slow
def test_what_was_paused_and_went_on_ends_where_it_would_have_without_a_pause(
    case: Case, searched: tuple[Path, str]
) -> None:
    folder, _ = searched
    trials = small_case.trials(folder)
    whole = [trial for trial in trials if trial.is_complete]
    assert whole
    assert next(iter(n_reached(trials).values())) == 9
    evaluator = Session.build(case.settings(**CHANGES)).evaluator
    for trial in whole:
        alone = evaluator(trial.candidate, trial.seed)
        assert alone.metrics == trial.measurement.metrics
        curves = [[(e.step, e.loss, e.metrics) for e in m.history] for m in (alone, trial.measurement)]
        assert curves[0] == curves[1]


def test_only_what_came_to_its_end_is_on_the_front(searched: tuple[Path, str]) -> None:
    folder, out = searched
    rows = json.loads(call("front", folder, "--json").out)
    ends = {trial.number for trial in small_case.trials(folder) if trial.at(FULL) is not None}
    assert {row["number"] for row in rows} <= ends
    assert rows
    assert "Pareto front" in out


def test_the_report_tells_how_many_reached_each_rung_and_what_that_cost(
    searched: tuple[Path, str], tmp_path: Path
) -> None:
    folder, _ = searched
    assert call("report", folder, "--to", tmp_path / "report.json").code == 0
    told = json.loads((tmp_path / "report.json").read_text())
    trials = small_case.trials(folder)
    assert list(told["reached"].values()) == list(n_reached(trials).values())
    assert told["search_cost"]["trainings"] == pytest.approx(sum(t.latest.extra["steps"] for t in trials) / 9)
    assert call("report", folder, "--to", tmp_path / "report.md").code == 0
    page = (tmp_path / "report.md").read_text()
    assert "trials that reached it" in page
    assert "paused at 11.2%" in page


def test_the_same_command_goes_on_and_a_budget_in_trainings_ends_it(case: Case, searched: tuple[Path, str]) -> None:
    folder, _ = searched
    before = {trial.number: trial.latest for trial in small_case.trials(folder)}
    assert [path.suffix for path in (folder / "checkpoints").iterdir()]  # what is paused may go on
    found = call("search", folder / "settings.yaml", "--out", folder, "--trials", 60, "--trainings", 5)
    assert found.code == 0, found.err
    trials = small_case.trials(folder)
    assert sum(trial.latest.extra["steps"] for trial in trials) == 45
    assert all(trial.latest.extra["steps"] >= before[trial.number].extra["steps"] for trial in trials[: len(before)])
    assert any(trial.state is TrialState.PAUSED for trial in trials)


def test_trials_that_end_before_the_budget_in_trainings_are_told(searched: tuple[Path, str]) -> None:
    folder, _ = searched
    n = len(small_case.trials(folder))
    found = call("search", folder / "settings.yaml", "--out", folder, "--trials", n, "--trainings", 50)
    told = " ".join(found.err.split())
    assert found.code == 0, found.err
    assert f"All {n} trials are made and have taken " in told
    assert "of 50 trainings. To use the rest, run the same search with more trials" in told


def test_a_search_in_which_nothing_came_to_its_end_says_so(case: Case, tmp_path: Path) -> None:
    path = case.write(tmp_path / "few.yaml", **{**CHANGES, "trials": 1})
    found = call("search", path, "--out", tmp_path / "study")
    assert found.code == 1
    assert "No trial came to its end; paused at a rung: 1" in " ".join(found.err.split())


def test_another_eta_is_another_study(searched: tuple[Path, str]) -> None:
    folder, _ = searched
    found = call("search", folder / "settings.yaml", "--out", folder, "--set", "promotion_options.eta=2")
    assert found.code == 2
    assert "promotion_options.eta is 3 there, 2 here" in found.err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rungs": []}, "pauses trials at rungs, but there are none"),
        ({"promotion": "paretto"}, "Unknown promotion 'paretto'"),
        ({"promotion_options": {"etta": 3}}, "did you mean 'eta'"),
        ({"promotion_options": {"eta": 1}}, "eta must be a whole number of at least 2"),
        ({"promotion": "all", "promotion_options": {"eta": 3}}, "has no options"),
        ({"sampler": "bipeft"}, "answers budgets by a search of its own"),
        ({"trainings": 0}, "`trainings` must be"),
    ],
)
def test_what_cannot_be_promoted_is_refused_before_any_work(
    case: Case, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    path = case.write(tmp_path / "wrong.yaml", **{**CHANGES, **changes})
    found = call("search", path, "--out", tmp_path / "study")
    assert found.code == 2
    assert words in " ".join(found.err.split())
    assert not (tmp_path / "study").exists()
