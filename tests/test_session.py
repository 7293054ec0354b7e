"""From settings to a running search."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from autopeft.errors import (
    BudgetError,
    DataError,
    InputError,
    OutOfMemoryFailure,
    SettingsError,
    StudyMismatchError,
)
from autopeft.reports.rows import search_seconds
from autopeft.searches._halves import HalvedTask
from autopeft.searches.bipeft.search import BilevelSearch
from autopeft.session import Session, join, resolved, search, worker_command
from autopeft.settings import Settings, SpaceSettings, load
from autopeft.study.events import Event, Told
from autopeft.training import checkpoint as disk
from autopeft.training.loop import fit
from autopeft.training.recipe import Recipe
from small_case import Case, make


@pytest.fixture(scope="module")
def session(case: Case) -> Session:
    return Session.build(case.settings())


def test_build_puts_the_parts_together(session: Session) -> None:
    assert session.space.n_valid == 77
    assert session.backbone.n_parameters == 32_032
    assert (session.task.objective, session.evaluator.n_train) == ("accuracy", 32)
    assert len(session.initial) == 2


def test_the_initial_design_depends_on_space_and_seed_only(case: Case, session: Session) -> None:
    other = Session.build(case.settings(sampler="evolution", initial=3))
    assert other.initial[:2] == session.initial
    assert Session.build(case.settings(seed=7)).initial != session.initial
    assert len(Session.build(case.settings(trials=1)).initial) == 1


def test_a_validation_limit_keeps_a_random_subset_that_the_data_seed_draws(case: Case, session: Session) -> None:
    whole = {tuple(text) for text in session.evaluator.splits.validation.texts}
    limited = [case.settings(validation_limit=6, data_seed=seed) for seed in (0, 0, 1)]
    kept = [Session.build(settings).evaluator.splits.validation for settings in limited]
    assert [len(part) for part in kept] == [6, 6, 6]
    assert kept[0].texts == kept[1].texts != kept[2].texts
    assert {tuple(text) for text in kept[0].texts} <= whole
    assert len(Session.build(case.settings(validation_limit=99)).evaluator.splits.validation) == 16


def test_a_folder_that_cannot_be_made_is_refused(case: Case, session: Session, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for storage in (None, f"sqlite:///{tmp_path / 'all.db'}"):
        with pytest.raises(SettingsError, match=r"written in '.*sub': '.*file' is no folder"):
            session.begin(tmp_path / "file" / "sub", storage)


def test_search_runs_continues_and_tells_its_events(case: Case, tmp_path: Path) -> None:
    events: list[Event] = []
    with search(case.settings(), tmp_path, events.append) as study:
        assert study.n_finished() == 3
    assert [event.trial.number for event in events if isinstance(event, Told)] == [0, 1, 2]
    with search(case.settings(trials=4), tmp_path) as study:
        assert study.n_finished() == 4
    assert load(tmp_path / "settings.yaml").trials == 4


def test_a_batch_is_trained_in_one_pass_and_measured_as_one_by_one(case: Case, tmp_path: Path) -> None:
    """What is proposed does not depend on values here, so that both searches measure the same."""
    with search(case.settings(batch=3, trials=5, initial=5), tmp_path / "a") as study:
        batched = study.trials()
    with search(case.settings(trials=5, initial=5), tmp_path / "b") as study:
        plain = study.trials()
    assert [trial.candidate for trial in batched] == [trial.candidate for trial in plain]
    for one, other in zip(batched, plain, strict=True):
        assert one.measurement is not None
        assert other.measurement is not None
        assert one.measurement.value == pytest.approx(
            other.measurement.value, abs=0.07
        )  # one example of sixteen, should rounding decide it
        assert one.measurement.counts == other.measurement.counts
        losses = [[point.loss for point in trial.measurement.history] for trial in (one, other) if trial.measurement]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert any(trial.measurement.extra.get("together", 1) > 1 for trial in batched if trial.measurement is not None)


def test_the_same_search_twice_measures_the_same(case: Case, tmp_path: Path) -> None:
    values = []
    for name in ("one", "two"):
        with search(case.settings(trials=4, sampler="evolution"), tmp_path / name) as study:
            values.append([(t.architecture.fingerprint, t.measurement and t.measurement.value) for t in study.trials()])
    assert values[0] == values[1]


def test_another_space_is_refused_and_the_stored_settings_stay(case: Case, tmp_path: Path) -> None:
    search(case.settings(), tmp_path).close()
    before = (tmp_path / "settings.yaml").read_bytes()
    with pytest.raises(StudyMismatchError, match=r"the choice lora is only here"):
        search(case.settings(space={"methods": {"lora": {"sizes": [0, 1]}}}), tmp_path)
    assert (tmp_path / "settings.yaml").read_bytes() == before


def test_other_data_or_weights_under_the_same_names_are_refused(tmp_path: Path) -> None:
    case = make(tmp_path)
    search(case.settings(), tmp_path / "run").close()
    changed = case.settings(trials=4)
    text = (tmp_path / "train.csv").read_text()
    (tmp_path / "train.csv").write_text(text.rpartition("\n")[0].rpartition("\n")[0] + "\n")
    with pytest.raises(StudyMismatchError, match=r"the train part had 32 examples \(digest .*\), but has 31"):
        search(changed, tmp_path / "run")
    with pytest.raises(StudyMismatchError, match="the train part had 32"):
        join(tmp_path / "run")
    assert load(tmp_path / "run" / "settings.yaml").trials == 3
    (tmp_path / "train.csv").write_text(text)
    weights = load_file(tmp_path / "model" / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, tmp_path / "model" / "model.safetensors")
    with pytest.raises(StudyMismatchError, match=r"of the model .*model its weights had the digest"):
        search(changed, tmp_path / "run")


def test_a_text_to_text_model_may_say_words(case: Case) -> None:
    for is_words, expected in ((False, ("0", "1")), (True, ("bad", "good"))):
        settings = case.settings(label_words=is_words)
        assert Session.build(settings).task.verbalisers == expected
        assert ("label_words" in settings.identity()) == is_words


def test_running_out_of_memory_at_one_rate_leaves_the_sweep_the_others(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_memory(*call: Any, **more: Any) -> Any:
        if call[3].learning_rate == 1e-2:
            raise torch.OutOfMemoryError("too little")
        return fit(*call, **more)

    monkeypatch.setattr("autopeft.training.evaluator.fit", without_memory)
    session = Session.build(case.settings(learning_rates=[1e-2, 1e-3]))
    with session.begin(tmp_path) as study:
        signal = session.proxy(study)
    assert signal is not None
    assert (signal.chosen, signal.values[0]) == (1e-3, (1e-2, None))


@pytest.mark.slow
@pytest.mark.parametrize("rates", ["sweep", "card"])
def test_where_the_middle_size_has_too_little_memory_at_every_rate_a_small_one_is_tried(
    rates: str, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = {"sweep": 1300, "card": 1500}[rates]  # the head has 1,122, three modules of size 4 876, of size 1 291

    def without_memory(*call: Any, **more: Any) -> Any:
        if sum(parameter.numel() for parameter in call[1]) > most:
            raise torch.OutOfMemoryError("too little")
        return fit(*call, **more)

    monkeypatch.setattr("autopeft.training.evaluator.fit", without_memory)
    methods = {"serial": {"sizes": [0, 1, 4, 8]}}
    session = Session.build(case.settings(learning_rates=[1e-2, 1e-3], rates=rates, space={"methods": methods}))
    seen: list[str] = []
    with session.begin(tmp_path) as study:
        signal = session.proxy(study, seen.append)
        assert signal == session.proxy(study)
    assert signal is not None
    assert any("too little memory" in line and "small" in line for line in seen)
    if rates == "card":
        # An interrupted one goes on where it was, though what came first had too little memory.
        def stop(line: str) -> None:
            if "learning rate" in line and "failed" not in line and "too little" not in line:
                raise KeyboardInterrupt

        with session.begin(tmp_path / "cut") as study:
            with pytest.raises(KeyboardInterrupt):
                session.proxy(study, stop)
            again: list[str] = []
            assert session.proxy(study, again.append).rates == signal.rates  # type: ignore[union-attr]
            assert len(again) < len(seen)
    # Where nothing fits there is nothing to search.
    most = 0
    with session.begin(tmp_path / "none") as study, pytest.raises(OutOfMemoryFailure, match="at every learning rate"):
        session.proxy(study)


def test_a_file_is_no_folder_for_a_study(case: Case, session: Session, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(StudyMismatchError, match="is a file"):
        session.study(tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == ""


def test_the_sweep_runs_once_and_sets_the_learning_rate(case: Case, tmp_path: Path) -> None:
    session = Session.build(case.settings(learning_rates=[1e-2, 1e-3]))
    seen: list[str] = []
    with session.begin(tmp_path) as study:
        first = session.proxy(study, seen.append)
        assert first is not None
        assert session.proxy(study, seen.append) == first
        assert [line.partition(":")[0] for line in seen] == ["learning rate 0.01", "learning rate 0.001"]
        assert session.tuned(first).recipe.learning_rate == first.chosen
    assert session.tuned(None) is session.evaluator


def test_a_second_process_joins_with_the_stored_settings(case: Case, tmp_path: Path) -> None:
    search(case.settings(trials=2), tmp_path).close()
    asked = load(tmp_path / "settings.yaml").with_changes(trials=4)
    Session.build(asked).begin(tmp_path).close()
    with join(tmp_path) as study:
        assert study.n_finished() == 4
    assert worker_command(tmp_path)[1:] == ["-P", "-m", "autopeft", "worker", str(tmp_path)]


def test_workers_do_the_trials_in_processes_of_their_own(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[list[str], int, Path]] = []

    def ran(*call: Any, environment: dict[str, str], devices: tuple[str, ...], on_poll: Any) -> None:
        started.append(call)
        assert devices == ("cpu", "cpu:0")
        assert "AUTOPEFT_STORAGE" not in environment  # the study is a file of its own
        on_poll()
        join(tmp_path).close()  # a worker ends the search while the launcher looks

    monkeypatch.setattr("autopeft.session.processes.run_workers", ran)
    events: list[Event] = []
    with search(case.settings(devices=["cpu", "cpu:0"]), tmp_path, events.append) as study:
        assert started == [(worker_command(tmp_path), 2, tmp_path / "logs")]
        assert [type(event) for event in events] == [Told] * 3
        assert [event.trial.number for event in events] == [trial.number for trial in study.trials()]


@pytest.mark.parametrize(
    ("space", "error", "expected"),
    [
        ({"methods": {"serial": {"sizes": [1, 2]}}, "budget": "0.1%"}, BudgetError, "from 64 to 384"),
        ({"methods": {"serial": {}}, "layers": "some"}, SettingsError, "'search', 'all' or a list"),
        ({"methods": {}}, SettingsError, "at least one method"),
        ({"name": "SA", "budget": "1"}, BudgetError, "at most 1 nominal"),
        (
            {"name": "SA", "layers": [0], "sharing": "layer"},
            SettingsError,
            "'SA' has `layers` and `sharing` of its own",
        ),
    ],
)
def test_spaces_that_cannot_be(case: Case, space: dict[str, object], error: type[Exception], expected: str) -> None:
    with pytest.raises(error, match=expected):
        Session.build(case.settings(space=space))


def test_a_named_space_is_built_under_its_budget(case: Case) -> None:
    # Serial in all three layers at one size of 0, 1, 2, 4, 8, 16, 32: 2 D b each, so b = 1 costs 192.
    session = Session.build(case.settings(space={"name": "SA", "budget": "500"}))
    costs = sorted(session.space.cost(configuration) for configuration in session.space.enumerate())
    assert costs == [192, 384]


def test_what_a_task_needs_is_checked_before_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No files of glue/mrpc were found"):
        Session.build(Settings(model="no/such", task="mrpc", data=str(tmp_path), space=SpaceSettings()))


def test_every_device_has_a_worker_and_the_first_does_what_comes_before(case: Case, tmp_path: Path) -> None:
    asked = case.settings(devices=["cpu:0", "cpu"])
    assert (resolved(asked).workers, resolved(asked).device) == (2, "cpu:0")
    assert resolved(asked.with_changes(workers=5)).workers == 5
    assert resolved(resolved(asked)) == resolved(asked)
    assert asked.identity() == case.settings().identity()
    answering = resolved(asked.with_changes(sampler="bipeft"))
    assert (answering.workers, answering.device) == (1, "cpu:0")
    with pytest.raises(InputError, match="`devices` are such as"):
        Session.build(case.settings(devices=["cpu", "nowhere"]))
    Session.build(asked).begin(tmp_path).close()
    with join(tmp_path, device="cpu") as study:  # a worker has one device, whatever its launcher deals out
        assert study.n_finished() == 3


def test_what_depends_on_the_sampler_is_resolved(case: Case) -> None:
    """Samplers that answer budgets have no initial design and a space of their own, unless told otherwise."""
    open_ = Settings(task="mrpc", space=SpaceSettings(budget="1%"))
    assert (resolved(open_).initial, resolved(open_).space.name) == (20, None)
    answering = resolved(open_.with_changes(sampler="bipeft"))
    fixed: dict[str, Any] = {"batch_factors": (), "dropout_factors": (), "least_steps": 0}
    assert (answering.initial, answering.space) == (0, SpaceSettings(name="S2", budget="1%", **fixed))
    assert resolved(answering) == answering
    asked = open_.with_changes(sampler="apet", initial=2, space=SpaceSettings(name="S1"))
    space = SpaceSettings(name="S1", **fixed)
    assert resolved(asked) == asked.with_changes(rates="sweep", start="random", space=space)
    new = resolved(open_.with_changes(space=SpaceSettings(name="recommended")))
    assert (new.rates, new.start, new.initial) == ("card", "baselines", 30)
    assert (new.space.batch_factors, new.space.dropout_factors) == ((0.125, 0.25, 0.5, 1.0), (0, 1))
    few = resolved(open_.with_changes(space=new.space, recipe=Recipe(batch_size=2)))
    assert few.space.batch_factors == (0.5, 1.0)  # a quarter of two examples is one as well
    # What the settings say stands, "no choice" included.
    plain = SpaceSettings(name="recommended", **fixed)
    assert resolved(open_.with_changes(space=plain)).space == plain


def test_a_sampler_that_answers_budgets_works_in_one_process(caplog: pytest.LogCaptureFixture) -> None:
    asked = Settings(task="sst2", sampler="s3delta", workers=3)
    with caplog.at_level(logging.WARNING):
        assert resolved(asked).workers == 1
    assert "One process, not 3: each would repeat the search that 's3delta' does." in caplog.text
    assert resolved(asked.with_changes(sampler="random")).workers == 3


def test_a_sampler_that_answers_budgets_gives_one_trial_for_each_and_nothing_else(case: Case, tmp_path: Path) -> None:
    options = {"budgets": ["2%", "8%"], "count": "nominal", "steps": 6, "triggers": 2}
    settings = case.settings(sampler="bipeft", sampler_options=options, space={}, initial=None, trials=60)
    session = Session.build(settings)
    assert (session.total, session.settings.initial, session.settings.space.name) == (2, 0, "S2")
    for _ in range(2):  # the same call continues, and finds nothing left to do
        with search(settings, tmp_path) as study:
            trials = study.trials()
    assert [trial.origin for trial in trials] == ["bipeft", "bipeft"]
    for trial, most in zip(trials, (2, 8), strict=True):
        assert trial.measurement is not None
        assert 0 < trial.measurement.percent <= most
        assert trial.proposal_seconds > 0


@pytest.mark.slow
def test_a_sampler_that_trains_does_so_at_the_learning_rate_that_the_sweep_chose(
    case: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rates = []
    original = BilevelSearch.run

    def run(search_: BilevelSearch, *arguments: Any) -> Any:
        rates.append(search_.plan.learning_rate)
        return original(search_, *arguments)

    monkeypatch.setattr(BilevelSearch, "run", run)
    options = {"budgets": ["2%"], "steps": 3, "triggers": 1}
    search(case.settings(sampler="bipeft", sampler_options=options, space={}, learning_rates=[7e-3]), tmp_path).close()
    assert rates == [7e-3]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bipeft", "s3delta"])
def test_a_sampler_that_trains_keeps_an_interrupted_search_beside_the_study(
    case: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    options = {"budgets": ["2%"], "steps": 8, "checkpoint_every": 2, **({"triggers": 2} if name == "bipeft" else {})}
    settings = case.settings(sampler=name, sampler_options=options, space={}, initial=None, learning_rates=[])
    whole = search(settings, tmp_path / "whole").trials()
    original, seen = HalvedTask.loss, list[int]()

    def loss(self: HalvedTask, half: int, step: int) -> Any:
        seen.append(step)
        if step == 5 and 5 not in seen[:-1]:
            raise KeyboardInterrupt
        return original(self, half, step)

    monkeypatch.setattr(HalvedTask, "loss", loss)
    with pytest.raises(KeyboardInterrupt):
        search(settings, tmp_path / "part")
    before = len(seen)
    (kept,) = (tmp_path / "part" / "searches").iterdir()
    checkpoint = disk.read(kept)
    assert checkpoint is not None
    disk.write(kept, replace(checkpoint, facts={**checkpoint.facts, "seconds": 1000.0}))
    again = search(settings, tmp_path / "part").trials()
    assert search_seconds(again, is_answering=True) > 1000.0 > search_seconds(whole, is_answering=True)
    assert seen[before] >= 4
    assert [trial.architecture for trial in again] == [trial.architecture for trial in whole]
    assert {path.suffix for path in (tmp_path / "part" / "searches").iterdir()} == {".safetensors", ".json"}
