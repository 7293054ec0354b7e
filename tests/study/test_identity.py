"""When a stored study may be resumed or opened, and what is said where it may not."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from autopeft.architecture import ParameterBudget
from autopeft.errors import InputError, StudyMismatchError, UnknownNameError
from autopeft.spaces.lattice import Choice, SearchSpace
from autopeft.study.study import Study
from formulas import SPACE, Blind, formula, made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "study.db"


@pytest.fixture
def study(path: Path) -> Iterator[Study]:
    with made(path) as opened:
        yield opened


def copy_database(source: Path, target: Path) -> list[tuple[Any, ...]]:
    """Everything in a SQLite file, for comparing its content before and after."""
    with sqlite3.connect(source) as connection:
        lines = [(line,) for line in connection.iterdump()]
    connection.close()
    target.write_text(json.dumps(lines))
    return lines


def test_opening_a_missing_file_makes_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no study at"):
        Study.open(tmp_path / "none.db")
    assert list(tmp_path.iterdir()) == []


def test_several_studies_need_a_name(path: Path, study: Study) -> None:
    Study.create_or_resume(path, "another", SPACE, "accuracy", {}, 1).close()
    with pytest.raises(InputError, match="name one: another, search"):
        Study.open(path)
    with pytest.raises(UnknownNameError, match="Did you mean 'search'"):
        Study.open(path, "serach")
    with Study.open(path, "another") as other:
        assert other.seed == 1


def test_a_study_of_another_program_is_refused(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'theirs.db'}"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    theirs = optuna.create_study(storage=storage, study_name="search", directions=["maximize", "minimize"])
    theirs.tell(theirs.ask({"x": optuna.distributions.FloatDistribution(0, 1)}), [1.0, 2.0])
    with pytest.raises(InputError, match="was not made by autopeft"):
        Study.open(storage)
    with pytest.raises(InputError, match="was not made by autopeft"):
        Study.create_or_resume(storage, "search", SPACE, "accuracy", {}, 1)


def test_a_difference_is_listed_and_nothing_is_written(path: Path, tmp_path: Path) -> None:
    with made(path) as study:
        study.run(formula, Blind(SPACE), 2)
    before = copy_database(path, tmp_path / "before.json")
    other = SearchSpace(
        (*SPACE.choices[:3], Choice("lora", (0, 1, 2)), SPACE.choices[4]), SPACE.slots, ParameterBudget(most=300)
    )
    changed = {"task": {"name": "other", "split": "validation"}, "batch": 8}
    with pytest.raises(StudyMismatchError) as caught:
        made(path, other, settings=changed, seed=8, objective="f1")
    lines = str(caught.value).splitlines()
    assert lines[1:-1] == [
        "  - the choice lora is [0, 1, 2, 4, 8] there, [0, 1, 2] here",
        "  - the budget is None there, {'most': 300, 'least': 0, 'count': 'nominal'} here",
        "  - the objective is 'accuracy' there, 'f1' here",
        "  - the seed is 7 there, 8 here",
        "  - the setting task.name is 'formula' there, 'other' here",
        "  - the setting epochs is only there (3)",
        "  - the setting batch is only here (8)",
    ]
    assert copy_database(path, tmp_path / "after.json") == before


def test_settings_that_json_cannot_hold_are_named_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"task\.call, rate"):
        made(tmp_path / "study.db", settings={"task": {"call": print}, "rate": {1, 2}, "fine": 1})
    assert list(tmp_path.iterdir()) == []


def test_other_versions_are_a_warning(
    path: Path, study: Study, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("autopeft.study.identity.versions", lambda: dict(study.versions) | {"torch": "0.1"})
    made(path).close()
    assert f"torch {study.versions['torch']}, now 0.1" in caplog.text
