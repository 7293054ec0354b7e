"""A training run that is interrupted or paused and goes on gives what the uninterrupted one gives, bit for bit."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from autopeft.architecture import Architecture, Placement
from autopeft.errors import NonFiniteFailure, SettingsError
from autopeft.fidelity import FULL, Fidelity, Reached
from autopeft.interruption import Interruption
from autopeft.objective import Measurement
from autopeft.training.batches import Batch
from autopeft.training.checkpoint import Checkpoints
from autopeft.training.consistency import Forward
from autopeft.training.evaluator import Evaluator
from autopeft.training.recipe import Recipe
from tiny import SENTIMENT, backbone, sentiment, splits

MIXED = Architecture(
    (
        Placement("encoder.0.ffn", "adamix", 4),
        Placement("encoder.1.ffn", "serial", 4),
        Placement("encoder.1.kv", "prefix", 2),
    )
)
PLAIN = Recipe(epochs=3, batch_size=8, learning_rate=5e-3)
"""Nine steps over 24 examples, evaluated after 3, 6 and 9."""

ALWAYS = {"share": float("inf")}
"""A pace that writes at every evaluation, however quick the training is."""

RECIPES = {
    "plain": {},
    "dropout": {"dropout": 0.3},
    "layer drop": {"drop_layers": 1},
    "consistency of random experts": {"consistency": 1.0},
    "rates by method and warm-up": {"rate_factors": {"prefix": 3.0, "serial": 0.2}, "warmup": 0.4, "weight_decay": 0.1},
    "the last is kept": {"keep": "last"},
    "patience": {"patience": 1, "learning_rate": 1e-6},
    "gradient checkpointing": {"gradient_checkpointing": True, "dropout": 0.1},
    "odd evaluations": {"evaluate_every": 0.7},
}
ALL_AT_ONCE = replace(
    PLAIN, dropout=0.2, drop_layers=1, consistency=0.5, rate_factors={"prefix": 3.0}, warmup=0.2, patience=2,
    evaluate_every=0.5,
)  # fmt: skip


def evaluator(recipe: Recipe, folder: Path | None = None) -> Evaluator:
    found = backbone("bert", with_tokenizer=True, hidden_dropout_prob=0.1)
    made = Evaluator(found, SENTIMENT, splits(sentiment(24), sentiment(16, seed=1)), recipe)
    return made if folder is None else made.with_checkpoints(Checkpoints(folder, pace=ALWAYS))


@dataclass
class Trained:
    """What is left of a run: the curve without its times, the parameters that were kept, and the steps trained here."""

    curve: list[tuple[int, float, dict[str, float]]]
    kept: int
    parameters: list[Tensor]
    steps: list[int]

    def equals(self, other: Trained) -> bool:
        return (self.curve, self.kept) == (other.curve, other.kept) and all(
            torch.equal(mine, others) for mine, others in zip(self.parameters, other.parameters, strict=True)
        )


def trained(made: Evaluator, seed: int = 3, *, on_step: Callable[[int], None] = lambda done: None) -> Trained:
    steps: list[int] = []

    def watch(done: int, planned: int) -> None:
        steps.append(done)
        on_step(done)

    with made.trained(MIXED, seed, watch) as run:
        parameters = [p.detach().clone() for p in [*run.attached.parameters(), *made.learner.model.head.parameters()]]  # type: ignore[union-attr,operator]
        curve = [(point.step, point.loss, dict(point.metrics)) for point in run.fitted.history]
        return Trained(curve, run.fitted.kept, parameters, steps)


def interrupted_at(made: Evaluator, step: int, error: BaseException) -> None:
    """A run that is asked to end after `step`; one that ends before that ends as it does."""

    def interrupt(done: int) -> None:
        if done == step:
            raise error

    try:
        trained(made, on_step=interrupt)
    except BaseException as raised:
        if raised is not error:
            raise


@pytest.mark.parametrize("changes", RECIPES.values(), ids=RECIPES)
def test_an_interrupted_run_goes_on_at_its_very_step(changes: dict[str, Any], tmp_path: Path) -> None:
    recipe = replace(PLAIN, **changes)
    whole = trained(evaluator(recipe))
    interrupted_at(evaluator(recipe, tmp_path), 5, Interruption(15))
    assert len(list(tmp_path.iterdir())) == 1
    rest = trained(evaluator(recipe, tmp_path))
    assert rest.equals(whole)
    assert rest.steps == [step for step in whole.steps if step > 5]
    assert not list(tmp_path.iterdir())  # a run that has ended leaves nothing


@pytest.mark.slow
@settings(max_examples=6)
@given(stops=st.lists(st.integers(1, 9), max_size=4), seed=st.integers(0, 9))
def test_any_interruptions_change_nothing(
    stops: list[int], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    whole = trained(evaluator(ALL_AT_ONCE), seed)
    for stop in sorted(stops):
        interrupted_at(evaluator(ALL_AT_ONCE, folder), stop, KeyboardInterrupt())
        torch.manual_seed(stop)  # whatever else happens between two processes
    assert trained(evaluator(ALL_AT_ONCE, folder), seed).equals(whole)


def fails_in_step(made: Evaluator, step: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends in the middle of the step of this number, as no signal could end it."""
    forward, calls = made.learner.forward, 0

    def fail(batch: Batch) -> Forward:
        nonlocal calls
        calls += 1
        if calls == step:
            raise error
        return forward(batch)

    with monkeypatch.context() as patch:
        patch.setattr(made.learner, "forward", fail)
        with pytest.raises(type(error)):
            trained(made)


def test_a_run_that_is_killed_goes_on_from_its_last_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a step is never written down: what there is was written after the evaluation at step 6."""
    fails_in_step(evaluator(PLAIN, tmp_path), 8, KeyboardInterrupt(), monkeypatch)
    rest = trained(evaluator(PLAIN, tmp_path))
    assert rest.steps == [7, 8, 9]
    assert rest.equals(trained(evaluator(PLAIN)))


def test_a_run_that_fails_leaves_nothing_unless_ended_runs_are_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_in_step(evaluator(PLAIN, tmp_path), 5, NonFiniteFailure("planted"), monkeypatch)
    assert not list(tmp_path.iterdir())
    held = evaluator(PLAIN).with_checkpoints(Checkpoints(tmp_path, is_held=True, pace=ALWAYS))
    fails_in_step(held, 5, NonFiniteFailure("planted"), monkeypatch)
    assert trained(held).steps == [4, 5, 6, 7, 8, 9]
    again = trained(held)
    assert again.steps == []  # a run that has ended is not trained again
    assert again.equals(trained(evaluator(PLAIN)))
    assert held.checkpoints is not None
    held.checkpoints.clear()
    assert not tmp_path.exists()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)


def _text(path: Path) -> None:
    path.write_text("no tensors")


def _facts(**changes: Any) -> Callable[[Path], None]:
    """Other facts under a digest that is missing, as somebody might make them."""

    def change(path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["facts"])
        save_file(load_file(path), path, metadata={"facts": json.dumps({**facts, **changes})})

    return change


def _other_shapes(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        facts = file.metadata()["facts"]
    tensors = load_file(path)
    save_file({**tensors, "parameter/0": tensors["parameter/1"].clone()}, path, metadata={"facts": facts})


BREAKS = {
    "cut": _cut,
    "a bit": _flip,
    "text": _text,
    "another run's": _facts(identity="other"),
    "a later format": _facts(format=2),
    "another length": _facts(planned=8),
    "an order of others": _facts(order={"generator": {}, "given": 0}),
    "a history of others": _facts(history=[{"step": 1}]),
    "shapes": _other_shapes,
}


@pytest.mark.slow
@pytest.mark.parametrize("break_", BREAKS.values(), ids=BREAKS)
def test_what_is_broken_or_foreign_is_left_alone_and_said(
    break_: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = evaluator(PLAIN, tmp_path)
    interrupted_at(made, 5, KeyboardInterrupt())
    (path,) = tmp_path.iterdir()
    break_(path)
    with caplog.at_level(logging.WARNING):
        rest = trained(made)
    assert rest.steps == list(range(1, 10))
    assert rest.equals(trained(evaluator(PLAIN)))
    assert "begins anew" in caplog.text


@pytest.mark.parametrize("changes", [{"learning_rate": 1e-4}, {"epochs": 2}, {"max_length": 8}])
def test_another_recipe_s_run_is_another(changes: dict[str, Any], tmp_path: Path) -> None:
    interrupted_at(evaluator(PLAIN, tmp_path), 5, KeyboardInterrupt())
    assert trained(evaluator(PLAIN, tmp_path).with_recipe(**changes)).steps[0] == 1
    assert trained(evaluator(PLAIN, tmp_path), seed=4).steps[0] == 1


def test_a_disk_that_is_full_costs_the_checkpoint_and_not_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        found = trained(evaluator(PLAIN, tmp_path / "file"))
    assert found.steps == list(range(1, 10))
    assert "without a checkpoint" in caplog.text


# -- rungs -----------------------------------------------------------------------------------------------------------

RUNGS = (Fidelity(1), Fidelity(0.5, "share"))
"""After 3 and after 4 of 9 steps; the second is no whole epoch and is evaluated all the same."""


def without_times(found: Measurement) -> dict[str, Any]:
    """What does not depend on the clock or on the process."""
    told = found.as_dict()
    extra = {name: value for name, value in told["extra"].items() if name not in ("train_seconds", "rungs")}
    rungs = [{**rung, "seconds": 0} for rung in told["extra"]["rungs"]]
    history = [{**point, "seconds": 0} for point in told["history"]]
    return {"metrics": told["metrics"], "history": history, "rungs": rungs, "extra": extra}


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize("is_kept", [True, False])
def test_rungs_are_stood_on_and_left_without_a_trace(keep: str, is_kept: bool, tmp_path: Path) -> None:
    recipe = replace(ALL_AT_ONCE, keep=keep, patience=None)
    whole = without_times(evaluator(recipe).with_rungs(RUNGS)(MIXED, 3))
    assert [rung["step"] for rung in whole["rungs"]] == [3, 4, 9]
    steps: list[int] = []
    for rung in range(3):
        made = evaluator(recipe, tmp_path if is_kept else None).with_rungs(RUNGS)
        found = made.up_to(MIXED, 3, rung, lambda done, planned: steps.append(done))
        reached = [Reached.from_dict(item) for item in found.extra["rungs"]]
        assert [item.fidelity for item in reached] == [*RUNGS, FULL][: rung + 1]
        assert reached[-1].value == found.value
        assert found.extra["steps"] == found.history[-1].step == (3, 4, 9)[rung]
        assert found.extra["planned_steps"] == 9
        assert found.extra["n_processed"] == (24, 32, 72)[rung]
    assert without_times(found) == whole
    assert steps == [1, 2, 3, 4, *range(5, 10)] if is_kept else [*range(1, 4), *range(1, 5), *range(1, 10)]
    assert not list(tmp_path.iterdir())


def test_several_candidates_are_measured_at_their_rungs_as_one_is() -> None:
    made = evaluator(replace(PLAIN, keep="last")).with_rungs(RUNGS)
    found = made.measure_all([MIXED, MIXED], [3, 3])
    assert [without_times(one) for one in found if isinstance(one, Measurement)] == [without_times(made(MIXED, 3))] * 2


def test_a_run_that_stops_early_has_passed_all_rungs(tmp_path: Path) -> None:
    made = evaluator(replace(PLAIN, patience=1, learning_rate=1e-7), tmp_path).with_rungs((Fidelity(2),))
    found = made.up_to(MIXED, 3, 0)
    assert found.extra["steps"] == 6
    assert [item["fidelity"] for item in found.extra["rungs"]] == [2.0, "100%"]
    assert not list(tmp_path.iterdir())


def test_rungs_must_fit_the_run() -> None:
    made = evaluator(PLAIN)
    assert made.with_rungs((Fidelity(1), Fidelity(3))).rung_steps() == (3, 9)
    assert made.rung_steps() == (9,)
    for rungs in ((Fidelity(4),), (Fidelity(2), Fidelity(0.5, "share")), (Fidelity(3), Fidelity(3))):
        with pytest.raises(SettingsError, match=r"Rungs must increase .* 9 steps, 3 an epoch"):
            made.with_rungs(rungs)


def test_paused_runs_take_no_more_room_than_is_allowed(tmp_path: Path) -> None:
    made = evaluator(PLAIN, tmp_path).with_rungs(RUNGS)
    for seed in range(3):
        made.up_to(MIXED, seed, 0)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    for age, path in enumerate(files):  # three runs this short may end within one tick of the file system's clock
        os.utime(path, (1_000_000_000 + age, 1_000_000_000 + age))
    Checkpoints(tmp_path).bound(2 * files[0].stat().st_size)
    assert sorted(tmp_path.iterdir()) == sorted(files[1:])
    steps: list[int] = []
    made.up_to(MIXED, 0, 1, lambda done, planned: steps.append(done))
    assert steps == [1, 2, 3, 4]
