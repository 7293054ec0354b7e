"""Two passes of a batch: their divergence, and training that draws them together."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional

import tiny
from autopeft.network.attach import attach
from autopeft.training.batches import collate
from autopeft.training.consistency import Forward, divergence, loss_with_consistency
from autopeft.training.evaluator import Evaluator
from autopeft.training.recipe import Recipe
from autopeft.training.retraining import baseline


def test_the_divergence_is_half_of_both_directions() -> None:
    first, second = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p, q = first.log_softmax(-1), second.log_softmax(-1)
    there = functional.kl_div(q, p, log_target=True, reduction="batchmean")
    back = functional.kl_div(p, q, log_target=True, reduction="batchmean")
    torch.testing.assert_close(divergence(first, second), ((there + back) / 2).float())
    torch.testing.assert_close(divergence(second, first), divergence(first, second))
    assert divergence(first, first + 3) < 1e-12  # logits that differ by a constant are one distribution
    torch.testing.assert_close(divergence(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 5.0])), torch.tensor(4.5))


def test_absent_choices_do_not_count() -> None:
    first = torch.tensor([[1.0, 2.0, -torch.inf], [0.0, 1.0, 0.5]], requires_grad=True)
    second = torch.tensor([[0.5, 2.5, -torch.inf], [0.0, 1.0, 0.5]])
    found = divergence(first, second)
    torch.testing.assert_close(found, divergence(first.detach()[:1, :2], second[:1, :2]) / 2)
    found.backward()
    assert first.grad is not None
    assert first.grad.isfinite().all()


def test_no_weight_is_one_pass() -> None:
    passes = iter([Forward(torch.tensor(2.0), torch.zeros(1, 2)), Forward(torch.tensor(9.0), torch.tensor([[0.0, 5]]))])
    assert loss_with_consistency(lambda: next(passes), 0.0) == 2
    assert len(list(passes)) == 1
    twice = iter([Forward(torch.tensor(2.0), torch.zeros(1, 2)), Forward(torch.tensor(9.0), torch.tensor([[0.0, 5]]))])
    apart = divergence(torch.zeros(1, 2), torch.tensor([[0.0, 5.0]]))
    torch.testing.assert_close(loss_with_consistency(lambda: next(twice), 3.0), 2 + 3 * apart)


@pytest.mark.parametrize("kind", ["bert", "t5"])
@pytest.mark.slow
def test_experts_come_closer_to_each_other(kind: str) -> None:
    """Experts that start apart answer more alike after training with a heavy weight than after training without."""
    backbone = tiny.backbone(kind, with_tokenizer=True)
    recipe = Recipe(steps=30, batch_size=8, max_length=16, learning_rate=1e-2, dropout=0.0, keep="last")
    parts = tiny.splits(tiny.sentiment(24), tiny.sentiment(16, seed=1))
    evaluator = Evaluator(backbone, tiny.SENTIMENT, parts, recipe)
    architecture = baseline("adamix:4", backbone)

    def spread(weight: float) -> float:
        learner = evaluator.learner
        with attach(backbone, architecture, seed=0) as attached:
            parameters = [*attached.parameters(), *learner.reset(0)]
            batch = collate(evaluator.train_part, range(24), learner.pad, backbone.device)
            optimiser = torch.optim.AdamW(parameters, lr=1e-2)
            learner.model.train()
            attached.train()
            torch.manual_seed(0)
            for _ in range(60):
                optimiser.zero_grad()
                loss_with_consistency(lambda: learner.forward(batch), weight).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            with torch.no_grad():
                answers = [learner.forward(batch).logits for _ in range(12)]
                apart = [float(divergence(a, b)) for a, b in itertools.pairwise(answers)]
        return sum(apart) / len(apart)

    assert spread(20.0) < spread(0.0)


def test_training_uses_it_and_counts_stay() -> None:
    backbone = tiny.backbone("bert", with_tokenizer=True)
    recipe = Recipe(epochs=2, batch_size=8, max_length=16, learning_rate=1e-2)
    evaluator = Evaluator(backbone, tiny.SENTIMENT, tiny.splits(tiny.sentiment(24), tiny.sentiment(16, seed=1)), recipe)
    architecture = baseline("adamix:4", backbone)
    plain, drawn = evaluator(architecture, 0), evaluator.with_recipe(consistency=1.0)(architecture, 0)
    again = evaluator.with_recipe(consistency=1.0)(architecture, 0)
    assert [epoch.loss for epoch in drawn.history] != [epoch.loss for epoch in plain.history]
    assert [epoch.loss for epoch in drawn.history] == [epoch.loss for epoch in again.history]
    assert drawn.counts == plain.counts
