"""Peak memory of a training run, predicted before it is run, and kept below a limit while it is.

Two steps on the longest examples that a batch of the recipe can have, and an evaluation of the longest, take what the
longest steps of the run take: what a batch of one takes says little, since the optimiser, the forward and the backward
pass have their peaks at different sizes, and a processor's allocator keeps what no operation asked for. The price is
that of two steps. What is computed once for all epochs (`Recipe.trunk_dropout`) and searches in a supernet are not in
it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch

from autopeft.architecture import Architecture
from autopeft.errors import OutOfMemoryFailure
from autopeft.network.attach import attach
from autopeft.training.batches import Batch, Encoded, collate
from autopeft.training.loop import Training
from autopeft.training.memory import Memory, checkpointing, memory_given_back, shortage_told
from autopeft.training.precision import autocast
from autopeft.training.together import rated_parameters

if TYPE_CHECKING:
    from autopeft.training.evaluator import Evaluator


@dataclass(frozen=True)
class Peak:
    """The memory of a run, in bytes.

    Args:
        held: what is held before it: of a GPU its allocator's, on a CPU what of the process lies in memory.
        needed: the most that its steps and its evaluations need beyond that.
    """

    held: int
    needed: int

    @property
    def total(self) -> int:
        """The peak of the run."""
        return self.held + self.needed


def predict_peak(evaluator: Evaluator, architectures: Sequence[Architecture]) -> Peak:
    """The peak of a pass that trains these architectures together: the sum of what each needs alone.

    Raises:
        ArchitectureError: one does not fit the backbone.
        OutOfMemoryFailure: not even two steps had enough memory.
    """
    # What scores answers is imported when the first are scored, and stays: it is held by every run.
    evaluator.task.baseline(evaluator.validation)
    with shortage_told():
        needed = sum(_needed(evaluator, architecture) for architecture in architectures)
    return Peak(_held(evaluator.backbone.device), needed)


@contextmanager
def within(evaluator: Evaluator, architectures: Sequence[Architecture], limit: int | None) -> Iterator[None]:
    """Within it a pass that trains these architectures together is held below `limit` bytes; None is no limit.

    Raises:
        OutOfMemoryFailure: its predicted peak is above that, or it needs more on the way.
    """
    if limit is None:
        yield
        return
    # Where there is no room for what is held already nothing is tried.
    _check_fits(Peak(_held(evaluator.backbone.device), 0), limit)
    with shortage_told(), limited(evaluator.backbone.device, limit), _primitives_told():
        _check_fits(predict_peak(evaluator, architectures), limit)
        yield


@contextmanager
def _primitives_told() -> Iterator[None]:
    """oneDNN has one sentence for all that it cannot make, which below a limit is for want of memory."""
    try:
        yield
    except RuntimeError as error:
        if "could not create a primitive" in str(error):
            raise OutOfMemoryFailure(f"There was not enough memory below the limit: {error}.") from error
        raise


def _check_fits(peak: Peak, limit: int) -> None:
    if peak.total > limit:
        raise OutOfMemoryFailure(
            f"A peak of {peak.total:,} bytes or more is predicted, above the limit of {limit:,}: {peak.held:,} are "
            f"held before the run" + (f", and its longest batches need {peak.needed:,} more." if peak.needed else ".")
        )


@contextmanager
def limited(device: torch.device, limit: int) -> Iterator[None]:
    """Within it memory beyond `limit` bytes is refused by the system, which fails a run as a shortage does.

    Of a GPU it is the part of its memory that this process's allocator may have; on Linux what the process may add to
    what of it lies in memory. Elsewhere nothing is refused.
    """
    if device.type == "cuda":
        whole = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / whole), device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
    else:
        with _limited_process(limit):
            yield


@contextmanager
def _limited_process(limit: int) -> Iterator[None]:
    memory = psutil.Process().memory_info()
    if not hasattr(memory, "data"):  # not Linux
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    # The system counts what was asked for, used or not, so that the limit is put that far above what is used now.
    wanted = memory.data + max(0, limit - memory.rss)
    hard = before[1]
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard < 0 else min(wanted, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _held(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def _needed(evaluator: Evaluator, architecture: Architecture) -> int:
    """The most that is held beyond before, in steps and an evaluation of the longest examples."""
    backbone, learner, recipe = evaluator.backbone, evaluator.learner, evaluator.recipe
    devices = [backbone.device] if backbone.device.type == "cuda" else []
    objective = evaluator.task.metrics[0]
    with memory_given_back():
        held, memory = _held(backbone.device), Memory(backbone.device)
        # Numbers are drawn as in a training, and none may be missing in the one that comes next.
        with (
            torch.random.fork_rng(devices=devices),
            attach(backbone, architecture) as attached,
            checkpointing(backbone.model, recipe.gradient_checkpointing),
        ):
            parameters, factors = rated_parameters(attached, learner.reset(0), recipe)
            run = _Probe(
                learner, parameters, evaluator.train_part, recipe, lambda: {objective: 0.0},
                objective=objective, seed=0, factors=factors,
            )  # fmt: skip
            run.take_two(_longest(evaluator, evaluator.train_part, recipe.batch_size))
            attached.train(False)
            with torch.inference_mode(), autocast(recipe, backbone.device):
                learner.outputs(_longest(evaluator, evaluator.validation_part, evaluator.evaluation_batch))
        return max(0, memory.peak() - held)


def _longest(evaluator: Evaluator, part: Encoded, n: int) -> Batch:
    order = np.argsort(-part.lengths, kind="stable")
    return collate(part, order[:n], evaluator.learner.pad, evaluator.backbone.device)


class _Probe(Training):
    """A training of two steps on one batch."""

    def take_two(self, batch: Batch) -> None:
        with self._trains():
            # The first one makes the moments, which every later one has beside its activations.
            self._step(batch)
            if self.recipe.keep == "best":
                self.best = [parameter.detach().clone() for parameter in self.parameters]
            self._step(batch)
