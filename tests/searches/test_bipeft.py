"""BIPEFT as a sampler: a real evaluator on a tiny backbone, one search a budget."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from autopeft import samplers
from autopeft.architecture import ParameterBudget
from autopeft.errors import BudgetError, NonFiniteFailure, SettingsError, SpaceExhaustedError, UnknownNameError
from autopeft.network.build import count
from autopeft.searches._halves import HalvedTask
from autopeft.searches._search import BudgetedSampler, SearchContext
from autopeft.spaces import papers as spaces
from autopeft.spaces.lattice import SearchSpace
from autopeft.study.study import Study
from autopeft.training.evaluator import Evaluator
from autopeft.training.recipe import Recipe
from autopeft.trial import Trial
from lattice import complete

QUICK: dict[str, Any] = {"steps": 14, "triggers": 4, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    parts = tiny.splits(tiny.sentiment(160), tiny.sentiment(40, seed=1))
    recipe = Recipe(epochs=2, batch_size=8, max_length=16)
    return Evaluator(tiny.backbone("bert", with_tokenizer=True), tiny.SENTIMENT, parts, recipe)


@pytest.fixture(scope="module")
def text_to_text() -> Evaluator:
    parts = tiny.splits(tiny.sentiment(64), tiny.sentiment(16, seed=1))
    recipe = Recipe(epochs=1, batch_size=8, max_length=24)
    return Evaluator(tiny.backbone("t5", with_tokenizer=True), tiny.SENTIMENT, parts, recipe)


def space(evaluator: Evaluator, name: str = "S2", budget: ParameterBudget | None = None) -> SearchSpace:
    return spaces.named(name, evaluator.backbone, budget=budget)


def build(evaluator: Evaluator, over: SearchSpace, **options: Any) -> BudgetedSampler:
    found = samplers.build("bipeft", over, 3, {"evaluator": evaluator, **QUICK, **options})
    assert isinstance(found, BudgetedSampler)
    return found


def answered(over: SearchSpace, configurations: Sequence[Any], origin: str = "bipeft") -> list[Trial]:
    return [complete(over, number, c, 0.5, origin) for number, c in enumerate(configurations)]


@pytest.mark.parametrize("name", ["S1", "S2"])
def test_each_budget_is_answered_within_it(evaluator: Evaluator, name: str) -> None:
    over = space(evaluator, name)
    budgets = (600, 6000)
    sampler = build(evaluator, over, budgets=budgets)
    trials: list[Trial] = []
    for budget in budgets:
        (configuration,) = sampler.ask(trials)
        assert 0 < count(evaluator.backbone, over.decode(configuration)).stored <= budget
        trials = answered(over, [*(t.configuration for t in trials), configuration])
    with pytest.raises(SpaceExhaustedError, match="All 2 budgets"):
        sampler.ask(trials)
    if name == "S1":
        assert build(evaluator, over, budgets=budgets).ask([], 3) == [t.configuration for t in trials]


def test_text_to_text_models_are_searched_too(text_to_text: Evaluator) -> None:
    over = space(text_to_text, "S2")
    (configuration,) = build(text_to_text, over, budgets="5%", steps=14).ask([])
    limit = ParameterBudget.parse("5%", text_to_text.backbone.n_parameters, "stored")
    assert 0 < over.cost(configuration, "stored") <= limit.most


def test_what_was_found_can_be_measured_and_the_backbone_is_as_before(evaluator: Evaluator) -> None:
    before = {name: value.clone() for name, value in evaluator.backbone.model.state_dict().items()}
    state = torch.get_rng_state()
    over = space(evaluator)
    (configuration,) = build(evaluator, over, budgets=3000).ask([])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in evaluator.backbone.model.state_dict().items())
    measured = evaluator(over.decode(configuration), seed=0)
    assert measured.counts.stored == over.cost(configuration, "stored")


def test_trials_of_others_answer_no_budget_and_are_not_repeated(
    evaluator: Evaluator, caplog: pytest.LogCaptureFixture
) -> None:
    over = space(evaluator, "S1")
    sampler = build(evaluator, over, budgets=(600, 2000))
    first, second = sampler.ask([], 2)
    assert first != second
    with caplog.at_level(logging.INFO):
        assert sampler.ask(answered(over, [first], "initial"), 2) == [second]
    assert "ended at a known architecture" in caplog.text
    assert sampler.ask(answered(over, [first])) == [second]


def test_the_budget_of_the_space_is_taken_when_none_is_given(evaluator: Evaluator) -> None:
    for kind in ("nominal", "stored"):
        limit = ParameterBudget(2500, count=kind)  # type: ignore[arg-type]
        over = space(evaluator, "S2", limit)
        (configuration,) = build(evaluator, over).ask([])
        assert over.is_feasible(configuration)


@pytest.mark.parametrize("variant", ["entangled", "binary_then_size", "size_then_binary", "no_selection"])
def test_ablations_without_a_budget(evaluator: Evaluator, variant: str) -> None:
    over = space(evaluator, "S1")
    (configuration,) = build(evaluator, over, variant=variant, steps=8).ask([])
    assert over.is_feasible(configuration)


@pytest.mark.parametrize("preset", ["paper", "released", "recommended", "earlier"])
def test_every_preset_runs(evaluator: Evaluator, preset: str) -> None:
    sampler = build(evaluator, space(evaluator, "S1"), preset=preset, budgets=2000)
    (configuration,) = sampler.ask([])
    assert 0 < count(evaluator.backbone, sampler.answers(0)[0]).stored <= 2000
    assert sampler.settings["budgets"] == ["at most 2,000 stored parameters"]
    assert sampler.settings["triggers"] == 4
    assert configuration is not None


def test_a_folder_keeps_an_interrupted_search(
    evaluator: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = space(evaluator, "S1")
    options = {"budgets": 2000, "checkpoint": str(tmp_path), "checkpoint_every": 4, "preset": "earlier"}
    expected = build(evaluator, over, budgets=2000, preset="earlier").ask([])
    original, calls = HalvedTask.loss, []

    def loss(self: HalvedTask, half: int, step: int) -> Any:
        calls.append(step)
        if step == 9 and len(calls) < 25:
            raise KeyboardInterrupt
        return original(self, half, step)

    monkeypatch.setattr(HalvedTask, "loss", loss)
    with pytest.raises(KeyboardInterrupt):
        build(evaluator, over, **options).ask([])
    n = len(calls)
    calls += [0] * 25
    assert build(evaluator, over, **options).ask([]) == expected
    assert min(calls[n + 25 :]) >= 8
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}


def test_what_is_kept_belongs_to_its_weights_and_its_data(evaluator: Evaluator, tmp_path: Path) -> None:
    over = space(evaluator, "S1")
    other = tiny.backbone("bert", seed=1, with_tokenizer=True)
    assert other.digest() != evaluator.backbone.digest()
    files = set()
    for backbone, data_seed in ((evaluator.backbone, 0), (evaluator.backbone, 1), (other, 0)):
        own = Evaluator(backbone, evaluator.task, evaluator.splits, evaluator.recipe, data_seed=data_seed)
        files.add(SearchContext(own, over, 0, (), tmp_path).file("bipeft", "same"))
    assert len(files) == 3


def test_a_loss_that_is_not_finite_is_a_typed_failure(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HalvedTask, "loss", lambda self, half, step: torch.tensor(float("inf"), requires_grad=True))
    over = space(evaluator, "S1")
    with pytest.raises(NonFiniteFailure, match="training loss is inf at step 0"):
        build(evaluator, over, budgets=2000).ask([])
    monkeypatch.undo()
    assert build(evaluator, over, budgets=2000, steps=8).ask([])  # nothing is left attached


def test_a_study_measures_what_each_budget_gave(evaluator: Evaluator, tmp_path: Path) -> None:
    over = space(evaluator, "S1")
    sampler = build(evaluator, over, budgets=(600, 6000))
    with Study.create_or_resume(tmp_path / "study.db", "search", over, "accuracy", sampler.settings, 3) as study:
        study.run(evaluator, sampler, 5)
        trials = study.trials()
    assert [trial.origin for trial in trials] == ["bipeft", "bipeft"]
    for trial, most in zip(trials, (600, 6000), strict=True):
        assert trial.measurement is not None
        assert trial.measurement.counts.stored <= most
        assert trial.proposal_seconds > 0


# -- mistakes ----------------------------------------------------------------------------------------------


def test_mistakes_are_found_before_any_work(evaluator: Evaluator) -> None:
    over = space(evaluator)
    with pytest.raises(SettingsError, match="needs an `evaluator`"):
        samplers.build("bipeft", over, 0, {"budgets": 2000})
    with pytest.raises(SettingsError, match=r"no option 'gama' \(did you mean 'gamma'\?\)"):
        build(evaluator, over, budgets=2000, gama=1)
    with pytest.raises(SettingsError, match="gamma must be at least 0"):
        build(evaluator, over, budgets=2000, gamma=-1)
    with pytest.raises(UnknownNameError, match="preset 'papr'"):
        build(evaluator, over, budgets=2000, preset="papr")
    with pytest.raises(BudgetError, match="give the option `budgets`"):
        build(evaluator, over)
    with pytest.raises(BudgetError, match="smallest module of this space has 32 parameters; the budget is 31"):
        build(evaluator, over, budgets=(2000, 31))
    with pytest.raises(SettingsError, match="seed must be a whole number"):
        samplers.build("bipeft", over, -1, {"evaluator": evaluator, "budgets": 2000})
    with pytest.raises(SettingsError, match="placements share a size"):
        build(evaluator, spaces.named("SA-PA-Layer", evaluator.backbone), budgets=2000)


def test_budgets_that_the_space_does_not_allow_are_listed(evaluator: Evaluator) -> None:
    over = space(evaluator, "S2", ParameterBudget(3000, count="stored"))
    with pytest.raises(BudgetError, match=r"upper limit alone; at most 4,000 .*the space allows at most 3,000"):
        build(evaluator, over, budgets=(2000, 4000, ParameterBudget(2000, 1000, "stored")))


def test_one_example_cannot_be_halved(evaluator: Evaluator) -> None:
    parts = tiny.splits(tiny.sentiment(1), tiny.sentiment(4))
    alone = Evaluator(evaluator.backbone, tiny.SENTIMENT, parts, replace(evaluator.recipe))
    with pytest.raises(SettingsError, match="two halves, but it has 1 examples"):
        build(alone, space(alone), budgets=2000)


@pytest.mark.slow
def test_a_search_takes_no_more_than_its_share_of_a_training(evaluator: Evaluator) -> None:
    """A training has 40 steps and 320 examples, and as many steps of searching take 1.7 times as many passes."""
    over = space(evaluator)
    for options, most in (({}, 0.6), ({"most_of_a_training": 0.2}, 0.2), ({"most_of_a_training": None}, 1.7)):
        sampler = samplers.build("bipeft", over, 3, {"evaluator": evaluator, "budgets": 3000, **options})
        assert isinstance(sampler, BudgetedSampler)
        sampler.ask([])
        (told,) = sampler.told.values()
        assert 0.5 * most < told["examples"] / 320 <= most


@pytest.mark.parametrize("name", ["bipeft", "oneshot", "s3delta"])
def test_several_answers_to_a_budget_are_different_and_all_within_it(evaluator: Evaluator, name: str) -> None:
    over = space(evaluator)
    sampler = samplers.build(name, over, 3, {"evaluator": evaluator, "budgets": 3000, "answers": 3, "steps": 14})
    found = [over.decode(one) for one in sampler.ask([], 3)]
    assert len(set(found)) == 3
    assert [len({item.method for item in one}) for one in found[1:]] == [1, 1]
    assert all(0 < count(evaluator.backbone, one).stored <= 3000 for one in found)
    first = samplers.build(name, over, 3, {"evaluator": evaluator, "budgets": 3000, "steps": 14}).ask([])
    assert over.decode(first[0]) == found[0]
