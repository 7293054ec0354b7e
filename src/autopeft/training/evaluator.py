"""Evaluating candidates: attach, train, measure, detach.

Everything that is the same for all candidates (the backbone, the tokenised examples, the memory) is prepared
once, so a search pays only for what differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch

from autopeft.architecture import Architecture, Counts
from autopeft.backbones import Backbone
from autopeft.candidate import Candidate
from autopeft.errors import OutOfMemoryFailure, SettingsError, TrialFailure
from autopeft.fidelity import Fidelity, rung_steps
from autopeft.methods import lookup
from autopeft.network.attach import attach
from autopeft.network.build import count
from autopeft.objective import Measurement, Objective
from autopeft.objectives import NOMINAL
from autopeft.tasks import Splits
from autopeft.tasks._examples import Examples
from autopeft.tasks._protocols import nested_fraction
from autopeft.tasks._task import Task
from autopeft.training.batches import Encoded, collate, evaluation_order
from autopeft.training.checkpoint import Checkpoints, RunFile, identity_of
from autopeft.training.layer_drop import LayerDrop
from autopeft.training.learners import Answer, Learner, learner_for
from autopeft.training.loop import EVALUATION_FACTOR, fit
from autopeft.training.memory import Memory, checkpointing, let_go, memory_given_back, shortage_told
from autopeft.training.peak import within
from autopeft.training.precision import autocast, check_precision
from autopeft.training.recipe import Recipe
from autopeft.training.run import Run
from autopeft.training.together import Together, passes, rated_parameters, trunk_depth
from autopeft.training.trunks import Trunks, check_trunk, on_trunk

Progress = Callable[[int, int], None]

Given = Candidate | Architecture
"""What can be measured; an architecture is the candidate that changes nothing about the recipe."""


class Evaluator:
    """``(candidate, seed) -> Measurement`` on one backbone and one task, for one candidate or for a list of them.

    Attributes:
        backbone, task, recipe, splits, data_seed: what it was made of.
        learner: how the task is put to the backbone.
        checkpoints: where training runs are written down; None for nowhere, which `with_checkpoints` changes.
        rungs: points of every run at which it is measured besides, see `with_rungs`.
        memory: bytes that no run may need at its peak, see `autopeft.training.peak`; None for no limit.
        cost: what is minimised; every measurement says it.
        trunks: hidden states that trials have in common, see `Recipe.trunk_dropout`.
    """

    checkpoints: Checkpoints | None = None
    memory: int | None = None
    rungs: tuple[Fidelity, ...] = ()

    def __init__(
        self,
        backbone: Backbone,
        task: Task,
        splits: Splits,
        recipe: Recipe,
        *,
        data_seed: int = 0,
        answer: Answer = "score",
        cost: Objective = NOMINAL,
    ) -> None:
        """Tokenise the training and the validation part.

        Args:
            data_seed: draws the subset when ``recipe.data_fraction`` is below 1; the same for every architecture.
            answer: how a text-to-text model's answer is read.

        Raises:
            SettingsError: see `autopeft.training.learners.learner_for`.
            UnknownNameError: `recipe.rate_factors` names a method that there is not.
        """
        self.backbone, self.task, self.recipe, self.splits = backbone, task, recipe, splits
        self.data_seed, self.answer, self.cost = data_seed, answer, cost
        # One subset for all trials: with one of its own each, candidates would differ by the luck of their examples,
        # too.
        train = nested_fraction(splits.train, recipe.data_fraction, data_seed)
        self.learner: Learner = learner_for(backbone, task, answer, train)
        _check(recipe, backbone, self.learner)
        self.trunks = Trunks()
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

    @property
    def validation(self) -> Examples:
        """The validation examples, which candidates are measured on."""
        return self._validation

    @property
    def validation_part(self) -> Encoded:
        """The same, encoded."""
        return self._encoded_validation

    @property
    def evaluation_batch(self) -> int:
        """Examples that are answered at a time."""
        return EVALUATION_FACTOR * self.recipe.batch_size

    def encode(self, examples: Examples) -> Encoded:
        """Token ids of `examples`, cut as the recipe says."""
        return self.learner.encode(examples, self.recipe.max_length, self.recipe.truncation_side)

    def with_recipe(self, **changes: Any) -> Evaluator:
        """The same data and backbone under another recipe; what was encoded is encoded again only if it must be.

        Raises:
            SettingsError, UnknownNameError: the changes cannot be used.
        """
        recipe = replace(self.recipe, **changes)
        _check(recipe, self.backbone, self.learner)
        # A sweep of learning rates makes an evaluator a rate: tokenising anew would cost more than some of its runs.
        if recipe.reading != self.recipe.reading:
            more: dict[str, Any] = {"data_seed": self.data_seed, "answer": self.answer, "cost": self.cost}
            other = Evaluator(self.backbone, self.task, self.splits, recipe, **more)
            return other._with(checkpoints=self.checkpoints, memory=self.memory, rungs=self.rungs)
        return self._with(recipe=recipe)

    def _with(self, **changes: Any) -> Evaluator:
        # Past the constructor, which would tokenise; what is shared is never changed in place.
        other = object.__new__(Evaluator)
        other.__dict__.update(self.__dict__, **changes)
        return other

    def with_checkpoints(self, checkpoints: Checkpoints | None) -> Evaluator:
        """The same, with runs written down there: one that was interrupted goes on from what is found of it."""
        return self._with(checkpoints=checkpoints)

    def with_memory(self, limit: int | None) -> Evaluator:
        """The same with another limit on memory: what is predicted to need more, or does, fails as "oom"."""
        return self._with(memory=limit)

    def with_rungs(self, rungs: Sequence[Fidelity]) -> Evaluator:
        """The same, with every run measured at `rungs`, too, where `up_to` can pause it.

        Raises:
            SettingsError: they do not increase, or lie beyond the end of the run.
        """
        other = self._with(rungs=tuple(rungs))
        other.rung_steps()
        return other

    def rung_steps(self) -> tuple[int, ...]:
        """The optimiser step of each rung and, last, of the end of the run; the end alone where there are no rungs."""
        n, per_epoch = self.n_train, math.ceil(self.n_train / self.recipe.batch_size)
        return rung_steps(self.rungs, self.recipe.n_steps(n), per_epoch)

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
        self,
        candidates: Sequence[Given],
        seeds: Sequence[int],
        on_step: Progress | None = None,
        *,
        batch: int = 1,
    ) -> list[Measurement | TrialFailure]:
        """Train each candidate from its seed and measure it on the validation part.

        What one gives does not depend on which others stand beside it: a failure takes the place of its measurement
        and leaves the others as they were.

        Args:
            candidates: architectures, with or without changes of the recipe; the same one may stand there twice.
            seeds: one for each candidate.
            on_step: called with the steps done and the steps planned, of one pass after the other.
            batch: how many are trained in one pass at most, see `autopeft.training.together.passes`; what they give is
                the same up to rounding. A pass that runs out of memory is done again in halves. Seconds are an equal
                part of those of the pass, peak memory is that of the whole pass.

        Returns:
            A measurement or a failure for each, in order.

        Raises:
            ArchitectureError: a candidate does not fit the backbone.
            SettingsError: there are not as many seeds as candidates.
        """
        if len(candidates) != len(seeds):
            raise SettingsError(f"Every candidate has a seed, but got {len(candidates)} and {len(seeds)} seeds.")
        given = [Candidate.of(candidate) for candidate in candidates]
        architectures, recipes = [c.architecture for c in given], [c.recipe_for(self.recipe) for c in given]
        found: dict[int, Measurement | TrialFailure] = {}
        for places in passes(self.backbone, architectures, recipes, seeds, batch):
            one_pass = self._measured_at_once([given[place] for place in places], seeds[places[0]], on_step)
            found.update(zip(places, one_pass, strict=True))
        return [found[place] for place in range(len(given))]

    def _measured_at_once(
        self, candidates: Sequence[Candidate], seed: int, on_step: Progress | None
    ) -> list[Measurement | TrialFailure]:
        if len(candidates) == 1 or self.rungs:  # one pass over the backbone does not stop at rungs
            return [self._measured(candidate, seed, on_step) for candidate in candidates]
        try:
            with memory_given_back(), shortage_told():
                return self._measured_in_one_pass(candidates, seed, on_step)
        except OutOfMemoryFailure as failure:
            let_go(failure)
        # Outside the handler: a failure that is being handled is alive, and its frames hold the memory of the pass.
        half = len(candidates) // 2
        return [
            result
            for part in (candidates[:half], candidates[half:])
            for result in self._measured_at_once(part, seed, on_step)
        ]

    def _measured_in_one_pass(
        self, candidates: Sequence[Candidate], seed: int, on_step: Progress | None
    ) -> list[Measurement | TrialFailure]:
        evaluators = [self._under(candidate) for candidate in candidates]
        architectures = [candidate.architecture for candidate in candidates]
        found: list[Measurement | TrialFailure] = []
        with within(evaluators[0], architectures, self.memory), Together(evaluators, architectures, seed) as together:
            memory = Memory(self.backbone.device)
            for place, fitted in enumerate(together.train(on_step)):
                if isinstance(fitted, TrialFailure):
                    found.append(fitted)
                    continue
                with together.alone(place) as attached:
                    measured = Run(evaluators[place], attached, fitted, memory).measure()
                found.append(replace(measured, extra={**measured.extra, "together": len(candidates)}))
        return found

    def up_to(self, candidate: Given, seed: int, rung: int, on_step: Progress | None = None) -> Measurement:
        """Train `candidate` until the rung of this number, from 0, and measure it there; the run can go on later.

        With `checkpoints` it goes on from the rung below, or from wherever it was interrupted. The measurement, that of
        the last rung included, is the same with and without pauses.

        Raises:
            TrialFailure: NaN or a memory shortage; the backbone is as before.
        """
        steps = self._under(Candidate.of(candidate)).rung_steps()
        with self.trained(candidate, seed, on_step, until=steps[rung]) as run:
            return run.measure()

    def _measured(self, candidate: Given, seed: int, on_step: Progress | None) -> Measurement | TrialFailure:
        try:
            with self.trained(candidate, seed, on_step) as run:
                return run.measure()
        except TrialFailure as failure:
            let_go(failure)
            return failure

    @contextmanager
    def trained(
        self, candidate: Given, seed: int, on_step: Progress | None = None, *, until: int | None = None
    ) -> Iterator[Run]:
        """A trained candidate, attached until the context ends.

        Args:
            until: the step of a rung at which the run is paused; None for its end.

        Raises:
            TrialFailure: NaN or a memory shortage; the backbone is as before.
        """
        evaluator, architecture = self._under(Candidate.of(candidate)), Candidate.of(candidate).architecture
        with ExitStack() as stack:
            # Entered first and so left last: memory is given back when what was attached is gone.
            stack.enter_context(memory_given_back())
            stack.enter_context(shortage_told())
            stack.enter_context(within(evaluator, [architecture], self.memory))
            memory, file = Memory(self.backbone.device), None
            if self.checkpoints is not None:
                file = stack.enter_context(self.checkpoints.of_run(evaluator._identity(architecture, seed)))
            yield stack.enter_context(evaluator._trained(architecture, seed, on_step, memory, until, file))

    def _identity(self, architecture: Architecture, seed: int) -> str:
        """Of a training run: everything that its parameters depend on, so that no other run goes on from its file."""
        return identity_of(
            {
                "architecture": architecture.as_dict(),
                "seed": seed,
                "recipe": self.recipe.of_run(),
                # An evaluation at a rung may be the best one, so a run with rungs may keep other parameters than one
                # without.
                "rungs": self.rung_steps(),
                "train": self._train.digest(),
                "validation": self._encoded_validation.digest(),
                "learner": self.learner.facts(),
                "task": [self.task.name, self.task.kind, list(self.task.metrics), self.answer],
                "backbone": self.backbone.identity(),
                # Another kind of device rounds differently, so that a run that went on there would be neither's.
                "device": self.backbone.device.type,
            }
        )

    def _under(self, candidate: Candidate) -> Evaluator:
        """The evaluator whose recipe is the one that `candidate` is trained with."""
        changed = candidate.recipe_for(self.recipe)
        return self if changed is self.recipe else self.with_recipe(**vars(changed))

    @contextmanager
    def _trained(
        self,
        architecture: Architecture,
        seed: int,
        on_step: Progress | None,
        memory: Memory,
        until: int | None,
        file: RunFile | None,
    ) -> Iterator[Run]:
        above = self.trunks, self.backbone, self.learner, self._train, self.recipe
        with (
            on_trunk(*above, trunk_depth(self.backbone, [architecture])) as train,
            attach(self.backbone, architecture, seed=seed) as attached,
            checkpointing(self.backbone.model, self.recipe.gradient_checkpointing),
        ):
            parameters, factors = rated_parameters(attached, self.learner.reset(seed), self.recipe)
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
                train,
                self.recipe,
                evaluate,
                objective=self.task.metrics[0],
                seed=seed,
                on_step=on_step,
                before_step=drop if self.recipe.drop_layers else None,
                factors=factors,
                stops=self.rung_steps(),
                until=until,
                file=file,
            )
            # The attached modules are no children of the model, so that its own `eval` does not reach them.
            attached.train(False)
            # What is measured is what is shipped: prefixes without the network that made them, and one expert of all.
            attached.fold()
            yield Run(self, attached, fitted, memory)

    @torch.inference_mode()
    def outputs(self, encoded: Encoded) -> list[Any]:
        """What the current parameters give for every example, in order."""
        self.learner.model.eval()
        found: list[Any] = [None] * len(encoded)
        device = self.backbone.device
        for indices in evaluation_order(encoded.lengths, self.evaluation_batch):
            batch = collate(encoded, indices, self.learner.pad, device)
            with autocast(self.recipe, device):
                results = self.learner.outputs(batch)
            for index, result in zip(indices, results, strict=True):
                found[int(index)] = result
        return found

    def score(self, encoded: Encoded, examples: Examples) -> Mapping[str, float]:
        """The task's metrics of the current parameters on `examples`."""
        return self.learner.score(self.outputs(encoded), examples)


def _check(recipe: Recipe, backbone: Backbone, learner: Learner) -> None:
    for name in recipe.rate_factors:
        lookup(name)
    check_precision(recipe)
    check_trunk(recipe, backbone, learner)
