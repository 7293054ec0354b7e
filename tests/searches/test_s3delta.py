"""S3Delta: the shifted sigmoid, the gates, the second-order step, and what the search finds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor, nn

import tiny
from autopeft import samplers
from autopeft.architecture import ParameterBudget
from autopeft.backbones import Backbone
from autopeft.errors import BudgetError, NonFiniteFailure, SettingsError, StudyMismatchError, UnknownNameError
from autopeft.searches._problem import TRAIN, VALIDATION, Plan
from autopeft.searches._supernet import Supernet
from autopeft.searches.s3delta.sampler import one_size
from autopeft.searches.s3delta.search import S3DeltaResult, SoftGates, SparseSearch, shift
from autopeft.searches.s3delta.settings import PRESETS, S3DeltaSettings
from autopeft.spaces import papers as spaces
from autopeft.training.evaluator import Evaluator
from autopeft.training.recipe import Recipe
from planted import Planted, backbone, space_of

QUICK = S3DeltaSettings()
PLANTED = {("lora", "encoder.0.q"), ("lora", "encoder.0.v")}


# -- the shifted sigmoid -----------------------------------------------------------------------------------


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -x))


@given(
    logits=st.lists(st.floats(-30, 30), min_size=1, max_size=40),
    counts=st.lists(st.integers(1, 10_000), min_size=40, max_size=40),
    share=st.floats(0.001, 0.999),
    sharpness=st.floats(0.1, 10.0),
)
@examples(max_examples=300)
def test_the_expected_count_is_the_budget(
    logits: list[float], counts: list[int], share: float, sharpness: float
) -> None:
    a, n = np.array(logits), np.array(counts[: len(logits)])
    budget = share * n.sum()
    zeta = shift(a, n, budget, sharpness)
    assert (n * sigmoid((a - zeta) / sharpness)).sum() == pytest.approx(budget, rel=1e-9)


@given(pairs=st.lists(st.tuples(st.floats(-5, 5), st.integers(1, 100)), min_size=2, max_size=20), data=st.data())
@examples(max_examples=60)
def test_the_order_of_the_modules_changes_nothing(pairs: list[tuple[float, int]], data: st.DataObject) -> None:
    a, n = (np.array(column) for column in zip(*pairs, strict=True))
    order = data.draw(st.permutations(range(len(pairs))))
    budget = 0.4 * n.sum()
    assert shift(a[order], n[order], budget) == pytest.approx(shift(a, n, budget), abs=1e-9)


def test_the_shift_of_equal_logits_is_known() -> None:
    """All p equal 1/4 when the budget is a quarter of the total: (0.7 - ζ) / 2 = logit(1/4) = -log 3."""
    zeta = shift(np.full(5, 0.7), np.array([1, 2, 3, 4, 10]), 5.0, sharpness=2.0)
    assert zeta == pytest.approx(0.7 + 2 * math.log(3), abs=1e-9)


def test_two_modules_have_a_shift_in_closed_form() -> None:
    """Counts 1 and 1, logits ±a, budget 1: by symmetry ζ = 0 and the probabilities are σ(±a)."""
    assert shift(np.array([2.0, -2.0]), np.array([1, 1]), 1.0) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("budget", [10, 11])
def test_when_everything_fits_nothing_is_shifted_away(budget: int) -> None:
    assert shift(np.array([1.0, -5.0]), np.array([4, 6]), budget) == -math.inf
    gates = SoftGates(np.array([4, 6]), budget, QUICK)
    assert gates.probabilities().tolist() == [1.0, 1.0]
    assert torch.isfinite(gates.draw(torch.tensor([0.5, 0.5], dtype=torch.float64))).all()


# -- the gates ---------------------------------------------------------------------------------------------


def gates_at(logits: list[float], counts: list[int], budget: int, settings: S3DeltaSettings = QUICK) -> SoftGates:
    gates = SoftGates(np.array(counts), budget, settings)
    with torch.no_grad():
        gates.logits.copy_(torch.tensor(logits, dtype=torch.float64))
    return gates


def test_all_gates_start_at_the_same_probability() -> None:
    assert torch.allclose(gates_at([0.0] * 3, [1, 2, 7], 4).probabilities(), torch.tensor(0.4, dtype=torch.float64))


def test_competition_leaves_the_values_and_centres_the_gradients() -> None:
    """d(p_i S̄ / Σp)/da = p_i' (δ_ij - p_i / Σp) at fixed ζ, where p' = p (1 - p) / β."""
    counts, logits = [1, 2, 3], [0.3, -0.4, 1.2]
    free = gates_at(logits, counts, 3, replace(QUICK, is_competing=False, sharpness=2.0))
    bound = gates_at(logits, counts, 3, replace(QUICK, sharpness=2.0))
    p = free.probabilities()
    assert torch.allclose(bound.probabilities(), p, atol=1e-14)
    p = p.detach()
    slope = p * (1 - p) / 2
    for i in range(3):
        (alone,) = torch.autograd.grad(free.probabilities()[i], free.logits)
        (shared,) = torch.autograd.grad(bound.probabilities()[i], bound.logits)
        one = torch.eye(3, dtype=torch.float64)[i]
        assert torch.allclose(alone, one * slope, atol=1e-12)
        assert torch.allclose(shared, slope * (one - p[i] / p.sum()), atol=1e-12)


@pytest.mark.parametrize(("n", "bound"), [(4_000, 0.036), pytest.param(20_000, 0.016, marks=pytest.mark.slow)])
def test_a_gate_is_the_concrete_distribution(n: int, bound: float) -> None:
    """P(z > 1/2) = P(u > 1 - p) = p at any temperature, and u = 1/2 gives σ(logit p / τ).

    Of n draws the share is within 4.5 standard deviations, 4.5 · sqrt(p (1 - p) / n) < bound, with probability
    1 - 7e-6 each.
    """
    warm = gates_at([0.5, -0.5], [1, 1], 1, replace(QUICK, temperature=0.5))
    p = warm.probabilities().detach()
    half = warm.draw(torch.full((2,), 0.5, dtype=torch.float64)).detach()
    assert torch.allclose(half, p**2 / (p**2 + (1 - p) ** 2))
    generator = torch.Generator().manual_seed(3)
    rows = torch.rand(n, 2, dtype=torch.float64, generator=generator).clamp(1e-12, 1 - 1e-12)
    share = torch.stack([warm.draw(row).detach() > 0.5 for row in rows]).double().mean(0)
    assert (share - p).abs().max() < bound


def test_stretched_gates_reach_0_and_1_and_hard_ones_know_nothing_else() -> None:
    uniform = torch.tensor([0.01, 0.5, 0.99], dtype=torch.float64)
    stretched = gates_at([0.0] * 3, [2, 2, 2], 3, replace(QUICK, stretch_low=-0.1, stretch_high=1.1)).draw(uniform)
    assert stretched.tolist() == pytest.approx([0.0, 0.5, 1.0])  # p is 1/2, so z is u before: 0.01 · 1.2 - 0.1 < 0
    hard = gates_at([0.0, 0.1, 0.0], [2, 2, 2], 3, replace(QUICK, is_hard=True))
    drawn = hard.draw(uniform)
    assert drawn.tolist() == [0.0, 1.0, 1.0]
    assert torch.autograd.grad(drawn.sum(), hard.logits)[0].abs().min() > 0


# -- the second-order step ---------------------------------------------------------------------------------


def fresh(settings: S3DeltaSettings = QUICK, budget: int = 600, steps: int = 20, seed: int = 0) -> SparseSearch:
    model = backbone()
    supernet = Supernet(model, one_size(space_of(model), "largest"), seed=seed)
    problem = Planted(model, ("encoder.0.q", "encoder.0.v"), seed)
    return SparseSearch(supernet, problem, settings, Plan(steps, 0.01, budget, seed))


class Bilinear:
    """Losses whose mixed derivative is known: ``Σ z_i w_i²`` in training, ``Σ (w_i - t_i)²`` in validation.

    The gates are read back from the supernet's masks; ``w_i`` is the first number of placement i.
    """

    steps_per_epoch = 4
    examples: int | None = None

    def __init__(self, supernet: Supernet) -> None:
        self.supernet = supernet
        self.head: tuple[nn.Parameter, ...] = ()
        self.weights = [supernet.parameters_of(i)[0] for i in range(len(supernet))]

    def masks(self) -> list[Tensor]:
        attached = self.supernet._attached
        found = [attached.masks[site, method] for site, method in self.supernet.candidates.keys]
        return [mask[0] for mask in found if isinstance(mask, Tensor)]

    def loss(self, half: int, step: int) -> Tensor:
        pairs = list(zip(self.masks(), self.weights, strict=True))
        if half == TRAIN:
            return torch.stack([z * w.flatten()[0].square() for z, w in pairs]).sum()
        return torch.stack([(w.flatten()[0] - 0.3 * i).square() + 0 * z for i, (z, w) in enumerate(pairs)]).sum()

    @contextmanager
    def training(self) -> Iterator[None]:
        yield

    def validation(self) -> float:
        return 0.0


def test_the_second_order_gradient_is_that_of_the_unrolled_step() -> None:
    """The exact term is -rate · Σ_k ∂²L_tra/∂a∂w_k · v_k with v = ∂L_val/∂w'; here L_tra is quadratic in w, so the
    central difference is exact but for rounding: z_i((w + εv)² - (w - εv)²) / 2ε = 2 w v z_i.
    """
    model = backbone()
    rate = 0.05
    with Supernet(model, one_size(space_of(model), "largest"), seed=1) as supernet:
        problem = Bilinear(supernet)
        with torch.no_grad():
            for index, weight in enumerate(problem.weights):
                weight.flatten()[0] = 0.2 + 0.1 * index
        before = [weight.detach().clone() for weight in problem.weights]
        search = SparseSearch(supernet, problem, replace(QUICK, clip=0.0), Plan(10, rate, 600, 1))
        found = search.gate_gradient(rate)
        assert all(torch.equal(a, b) for a, b in zip(problem.weights, before, strict=True))
        uniform = search._uniform(0)
        z = search.gates.draw(uniform)
        w = torch.tensor([0.2 + 0.1 * i for i in range(len(before))], dtype=torch.float64)
        # The first step of Adam moves every weight with a gradient by the rate, against its sign.
        ahead = w - rate * torch.sign(z.detach() * w)
        v = 2 * (ahead - 0.3 * torch.arange(len(w)))
        (expected,) = torch.autograd.grad((z * (-rate * 2 * w * v)).sum(), search.gates.logits)
        assert torch.allclose(found, expected, rtol=2e-3, atol=1e-5)
        assert found.abs().max() > 1e-3


def test_the_virtual_step_is_the_optimisers() -> None:
    search = fresh(replace(QUICK, weight_decay=0.1))
    with search.problem.training():
        for _ in range(3):
            search.step()
        gradients = search._weight_gradients(search._loss(TRAIN, search._uniform(1)))
        expected = search._ahead(gradients, 0.02)
        for weight, gradient in zip(search._weights, gradients, strict=True):
            weight.grad = gradient
        search._optimiser.param_groups[0]["lr"] = 0.02
        search._optimiser.step()
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(search._weights, expected, strict=True))


def test_the_first_order_gradient_is_the_plain_one() -> None:
    search = fresh(replace(QUICK, order=1))
    with search.problem.training():
        found = search.gate_gradient(0.01)
        loss = search._loss(VALIDATION, search._uniform(0))
        (expected,) = torch.autograd.grad(loss, search.gates.logits)
        assert torch.equal(found, expected)
        second = fresh(QUICK)
        with second.problem.training():
            assert not torch.equal(second.gate_gradient(0.01), found)


def test_both_learning_rates_fall_linearly_to_0() -> None:
    search = fresh(steps=4)
    rates = []
    with search.problem.training():
        for _ in range(4):
            search.step()
            rates.append((search._optimiser.param_groups[0]["lr"], search._gate_optimiser.param_groups[0]["lr"]))
    assert [rate for rate, _ in rates] == pytest.approx([0.01, 0.0075, 0.005, 0.0025])
    assert [rate for _, rate in rates] == pytest.approx([0.1, 0.075, 0.05, 0.025])


# -- what it finds -----------------------------------------------------------------------------------------


def searched(seed: int, settings: S3DeltaSettings, budget: int, steps: int, size: Any = "smallest") -> S3DeltaResult:
    model = backbone()
    with Supernet(model, one_size(space_of(model), size), seed=seed) as supernet:
        problem = Planted(model, ("encoder.0.q", "encoder.0.v"), seed)
        return SparseSearch(supernet, problem, settings, Plan(steps, 0.01, budget, seed)).run()


def has_planted(found: S3DeltaResult) -> bool:
    return {(p.method, p.site) for p in found.architecture} >= PLANTED


@pytest.mark.slow
@pytest.mark.parametrize(("n", "least"), [(4, 3), pytest.param(10, 9, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("order", "size", "budget"),
    [pytest.param(2, "smallest", 70, marks=pytest.mark.slow), (1, "smallest", 70), (1, "largest", 600)],
)
def test_a_planted_architecture_is_found(order: Any, size: str, budget: int, n: int, least: int) -> None:
    """Eight LoRA, of which two fit the budget, beside two biases.

    A search that looks at nothing holds the two planted ones with probability 1/28 at most; three of four are then
    right with probability 4 · 28^-3 < 2e-4, nine of ten with 10 · 28^-9 < 1e-12.
    """
    settings = S3DeltaSettings(order=order)
    found = [searched(seed, settings, budget, 25, size) for seed in range(n)]
    assert sum(map(has_planted, found)) >= least
    assert all(0 < one.parameters <= budget for one in found)


def test_the_probabilities_still_meet_the_budget_at_the_end() -> None:
    found = searched(0, replace(QUICK, keep="last"), 70, 8)
    counts = np.where(np.arange(10) < 0, 0, [16 if m == "bitfit" else 32 for _, m in keys()])
    assert found.probabilities @ counts == pytest.approx(70, rel=1e-9)


def keys() -> tuple[tuple[str, str], ...]:
    model = backbone()
    with Supernet(model, one_size(space_of(model), "smallest")) as supernet:
        return supernet.candidates.keys


@pytest.mark.parametrize("budget", [16, 31, 33, 287, 288, 10_000])
def test_the_result_is_within_any_budget_and_never_empty(budget: int) -> None:
    """Ten modules: eight of 32 parameters and two of 16 make 288 at the most."""
    found = searched(1, replace(QUICK, order=1), budget, 3)
    assert 0 < found.parameters <= budget
    assert budget - found.parameters < 32 or found.parameters == 288
    assert len(found.architecture) == (10 if budget >= 288 else len(found.architecture))


def test_the_best_evaluation_is_kept() -> None:
    """The loss that evaluation reports is lowest after the second of four steps."""
    search, seen = fresh(replace(QUICK, order=1, evaluate_every=0.05), steps=4), []

    def validation() -> float:
        seen.append(search._probabilities())
        return [3.0, 1.0, 2.0, 4.0][len(seen) - 1]

    search.problem.validation = validation  # type: ignore[method-assign]
    found = search.run()
    assert len(seen) == 4  # of 20 steps an epoch, 0.05 is one
    assert np.array_equal(found.probabilities, seen[1])
    assert not np.array_equal(seen[1], seen[3])


def test_the_same_seed_gives_the_same_and_the_global_numbers_are_left_alone() -> None:
    state = torch.get_rng_state()
    first, second, other = (searched(seed, QUICK, 70, 6) for seed in (4, 4, 5))
    assert np.array_equal(first.probabilities, second.probabilities)
    assert not np.array_equal(first.probabilities, other.probabilities)
    assert torch.equal(torch.get_rng_state(), state)


class Interrupted(Exception):
    """Stands for a lost machine."""


@pytest.mark.parametrize(
    ("settings", "at"),
    [
        (QUICK, 4),
        (QUICK, 7),
        (replace(QUICK, order=1, keep="last"), 7),
        (replace(QUICK, evaluate_every=0.1), 4),
        pytest.param(replace(QUICK, order=1, keep="last"), 4, marks=pytest.mark.slow),
        pytest.param(replace(QUICK, evaluate_every=0.1), 7, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_search_ends_bit_for_bit_like_the_uninterrupted_one(
    settings: S3DeltaSettings, at: int, tmp_path: Path
) -> None:
    path = tmp_path / "search.safetensors"
    whole, first, second = (fresh(settings, steps=10) for _ in range(3))
    expected = whole.run()
    original = first.problem.loss

    def loss(half: int, step: int) -> Tensor:
        if step == at:
            raise Interrupted
        return original(half, step)

    first.problem.loss = loss  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        first.run(path, every=3)
    found = second.run(path, every=3)
    assert np.array_equal(found.probabilities, expected.probabilities)
    assert found.architecture == expected.architecture
    assert expected.earlier == 0.0 < found.earlier < found.seconds
    for name, value in whole.state().tensors.items():
        assert torch.equal(second.state().tensors[name], value), name
    again = fresh(settings, steps=10)
    again.problem.loss = lambda half, step: pytest.fail("it was over")  # type: ignore[method-assign]
    assert again.run(path).architecture == expected.architecture


def test_a_checkpoint_of_another_search_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "search.safetensors"
    fresh(QUICK, steps=3).run(path)
    for other in (fresh(QUICK, steps=4), fresh(replace(QUICK, order=1), steps=3)):
        with pytest.raises(StudyMismatchError, match="other settings, data, space or budget"):
            other.run(path)


def test_a_loss_that_is_not_finite_is_a_typed_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Planted, "loss", lambda self, half, step: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(NonFiniteFailure, match="training loss is nan at step 0 of 5"):
        searched(0, QUICK, 70, 5)


def test_a_gradient_of_the_gates_that_is_not_finite_is_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SparseSearch, "gate_gradient", lambda self, rate: self.gates.logits.detach() * float("inf"))
    with pytest.raises(NonFiniteFailure, match="gates' gradient is NaN or infinite at step 0 of 5"):
        searched(0, QUICK, 70, 5)


def test_an_evaluation_that_is_not_finite_is_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Planted, "validation", lambda self: float("nan"))
    with pytest.raises(NonFiniteFailure, match="validation loss is nan at step 5 of 5"):
        searched(0, QUICK, 70, 5)


def test_several_sizes_are_refused_and_one_is_taken_from_them() -> None:
    model = backbone()
    space = space_of(model)
    assert {choice.values for choice in one_size(space, "smallest").choices} == {(0, 1)}
    assert {choice.values for choice in one_size(space, "largest").choices} == {(0, 1), (0, 8)}
    with Supernet(model, space) as supernet:
        with pytest.raises(SettingsError, match="each must have one size"):
            SparseSearch(supernet, Planted(model, (), 0), QUICK, Plan(5, 0.01, 600, 0))
    with Supernet(model, one_size(space, "smallest")) as supernet:
        with pytest.raises(BudgetError, match="smallest module of this space has 16 parameters; the budget is 15"):
            SparseSearch(supernet, Planted(model, (), 0), QUICK, Plan(5, 0.01, 15, 0))


# -- as a sampler ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    parts = tiny.splits(tiny.sentiment(30), tiny.sentiment(8, seed=1))
    recipe = Recipe(epochs=1, batch_size=8, max_length=16)
    return Evaluator(tiny.backbone("bert", with_tokenizer=True), tiny.SENTIMENT, parts, recipe)


def build(evaluator: Evaluator, **options: Any) -> samplers.Sampler:
    over = spaces.named("S2", evaluator.backbone)
    return samplers.build("s3delta", over, 3, {"evaluator": evaluator, "budgets": 600, **options})


def test_options_are_resolved_and_checked_together(evaluator: Evaluator) -> None:
    resolved = getattr(build(evaluator, preset="paper", order=1), "settings")  # noqa: B009
    assert (resolved["learning_rate"], resolved["order"], resolved["gate_learning_rate"]) == (3e-4, 1, 0.1)
    assert resolved["budgets"] == ["at most 600 stored parameters"]
    assert {*PRESETS} == {"paper", "recommended"}
    with pytest.raises(SettingsError, match=r"order must be one of 1, 2, but got 3; .*stretch_high must be at least 1"):
        build(evaluator, order=3, stretch_high=0.9)
    with pytest.raises(SettingsError, match="clip must be a finite number of at least 0, but got 'a'"):
        build(evaluator, clip="a")
    with pytest.raises(UnknownNameError, match="preset 'papr'"):
        build(evaluator, preset="papr")


def test_a_budget_that_only_smaller_sizes_fit_is_an_error_before_work(evaluator: Evaluator) -> None:
    over = spaces.named("S1", evaluator.backbone)
    # A prefix of 8 positions has 8 · 64 = 512 parameters, an adapter of width 8 32 + 8 · 65 = 552.
    with pytest.raises(BudgetError, match="smallest module of this space has 512 parameters; the budget is 100"):
        samplers.build("s3delta", over, 0, {"evaluator": evaluator, "budgets": 100, "size": "largest"})
    assert samplers.build("s3delta", over, 0, {"evaluator": evaluator, "budgets": 100})


def test_one_example_cannot_be_halved(evaluator: Evaluator) -> None:
    parts = tiny.splits(tiny.sentiment(1), tiny.sentiment(4))
    alone = Evaluator(evaluator.backbone, tiny.SENTIMENT, parts, evaluator.recipe)
    with pytest.raises(SettingsError, match="S3Delta cuts the training part in two halves, but it has 1 examples"):
        build(alone)


@pytest.mark.slow
def test_gradient_checkpointing_changes_nothing_but_memory(evaluator: Evaluator) -> None:
    plain = build(evaluator, steps=4).ask([])
    saving = build(evaluator.with_recipe(gradient_checkpointing=True), steps=4).ask([])
    assert plain == saving


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_encoders_and_text_to_text_models_are_searched(evaluator: Evaluator, kind: str) -> None:
    parts = tiny.splits(tiny.sentiment(16), tiny.sentiment(8, seed=1))
    model: Backbone = tiny.backbone(kind, with_tokenizer=True)
    own = Evaluator(model, tiny.SENTIMENT, parts, Recipe(steps=2, batch_size=8, max_length=24))
    over = spaces.named("S2", model)
    (configuration,) = samplers.build("s3delta", over, 3, {"evaluator": own, "budgets": "5%"}).ask([])
    limit = ParameterBudget.parse("5%", model.n_parameters, "stored")
    assert 0 < over.cost(configuration, "stored") <= limit.most
