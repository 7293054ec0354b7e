"""A search whose workers are left to a measurement: of this machine, whenever it begins or goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopeft.cli.console import report_of
from autopeft.errors import SettingsError
from autopeft.session import Session, search, with_workers
from autopeft.settings import from_dict
from autopeft.study.study import Study
from autopeft.training.worker_choice import WORKERS, WorkerChoice
from autopeft.workers import threads_of_workers
from small_case import Case, call


class Given:
    """A bench on which a step takes so long alone, and beside others."""

    def __init__(self, alone: float, beside: float) -> None:
        self.times = alone, beside

    def alone(self) -> float:
        return self.times[0]

    def beside(self, n: int, threads: int) -> float:
        return self.times[1]

    def peak_bytes(self) -> int:
        return 1


@pytest.mark.parametrize(("beside", "expected"), [(10.0, 2), (30.0, 1)])
def test_a_search_has_the_workers_that_were_measured_to_pay(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: float, expected: int
) -> None:
    monkeypatch.setattr("autopeft.session.worker_number.available_cores", lambda: 2)
    session, told = Session.build(case.settings(workers="auto", trials=100)), list[str]()
    assert (session.settings.workers, session.settings.n_workers) == ("auto", 1)
    with session.begin(tmp_path / "run") as study:
        found = with_workers(session, study, told.append, bench=Given(10.0, beside))
        assert found.settings.workers == expected
        assert study.fact(WORKERS)["workers"] == expected
        # What has been measured is settled, and nothing else of the search differs.
        assert with_workers(found, study, told.append, bench=Given(0.0, 0.0)) is found
        assert found.settings.identity() == session.settings.identity()
    assert told[-1].startswith(f"workers {expected}: a step takes 10 s")


def test_a_short_search_by_the_command_line_has_one_and_says_why(case: Case, tmp_path: Path) -> None:
    asked = case.write(tmp_path / "asked.yaml", trials=2)
    found = call("search", asked, "--workers", "auto", "--out", tmp_path / "run")
    assert found.code == 0, found.err
    assert "too few for workers to save" in found.err or "there is one core" in found.err
    with Study.open(tmp_path / "run" / "study.db") as study:
        assert study.fact(WORKERS)["workers"] == 1
        assert report_of(study, tmp_path / "run").facts["workers"] == study.fact(WORKERS)
    # It goes on with workers that are said, and with those of a session that was built for it.
    assert call("search", asked, "--workers", 1, "--out", tmp_path / "run").code == 0


def test_the_call_of_a_program_measures_too(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[float]()

    def measured(*args: object, planned: float, **more: object) -> WorkerChoice:
        asked.append(planned)
        return WorkerChoice(1, "given")

    monkeypatch.setattr("autopeft.session.worker_number.choose_workers", measured)
    settings = case.settings(workers="auto", trials=2)
    search(settings, tmp_path / "run").close()
    search(settings.with_changes(trials=3), tmp_path / "run").close()
    assert asked[0] == 2 * asked[1] > 0  # what is left to train, of the search that goes on one trial


@pytest.mark.parametrize(
    "changes", [{"sampler": "apet", "space": {"name": "S2", "budget": "1%"}}, {"devices": ["cpu"]}]
)
def test_where_there_is_one_process_nothing_is_measured(case: Case, changes: dict[str, object]) -> None:
    assert Session.build(case.settings(workers="auto", **changes)).settings.workers == 1


@pytest.mark.parametrize("asked", ["many", 0, 1.5])
def test_anything_else_is_refused(asked: object) -> None:
    with pytest.raises(SettingsError, match="workers"):
        from_dict({"task": "mrpc", "workers": asked})


def test_jobs_on_other_machines_are_not_measured_here(case: Case, tmp_path: Path) -> None:
    asked = case.write(tmp_path / "asked.yaml")
    found = call("submit", asked, "--workers", "auto", "--cluster", "local", "--out", tmp_path / "run")
    assert found.code != 0
    assert "say how many jobs" in found.err or "slurm" in found.err


@pytest.mark.parametrize(
    ("given", "expected"), [({}, 4), ({"OMP_NUM_THREADS": "2"}, 2), ({"OMP_NUM_THREADS": "4,2"}, 4)]
)
def test_workers_are_measured_with_the_threads_that_they_get(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr("autopeft.workers.available_cores", lambda: 8)
    assert threads_of_workers(2, given) == expected


def test_what_a_search_may_train_at_most_is_what_it_has_before_it(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[float]()

    def measured(*args: object, planned: float, **more: object) -> WorkerChoice:
        asked.append(planned)
        return WorkerChoice(1, "given")

    monkeypatch.setattr("autopeft.session.worker_number.choose_workers", measured)
    for number, changes in enumerate(({}, {"trainings": 4})):
        session = Session.build(case.settings(workers="auto", trials=8, **changes))
        with session.begin(tmp_path / str(number)) as study:
            with_workers(session, study, print)
    assert asked[0] == 2 * asked[1]
