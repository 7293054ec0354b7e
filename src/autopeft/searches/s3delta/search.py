"""S3Delta (Hu et al. 2022, arXiv 2206.07382): sparse structure search by soft gates under one global shift.

Every module has one architecture parameter ``a_i`` (section 3 of the paper). With ``n_i`` its parameters and ``B``
the budget, its probability is a sigmoid that is shifted until the expected count is the budget exactly::

    p_i = σ((a_i - ζ) / β)        ζ such that Σ p_i n_i = B
    z_i = σ((logit u_i + logit p_i) / τ),  u_i uniform        binary concrete (Maddison et al. 2016, 1611.00712)

The modules are added times ``z_i``. Gates are trained on one half of the training part through a virtual step of the
weights on the other (second-order DARTS, Liu et al. 2018, 1806.09055), or without it. In the end the modules of
highest probability that fit the budget are taken.

The authors' release keeps a second copy of the whole model for the virtual step. Only what is trained changes in it,
so here only that is copied.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from autopeft.architecture import Architecture
from autopeft.errors import NonFiniteFailure, SettingsError
from autopeft.searches._candidates import Bools, Floats, Ints, indicator
from autopeft.searches._problem import TRAIN, VALIDATION, EvaluatedProblem, Plan
from autopeft.searches._supernet import Supernet
from autopeft.searches._worth import several
from autopeft.searches.bipeft.weights import restored
from autopeft.searches.s3delta.settings import S3DeltaSettings
from autopeft.training.checkpoint import Checkpoint, read, write
from autopeft.training.stopwatch import Stopwatch

_log = logging.getLogger(__name__)

_ALMOST = 1e-12  # probabilities stay this far from 0 and 1 where their logit is taken


# -- the gates ---------------------------------------------------------------------------------------------


def shift(logits: Floats, counts: Floats | Ints, budget: float, sharpness: float = 1.0) -> float:
    """ζ with ``Σ n_i σ((a_i - ζ) / β) = B``; minus infinity when everything fits the budget.

    Args:
        logits, counts: ``(n,)``.
        budget: above 0.
    """
    total = float(counts.sum())
    if budget >= total:
        return -math.inf
    # With equal logits the root is known; the least and the largest logit bracket it, so no start is needed.
    known = sharpness * math.log(budget / (total - budget))
    low, high = float(logits.min()) - known, float(logits.max()) - known
    margin = sharpness * 1e-6

    def excess(zeta: float) -> float:
        return float((counts * _sigmoid((logits - zeta) / sharpness)).sum()) - budget

    return float(brentq(excess, low - margin, high + margin, xtol=1e-13 * sharpness, rtol=1e-14, maxiter=500))


def _sigmoid(x: Floats) -> Floats:
    # By the hyperbolic tangent, which overflows at neither end.
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


class SoftGates:
    """The architecture parameters of one search, ``(n,)``, all 0 at first, in double precision on the processor."""

    def __init__(self, counts: Ints, budget: int, settings: S3DeltaSettings) -> None:
        self.logits = torch.zeros(len(counts), dtype=torch.float64, requires_grad=True)
        self._counts, self._budget, self._settings = counts, budget, settings

    def probabilities(self) -> Tensor:
        """``p``, ``(n,)``, with ``Σ p_i n_i`` the budget; gradients flow to `logits` but not through the shift."""
        settings = self._settings
        zeta = shift(self.logits.detach().numpy(), self._counts, self._budget, settings.sharpness)
        p = torch.sigmoid((self.logits - zeta) / settings.sharpness)
        # The value is p; the gradient of the normaliser makes modules compete, which the detached shift cannot.
        return p / p.sum() * p.sum().detach() if settings.is_competing else p

    def draw(self, uniform: Tensor) -> Tensor:
        """Binary concrete gates, ``(n,)``, from uniform numbers, ``(n,)``."""
        settings = self._settings
        p = self.probabilities().clamp(_ALMOST, 1 - _ALMOST)
        z = torch.sigmoid((torch.logit(uniform) + torch.logit(p)) / settings.temperature)
        z = (z * (settings.stretch_high - settings.stretch_low) + settings.stretch_low).clamp(0, 1)
        return z.round() + (z - z.detach()) if settings.is_hard else z


# -- the search --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class S3DeltaResult:
    """The outcome of a search.

    Args:
        parameters: its count, in the supernet's kind.
        probabilities: of all placements in canonical order, ``(n,)``, at the evaluation that was kept.
        seconds: wall-clock time, that of interrupted runs before this one included.
        earlier: seconds of those before.
        others: further answers, where they were asked for.
    """

    architecture: Architecture
    parameters: int
    probabilities: Floats
    seconds: float
    earlier: float
    others: tuple[Architecture, ...] = ()


class SparseSearch:
    """One search in a supernet whose placements have one size each."""

    def __init__(self, supernet: Supernet, problem: EvaluatedProblem, settings: S3DeltaSettings, plan: Plan) -> None:
        """Raises:
        SettingsError: a placement has several sizes.
        BudgetError: not even the smallest placement fits.
        """
        self.supernet, self.problem, self.settings, self.plan = supernet, problem, settings, plan
        candidates = supernet.candidates
        if candidates.is_sized.any():
            raise SettingsError("S3Delta decides which modules there are, so each must have one size; see `one_size`.")
        self._budget = plan.limit(candidates)
        self.done, self._counts, self._watch = 0, candidates.counts[:, 0], Stopwatch()
        self._best, self._kept = math.inf, np.zeros(len(candidates))
        self.gates = SoftGates(self._counts, self._budget, settings)
        self._ones = torch.ones(len(candidates), 1, device=supernet.device)
        self._weights = [*(p for i in range(len(supernet)) for p in supernet.parameters_of(i)), *problem.head]
        self._optimiser = torch.optim.AdamW(
            self._weights, lr=plan.learning_rate, weight_decay=settings.weight_decay, foreach=True
        )
        self._gate_optimiser = torch.optim.AdamW(
            [self.gates.logits], lr=settings.gate_learning_rate, weight_decay=settings.gate_weight_decay
        )

    def run(self, path: Path | None = None, every: int = 300) -> S3DeltaResult:
        """Search to the end.

        Args:
            path: where to keep the checkpoint; a search that finds its own there goes on from it.
            every: steps between checkpoints.

        Raises:
            NonFiniteFailure: a loss or the gates' gradient became NaN or infinite; the last checkpoint stays.
            StudyMismatchError: the checkpoint belongs to another search.
        """
        self._watch.start()
        devices = [self.supernet.device] if self.supernet.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), self.problem.training():
            self.supernet.train()
            is_needed = self._counts.sum() > self._budget
            probabilities = self._searched(path, every) if is_needed else self._probabilities()
        self.supernet.train(False)
        candidates, counts = self.supernet.candidates, self._counts

        def filled(allowed: Bools) -> Ints:
            chosen = indicator(probabilities, counts.astype(float), allowed, candidates.rank, self._budget, "skip")
            return candidates.sizes[:, 0] * chosen

        first = filled(np.ones(len(counts), dtype=bool))
        found = several(candidates, first, filled, self.settings.answers)
        architectures = [self.supernet.architecture(sizes) for sizes in found]
        parameters = int(counts[first > 0].sum())
        seconds, earlier = self._watch.seconds, self._watch.earlier
        return S3DeltaResult(
            architectures[0], parameters, probabilities, seconds, earlier, others=tuple(architectures[1:])
        )

    def _searched(self, path: Path | None, every: int) -> Floats:
        """The probabilities at the best evaluation, or the last."""
        between = max(1, round(self.settings.evaluate_every * self.problem.steps_per_epoch))
        found = None if path is None else read(path)
        if found is not None:
            self.load(found)
            _log.info("S3Delta: going on from step %d of %d.", self.done, self.plan.steps)
        while self.done < self.plan.steps:
            self.step()
            is_last = self.done == self.plan.steps
            if self.settings.keep == "best" and (is_last or self.done % between == 0):
                self._keep_if_better()
            if path is not None and (is_last or self.done % every == 0):
                write(path, self.state())
        return self._kept if self.settings.keep == "best" else self._probabilities()

    def _keep_if_better(self) -> None:
        loss = self._evaluated()
        if loss < self._best:
            self._best, self._kept = loss, self._probabilities()

    def step(self) -> None:
        """One step: the gates on the second half, then the weights on the first with gates drawn anew."""
        share = 1 - self.done / self.plan.steps
        rate = self.plan.learning_rate * share
        gradient = self.gate_gradient(rate)
        if not gradient.isfinite().all():
            raise NonFiniteFailure(f"The gates' gradient is NaN or infinite at step {self.done} of {self.plan.steps}.")
        self.gates.logits.grad = _clipped([gradient], self.settings.clip)[0]
        _set_rate(self._gate_optimiser, self.settings.gate_learning_rate * share)
        self._gate_optimiser.step()
        # With a fresh draw, as in the release: the gates' own draw has served all of their four losses.
        loss = self._loss(TRAIN, self._uniform(1))
        for weight, found in zip(self._weights, self._weight_gradients(loss), strict=True):
            weight.grad = found
        _set_rate(self._optimiser, rate)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self.done += 1

    # -- state -----------------------------------------------------------------------------------------------

    @property
    def identity(self) -> str:
        """What a checkpoint must share with this search."""
        return self.plan.identity(self.settings, self.supernet.candidates)

    def state(self) -> Checkpoint:
        """Everything that `load` needs to go on as if nothing had happened."""
        tensors = {"kept": torch.from_numpy(self._kept)}
        for name, _, parameter, moments in self._parts():
            tensors |= {name: parameter, **{f"{name}/{key}": value for key, value in moments.items()}}
        facts = {"identity": self.identity, "done": self.done, "seconds": self._watch.seconds, "best": self._best}
        facts["examples"] = self.problem.examples
        return Checkpoint(tensors, facts)

    @torch.no_grad()
    def load(self, found: Checkpoint) -> None:
        """Go on from what `state` gave; this search must be fresh.

        Raises:
            StudyMismatchError: it belongs to another search.
        """
        found.check(self.identity)
        self.problem.examples = found.facts.get("examples")
        self.done, self._best = int(found.facts["done"]), float(found.facts["best"])
        self._watch.earlier = float(found.facts["seconds"])
        self._kept = found.tensors["kept"].numpy()
        for name, optimiser, parameter, _ in self._parts():
            parameter.copy_(found.tensors[name])
            optimiser.state[parameter] = restored(found.under(f"{name}/"), parameter)

    def _parts(self) -> Iterator[tuple[str, torch.optim.Optimizer, Tensor, Mapping[str, Tensor]]]:
        """Everything that is trained: its name, who trains it, and the moments so far."""
        yield "gates", self._gate_optimiser, self.gates.logits, self._gate_optimiser.state[self.gates.logits]
        for number, weight in enumerate(self._weights):
            yield f"weight.{number}", self._optimiser, weight, self._optimiser.state[weight]

    # -- gradients -------------------------------------------------------------------------------------------

    def gate_gradient(self, rate: float) -> Tensor:
        """The gradient of the validation loss with respect to the gates' logits, ``(n,)``.

        Order 2: ``∇_a L_val(w') - rate · (∇_a L_tra(w⁺) - ∇_a L_tra(w⁻)) / 2ε`` where ``w'`` is one step of the
        weights ahead and ``w± = w ± ε ∇_{w'} L_val``; the same draw of the gates in all four.

        Args:
            rate: the learning rate of the virtual step.
        """
        uniform = self._uniform(0)
        if self.settings.order == 1:
            return self._of_gates(VALIDATION, uniform)
        now = [weight.detach().clone() for weight in self._weights]
        try:
            self._set(self._ahead(self._weight_gradients(self._loss(TRAIN, uniform)), rate))
            own, *others = torch.autograd.grad(
                self._loss(VALIDATION, uniform), [self.gates.logits, *self._weights], materialize_grads=True
            )
            # As in DARTS, so that the step of the difference has one length whatever the gradient's.
            epsilon = self.settings.difference / (_norm(others) + 1e-6)
            self._set([weight + epsilon * other for weight, other in zip(now, others, strict=True)])
            above = self._of_gates(TRAIN, uniform)
            self._set([weight - epsilon * other for weight, other in zip(now, others, strict=True)])
            below = self._of_gates(TRAIN, uniform)
        finally:
            self._set(now)
        return own - rate * (above - below) / (2 * epsilon)

    def _of_gates(self, half: int, uniform: Tensor) -> Tensor:
        return torch.autograd.grad(self._loss(half, uniform), [self.gates.logits])[0]

    def _weight_gradients(self, loss: Tensor) -> list[Tensor]:
        return _clipped(torch.autograd.grad(loss, self._weights, materialize_grads=True), self.settings.clip)

    @torch.no_grad()
    def _ahead(self, gradients: Sequence[Tensor], rate: float) -> list[Tensor]:
        """Where one step of the weights' AdamW would lead; its state stays."""
        found = []
        for weight, gradient in zip(self._weights, gradients, strict=True):
            state = self._optimiser.state.get(weight, {})
            # Computed beside the optimiser and not by it: a step of its own would move its moments for good.
            n = float(state.get("step", 0.0)) + 1
            mean = 0.9 * state.get("exp_avg", torch.zeros_like(weight)) + 0.1 * gradient
            square = 0.999 * state.get("exp_avg_sq", torch.zeros_like(weight)) + 0.001 * gradient.square()
            change = mean / (1 - 0.9**n) / ((square / (1 - 0.999**n)).sqrt() + 1e-8)
            found.append(weight * (1 - rate * self.settings.weight_decay) - rate * change)
        return found

    @torch.no_grad()
    def _set(self, values: Sequence[Tensor]) -> None:
        for weight, value in zip(self._weights, values, strict=True):
            weight.copy_(value)

    # -- passes ----------------------------------------------------------------------------------------------

    def _loss(self, half: int, uniform: Tensor) -> Tensor:
        """The loss on this step's batch of `half`; dropout is the same whenever it is asked for."""
        self.supernet.gate(self._on_device(self.gates.draw(uniform)), self._ones)
        torch.manual_seed(self.plan.derived(self.done, 10 + half))
        loss = self.problem.loss(half, self.done)
        self.plan.check(float(loss.detach()), "training" if half == TRAIN else "validation", self.done)
        return loss

    def _evaluated(self) -> float:
        with torch.no_grad():
            self.supernet.gate(self._on_device(self.gates.probabilities()), self._ones)
        loss = self.problem.validation()
        self.plan.check(loss, "validation", self.done)
        return loss

    def _on_device(self, gates: Tensor) -> Tensor:
        return gates.to(device=self.supernet.device, dtype=torch.float32)

    def _uniform(self, salt: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.plan.derived(self.done, salt))
        return torch.rand(len(self._counts), dtype=torch.float64, generator=generator).clamp(_ALMOST, 1 - _ALMOST)

    def _probabilities(self) -> Floats:
        with torch.no_grad():
            return np.asarray(self.gates.probabilities().numpy().copy())


def _set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(torch.nn.utils.get_total_norm(tensors))


def _clipped(gradients: Sequence[Tensor], most: float) -> list[Tensor]:
    if not most:
        return list(gradients)
    factor = min(1.0, most / (_norm(gradients) + 1e-6))
    return [gradient * factor for gradient in gradients]
