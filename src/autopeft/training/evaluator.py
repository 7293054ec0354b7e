"""Evaluating candidates: attach, train, measure, detach.

Everything that is the same for all candidates (the backbone, the tokenised examples, the memory) is prepared
once, so a search pays only for what differs.
"""

from __future__ import annotations

import ctypes
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from autopeft.architecture import Architecture, Counts
from autopeft.backbones import Backbone
from autopeft.candidate import Candidate
from autopeft.errors import OutOfMemoryFailure, SettingsError, TrialFailure, is_out_of_memory
from autopeft.methods import lookup
from autopeft.network.attach import Attached, attach
from autopeft.network.build import count
from autopeft.objective import Measurement
from autopeft.tasks import Splits
from autopeft.tasks._examples import Examples
from autopeft.tasks._task import Task
from autopeft.training.batches import Encoded, collate, evaluation_order
from autopeft.training.layer_drop import LayerDrop
from autopeft.training.learners import Answer, Learner, learner_for
from autopeft.training.loop import Fit, autocast, fit
from autopeft.training.recipe import Recipe

_EVALUATION_FACTOR = 2  # evaluation keeps no activations, so its batches can be larger
_LATENCY_PASSES = 5

Progress = Callable[[int, int], None]

Given = Candidate | Architecture
"""What can be measured; an architecture is the candidate that changes nothing about the recipe."""


class Evaluator:
    """``(candidate, seed) -> Measurement`` on one backbone and one task, for one candidate or for a list of them.

    Attributes:
        backbone, task, recipe, splits, data_seed: what it was made of.
        learner: how the task is put to the backbone.
    """

    def __init__(
        self,
        backbone: Backbone,
        task: Task,
        splits: Splits,
        recipe: Recipe,
        *,
        data_seed: int = 0,
        answer: Answer = "score",
    ) -> None:
        """Tokenise the training and the validation part.

        Args:
            data_seed: draws the subset when ``recipe.data_fraction`` is below 1; the same for every architecture.
            answer: how a text-to-text model's answer is read.

        Raises:
            SettingsError: see `autopeft.training.learners.learner_for`.
            UnknownNameError: `recipe.rate_factors` names a method that there is not.
        """
        _check_factors(recipe)
        self.backbone, self.task, self.recipe, self.splits = backbone, task, recipe, splits
        self.data_seed, self.answer = data_seed, answer
        train = _fraction(splits.train, recipe.data_fraction, data_seed)
        self.learner: Learner = learner_for(backbone, task, answer, train)
        self._train = self.encode(train)
        self._validation = splits.validation
        self._encoded_validation = self.encode(splits.validation)

    @property
    def n_train(self) -> int:
        """Training examples in use."""
        return len(self._train)

    @property
    def train_part(self) -> Encoded:
        """The encoded training examples in use, for a search that trains on its own."""
        return self._train

    def encode(self, examples: Examples) -> Encoded:
        """Token ids of `examples`, cut as the recipe says."""
        return self.learner.encode(examples, self.recipe.max_length, self.recipe.truncation_side)

    def with_recipe(self, **changes: Any) -> Evaluator:
        """The same data and backbone under another recipe; what was encoded is encoded again only if it must be.

        Raises:
            SettingsError, UnknownNameError: the changes cannot be used.
        """
        recipe = replace(self.recipe, **changes)
        _check_factors(recipe)
        if _read_by(recipe) != _read_by(self.recipe):
            return Evaluator(
                self.backbone, self.task, self.splits, recipe, data_seed=self.data_seed, answer=self.answer
            )
        other = object.__new__(Evaluator)
        other.__dict__.update(self.__dict__, recipe=recipe)
        return other

    def counts(self, architecture: Architecture) -> Counts:
        """The three parameter counts, without building anything."""
        return count(self.backbone, architecture, self.learner.n_head)

    def __call__(self, candidate: Given, seed: int, on_step: Progress | None = None) -> Measurement:
        """Train `candidate` from `seed` and measure it on the validation part: `measure_all` of one.

        Raises:
            TrialFailure: NaN or a memory shortage; the backbone is as before.
        """
        (found,) = self.measure_all([candidate], [seed], on_step)
        if isinstance(found, TrialFailure):
            raise found
        return found

    def measure_all(
        self, candidates: Sequence[Given], seeds: Sequence[int], on_step: Progress | None = None
    ) -> list[Measurement | TrialFailure]:
        """Train each candidate from its seed and measure it on the validation part.

        What one gives does not depend on which others stand beside it: a failure takes the place of its measurement
        and leaves the others as they were.

        Args:
            candidates: architectures, with or without changes of the recipe; the same one may stand there twice.
            seeds: one for each candidate.
            on_step: called with the steps done and the steps planned, of one candidate after the other.

        Returns:
            A measurement or a failure for each, in order.

        Raises:
            ArchitectureError: a candidate does not fit the backbone.
            SettingsError: there are not as many seeds as candidates.
        """
        if len(candidates) != len(seeds):
            raise SettingsError(f"Every candidate has a seed, but got {len(candidates)} and {len(seeds)} seeds.")
        return [self._measured(candidate, seed, on_step) for candidate, seed in zip(candidates, seeds, strict=True)]

    def _measured(self, candidate: Given, seed: int, on_step: Progress | None) -> Measurement | TrialFailure:
        try:
            with self.trained(candidate, seed, on_step) as run:
                return run.measure()
        except TrialFailure as failure:
            _let_go(failure)
            return failure

    @contextmanager
    def trained(self, candidate: Given, seed: int, on_step: Progress | None = None) -> Iterator[Run]:
        """A trained candidate, attached until the context ends.

        Raises:
            TrialFailure: NaN or a memory shortage; the backbone is as before.
        """
        memory, evaluator = _Memory(self.backbone.device), self._under(Candidate.of(candidate))
        architecture = Candidate.of(candidate).architecture
        with _memory_given_back(), _shortage_told(), evaluator._trained(architecture, seed, on_step, memory) as run:
            yield run

    def _under(self, candidate: Candidate) -> Evaluator:
        """The evaluator whose recipe is the one that `candidate` is trained with."""
        changed = candidate.recipe_for(self.recipe)
        return self if changed is self.recipe else self.with_recipe(**vars(changed))

    @contextmanager
    def _trained(
        self, architecture: Architecture, seed: int, on_step: Progress | None, memory: _Memory
    ) -> Iterator[Run]:
        attached = attach(self.backbone, architecture, seed=seed)
        with attached, checkpointing(self.backbone.model, self.recipe.gradient_checkpointing):
            parameters = [*attached.parameters(), *self.learner.reset(seed)]
            factors = [self.recipe.rate_factors.get(method, 1.0) for method, _ in attached.parameters_by_method()]
            factors += [1.0] * (len(parameters) - len(factors))

            drop = LayerDrop(attached, self.recipe.drop_layers, seed)

            def evaluate() -> Mapping[str, float]:
                attached.train(False)
                drop.nothing()
                found = self.score(self._encoded_validation, self._validation)
                attached.train()
                return found

            fitted = fit(
                self.learner,
                parameters,
                self._train,
                self.recipe,
                evaluate,
                objective=self.task.metrics[0],
                seed=seed,
                on_step=on_step,
                before_step=drop if self.recipe.drop_layers else None,
                factors=factors,
            )
            attached.train(False)
            attached.fold()
            yield Run(self, attached, fitted, memory)

    @torch.inference_mode()
    def outputs(self, encoded: Encoded) -> list[Any]:
        """What the current parameters give for every example, in order."""
        self.learner.model.eval()
        found: list[Any] = [None] * len(encoded)
        device, size = self.backbone.device, _EVALUATION_FACTOR * self.recipe.batch_size
        for indices in evaluation_order(encoded.lengths, size):
            batch = collate(encoded, indices, self.learner.pad, device)
            with autocast(self.recipe, device):
                results = self.learner.outputs(batch)
            for index, result in zip(indices, results, strict=True):
                found[int(index)] = result
        return found

    def score(self, encoded: Encoded, examples: Examples) -> Mapping[str, float]:
        """The task's metrics of the current parameters on `examples`."""
        return self.learner.score(self.outputs(encoded), examples)

    def latency(self) -> float:
        """Median seconds that one validation batch of median length takes."""
        order = np.argsort(self._encoded_validation.lengths, kind="stable")
        half, size = len(order) // 2, _EVALUATION_FACTOR * self.recipe.batch_size
        indices = order[max(0, half - size // 2) : half + size // 2 + 1]
        batch = collate(self._encoded_validation, indices, self.learner.pad, self.backbone.device)
        seconds = []
        for _ in range(_LATENCY_PASSES):
            started = time.perf_counter()
            with torch.inference_mode(), autocast(self.recipe, self.backbone.device):
                self.learner.outputs(batch)
            seconds.append(time.perf_counter() - started)
        return float(np.median(seconds))


class Run:
    """A trained architecture on its backbone; valid inside `Evaluator.trained`."""

    def __init__(self, evaluator: Evaluator, attached: Attached, fitted: Fit, memory: _Memory) -> None:
        self.evaluator, self.attached, self.fitted = evaluator, attached, fitted
        self._memory = memory

    def measure(self, split: str = "validation", examples: Examples | None = None) -> Measurement:
        """The measurement of this run.

        Args:
            split: the name of what is measured on.
            examples: what to measure on; the validation part of the search when None.
        """
        evaluator = self.evaluator
        if examples is None:
            metrics = self.fitted.history[self.fitted.kept].metrics
        else:
            encoded = evaluator.encode(examples)
            metrics = evaluator.score(encoded, examples)
        return Measurement(
            metrics=dict(metrics),
            objective=evaluator.task.metrics[0],
            counts=evaluator.counts(self.attached.architecture),
            seconds=self.fitted.seconds,
            peak_memory=self._memory.peak(),
            latency=evaluator.latency(),
            split=split,
            history=self.fitted.history,
            extra={
                "n_train": evaluator.n_train,
                "n_scored": len(evaluator.splits.validation if examples is None else examples),
                "steps": self.fitted.steps,
                "train_seconds": self.fitted.train_seconds,
                "kept_epoch": self.fitted.history[self.fitted.kept].epoch,
                "learning_rate": evaluator.recipe.learning_rate,
            },
        )


class _Memory:
    """Peak memory in bytes since its creation (GPU), or of the process so far (CPU: only the peak is kept)."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def peak(self) -> int:
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextmanager
def _memory_given_back() -> Iterator[None]:
    """Give free memory back to the system when the context ends.

    The allocator of glibc keeps what was freed, in pieces that the next architecture's sizes do not fit, so the peak
    of a search would creep up from trial to trial. Other allocators are left alone.
    """
    try:
        yield
    finally:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
        if trim is not None:
            trim(0)


@contextmanager
def _shortage_told() -> Iterator[None]:
    """Make a typed failure of what PyTorch and Python raise when memory runs out."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error) and not isinstance(error, OutOfMemoryFailure):
            raise OutOfMemoryFailure(str(error) or type(error).__name__) from error
        raise


@contextmanager
def checkpointing(model: Any, wanted: bool) -> Iterator[None]:
    """Recompute the activations of `model` in the backward pass, if `wanted`, until the context ends."""
    if not wanted:
        yield
        return
    # transformers 5 renamed the pair on the way and warns at the old names, which older releases have only.
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    getattr(model, f"{name}_checkpointing_enable")({"use_reentrant": False})
    # It also makes the embeddings require gradients, for good; only the re-entrant kind needs that, and it would
    # send the backward pass of this and every later trial down to the embeddings.
    model.disable_input_require_grads()
    try:
        yield
    finally:
        getattr(model, f"{name}_checkpointing_disable")()


def _let_go(failure: BaseException) -> None:
    """Free what the frames of a failed run hold.

    A failure that is kept would keep them, and with them the tensors of its run, while the next candidate is trained:
    one shortage of memory would make the next. Where it happened can still be read from it.
    """
    seen: BaseException | None = failure
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__


def _read_by(recipe: Recipe) -> tuple[float, int, str]:
    """What the encoded examples depend on."""
    return recipe.data_fraction, recipe.max_length, recipe.truncation_side


def _check_factors(recipe: Recipe) -> None:
    for name in recipe.rate_factors:
        lookup(name)


def _fraction(examples: Examples, fraction: float, seed: int) -> Examples:
    if fraction >= 1:
        return examples
    n = max(1, round(fraction * len(examples)))
    return examples.subset(np.sort(np.random.default_rng(seed).permutation(len(examples))[:n]))
