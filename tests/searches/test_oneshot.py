"""The one-shot selector: its scores against plain autograd, what it finds, and that one run serves all budgets."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np
import pytest
import torch

from autopeft import samplers
from autopeft.errors import NonFiniteFailure, SettingsError
from autopeft.searches._problem import TRAIN, Plan
from autopeft.searches._supernet import Supernet
from autopeft.searches.oneshot import OneShot, OneShotSettings, chosen
from autopeft.testing import searches
from planted import Planted, backbone, space_of

PLANTED = ("encoder.0.q", "encoder.0.v")
SCORES: tuple[Literal["gradient", "fisher"], ...] = ("gradient", "fisher")


@pytest.mark.parametrize("score", SCORES)
def test_planted_places_are_found(score: Literal["gradient", "fisher"]) -> None:
    """Room for two of eight LoRA of rank 4 (128 each): both by chance has probability 1/28 at the most."""
    model = backbone()
    with Supernet(model, space_of(model)) as supernet:
        settings = OneShotSettings(score=score, is_within_kinds=False)
        found = OneShot(supernet, Planted(model, PLANTED, 0), settings, Plan(60, 0.01, None, 0)).run()
        (architecture,) = chosen(found, supernet.candidates, 256, is_within_kinds=False)
    assert set(PLANTED) <= {p.site for p in architecture if p.method == "lora"}


@pytest.mark.parametrize("score", SCORES)
def test_a_score_is_a_mean_over_parameters_and_batches(score: Literal["gradient", "fisher"]) -> None:
    model = backbone()
    problem = Planted(model, PLANTED, 1)
    with Supernet(model, space_of(model)) as supernet:
        search = OneShot(
            supernet, problem, OneShotSettings(score=score, warmup=0.5, scored=0.2), Plan(10, 0.01, None, 1)
        )
        found = search.run()
        assert search.done == 5
        expected = np.zeros(len(supernet))
        with problem.training():
            for step in (5, 6):
                loss = problem.loss(TRAIN, step)
                for index in range(len(supernet)):
                    own = supernet.parameters_of(index)
                    gradients = torch.autograd.grad(loss, own, retain_graph=True)
                    parts = [g**2 if score == "fisher" else (w * g).abs() for w, g in zip(own, gradients, strict=True)]
                    expected[index] += float(torch.cat([part.detach().flatten() for part in parts]).mean()) / 2
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_one_training_serves_all_budgets(caplog: pytest.LogCaptureFixture) -> None:
    from autopeft.spaces import papers as spaces

    own = searches.evaluator()
    over = spaces.named("S2", own.backbone)
    with caplog.at_level(logging.INFO):
        samplers.build("oneshot", over, 0, {"evaluator": own, "budgets": (600, 3000)}).ask([], 2)
    assert caplog.text.count("were scored after") == 1


def test_a_loss_that_is_not_finite_and_settings_that_are_wrong_are_told() -> None:
    model = backbone()
    problem = Planted(model, PLANTED, 0)
    problem.loss = lambda half, step: torch.tensor(float("nan"), requires_grad=True)  # type: ignore[method-assign]
    with Supernet(model, space_of(model)) as supernet, pytest.raises(NonFiniteFailure, match="training loss is nan"):
        OneShot(supernet, problem, OneShotSettings(), Plan(10, 0.01, None, 0)).run()
    with pytest.raises(SettingsError, match="warmup must be"):
        OneShotSettings(warmup=1.0)
