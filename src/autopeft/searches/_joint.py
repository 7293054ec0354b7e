"""Everything in a supernet trained together for a while, and looked at with the weights standing still."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from autopeft.searches._problem import TRAIN, Plan, Problem
from autopeft.searches._supernet import Supernet


class JointTraining:
    """The placements of a supernet that are alive, and the head, trained at one constant rate.

    Attributes:
        done: steps of training so far.
        owned: the parameters of every living placement, by its index.
    """

    def __init__(self, supernet: Supernet, problem: Problem, plan: Plan, *, weight_decay: float, clip: float) -> None:
        self._supernet, self._problem, self._plan, self._clip = supernet, problem, plan, clip
        self.owned = {index: supernet.parameters_of(index) for index in range(len(supernet)) if supernet.alive[index]}
        self._trained = [*self.own, *problem.head]
        self._optimiser = torch.optim.AdamW(
            self._trained, lr=plan.learning_rate, weight_decay=weight_decay, foreach=True
        )
        self.done = 0

    @property
    def own(self) -> list[nn.Parameter]:
        """The parameters of all living placements, one placement after the other."""
        return [parameter for owned in self.owned.values() for parameter in owned]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Model and modules in training mode, and the generators of random numbers as they were at the end."""
        devices = [self._supernet.device] if self._supernet.device.type == "cuda" else []
        # Draws inside are made from seeds of their own, and whoever calls must find the generators as they were.
        with torch.random.fork_rng(devices=devices), self._problem.training():
            self._supernet.train()
            yield
        self._supernet.train(False)

    def loss(self, step: int) -> Tensor:
        """The loss on the batch of `step`.

        Raises:
            NonFiniteFailure: it became NaN or infinite.
        """
        torch.manual_seed(self._plan.derived(step, 1))
        loss = self._problem.loss(TRAIN, step)
        self._plan.check(float(loss.detach()), "training", step)
        return loss

    def train(self, steps: int) -> None:
        """So many steps more."""
        for _ in range(steps):
            self.loss(self.done).backward()  # type: ignore[no-untyped-call]
            if self._clip:
                torch.nn.utils.clip_grad_norm_(self._trained, self._clip)
            self._optimiser.step()
            self._optimiser.zero_grad(set_to_none=True)
            self.done += 1

    def look(self, batches: int, take: Callable[[int, list[tuple[Tensor, Tensor]]], None]) -> None:
        """Gradients on the batches that follow, which train nothing.

        Args:
            take: given a placement's index, and its parameters with their gradients, batch by batch.
        """
        for extra in range(batches):
            found = iter(torch.autograd.grad(self.loss(self.done + extra), self.own))
            # The iterator runs along the placements, whose parameters follow one another in the same order.
            for index, owned in self.owned.items():
                take(index, [(parameter.detach(), next(found)) for parameter in owned])
