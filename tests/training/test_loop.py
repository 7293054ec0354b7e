"""The training loop: schedule, early stopping, restoration, seeds; with a learner whose gradient is known."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autopeft.errors import NonFiniteFailure, SettingsError
from autopeft.training.batches import Batch, Encoded, Ragged
from autopeft.training.consistency import Forward
from autopeft.training.loop import fit
from autopeft.training.precision import autocast
from autopeft.training.recipe import Recipe


class Slope:
    """A learner with one parameter and a loss of gradient 1: AdamW then moves it by the learning rate, exactly.

    With a constant gradient both of Adam's bias-corrected moments equal it, so every step is ``lr * 1 / (1 + 1e-8)``.
    """

    pad, n_head = 0, 0

    def __init__(self, losses: Sequence[float] = ()) -> None:
        self.model: nn.Module = nn.Dropout(0.5)
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.seen: list[list[int]] = []
        self.modes: list[bool] = []
        self._losses = iter(losses)

    def forward(self, batch: Batch) -> Forward:
        return Forward(self.loss(batch), torch.zeros(len(batch.indices)))

    def loss(self, batch: Batch) -> Tensor:
        self.seen.append(batch.indices.tolist())
        self.modes.append(self.model.training)
        return self.weight.sum() + next(self._losses, 0.0)

    def reset(self, seed: int) -> list[nn.Parameter]:
        return []


def examples(n: int) -> Encoded:
    return Encoded(Ragged.of([[1] * (1 + i % 3) for i in range(n)]), None, np.zeros(n, dtype=np.int64))


def run(learner: Any, recipe: Recipe, n: int, scores: Sequence[float] = (), seed: int = 0) -> tuple[Any, list[float]]:
    """The fit, and the parameter's value at each evaluation; metrics are `scores` one after the other."""
    values, script = list[float](), iter(scores)

    def evaluate() -> dict[str, float]:
        values.append(learner.weight.item())
        learner.model.eval()
        return {"accuracy": next(script, 0.5)}

    fitted = fit(learner, [learner.weight], examples(n), recipe, evaluate, objective="accuracy", seed=seed)
    return fitted, values


def rates(recipe: Recipe, n: int) -> list[float]:
    """The learning rate of every step, in units of the peak."""
    learner, path = Slope(), [0.0]

    def evaluate() -> dict[str, float]:
        return {"accuracy": 0.5}

    fit(
        learner, [learner.weight], examples(n), recipe, evaluate, objective="accuracy", seed=0,
        on_step=lambda done, planned: path.append(learner.weight.item()),
    )  # fmt: skip
    return [(before - after) / recipe.learning_rate for before, after in itertools.pairwise(path)]


def test_the_rate_falls_to_nothing_over_exactly_the_run() -> None:
    recipe = Recipe(learning_rate=0.1, epochs=2, batch_size=4, keep="last")
    assert rates(recipe, 8) == pytest.approx([1, 3 / 4, 2 / 4, 1 / 4])


def test_warm_up_and_decay_together_span_the_run() -> None:
    # 8 steps, 2 of warm-up: 1/3, 2/3, then from 1 down to 1/6 of the six steps that are left.
    recipe = Recipe(learning_rate=0.1, epochs=2, batch_size=2, warmup=0.25, keep="last")
    assert rates(recipe, 8) == pytest.approx([1 / 3, 2 / 3, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


@pytest.mark.parametrize(
    ("changes", "n", "steps"),
    [
        ({"epochs": 1}, 10, 3),
        ({"epochs": 0.5}, 16, 2),
        ({"epochs": 0.01}, 16, 1),
        ({"epochs": 2.5}, 16, 10),
        ({"steps": 7}, 16, 7),
        ({"steps": 7, "epochs": 3}, 2, 7),
    ],
)
def test_the_number_of_steps(changes: dict[str, Any], n: int, steps: int) -> None:
    recipe = Recipe(batch_size=4, **changes)
    learner = Slope()
    fitted, _ = run(learner, recipe, n)
    assert recipe.n_steps(n) == fitted.steps == len(learner.seen) == steps


def test_every_example_once_an_epoch() -> None:
    learner = Slope()
    run(learner, Recipe(epochs=3, batch_size=4), 10)
    for start in (0, 3, 6):
        epoch = learner.seen[start : start + 3]
        assert sorted(index for batch in epoch for index in batch) == list(range(10))
        assert sorted(map(len, epoch)) == [2, 4, 4]
    assert learner.seen[:3] != learner.seen[3:6]
    assert all(learner.modes)  # also after an evaluation that switched to evaluation mode
    assert not learner.model.training


def test_the_best_evaluation_is_restored() -> None:
    learner = Slope()
    fitted, values = run(learner, Recipe(epochs=4, batch_size=4), 8, [0.6, 0.8, 0.8, 0.7])
    assert fitted.kept == 1  # of equals the first
    assert learner.weight.item() == values[1]
    assert [epoch.metrics["accuracy"] for epoch in fitted.history] == [0.6, 0.8, 0.8, 0.7]
    assert [(epoch.epoch, epoch.step) for epoch in fitted.history] == [(1, 2), (2, 4), (3, 6), (4, 8)]


def test_the_last_is_kept_on_request_or_when_it_is_the_best() -> None:
    learner = Slope()
    fitted, values = run(learner, Recipe(epochs=3, batch_size=4, keep="last"), 8, [0.6, 0.8, 0.7])
    assert (fitted.kept, learner.weight.item()) == (2, values[2])
    fitted, values = run(learner, Recipe(epochs=3, batch_size=4), 8, [0.6, 0.7, 0.8])
    assert (fitted.kept, learner.weight.item()) == (2, values[2])


def test_a_negative_metric_can_be_the_best() -> None:
    learner = Slope()
    fitted, values = run(learner, Recipe(epochs=2, batch_size=4), 8, [-0.1, -0.2])
    assert (fitted.kept, learner.weight.item()) == (0, values[0])


def test_patience_counts_evaluations_without_improvement() -> None:
    learner = Slope()
    fitted, values = run(learner, Recipe(epochs=10, batch_size=4, patience=2), 8, [0.5, 0.7, 0.6, 0.7, 0.9])
    assert len(fitted.history) == 4  # 0.7 a second time is no improvement
    assert (fitted.kept, fitted.steps, learner.weight.item()) == (1, 8, values[1])


def test_evaluations_within_an_epoch_and_at_the_end() -> None:
    fitted, _ = run(Slope(), Recipe(epochs=1, batch_size=2, evaluate_every=0.4), 10)
    assert [(epoch.epoch, epoch.step) for epoch in fitted.history] == [(0.4, 2), (0.8, 4), (1.0, 5)]
    # Half of five steps is no whole number: the end is evaluated once, not a step before as well.
    halves, _ = run(Slope(), Recipe(epochs=1, batch_size=2, evaluate_every=0.5), 10)
    assert [epoch.step for epoch in halves.history] == [3, 5]


def test_the_loss_is_the_mean_since_the_last_evaluation() -> None:
    # The parameter starts at 0 and hardly moves: the losses are those of the script.
    learner = Slope([1, 3, 5, 9])
    fitted, _ = run(learner, Recipe(learning_rate=1e-9, epochs=2, batch_size=4), 8)
    assert [epoch.loss for epoch in fitted.history] == pytest.approx([2, 7], abs=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run(bad: float) -> None:
    with pytest.raises(NonFiniteFailure, match=r"training loss is (nan|inf) at step 2 of 4"):
        run(Slope([1, bad]), Recipe(epochs=2, batch_size=4), 8)


def test_a_loss_that_is_not_finite_is_seen_long_before_the_end_of_the_epoch() -> None:
    learner = Slope([math.nan])
    with pytest.raises(NonFiniteFailure, match="at step 50 of 200"):
        run(learner, Recipe(epochs=1, batch_size=1), 200)


def test_a_metric_that_is_not_finite_ends_the_run() -> None:
    with pytest.raises(NonFiniteFailure, match="accuracy is nan at step 2"):
        run(Slope(), Recipe(epochs=2, batch_size=4), 8, [math.nan])


def test_gradients_are_clipped_to_the_norm() -> None:
    """AdamW hides a constant factor, so two steps with gradients 1 and 100 tell: clipped, they are alike."""

    class Steep(Slope):
        def loss(self, batch: Batch) -> Tensor:
            self.seen.append([])
            return self.weight.sum() * (100.0 if len(self.seen) == 2 else 1.0)

    def moved(clip: float) -> float:
        learner = Steep()
        run(learner, Recipe(learning_rate=0.1, steps=2, batch_size=8, clip=clip, keep="last"), 8)
        return learner.weight.item()

    assert moved(1.0) == pytest.approx(-0.1 - 0.05)
    # By hand: m = (0.9 * 0.1 + 0.1 * 100) / 0.19, v = (0.999 * 0.001 + 0.001 * 10,000) / 0.001999.
    second = ((0.09 + 10) / 0.19) / math.sqrt((0.000999 + 10) / 0.001999)
    assert moved(0.0) == pytest.approx(-0.1 - 0.05 * second)


def test_weight_decay_is_decoupled() -> None:
    learner = Slope()
    learner.weight.data.fill_(2.0)
    run(learner, Recipe(learning_rate=0.1, steps=1, batch_size=8, weight_decay=0.5, keep="last"), 8)
    assert learner.weight.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5) - 0.1)


class Noisy(Slope):
    """A learner whose loss depends on dropout."""

    def loss(self, batch: Batch) -> Tensor:
        self.seen.append(batch.indices.tolist())
        return (self.model(torch.ones(8, dtype=torch.float64)) * (self.weight - 1)).square().mean()


def test_factors_multiply_the_rate_of_their_parameters_and_nothing_else() -> None:
    """Adam's first steps are as long as the rate, whatever the gradient."""

    class Two(Slope):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Parameter(torch.zeros_like(self.weight))

        def loss(self, batch: Batch) -> Tensor:
            return self.weight.sum() + self.other.sum()

    learner = Two()
    before = learner.weight.item()
    recipe = Recipe(learning_rate=0.1, steps=1, batch_size=8, keep="last")
    fit(
        learner, [learner.weight, learner.other], examples(8), recipe, lambda: {"accuracy": 0.0},
        objective="accuracy", seed=0, factors=[1.0, 0.25],
    )  # fmt: skip
    assert learner.weight.item() - before == pytest.approx(-0.1)
    assert learner.other.item() == pytest.approx(-0.025)


def test_the_seed_decides_order_and_dropout() -> None:
    def curve(seed: int) -> tuple[list[list[int]], list[float]]:
        learner = Noisy()
        fitted, _ = run(learner, Recipe(epochs=2, batch_size=4), 16, seed=seed)
        return learner.seen, [epoch.loss for epoch in fitted.history]

    torch.manual_seed(1)
    first = curve(3)
    torch.manual_seed(2)
    assert curve(3) == first
    order, losses = curve(4)
    assert order != first[0]
    assert losses != first[1]


def test_the_global_generators_are_left_as_they_were() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    run(Noisy(), Recipe(epochs=2, batch_size=4), 16)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]
    with pytest.raises(NonFiniteFailure):
        run(Slope([math.nan]), Recipe(epochs=1, batch_size=8), 8)
    assert torch.equal(torch.random.get_rng_state(), before[0])


def test_progress_is_told_step_by_step() -> None:
    told, learner = list[tuple[int, int]](), Slope()
    fit(
        learner, [learner.weight], examples(8), Recipe(epochs=2, batch_size=4), lambda: {"accuracy": 1.0},
        objective="accuracy", seed=0, on_step=lambda done, planned: told.append((done, planned)),
    )  # fmt: skip
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_time_is_told_with_and_without_evaluations() -> None:
    fitted, _ = run(Slope(), Recipe(epochs=2, batch_size=4), 8)
    assert 0 < fitted.train_seconds <= fitted.seconds
    seconds = [epoch.seconds for epoch in fitted.history]
    assert seconds == sorted(seconds)


def test_every_mistake_in_a_recipe_is_listed() -> None:
    with pytest.raises(SettingsError, match=r"learning_rate must be above 0, but got 0; .*batch_size.*; .*keep"):
        Recipe(learning_rate=0, batch_size=0, keep="worst")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", math.nan),
        ("epochs", -1),
        ("epochs", math.inf),
        ("steps", 0),
        ("steps", 1.5),
        ("data_fraction", 0),
        ("data_fraction", 1.1),
        ("drop_layers", -1),
        ("consistency", -0.5),
        ("rate_factors", {"serial": 0}),
        ("rate_factors", {"serial": "fast"}),
        ("rate_factors", 0.1),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("weight_decay", -1),
        ("warmup", 1.0),
        ("clip", -1),
        ("patience", 0),
        ("evaluate_every", 0),
        ("max_length", 7),
        ("precision", "fp16"),
    ],
)
def test_recipes_outside_their_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=rf"{name}(\.serial)? must be"):
        Recipe(**{name: value})


def test_a_recipe_makes_the_round_trip() -> None:
    recipe = Recipe(learning_rate=3e-4, patience=3, precision="bf16")
    assert Recipe(**recipe.as_dict()) == recipe


def test_mixed_precision_only_on_request() -> None:
    cpu = torch.device("cpu")
    with autocast(Recipe(precision="bf16"), cpu):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with autocast(Recipe(), cpu):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
