"""The Adaptable Adapter: switches, what they learn, and the sampler."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny
from autopeft import samplers
from autopeft.errors import BudgetError, NonFiniteFailure, SettingsError
from autopeft.network.build import count
from autopeft.searches._halves import HalvedTask
from autopeft.searches._problem import TRAIN, VALIDATION, Plan
from autopeft.searches._supernet import Supernet
from autopeft.searches.adaptable.search import AdaptableResult, AdaptableSettings, SwitchSearch
from autopeft.searches.s3delta.sampler import one_size
from autopeft.spaces import papers as spaces
from autopeft.training.evaluator import Evaluator
from autopeft.training.recipe import Recipe
from planted import Planted, backbone, space_of

PLANTED = {("lora", "encoder.0.q"), ("lora", "encoder.0.v")}


def fresh(settings: AdaptableSettings, budget: int, steps: int, seed: int) -> SwitchSearch:
    model = backbone()
    supernet = Supernet(model, one_size(space_of(model), settings.size), seed=seed)
    problem = Planted(model, ("encoder.0.q", "encoder.0.v"), seed)
    return SwitchSearch(supernet, problem, settings, Plan(steps, 0.01, budget, seed))


def searched(seed: int, budget: int = 10_000, steps: int = 60, **changes: object) -> AdaptableResult:
    return fresh(replace(AdaptableSettings(), **changes), budget, steps, seed).run()  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_planted_architecture_is_found() -> None:
    """Two of the eight LoRA lower the loss, and the budget holds two at the most.

    A search that looks at nothing holds both with probability 1/28 at most; nine of ten seeds are then right with
    probability below 1e-12.
    """
    found = [searched(seed, budget=600) for seed in range(10)]
    placed = [{(p.method, p.site) for p in one.architecture} for one in found]
    assert sum(one >= PLANTED for one in placed) >= 9
    assert all(0 < one.parameters <= 600 for one in found)


def test_shares_are_those_of_the_concrete_distribution() -> None:
    """P(own share above one half) is a logistic function of the difference of the logits, whatever the temperature."""
    search = fresh(AdaptableSettings(), 10_000, 5, 0)
    with torch.no_grad():
        search.logits[:, 1] = 1.5
    wins = []
    for search.done in range(400):
        shares = search.draw()
        torch.testing.assert_close(shares.sum(1), torch.ones(len(shares)))
        wins.append((shares[:, 1] > 0.5).float())
    rate = float(torch.stack(wins).mean())
    expected, n = 1 / (1 + np.exp(-1.0)), 400 * len(search.logits)
    assert abs(rate - expected) < 6 * (expected * (1 - expected) / n) ** 0.5  # fails by chance once in 5e8


def test_who_prefers_the_identity_is_left_out_and_somebody_stays() -> None:
    search = fresh(AdaptableSettings(), 10_000, 0, 0)
    with torch.no_grad():
        search.logits[:, 1] = torch.linspace(-0.5, 0.9, len(search.logits))
    found = search.run()
    assert len(found.architecture) == int((found.preference > 0).sum()) < len(search.logits)
    with torch.no_grad():
        search.logits[:, 1] = -1.0
        search.logits[3, 1] = -0.2
    (only,) = search.run().architecture
    assert (only.site, only.method) == search.supernet.candidates.keys[3]


def test_the_same_seed_gives_the_same() -> None:
    first, second, other = (searched(seed, steps=6) for seed in (4, 4, 5))
    assert np.array_equal(first.preference, second.preference)
    assert not np.array_equal(first.preference, other.preference)


def test_a_loss_that_is_not_finite_is_a_typed_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Planted, "loss", lambda self, half, step: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(NonFiniteFailure, match="training loss is nan at step 0 of 5"):
        searched(0, steps=5)


def test_several_sizes_and_a_budget_for_nothing_are_refused() -> None:
    model = backbone()
    with Supernet(model, space_of(model)) as supernet, pytest.raises(SettingsError, match="each must have one size"):
        SwitchSearch(supernet, Planted(model, (), 0), AdaptableSettings(), Plan(5, 0.01, 600, 0))
    with pytest.raises(BudgetError, match="the budget is 15"):
        fresh(AdaptableSettings(size="smallest"), 15, 5, 0)
    with pytest.raises(SettingsError, match=r"temperature must be above 0, but got 0; |size must be"):
        AdaptableSettings(temperature=0, size="middle")  # type: ignore[arg-type]


# -- as a sampler ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    parts = tiny.splits(tiny.sentiment(30), tiny.sentiment(8, seed=1))
    recipe = Recipe(epochs=1, batch_size=8, max_length=16)
    return Evaluator(tiny.backbone("bert", with_tokenizer=True), tiny.SENTIMENT, parts, recipe)


def test_a_whole_task_has_no_second_half(evaluator: Evaluator) -> None:
    whole = HalvedTask(evaluator, 8, 0, is_whole=True)
    assert whole.steps_per_epoch == 4
    seen = np.concatenate([whole.indices(TRAIN, step) for step in range(4)])
    assert sorted(seen) == list(range(30))
    assert whole._batches(VALIDATION) == 0


def test_layers_are_chosen_with_and_without_a_budget(evaluator: Evaluator) -> None:
    over = spaces.named("SA-Switch", evaluator.backbone)
    sampler = samplers.build("adaptable", over, 3, {"evaluator": evaluator, "steps": 4})
    (configuration,) = sampler.ask([])
    found = over.decode(configuration)
    assert {placement.method for placement in found} == {"serial"}
    assert {placement.size for placement in found} == {evaluator.backbone.hidden_size // 8}
    one = 2 * 32 * 4 + 4 + 32  # weights and biases of one module
    limited = samplers.build("adaptable", over, 3, {"evaluator": evaluator, "steps": 4, "budgets": one + 5})
    (configuration,) = limited.ask([])
    assert count(evaluator.backbone, over.decode(configuration)).stored == one
