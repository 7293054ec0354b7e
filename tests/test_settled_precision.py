"""A search in the precision that was measured, and in no other one ever after."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from autopeft.cli.console import report_of
from autopeft.errors import StudyMismatchError
from autopeft.experiments._experiment import Origin
from autopeft.session import Session, join, search, settled
from autopeft.settings import Settings, from_dict, load
from autopeft.study.study import Study
from autopeft.training.chosen_precision import StepBench
from autopeft.training.precision_choice import PRECISION, Precision, choice_from
from autopeft.training.recipe import Recipe
from small_case import Case, call

RECIPE = {"steps": 8, "batch_size": 8, "max_length": 16}
PLANNED = {"recipe": RECIPE, "trials": 100}
"""As many steps as are enough to measure 8 of them in each precision."""


class Given:
    """A bench on which bf16 takes `bf16` of the time of float32, and keeps its loss."""

    def __init__(self, bf16: float, on_first: Callable[[], object] = lambda: None) -> None:
        self.bf16, self.on_first, self.asked = bf16, on_first, 0

    def product(self, precision: Precision) -> float:
        return 1.0

    def seconds(self, precision: Precision) -> float:
        if self.asked == 0:
            self.on_first()
        self.asked += 1
        return self.bf16 if precision == "bf16" else 1.0

    def losses(self, precision: Precision, steps: int) -> Sequence[float]:
        return [1.0] * steps


class Forbidden:
    """A bench that nothing may be asked of."""

    def product(self, precision: Precision) -> float:
        raise AssertionError("measured again")

    def seconds(self, precision: Precision) -> float:
        raise AssertionError("measured again")

    def losses(self, precision: Precision, steps: int) -> Sequence[float]:
        raise AssertionError("measured again")


def begun(case: Case, folder: Path, bf16: float, **changes: Any) -> Session:
    """A study in `folder` for which bf16 was measured to take so much of the time of float32; nothing is trained."""
    session = settled(Session.build(case.settings(**(PLANNED | changes))), folder, bench=Given(bf16))
    session.begin(folder).close()
    return session


def losses(study: Study) -> list[list[float]]:
    """Of every trial; the study is closed."""
    with study:
        return [[point.loss for point in t.measurement.history] for t in study.trials() if t.measurement is not None]


def test_what_nobody_wrote_is_left_to_a_measurement() -> None:
    for data in ({}, {"recipe": None}, {"recipe": {"epochs": 2}}):
        assert from_dict({"task": "mrpc", **data}).recipe.precision == "auto"
    for said in ("auto", "float32", "bf16"):
        assert from_dict({"task": "mrpc", "recipe": {"precision": said}}).recipe.precision == said
    assert Settings(task="mrpc").recipe == from_dict({"task": "mrpc"}).recipe
    assert Recipe().precision == "float32"


def test_an_experiment_trains_as_it_is_written() -> None:
    origin = Origin(Path("any.yaml"), "any")
    assert origin.settings({"task": "mrpc", "recipe": {"epochs": 2}}).recipe == Recipe(epochs=2)
    assert origin.settings({"task": "mrpc"}).recipe == Recipe()
    assert origin.settings({"task": "mrpc", "recipe": {"precision": "bf16"}}).recipe.precision == "bf16"


@pytest.mark.parametrize(("preset", "is_open"), [("paper", False), ("released", False), ("robust", True), (None, True)])
def test_a_preset_of_a_paper_is_in_float32(case: Case, preset: str | None, is_open: bool) -> None:
    options = {} if preset is None else {"preset": preset}
    session = Session.build(case.settings(**PLANNED, sampler="saas-nehvi", sampler_options=options))
    assert session.is_precision_open is is_open
    assert session.settings.recipe.precision == session.evaluator.recipe.precision == "float32"


@pytest.mark.parametrize(("bf16", "expected"), [(0.5, "bf16"), (2.0, "float32")])
def test_the_study_says_what_was_chosen_and_why(case: Case, tmp_path: Path, bf16: float, expected: str) -> None:
    session = begun(case, tmp_path, bf16)
    assert session.settings.recipe.precision == session.evaluator.recipe.precision == expected
    assert load(tmp_path / "settings.yaml").recipe.precision == expected
    with session.study(tmp_path) as study:
        found = choice_from(study.fact)
        assert found is not None
        assert (found.precision, found.device, dict(found.seconds)) == (expected, "cpu", {"float32": 1.0, "bf16": bf16})
        assert study.settings["recipe"]["precision"] == expected
        assert report_of(study, tmp_path).facts[PRECISION] == found.as_dict()
    assert call("report", tmp_path, "--to", tmp_path / "report.md").code == 0
    assert found.why in (tmp_path / "report.md").read_text()


@pytest.mark.slow
def test_who_goes_on_has_the_same_precision(case: Case, tmp_path: Path) -> None:
    """By the same command and as a worker. A measurement would leave float32 here: two trials are too few for one."""
    begun(case, tmp_path / "auto", 0.5)
    joined = shutil.copytree(tmp_path / "auto", tmp_path / "joined") / "settings.yaml"
    data = yaml.safe_load(joined.read_text())
    joined.write_text(yaml.safe_dump(data | {"trials": 2}, sort_keys=False))
    found = losses(search(case.settings(recipe=RECIPE, trials=2), tmp_path / "auto"))
    assert len(found) == 2
    assert losses(join(tmp_path / "joined")) == found
    assert load(tmp_path / "auto" / "settings.yaml").recipe.precision == "bf16"
    for said in ("bf16", "float32"):
        settings = case.settings(recipe=RECIPE | {"precision": said}, trials=2)
        assert (losses(search(settings, tmp_path / said)) == found) is (said == "bf16")


@pytest.mark.parametrize(("had", "asked"), [("bf16", "float32"), ("float32", "bf16")])
def test_another_precision_than_that_of_the_study_is_refused(case: Case, tmp_path: Path, had: str, asked: str) -> None:
    begun(case, tmp_path, 0.5 if had == "bf16" else 2.0)
    before = (tmp_path / "settings.yaml").read_bytes()
    with pytest.raises(StudyMismatchError, match="precision"):
        search(case.settings(**(PLANNED | {"recipe": RECIPE | {"precision": asked}})), tmp_path)
    assert (tmp_path / "settings.yaml").read_bytes() == before


@pytest.mark.parametrize("written", ["float32", "bf16"])
def test_a_study_in_which_nothing_was_measured_stays_as_it_is(case: Case, tmp_path: Path, written: str) -> None:
    recipe = RECIPE | {"precision": written}
    with Session.build(case.settings(**(PLANNED | {"recipe": recipe}))).begin(tmp_path):
        pass
    session = settled(Session.build(case.settings(**PLANNED), is_begun=True), tmp_path, bench=Forbidden())
    assert (session.settings.recipe.precision, session.precision) == (written, None)
    with session.begin(tmp_path) as study:
        assert choice_from(study.fact) is None


def test_what_is_written_is_not_measured(case: Case, tmp_path: Path) -> None:
    for written in ("float32", "bf16"):
        built = Session.build(case.settings(**(PLANNED | {"recipe": RECIPE | {"precision": written}})))
        assert settled(built, tmp_path, bench=Forbidden()) is built


def test_who_comes_second_takes_what_the_first_has_begun(case: Case, tmp_path: Path) -> None:
    """Both measure, with different ends, as a busy machine may have it."""
    bench = Given(2.0, on_first=lambda: begun(case, tmp_path, 0.5))
    session = settled(Session.build(case.settings(**PLANNED)), tmp_path, bench=bench)
    assert (session.settings.recipe.precision, session.precision) == ("bf16", None)
    session.begin(tmp_path).close()


def test_a_short_search_measures_nothing_and_says_so(case: Case, tmp_path: Path) -> None:
    found = call("search", case.write(tmp_path / "s.yaml"), "--out", tmp_path / "run")
    assert found.code == 0
    assert "precision: float32: 6 training steps, 2 in each run, are too few to measure whether bf16 pays" in found.err


def test_jobs_elsewhere_are_not_measured_for_here(case: Case, tmp_path: Path) -> None:
    session = settled(Session.build(case.settings(**PLANNED)), tmp_path, bench=Forbidden(), measures=False)
    assert (session.settings.recipe.precision, session.precision) == ("float32", None)


@pytest.mark.parametrize("command", ["search", "check"])
def test_the_command_line_measures(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """With a clock on which every step takes a second, so that neither is faster; no trial is run."""
    clock = map(float, itertools.count()).__next__
    monkeypatch.setattr("autopeft.session.precision.StepBench", partial(StepBench, clock=clock))
    monkeypatch.setattr(Session, "run", lambda *given: None)
    path = case.write(tmp_path / "s.yaml", **PLANNED)
    found = call(command, path, *(("--out", tmp_path / "run") if command == "search" else ("--steps", 1)))
    told = "precision: float32: a step takes 1 s in bf16 and 1 s in float32\n"
    assert told in (found.out if command == "check" else found.err)


def test_a_precision_that_there_is_not_is_refused(case: Case, tmp_path: Path) -> None:
    found = call("check", case.write(tmp_path / "s.yaml"), "--precision", "fp8", "--steps", 0)
    assert found.code == 2
    assert "`recipe.precision` must be one of auto, float32, bf16, but got 'fp8'" in found.err
    for said, shown in (("bf16", "bf16"), ("auto", "chosen by a measurement")):
        told = call("check", case.write(tmp_path / "s.yaml"), "--precision", said, "--steps", 0)
        assert f"precision: {shown}\n" in told.out
