"""How much every placement of a trained architecture matters: |w dL/dw| summed over its parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from autopeft.candidate import Candidate
from autopeft.finals.moves import Key
from autopeft.training.batches import collate, training_order
from autopeft.training.evaluator import Evaluator
from autopeft.training.precision import autocast

_BATCHES = 16
"""Of the training part that are looked at, at the most."""


def importances(evaluator: Evaluator, candidate: Candidate, seed: int) -> Mapping[str, float | dict[str, float]]:
    """Train `candidate` by the evaluator's recipe and look at its gradients; JSON-ready.

    Returns:
        ``"importance"``: by ``"site method"``, a mean over the batches; ``"seconds"`` of the training.

    Raises:
        TrialFailure: training failed.
    """
    with evaluator.trained(candidate, seed) as run:
        modules = {key: list(module.parameters()) for key, module in run.attached.modules.items()}
        for parameters in modules.values():
            for parameter in parameters:
                # What is folded into fixed values after training is looked at all the same.
                parameter.requires_grad_(True)
        sums: dict[Key, float] = dict.fromkeys(modules, 0.0)
        order = training_order(evaluator.train_part.lengths, evaluator.recipe.batch_size, np.random.default_rng(seed))
        batches = [batch for batch, _ in zip(order, range(_BATCHES), strict=False)]
        for indices in batches:
            for key, value in _of_batch(evaluator, modules, indices).items():
                sums[key] += value / len(batches)
        seconds = run.fitted.seconds
    return {"importance": {f"{site} {name}": value for (site, name), value in sums.items()}, "seconds": seconds}


def _of_batch(
    evaluator: Evaluator, modules: Mapping[Key, list[torch.nn.Parameter]], indices: np.ndarray
) -> dict[Key, float]:
    # In evaluation mode: dropout would add noise to what is to be compared.
    device = evaluator.backbone.device
    batch = collate(evaluator.train_part, indices, evaluator.learner.pad, device)
    with autocast(evaluator.recipe, device):
        loss = evaluator.learner.forward(batch).loss
    flat = [parameter for parameters in modules.values() for parameter in parameters]
    found = iter(torch.autograd.grad(loss, flat, allow_unused=True))
    return {
        key: math.fsum(_importance(parameter, next(found)) for parameter in parameters)
        for key, parameters in modules.items()
    }


def _importance(parameter: torch.nn.Parameter, gradient: torch.Tensor | None) -> float:
    return 0.0 if gradient is None else float((parameter.detach() * gradient).abs().sum())
