"""AdaMix: experts that take turns in training and are one adapter afterwards."""

from __future__ import annotations

import torch
from torch.nn import functional

import tiny
from autopeft.architecture import Architecture, Placement
from autopeft.methods.adamix import Mixture
from autopeft.network.attach import attach
from autopeft.network.build import count
from autopeft.training.evaluator import Evaluator
from autopeft.training.recipe import Recipe


def test_in_training_one_expert_answers_and_each_does_in_turn() -> None:
    torch.manual_seed(0)
    module = Mixture(6, 3, 4)
    u, y = torch.randn(2, 5, 6), torch.randn(2, 5, 6)
    module.down_bias.data.normal_()
    answers = [
        y + module.up(functional.gelu(functional.linear(u, module.down_weight[e], module.down_bias[e])))
        for e in range(4)
    ]
    seen = set()
    for _ in range(100):  # misses one of the four once in 8e11
        found = module(u, y)
        (chosen,) = [e for e in range(4) if torch.allclose(found, answers[e], rtol=0, atol=1e-6)]
        seen.add(chosen)
    assert seen == {0, 1, 2, 3}


def test_in_evaluation_the_mean_of_the_weights_answers() -> None:
    torch.manual_seed(1)
    module = Mixture(6, 3, 4).eval()
    u, y = torch.randn(2, 5, 6), torch.randn(2, 5, 6)
    mean = functional.linear(u, module.down_weight.mean(0), module.down_bias.mean(0))
    expected = y + module.up(functional.gelu(mean))
    torch.testing.assert_close(module(u, y), expected)
    module.fold()
    assert module.down_weight.shape == (1, 3, 6)
    torch.testing.assert_close(module.train()(u, y), expected)
    before = module.down_weight
    module.fold()
    assert module.down_weight is before


def test_what_is_measured_is_what_is_stored() -> None:
    """Evaluation on the way and at the end uses the mean expert, so the best epoch's value is that of the model."""
    parts = tiny.splits(tiny.sentiment(24), tiny.sentiment(16, seed=1))
    backbone = tiny.backbone("bert", with_tokenizer=True)
    evaluator = Evaluator(backbone, tiny.SENTIMENT, parts, Recipe(epochs=3, batch_size=8, max_length=16))
    architecture = Architecture((Placement("encoder.0.ffn", "adamix", 4),))
    with evaluator.trained(architecture, 0) as run:
        found = run.measure()
        kept = max(epoch.metrics[found.objective] for epoch in found.history)
        assert found.value == kept
        assert sum(value.numel() for value in run.attached.state().values()) == found.counts.stored


def test_experts_count_while_they_are_trained_only() -> None:
    found = tiny.backbone("bert")
    site = found.site("encoder.0.ffn")
    architecture = Architecture((Placement(site.key, "adamix", 4),))
    counts = count(found, architecture)
    d = site.d_out
    assert counts.nominal == 2 * d * 4
    assert counts.stored == 2 * d * 4 + 4 + d
    assert counts.trained == counts.stored + 3 * (4 * d + 4)
    with attach(found, architecture) as attached:
        assert attached.modules[site.key, "adamix"].training
