"""Training several candidates in one pass over one frozen backbone.

All candidates of a pass have one seed, so they would see the same batches one by one. Here every batch goes through the
backbone once for all of them (`autopeft.network.shares`); each has its own modules, head, optimiser, gradient norm,
learning rates and best evaluation, and what it ends with is what it ends with alone, up to rounding. One that fails or
stops early leaves the pass, and the others go on.

A pass is not written down: one that is interrupted begins anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from autopeft.architecture import Architecture
from autopeft.backbones import Backbone
from autopeft.errors import TrialFailure
from autopeft.methods import lookup
from autopeft.network.attach import Attached
from autopeft.network.dropout import quick_dropout
from autopeft.network.shares import Shares
from autopeft.training.batches import Batch, TrainingOrder, collate, evaluation_order
from autopeft.training.consistency import divergence
from autopeft.training.fitted import Fit
from autopeft.training.generators import Generators
from autopeft.training.layer_drop import LayerDrop
from autopeft.training.loop import EVALUATION_FACTOR, Training
from autopeft.training.memory import checkpointing, let_go, memory_kept
from autopeft.training.precision import autocast
from autopeft.training.recipe import Recipe
from autopeft.training.trunks import on_trunk

if TYPE_CHECKING:  # it puts candidates together with what is here
    from autopeft.training.evaluator import Evaluator


def passes(
    backbone: Backbone,
    architectures: Sequence[Architecture],
    recipes: Sequence[Recipe],
    seeds: Sequence[int],
    most: int,
) -> list[list[int]]:
    """Which candidates are trained in one pass, by their places: at most `most`, every place once.

    In one pass are those of one seed and one recipe but for learning rates, and where all or none want to know where
    padding is (the last layer is computed for one token alone only where none does). Whoever trains the backbone itself
    has a pass of its own. Those with like lowest layers come together, so that much lies below all of them.
    """
    # One by one the order of the candidates is theirs: nothing is grouped where nothing is shared.
    if most == 1:
        return [[place] for place in range(len(seeds))]
    groups: dict[str, list[int]] = {}
    for place, (architecture, recipe, seed) in enumerate(zip(architectures, recipes, seeds, strict=True)):
        methods = [lookup(name) for name in architecture.methods]
        has_own = any(method.seam == "backbone" for method in methods)
        sees_padding = any(method.sees_padding for method in methods)
        common = {name: value for name, value in recipe.as_dict().items() if name not in _OWN}
        # Where no dropout acts below an architecture, another lowest layer is another dropout.
        depth = None if recipe.trunk_dropout else trunk_depth(backbone, [architecture])
        # A backbone that is trained itself can be shared with nobody, which its place makes sure of.
        groups.setdefault(str((seed, sees_padding, common, depth, place if has_own else None)), []).append(place)
    found = []
    for group in groups.values():
        group.sort(key=lambda place: (-lowest_layer(backbone, architectures[place]), place))
        found += [group[start : start + most] for start in range(0, len(group), most)]
    return found


_OWN = ("learning_rate", "rate_factors")


def lowest_layer(backbone: Backbone, architecture: Architecture) -> int:
    """The lowest layer where a module stands, counted over all stacks; the number of layers where none does."""
    before, layers = {}, 0
    for name, stack in backbone.family.stacks.items():
        before[name] = layers
        layers += len(list(backbone.module(stack.layers).children()))
    sites = [backbone.site(placement.site) for placement in architecture]
    return min((before[site.stack] + site.layer for site in sites if site.layer is not None), default=layers)


def trunk_depth(backbone: Backbone, architectures: Sequence[Architecture]) -> int:
    """How many layers lie below all of them; the last one is never counted, for the head reads part of it alone.

    Who trains the backbone itself has no trunk.
    """
    methods = {name for architecture in architectures for name in architecture.methods}
    if any(lookup(name).seam == "backbone" for name in methods):
        return 0
    layers = sum(len(list(backbone.module(stack.layers).children())) for stack in backbone.family.stacks.values())
    return min([layers - 1, *(lowest_layer(backbone, architecture) for architecture in architectures)])


def rated_parameters(
    attached: Attached, head: Sequence[nn.Parameter], recipe: Recipe
) -> tuple[list[nn.Parameter], list[float]]:
    """What is trained, the head last, and what the learning rate of each is multiplied by."""
    named = attached.parameters_by_method()
    of_head = recipe.head_factor(method for method, _ in named)
    factors = [recipe.rate_factors.get(method, 1.0) for method, _ in named] + [of_head] * len(head)
    return [*(parameter for _, parameter in named), *head], factors


class _Member:
    """One candidate of a pass."""

    def __init__(self, evaluator: Evaluator, attached: Attached, seed: int) -> None:
        self.attached, self.recipe = attached, evaluator.recipe
        self.head = evaluator.learner.fresh_head(seed)
        head = [] if self.head is None else list(self.head.parameters())
        parameters, factors = rated_parameters(attached, head, self.recipe)
        self.drop = LayerDrop(attached, self.recipe.drop_layers, seed)
        self.metrics: Mapping[str, float] = {}
        self.failure: TrialFailure | None = None
        self.run = Training(
            evaluator.learner, parameters, evaluator.train_part, self.recipe, lambda: self.metrics,
            objective=evaluator.task.metrics[0], seed=seed, factors=factors, stops=evaluator.rung_steps(),
        )  # fmt: skip

    def train(self, mode: bool) -> None:
        """Switch to training or evaluation mode; in evaluation every layer takes part."""
        self.attached.train(mode)
        if self.head is not None:
            self.head.train(mode)
        if not mode:
            self.drop.nothing()

    @contextmanager
    def failing_alone(self) -> Iterator[None]:
        """What goes wrong within it ends this candidate and no other."""
        try:
            yield
        except TrialFailure as failure:
            let_go(failure)
            self.failure = failure


class Together:
    """Several candidates attached to one backbone, to be trained in one pass.

    Args:
        evaluators: under the recipe of each; they differ in learning rates alone.
        architectures: one each.
        seed: of all.
        has_trunk: False computes the layers below all modules for every candidate; the results are the same.
    """

    def __init__(
        self,
        evaluators: Sequence[Evaluator],
        architectures: Sequence[Architecture],
        seed: int,
        *,
        has_trunk: bool = True,
    ) -> None:
        self._evaluator = evaluators[0]
        self._learner, self._recipe = self._evaluator.learner, self._evaluator.recipe
        backbone = self._evaluator.backbone
        self._device = backbone.device
        self.shares = Shares(backbone, architectures, seed=seed, has_trunk=has_trunk)
        try:
            self._members = [
                _Member(evaluator, attached, seed)
                for evaluator, attached in zip(evaluators, self.shares.members, strict=True)
            ]
        # Whoever fails to construct a context manager never comes to its exit, and the backbone would stay occupied.
        except BaseException:
            self.shares.detach()
            raise
        train = self._train = self._evaluator.train_part
        self._depth = trunk_depth(backbone, architectures)
        self._order = TrainingOrder(train.lengths, self._recipe.batch_size, seed)
        self._generators = Generators(self._device, seed)

    def __enter__(self) -> Together:
        return self

    def __exit__(self, *_: object) -> None:
        self.shares.detach()

    def train(self, on_step: Callable[[int, int], None] | None = None) -> list[Fit | TrialFailure]:
        """Train all to their ends; what each ended with, or why it failed.

        Args:
            on_step: called with the steps done and the steps planned.

        Raises:
            RuntimeError, MemoryError: what fails for all at once, such as a shortage of memory.
        """
        with self._trains():
            while self._active:
                self._step()
                first = self._members[self.shares.active[0]].run
                if on_step is not None:
                    on_step(first.done, first.planned)
                if any(member.run.is_evaluation_due() for member in self._active):
                    self._evaluate()
                self._drop_ended()
        return [member.failure or member.run.finish() for member in self._members]

    @contextmanager
    def alone(self, place: int) -> Iterator[Attached]:
        """Within it the backbone and the learner compute what this candidate computes alone, trained and folded."""
        member = self._members[place]
        with self.shares.only(place):
            self._learner.take_head(member.head)
            self._learner.model.eval()
            member.train(False)
            member.attached.fold()
            yield member.attached

    @property
    def _active(self) -> list[_Member]:
        return [self._members[place] for place in self.shares.active]

    @contextmanager
    def _trains(self) -> Iterator[None]:
        model, rate = self._learner.model, self._recipe.dropout
        with ExitStack() as stack:
            stack.enter_context(memory_kept())
            self._train = stack.enter_context(
                on_trunk(
                    self._evaluator.trunks, self._evaluator.backbone, self._learner, self._train, self._recipe,
                    self._depth,
                )
            )  # fmt: skip
            stack.enter_context(checkpointing(self._evaluator.backbone.model, self._recipe.gradient_checkpointing))
            stack.enter_context(self._generators.installed())
            stack.enter_context(quick_dropout(model, rate, self.shares.share_rows))
            for member in self._members:
                if member.head is not None:
                    stack.enter_context(quick_dropout(member.head, rate))
            stack.callback(model.eval)
            self._switch(True)
            yield

    def _switch(self, is_training: bool) -> None:
        self._learner.model.train(is_training)
        for member in self._active:
            member.train(is_training)

    def _step(self) -> None:
        started, active = time.perf_counter(), self._active
        # Each member's training has an order of its own from the same seed, which it does not advance here: this one
        # stands for all.
        batch = collate(self._train, next(self._order), self._learner.pad, self._device)
        if self._recipe.drop_layers:
            for member in active:
                member.drop(member.run.done)
        with autocast(self._recipe, self._device):
            losses = self._losses(batch)
        # The sum lets each loss reach its own modules with its own gradient, as no parameter belongs to two of them;
        # the mean would shrink every gradient before it is clipped.
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        for member, loss in zip(active, losses, strict=True):
            with member.failing_alone():
                member.run.take_step(loss, len(batch.indices))
        self._spend(time.perf_counter() - started, active)

    def _losses(self, batch: Batch) -> list[Tensor]:
        heads, weight = [member.head for member in self._active], self._recipe.consistency
        first = self._learner.forward_shares(batch, self.shares, heads)
        if weight == 0:
            return [forward.loss for forward in first]
        second = self._learner.forward_shares(batch, self.shares, heads)
        return [
            one.loss + weight * divergence(one.logits, other.logits) for one, other in zip(first, second, strict=True)
        ]

    def _evaluate(self) -> None:
        started, active = time.perf_counter(), [member for member in self._active if member.failure is None]
        self._switch(False)
        outputs, evaluator = self._outputs(), self._evaluator
        for member, given in zip(self._active, outputs, strict=True):
            # One that has just failed is still in the pass, whose shares are counted, and its metrics mean nothing.
            if member.failure is None:
                member.metrics = self._learner.score(given, evaluator.validation)
        self._spend(time.perf_counter() - started, active, is_evaluating=True)
        for member in active:
            with member.failing_alone():
                member.run.evaluate_now()
        self._switch(True)

    @torch.inference_mode()
    def _outputs(self) -> list[list[Any]]:
        """What each gives for every example of the validation part, in order."""
        encoded, heads = self._evaluator.validation_part, [member.head for member in self._active]
        found: list[list[Any]] = [[None] * len(encoded) for _ in heads]
        for indices in evaluation_order(encoded.lengths, EVALUATION_FACTOR * self._recipe.batch_size):
            batch = collate(encoded, indices, self._learner.pad, self._device)
            with autocast(self._recipe, self._device):
                given = self._learner.outputs_of_shares(batch, self.shares, heads)
            for own, results in zip(found, given, strict=True):
                for index, result in zip(indices, results, strict=True):
                    own[int(index)] = result
        return found

    def _drop_ended(self) -> None:
        members = self._members
        # Places, not members: what is left keeps the number by which results are asked for at the end.
        self.shares.active = [
            place for place in self.shares.active if members[place].failure is None and not members[place].run.is_over
        ]

    @staticmethod
    def _spend(seconds: float, members: Sequence[_Member], *, is_evaluating: bool = False) -> None:
        """Every candidate takes an equal part of the time of the pass."""
        for member in members:
            member.run.spend(seconds / len(members), is_evaluating=is_evaluating)
