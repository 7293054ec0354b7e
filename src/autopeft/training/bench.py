"""Where objectives get what they ask for: an evaluator's backbone and examples, and what is attached to them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autopeft.architecture import Architecture, Counts, Placement
from autopeft.backbones import seeded
from autopeft.methods import lookup
from autopeft.network.attach import Attached, attach
from autopeft.objective import Objective
from autopeft.training.batches import collate
from autopeft.training.precision import autocast

if TYPE_CHECKING:
    from autopeft.training.evaluator import Evaluator


_FOR_THE_RECORD = 0.02
"""The share of a training's seconds that each measurement may take which the search does not ask for."""


class EvaluatorProbe:
    """What is attached to an evaluator's backbone: an `autopeft.objectives.Probe`.

    The batch is the one of median length among those that an evaluation of the validation part makes.
    """

    def __init__(self, evaluator: Evaluator, architecture: Architecture) -> None:
        self._evaluator, self._learner = evaluator, evaluator.learner
        self.architecture, self.counts = architecture, evaluator.counts(architecture)
        self.n_head, self.device = evaluator.learner.n_head, str(evaluator.backbone.device)
        part, size = evaluator.validation_part, evaluator.evaluation_batch
        # The median length and not the first batch, which is the longest of all and would make every model look slow.
        order = np.argsort(part.lengths, kind="stable")
        half = len(order) // 2
        # Operations are counted on a single example, where no padding is counted along.
        self._one = collate(part, order[half : half + 1], self._learner.pad, evaluator.backbone.device)
        indices = order[max(0, half - size // 2) : half + (size + 1) // 2]
        self._batch = collate(part, indices, self._learner.pad, evaluator.backbone.device)
        self.batch_size, self.length = len(indices), int(self._batch.inputs["input_ids"].shape[1])
        self.allowance = math.inf

    def answer(self) -> None:
        """See `autopeft.objectives.Probe.answer`."""
        self._learner.model.eval()
        with torch.inference_mode(), autocast(self._evaluator.recipe, self._evaluator.backbone.device):
            self._learner.outputs(self._batch)

    def forward(self) -> int:
        """See `autopeft.objectives.Probe.forward`."""
        self._learner.model.eval()
        # A pass draws numbers for its dropout, which no measurement may take from the training that comes next. Not in
        # inference mode, in which the counter of operations sees nothing.
        with seeded(0), torch.no_grad(), autocast(self._evaluator.recipe, self._evaluator.backbone.device):
            self._learner.forward(self._one)
        return int(self._one.inputs["input_ids"].numel())

    def synchronise(self) -> None:
        """Wait for the device. A GPU is told what to do and left at it, so that a clock that does not wait is wrong."""
        device = self._evaluator.backbone.device
        if device.type != "cpu":
            torch.accelerator.synchronize(device)


class EvaluatorBench:
    """An evaluator's backbone and examples: an `autopeft.objectives.Bench`. It is used between trainings."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator, self.n_head = evaluator, evaluator.learner.n_head
        self.kept: dict[tuple[object, ...], float] = {}

    def counts(self, architecture: Architecture) -> Counts:
        """See `autopeft.objectives.Bench.counts`."""
        return self._evaluator.counts(architecture)

    def kind_of(self, placement: Placement) -> tuple[object, ...]:
        """See `autopeft.objectives.Bench.kind_of`."""
        sites = self._evaluator.backbone.sites
        site = sites[placement.site]
        # Sites that differ in their layer alone cost alike, so each kind is measured once and not once a layer.
        alike = replace(site, layer=None, entry="", exit="", norm=None)
        # A head reads one token, so that the last layer computes less than the others: see `autopeft.training.heads`.
        layers = [one.layer for one in sites.values() if one.stack == site.stack and one.layer is not None]
        is_last = site.layer is None or site.layer == max(layers)
        return alike, site.layer is None, is_last, placement.method, placement.size

    def deciding(self, architecture: Architecture) -> tuple[Placement, ...]:
        """See `autopeft.objectives.Bench.deciding`: where a module looks across tokens, the last layer is not cut."""
        looking = (placement for placement in architecture if lookup(placement.method).sees_padding)
        first = next(looking, None)
        return () if first is None else (first,)

    @contextmanager
    def attached(self, architecture: Architecture) -> Iterator[EvaluatorProbe]:
        """See `autopeft.objectives.Bench.attached`."""
        with attach(self._evaluator.backbone, architecture) as attached:
            attached.train(False)
            attached.fold()
            yield EvaluatorProbe(self._evaluator, architecture)


def readings(
    evaluator: Evaluator, attached: Attached, objectives: Iterable[Objective], trained_seconds: float = math.inf
) -> Mapping[str, Mapping[str, Any]]:
    """What objectives say of a trained architecture that is attached: a record with a ``value`` of each, by name.

    One that can be measured is; the others are priced, which asks the bench for no more than counts while something is
    attached: see `autopeft.objective.Objective.price`.

    Args:
        trained_seconds: how long the training took, of which what is not searched by may take a share.
    """
    probe, bench = EvaluatorProbe(evaluator, attached.architecture), EvaluatorBench(evaluator)
    found: dict[str, Mapping[str, Any]] = {}
    for one in objectives:
        if one.measure is not None:
            probe.allowance = math.inf if one.name == evaluator.cost.name else _FOR_THE_RECORD * trained_seconds
            found[one.name] = {"unit": one.unit, **one.measure(probe)}
        elif one.price is not None:
            found[one.name] = {"unit": one.unit, "value": one.price(bench, attached.architecture)}
    return found
