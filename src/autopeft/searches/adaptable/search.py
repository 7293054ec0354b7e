"""The Adaptable Adapter's layer selection (Moosavi et al. 2022, arXiv 2205.01549): a switch for every module.

Every module has two logits, for the identity and for itself, both 0.5 at the start. In training a soft one-hot vector
is drawn from them and the module is added times its share::

    p = softmax((logits + Gumbel noise) / τ)          y' = y + p_1 (A(y) - y)

Weights and logits are trained together on the whole training part. In the end the modules stay whose own logit is
above the identity's. The authors draw once an example and leave out the module's own skip connection while switching;
here one vector is drawn a step and the skip connection stays, so that a closed switch is exact absence.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from autopeft.architecture import Architecture
from autopeft.errors import SettingsError
from autopeft.rules import Count, NotNegative, Positive, raise_if_any, violations
from autopeft.searches._candidates import Floats, indicator
from autopeft.searches._problem import TRAIN, Plan, Problem
from autopeft.searches._supernet import Supernet

_TINY = 1e-12


@dataclass(frozen=True)
class AdaptableSettings:
    """How the search is done.

    Args:
        size: at which of its candidate sizes a module stands, the "smallest" or the "largest".
        epochs: passes over the training part; None takes the recipe's.
        steps: instead of `epochs`, or None.
        batch_size, learning_rate: None takes the recipe's. The learning rate falls linearly to 0.
        switch_learning_rate: of the logits' Adam; constant.
        clip: limit of the weights' gradient norm; 0 does not limit.
        temperature: τ; constant, as the authors' annealing starts where it ends.
    """

    size: Literal["smallest", "largest"] = "largest"
    epochs: Positive | None = None
    steps: Count | None = None
    batch_size: Count | None = None
    learning_rate: Positive | None = None
    switch_learning_rate: Positive = 0.05
    clip: NotNegative = 1.0
    temperature: Positive = 0.1

    def __post_init__(self) -> None:
        raise_if_any("The settings of the Adaptable Adapter cannot be used", violations(self))


PRESETS: Mapping[str, AdaptableSettings] = MappingProxyType(
    {"paper": AdaptableSettings(learning_rate=1e-4, epochs=20), "recommended": AdaptableSettings()}
)
"""AutoPEFT's numbers for its table 6; the same with the recipe's learning rate and length."""


@dataclass(frozen=True)
class AdaptableResult:
    """The outcome of a search.

    Args:
        parameters: its count, in the supernet's kind.
        preference: each module's logit less the identity's, in canonical order, ``(n,)``.
        seconds: wall-clock time.
    """

    architecture: Architecture
    parameters: int
    preference: Floats
    seconds: float


class SwitchSearch:
    """One search in a supernet whose placements have one size each."""

    def __init__(self, supernet: Supernet, problem: Problem, settings: AdaptableSettings, plan: Plan) -> None:
        """Raises:
        SettingsError: a placement has several sizes.
        BudgetError: not even the smallest placement fits.
        """
        self.supernet, self.problem, self.settings, self.plan = supernet, problem, settings, plan
        if supernet.candidates.is_sized.any():
            raise SettingsError("Switches decide which modules there are, so each must have one size.")
        self._budget = plan.limit(supernet.candidates)
        n = len(supernet.candidates)
        self.done = 0
        self.logits = torch.full((n, 2), 0.5, requires_grad=True)  # (n, identity and module)
        self._ones = torch.ones(n, 1, device=supernet.device)
        self._weights = [*(p for i in range(n) for p in supernet.parameters_of(i)), *problem.head]
        self._optimiser = torch.optim.AdamW(self._weights, lr=plan.learning_rate, weight_decay=0.0, fused=True)
        # The logits need a rate of their own: at the weights' they would hardly leave 0.5 within a search.
        self._switches = torch.optim.Adam([self.logits], lr=settings.switch_learning_rate)

    def run(self) -> AdaptableResult:
        """Search to the end.

        Raises:
            NonFiniteFailure: a loss became NaN or infinite.
        """
        started = time.perf_counter()
        devices = [self.supernet.device] if self.supernet.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), self.problem.training():
            self.supernet.train()
            while self.done < self.plan.steps:
                self.step()
        self.supernet.train(False)
        return self._found(time.perf_counter() - started)

    def step(self) -> None:
        """Train weights and switches on one batch."""
        self.supernet.gate(self.draw()[:, 1].to(self.supernet.device), self._ones)
        torch.manual_seed(self.plan.derived(self.done, 1))
        loss = self.problem.loss(TRAIN, self.done)
        self.plan.check(float(loss.detach()), "training", self.done)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.settings.clip:
            torch.nn.utils.clip_grad_norm_(self._weights, self.settings.clip)
        for group in self._optimiser.param_groups:
            group["lr"] = self.plan.learning_rate * (1 - self.done / self.plan.steps)
        for optimiser in (self._optimiser, self._switches):
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.done += 1

    def draw(self) -> Tensor:
        """This step's shares, ``(n, 2)``, rows summing to 1, with gradients to `logits`."""
        generator = torch.Generator().manual_seed(self.plan.derived(self.done, 0))
        # Both logarithms below are infinite at the ends, which a generator does draw now and then.
        uniform = torch.rand(self.logits.shape, generator=generator).clamp(_TINY, 1 - 1e-7)
        return torch.softmax((self.logits - torch.log(-torch.log(uniform))) / self.settings.temperature, dim=-1)

    def _found(self, seconds: float) -> AdaptableResult:
        """Who is preferred to the identity, within the budget; if nobody is, who comes nearest."""
        logits = self.logits.detach().double().numpy()
        preference: Floats = logits[:, 1] - logits[:, 0]
        candidates, budget = self.supernet.candidates, self._budget
        counts = candidates.counts[:, 0]
        # The authors know no budget; here one is kept as by every search that is compared with others.
        chosen = indicator(preference, counts.astype(float), preference > 0, candidates.rank, budget, "skip")
        if not chosen.any():
            chosen[np.where(counts <= budget, preference, -np.inf).argmax()] = True
        architecture = self.supernet.architecture(candidates.sizes[:, 0] * chosen)
        return AdaptableResult(architecture, int(counts[chosen].sum()), preference, seconds)
