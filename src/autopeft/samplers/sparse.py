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
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from autopeft.architecture import Architecture, ParameterBudget
from autopeft.budgeted import BudgetedFactory, Question
from autopeft.errors import NonFiniteFailure, SettingsError
from autopeft.evaluate import checkpointing
from autopeft.proposal import complain
from autopeft.samplers.bilevel import HalvedTask
from autopeft.selection import Candidates, Floats, Ints, indicator
from autopeft.space import Choice, SearchSpace
from autopeft.supernet import Supernet

_log = logging.getLogger(__name__)

NAME = "s3delta"

TRAIN, VALIDATION = 0, 1

_ALMOST = 1e-12  # probabilities stay this far from 0 and 1 where their logit is taken


@dataclass(frozen=True)
class SparseSettings:
    """How the search is done.

    Args:
        order: 2 differentiates through a virtual step of the weights, 1 does not; a step then has two backward
            passes and not five.
        size: at which of its candidate sizes a module stands: the "smallest" (the paper's rank 1) or "largest".
        epochs: passes over the first half of the training part; None takes the recipe's.
        steps: instead of `epochs`, or None.
        batch_size, learning_rate: None takes the recipe's.
        weight_decay: of the weights' AdamW (β 0.9 and 0.999).
        gate_learning_rate, gate_weight_decay: of the gates' AdamW. Both rates fall linearly to 0.
        clip: limit of the gradient norm, of weights and of gates apart; 0 does not limit.
        sharpness: β, the scale of the sigmoid.
        temperature: τ of the binary concrete gates.
        stretch_low, stretch_high: gates are ``clip(z (high - low) + low, 0, 1)``; 0 and 1 do not stretch.
        is_hard: round the gates in the forward pass, with the gradient of the soft ones.
        is_competing: pass gradients through ``p_i / Σp · stop(Σp)``, by which one module gains what others lose.
        difference: the finite difference of order 2 is this number over the norm of the validation gradient.
        evaluate_every: epochs between evaluations on the second half, with the gates at their probabilities.
        keep: take the gates of the "best" evaluation or the "last".
    """

    order: Literal[1, 2] = 2
    size: Literal["smallest", "largest"] = "smallest"
    epochs: float | None = None
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    weight_decay: float = 0.0
    gate_learning_rate: float = 0.1
    gate_weight_decay: float = 0.0
    clip: float = 2.0
    sharpness: float = 1.0
    temperature: float = 1.0
    stretch_low: float = 0.0
    stretch_high: float = 1.0
    is_hard: bool = False
    is_competing: bool = True
    difference: float = 0.01
    evaluate_every: float = 1.0
    keep: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        wrong = [
            f"{name} must be {rule}, but got {getattr(self, name)!r}"
            for name, (rule, is_right) in _RULES.items()
            if not _holds(is_right, getattr(self, name))
        ]
        complain("The settings of S3Delta cannot be used", wrong)


Rule = tuple[str, Callable[[Any], bool]]


def _holds(rule: Callable[[Any], bool], value: Any) -> bool:
    try:
        return rule(value)
    except TypeError:
        return False


_POSITIVE: Rule = ("above 0", lambda v: 0 < v < math.inf)
_POSITIVE_OR_NONE: Rule = ("None or above 0", lambda v: v is None or 0 < v < math.inf)
_NOT_NEGATIVE: Rule = ("at least 0", lambda v: 0 <= v < math.inf)
_COUNT_OR_NONE: Rule = ("None or a whole number of at least 1", lambda v: v is None or (isinstance(v, int) and v >= 1))

_RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "order": ("1 or 2", lambda v: v in (1, 2)),
        "size": ("'smallest' or 'largest'", lambda v: v in ("smallest", "largest")),
        "epochs": _POSITIVE_OR_NONE,
        "steps": _COUNT_OR_NONE,
        "batch_size": _COUNT_OR_NONE,
        "learning_rate": _POSITIVE_OR_NONE,
        "weight_decay": _NOT_NEGATIVE,
        "gate_learning_rate": _POSITIVE,
        "gate_weight_decay": _NOT_NEGATIVE,
        "clip": _NOT_NEGATIVE,
        "sharpness": _POSITIVE,
        "temperature": _POSITIVE,
        "stretch_low": ("at most 0", lambda v: -math.inf < v <= 0),
        "stretch_high": ("at least 1", lambda v: 1 <= v < math.inf),
        "difference": _POSITIVE,
        "evaluate_every": _POSITIVE,
        "keep": ("'best' or 'last'", lambda v: v in ("best", "last")),
    }
)

PRESETS: Mapping[str, SparseSettings] = MappingProxyType(
    {"paper": SparseSettings(learning_rate=3e-4), "recommended": SparseSettings()}
)
"""The paper's numbers; the same with the learning rate of the recipe with which what is found will be trained."""


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
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


class SoftGates:
    """The architecture parameters of one search, ``(n,)``, all 0 at first, in double precision on the processor."""

    def __init__(self, counts: Ints, budget: int, settings: SparseSettings) -> None:
        self.logits = torch.zeros(len(counts), dtype=torch.float64, requires_grad=True)
        self._counts, self._budget, self._settings = counts, budget, settings

    def probabilities(self) -> Tensor:
        """``p``, ``(n,)``, with ``Σ p_i n_i`` the budget; gradients flow to `logits` but not through the shift."""
        settings = self._settings
        zeta = shift(self.logits.detach().numpy(), self._counts, self._budget, settings.sharpness)
        p = torch.sigmoid((self.logits - zeta) / settings.sharpness)
        return p / p.sum() * p.sum().detach() if settings.is_competing else p

    def draw(self, uniform: Tensor) -> Tensor:
        """Binary concrete gates, ``(n,)``, from uniform numbers, ``(n,)``."""
        settings = self._settings
        p = self.probabilities().clamp(_ALMOST, 1 - _ALMOST)
        z = torch.sigmoid((torch.logit(uniform) + torch.logit(p)) / settings.temperature)
        z = (z * (settings.stretch_high - settings.stretch_low) + settings.stretch_low).clamp(0, 1)
        return z.round() + (z - z.detach()) if settings.is_hard else z


# -- the search --------------------------------------------------------------------------------------------


class Problem(Protocol):
    """What is minimised: a `bilevel.Problem` that can also be evaluated.

    Attributes:
        head: parameters that are trained besides the supernet's.
        steps_per_epoch: batches of the first half.
    """

    @property
    def head(self) -> Sequence[nn.Parameter]: ...
    @property
    def steps_per_epoch(self) -> int: ...
    def loss(self, half: int, step: int) -> Tensor:
        """The mean loss on the batch of `half` that belongs to `step`, which it alone determines; a scalar."""
        ...

    def training(self) -> AbstractContextManager[None]:
        """A context in which the model is in training mode."""
        ...

    def validation(self) -> float:
        """The loss on the second half in evaluation mode; the lower the better."""
        ...


class SparseTask:
    """The evaluator's training part, cut in two random halves, as a `Problem`."""

    def __init__(self, question: Question, batch_size: int) -> None:
        evaluator = question.evaluator
        self._halved, self._model = HalvedTask(evaluator, batch_size, question.seed), evaluator.learner.model
        self._batches = math.ceil((evaluator.n_train // 2) / batch_size)  # of the second half
        self.head, self.steps_per_epoch = self._halved.head, self._halved.steps_per_epoch

    def loss(self, half: int, step: int) -> Tensor:
        """The learner's loss on the batch of `half` at `step`."""
        return self._halved.loss(half, step)

    def training(self) -> AbstractContextManager[None]:
        """The learner's model in training mode."""
        return self._halved.training()

    @torch.no_grad()
    def validation(self) -> float:
        """The mean over the examples of the second half."""
        self._model.eval()
        losses = [float(self.loss(VALIDATION, step)) for step in range(self._batches)]
        sizes = [len(self._halved.indices(VALIDATION, step)) for step in range(self._batches)]
        self._model.train()
        return float(np.average(losses, weights=sizes))


@dataclass(frozen=True)
class Plan:
    """How long, how fast, how much: steps, learning rate of the weights at the start, most parameters, seed."""

    steps: int
    learning_rate: float
    budget: int
    seed: int


@dataclass(frozen=True)
class Found:
    """The outcome of a search.

    Args:
        parameters: its count, in the supernet's kind.
        probabilities: of all placements in canonical order, ``(n,)``, at the evaluation that was kept.
        seconds: wall-clock time.
    """

    architecture: Architecture
    parameters: int
    probabilities: Floats
    seconds: float


class SparseSearch:
    """One search in a supernet whose placements have one size each."""

    def __init__(self, supernet: Supernet, problem: Problem, settings: SparseSettings, plan: Plan) -> None:
        """Raises:
        SettingsError: a placement has several sizes.
        BudgetError: not even the smallest placement fits.
        """
        self.supernet, self.problem, self.settings, self.plan = supernet, problem, settings, plan
        candidates = supernet.candidates
        if candidates.is_sized.any():
            raise SettingsError("S3Delta decides which modules there are, so each must have one size; see `one_size`.")
        candidates.check_budget(plan.budget)
        self.done, self._counts = 0, candidates.counts[:, 0]
        self.gates = SoftGates(self._counts, plan.budget, settings)
        self._ones = torch.ones(len(candidates), 1, device=supernet.device)
        self._weights = [*(p for i in range(len(supernet)) for p in supernet.parameters_of(i)), *problem.head]
        self._optimiser = torch.optim.AdamW(
            self._weights, lr=plan.learning_rate, weight_decay=settings.weight_decay, foreach=True
        )
        self._gate_optimiser = torch.optim.AdamW(
            [self.gates.logits], lr=settings.gate_learning_rate, weight_decay=settings.gate_weight_decay
        )

    def run(self) -> Found:
        """Search to the end.

        Raises:
            NonFiniteFailure: a loss became NaN or infinite.
        """
        started = time.perf_counter()
        devices = [self.supernet.device] if self.supernet.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), self.problem.training():
            self.supernet.train()
            probabilities = self._searched() if self._counts.sum() > self.plan.budget else self._probabilities()
        self.supernet.train(False)
        rank, everyone = self.supernet.candidates.rank, np.ones(len(self._counts), dtype=bool)
        chosen = indicator(probabilities, self._counts.astype(float), everyone, rank, self.plan.budget, "skip")
        architecture = self.supernet.architecture(self.supernet.candidates.sizes[:, 0] * chosen)
        return Found(architecture, int(self._counts[chosen].sum()), probabilities, time.perf_counter() - started)

    def _searched(self) -> Floats:
        """The probabilities at the best evaluation, or the last."""
        between = max(1, round(self.settings.evaluate_every * self.problem.steps_per_epoch))
        best, kept = math.inf, self._probabilities()
        while self.done < self.plan.steps:
            self.step()
            if self.settings.keep == "last" or (self.done % between and self.done < self.plan.steps):
                continue
            loss = self._evaluated()
            if loss < best:
                best, kept = loss, self._probabilities()
        return kept if self.settings.keep == "best" else self._probabilities()

    def step(self) -> None:
        """One step: the gates on the second half, then the weights on the first with gates drawn anew."""
        share = 1 - self.done / self.plan.steps
        rate = self.plan.learning_rate * share
        gradient = self.gate_gradient(rate)
        self.gates.logits.grad = _clipped([gradient], self.settings.clip)[0]
        _set_rate(self._gate_optimiser, self.settings.gate_learning_rate * share)
        self._gate_optimiser.step()
        loss = self._loss(TRAIN, self._uniform(1))
        for weight, found in zip(self._weights, self._weight_gradients(loss), strict=True):
            weight.grad = found
        _set_rate(self._optimiser, rate)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self.done += 1

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
        torch.manual_seed(self._derived(10 + half))
        loss = self.problem.loss(half, self.done)
        if not torch.isfinite(loss.detach()):
            name = "training" if half == TRAIN else "validation"
            raise NonFiniteFailure(
                f"The {name} loss is {float(loss.detach())} at step {self.done} of {self.plan.steps}."
            )
        return loss

    def _evaluated(self) -> float:
        with torch.no_grad():
            self.supernet.gate(self._on_device(self.gates.probabilities()), self._ones)
        return self.problem.validation()

    def _on_device(self, gates: Tensor) -> Tensor:
        return gates.to(device=self.supernet.device, dtype=torch.float32)

    def _uniform(self, salt: int) -> Tensor:
        generator = torch.Generator().manual_seed(self._derived(salt))
        return torch.rand(len(self._counts), dtype=torch.float64, generator=generator).clamp(_ALMOST, 1 - _ALMOST)

    def _derived(self, salt: int) -> int:
        """An independent seed for one purpose at this step."""
        return int(np.random.SeedSequence([self.plan.seed, self.done, salt]).generate_state(1, np.uint32)[0])

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


# -- the sampler -------------------------------------------------------------------------------------------


def one_size(space: SearchSpace, size: Literal["smallest", "largest"]) -> SearchSpace:
    """`space` without its budget, where every module is absent or has the smallest, or the largest, of its sizes."""
    column = 1 if size == "smallest" else -1
    choices = tuple(Choice(choice.name, (0, choice.values[column])) for choice in space.choices)
    return replace(space, choices=choices, budget=None)


class SparseAnswers:
    """For each budget one search: the shift depends on it."""

    per_budget = 1

    def __init__(self, question: Question, settings: SparseSettings) -> None:
        """Raises:
        BudgetError: the smallest module is above a budget.
        SettingsError: there are not two training examples.
        """
        self._question, self._settings = question, settings
        self._space = one_size(question.space, settings.size)
        if question.evaluator.n_train < 2:
            n = question.evaluator.n_train
            raise SettingsError(f"S3Delta cuts the training part in two halves, but it has {n} examples.")
        for limit in question.limits:
            Candidates.of(self._space, limit.count).check_budget(limit.most)

    def answer(self, limit: ParameterBudget) -> Sequence[Architecture]:
        """What the search for `limit` ended at."""
        return (self.search(limit).architecture,)

    def search(self, limit: ParameterBudget) -> Found:
        """The whole outcome of the search for `limit`."""
        evaluator, settings, seed = self._question.evaluator, self._settings, self._question.seed
        problem = SparseTask(self._question, settings.batch_size or evaluator.recipe.batch_size)
        rate = settings.learning_rate or evaluator.recipe.learning_rate
        plan = Plan(settings.steps or self._steps(problem), rate, limit.most, seed)
        with self._supernet(limit) as supernet:
            found = SparseSearch(supernet, problem, settings, plan).run()
        _log.info(
            "S3Delta: %s answered with %d modules and %d parameters after %d steps and %.0f seconds.",
            limit, len(found.architecture), found.parameters, plan.steps, found.seconds,
        )  # fmt: skip
        return found

    @contextmanager
    def _supernet(self, limit: ParameterBudget) -> Iterator[Supernet]:
        backbone, recipe = self._question.evaluator.backbone, self._question.evaluator.recipe
        supernet = Supernet(backbone, self._space, seed=self._question.seed, kind=limit.count)
        with supernet, checkpointing(backbone.model, recipe.gradient_checkpointing):
            yield supernet

    def _steps(self, problem: SparseTask) -> int:
        recipe = self._question.evaluator.recipe
        if self._settings.epochs is None and recipe.steps is not None:
            return recipe.steps
        return max(1, round((self._settings.epochs or recipe.epochs) * problem.steps_per_epoch))


MEMBERS = {NAME: BudgetedFactory(NAME, PRESETS, SparseAnswers)}
