"""PrunePEFT: what importance is, what is kept of it, and what the search finds."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import tiny
from autopeft import samplers
from autopeft.errors import NonFiniteFailure, SettingsError
from autopeft.network.build import count
from autopeft.searches._candidates import Candidates, Floats
from autopeft.searches._search import BudgetedSampler
from autopeft.searches._supernet import Supernet
from autopeft.searches.apet import draw_sizes
from autopeft.searches.prune_lawton import (
    Gatherer,
    Importance,
    PruneSearch,
    PruneSettings,
    _importance,
    element_wise,
    gathered,
    keep_of,
    module_wise,
    unit_wise,
)
from autopeft.session import resolved
from autopeft.settings import Settings
from autopeft.spaces import papers as spaces
from autopeft.spaces.lattice import SearchSpace
from autopeft.training.batches import Batch, Encoded, Ragged
from autopeft.training.consistency import Forward
from autopeft.training.evaluator import Evaluator
from autopeft.training.recipe import Recipe
from planted import Planted, backbone, space_of

PLANTED = (("encoder.0.q", "lora"), ("encoder.0.v", "lora"))
Variant = Literal["unstructured", "structured", "element"]
VARIANTS: tuple[Variant, ...] = ("unstructured", "structured", "element")


def candidates(sizes: list[list[int]], counts: list[list[int]]) -> Candidates:
    keys = tuple((f"encoder.{n}.q", "lora") for n in range(len(sizes)))
    return Candidates(keys, np.array(sizes), np.array(counts))


def important(once: float, *units: float) -> Importance:
    return Importance(once, np.array(units), np.array([once, *units]))


# -- what is kept ------------------------------------------------------------------------------------------


def test_units_of_all_places_compete() -> None:
    """Sizes 1, 2, 3 at 10 a unit. The units by importance: 9 (a), 8 (b), 7 (a), 3 (b), 2 (a), 1 (b)."""
    of = candidates([[1, 2, 3]] * 2, [[10, 20, 30]] * 2)
    importance = [important(0, 2, 9, 7), important(0, 1, 3, 8)]
    kept = {budget: unit_wise(importance, of, budget).tolist() for budget in (10, 19, 20, 30, 40, 50, 60, 99)}
    assert kept == {10: [1, 0], 19: [1, 0], 20: [1, 1], 30: [2, 1], 40: [2, 2], 50: [3, 2], 60: [3, 3], 99: [3, 3]}


def test_growth_is_by_whole_sizes_and_by_the_mean_of_what_it_brings() -> None:
    """Sizes 1 and 4 at 10 a unit. a: 12, then 9 for three units of 10 each (mean 3); b: 5, then 12 (mean 4)."""
    of = candidates([[1, 4]] * 2, [[10, 40]] * 2)
    importance = [important(0, 12, 5, 2, 2), important(0, 5, 4, 4, 4)]
    assert unit_wise(importance, of, 20).tolist() == [1, 1]
    assert unit_wise(importance, of, 50).tolist() == [1, 4]
    assert unit_wise(importance, of, 49).tolist() == [1, 1]  # what does not fit leaves room for nothing else here
    assert unit_wise(importance, of, 80).tolist() == [4, 4]


def test_what_is_there_once_comes_and_is_paid_with_the_first_units() -> None:
    """A bias of 30 parameters: the first unit of a brings 1 + 20 for 40 (0.525), that of b 6 for 10 (0.6)."""
    of = candidates([[1, 2]] * 2, [[40, 50], [10, 20]])
    importance = [important(20, 1, 1), important(0, 6, 5)]
    assert unit_wise(importance, of, 10).tolist() == [0, 1]
    # Then a's first (0.525) goes before b's second (0.5); at 45 it does not fit and b's second does.
    assert unit_wise(importance, of, 50).tolist() == [1, 1]
    assert unit_wise(importance, of, 45).tolist() == [0, 2]


def test_places_may_have_different_numbers_of_sizes() -> None:
    of = candidates([[1, 4], [1, 0]], [[10, 40], [15, 0]])
    importance = [important(0, 1, 1, 1, 1), important(0, 9)]
    assert unit_wise(importance, of, 1000).tolist() == [4, 1]
    assert unit_wise(importance, of, 15).tolist() == [0, 1]
    assert module_wise(importance, of, 55).tolist() == [4, 1]


def test_whole_modules_are_taken_by_their_mean_importance() -> None:
    """Largest counts 40, 40, 15 and importances 8, 10, 2: 0.2, 0.25, 0.13 a parameter; misfits are skipped."""
    of = candidates([[1, 4], [1, 4], [1, 0]], [[10, 40], [10, 40], [15, 0]])
    importance = [important(0, 2, 2, 2, 2), important(1, 9, 0, 0, 0), important(0, 2)]
    assert module_wise(importance, of, 95).tolist() == [4, 4, 1]
    assert module_wise(importance, of, 80).tolist() == [4, 4, 0]
    assert module_wise(importance, of, 79).tolist() == [0, 4, 1]
    assert module_wise(importance, of, 39).tolist() == [0, 0, 1]
    assert module_wise(importance, of, 14).tolist() == [0, 1, 0]  # none at its largest: the best at a smaller size


def test_single_weights_become_the_nearest_sizes() -> None:
    """Three modules of 8 weights, sizes 1, 2, 4 at 2 a unit. Of the 10 best weights a keeps 6, b 3 and c 1.

    Counts to choose from are 0, 2, 4, 8. For a 6 is as near to 4 as to 8: the smaller; for b 3 is between 2 and 4: 2;
    for c 1 is between 0 and 2: none.
    """
    of = candidates([[1, 2, 4]] * 3, [[2, 4, 8]] * 3)
    kept = (6, 3, 1)
    importance = [Importance(0.0, np.zeros(4), np.array([9.0] * n + [1.0] * (8 - n))) for n in kept]
    assert element_wise(importance, of, 10).tolist() == [2, 1, 0]
    # At 12 the two best of what is left (all equal) go to the first by name: a keeps 8.
    assert element_wise(importance, of, 12).tolist() == [4, 1, 0]


def test_a_mask_spread_too_thin_for_any_module_still_gives_one() -> None:
    """No module keeps more than half of its 8 weights, so each is nearest to none: the one that kept most is taken."""
    of = candidates([[4]] * 3, [[8]] * 3)
    importance = [Importance(0.0, np.zeros(4), np.array([9.0] * n + [1.0] * (8 - n))) for n in (3, 4, 1)]
    assert element_wise(importance, of, 8).tolist() == [0, 4, 0]


@given(data=st.data(), budget=st.integers(3, 400), variant=st.sampled_from(VARIANTS))
@settings(max_examples=200)
def test_any_budget_is_met_and_never_by_nothing(data: st.DataObject, budget: int, variant: Variant) -> None:
    n = data.draw(st.integers(1, 6))
    prices = data.draw(st.lists(st.tuples(st.integers(0, 20), st.integers(3, 9)), min_size=n, max_size=n))
    prices = [(0, 3), *prices]  # so that something fits
    table = [[1, 4, 8]] * len(prices)
    of = candidates(table, [[fixed + each * size for size in (1, 4, 8)] for fixed, each in prices])
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    importance = [
        Importance(float(rng.random()), rng.random(8), rng.random(fixed + 8 * each)) for fixed, each in prices
    ]
    sizes = keep_of(variant)(importance, of, budget)
    used = int(np.where(of.sizes == sizes[:, None], of.counts, 0).sum())
    assert 0 < used <= budget
    assert set(sizes.tolist()) <= {0, 1, 4, 8}


@given(seed=st.integers(0, 1000), budget=st.integers(10, 300))
@settings(max_examples=50)
def test_with_all_sizes_allowed_the_best_units_are_kept(seed: int, budget: int) -> None:
    """At one price a unit the greedy choice is the exact one: the ``budget // 10`` largest importances of all."""
    of = candidates([[*range(1, 9)]] * 3, [[10 * size for size in range(1, 9)]] * 3)
    units = np.random.default_rng(seed).random((3, 8))
    sizes = unit_wise([important(0, *row) for row in units], of, budget)
    best = np.sort(units.ravel())[::-1][: budget // 10]
    assert sizes.tolist() == [(row >= best[-1]).sum() for row in units]


@given(data=st.data(), variant=st.sampled_from(VARIANTS), seed=st.integers(0, 1000))
@settings(max_examples=60)
def test_the_order_of_the_places_changes_nothing(data: st.DataObject, variant: Variant, seed: int) -> None:
    """Importances are whole numbers, so that there are ties, which the names of the places must break."""
    n = data.draw(st.integers(2, 7))
    rng = np.random.default_rng(seed)
    of = candidates([[1, 4, 8]] * n, (rng.integers(2, 9, (n, 1)) * np.array([1, 4, 8])).tolist())
    found = [Importance(float(rng.integers(3)), *(rng.integers(0, 3, (2, 8)).astype(float))) for _ in range(n)]
    budget = data.draw(st.integers(int(of.counts.min()), int(of.counts.max(1).sum())))
    order = data.draw(st.permutations(range(n)))
    turned = Candidates(tuple(of.keys[i] for i in order), of.sizes[order], of.counts[order])
    sizes = keep_of(variant)(found, of, budget)
    assert keep_of(variant)([found[i] for i in order], turned, budget).tolist() == sizes[order].tolist()


# -- what importance is ------------------------------------------------------------------------------------


def test_importance_is_summed_over_batches_while_it_is_on() -> None:
    """y = w x with L = y: |w · dL/dw| = |w x| = 6 and 10 for x = 3 and -5 at w = 2; the rest does not count."""
    weight = nn.Parameter(torch.tensor([2.0]))
    gatherer = Gatherer([weight])
    for x, is_on in ((100.0, False), (3.0, True), (-5.0, True), (100.0, False)):
        gatherer.is_on = is_on
        (weight * x).sum().backward()
        weight.grad = None
    gatherer.stop()
    gatherer.is_on = True
    (weight * 7.0).sum().backward()
    assert gatherer.of(weight).tolist() == [16.0]


class PlantedLearner:
    """The planted problem as `train.fit` takes it; which batch it is decides the noise."""

    n_head, pad = 0, 0

    def __init__(self, problem: Planted) -> None:
        self.problem, self.model = problem, nn.Identity()

    def reset(self, seed: int) -> list[nn.Parameter]:
        return []

    def forward(self, batch: Batch) -> Forward:
        return Forward(self.loss(batch), torch.zeros(len(batch.indices)))

    def loss(self, batch: Batch) -> Tensor:
        return self.problem.loss(0, int(batch.indices[0]))

    def encode(self, *_: Any) -> Encoded:
        return Encoded(Ragged.of([[5, 6]] * 160), None, np.zeros(160, dtype=np.int64))

    def outputs(self, batch: Batch) -> list[Any]:
        return []

    def score(self, *_: Any) -> dict[str, float]:
        return {}


def scored(seed: int, recipe: Recipe | None = None) -> tuple[list[Importance], Candidates]:
    model = backbone()
    problem = Planted(model, [site for site, _ in PLANTED], seed)
    learner = PlantedLearner(problem)
    recipe = recipe or Recipe(epochs=1, batch_size=8, learning_rate=0.01)
    with Supernet(model, space_of(model), seed=seed) as supernet, problem.training():
        return gathered(supernet, learner, learner.encode(), recipe, 1.0, seed), supernet.candidates


def test_units_and_what_is_there_once_share_the_weights_between_them() -> None:
    """One step: against gradients taken directly, for each kind of module of both spaces at once."""
    found = tiny.backbone("bert")
    for name in ("S1", "S2"):
        with Supernet(found, spaces.named(name, found), seed=2) as supernet:
            own = [p for index in range(len(supernet)) for p in supernet.parameters_of(index)]
            gatherer = Gatherer(own)
            gatherer.is_on = True
            tiny.output(found).square().sum().backward()  # type: ignore[no-untyped-call]
            gatherer.stop()
            before = [p.detach().clone() for p in own]
            importance = _importance(supernet, gatherer)
            assert all(torch.equal(a, b) for a, b in zip(own, before, strict=True))
            for index, ((_, method), one) in enumerate(zip(supernet.candidates.keys, importance, strict=True)):
                products = [(p * p.grad).abs().detach().double() for p in supernet.parameters_of(index)]  # type: ignore[operator]
                assert one.elements.sum() == pytest.approx(sum(float(part.sum()) for part in products), rel=1e-5)
                assert one.once + one.units.sum() == pytest.approx(one.elements.sum(), rel=1e-5, abs=1e-12)
                assert len(one.units) == supernet.candidates.sizes[index].max()
                assert one.elements.size == supernet.candidates.counts[index].max()
                if method == "lora":
                    down, up = products  # (8, d_in), (d_out, 8): row i belongs to column i
                    assert np.allclose(one.units, (down.sum(1) + up.sum(0)).numpy(), rtol=1e-4)
                    assert one.once == 0
                if method == "serial_bipeft":
                    assert one.once == pytest.approx(float(products[-1].sum()), rel=1e-4)  # the up-projection's bias


def test_only_the_last_epoch_counts() -> None:
    """With 20 steps an epoch, the sums over 1 and 3 epochs are sums over 20 batches each."""
    model = backbone()
    calls: list[int] = []

    class Counting(PlantedLearner):
        def loss(self, batch: Batch) -> Tensor:
            calls.append(0)
            return torch.stack([p.sum() for p in self.parameters]).sum()

        parameters: list[nn.Parameter]

    with Supernet(model, space_of(model), seed=0) as supernet:
        learner = Counting(Planted(model, (), 0))
        learner.parameters = [p for i in range(len(supernet)) for p in supernet.parameters_of(i)]
        with torch.no_grad():
            for parameter in learner.parameters:
                parameter.fill_(1.0)
        recipe = Recipe(epochs=3, batch_size=8, learning_rate=1e-12)
        found = gathered(supernet, learner, learner.encode(), recipe, 1.0, 0)
    assert len(calls) == 60
    # Every weight is 1 and every gradient is 1: each weight gathers 1 in each of 20 steps.
    assert all(np.allclose(one.elements, 20.0) for one in found)


# -- what it finds -----------------------------------------------------------------------------------------


def has_planted(sizes: Floats | Any, of: Candidates) -> bool:
    chosen = dict(zip(of.keys, sizes, strict=True))
    return all(chosen[key] == 8 for key in PLANTED)


@pytest.mark.slow
def test_a_planted_architecture_is_found_and_chance_does_not_find_it() -> None:
    """Eight LoRA and two biases; 600 parameters hold two LoRA of rank 8, of 256 each, and little more.

    Both planted ones at rank 8 come by chance, as APET draws, in a share of p < 2 % of cases. Nine of ten seeds
    are then right with probability below 10 · 0.02^9 < 1e-14.
    """
    found = [scored(seed) for seed in range(10)]
    for variant in VARIANTS:
        assert sum(has_planted(keep_of(variant)(one, of, 600), of) for one, of in found) >= 9, variant
    of, rng = found[0][1], np.random.default_rng(0)
    assert sum(has_planted(draw_sizes(of, 600, rng), of) for _ in range(2000)) < 0.02 * 2000


def test_a_loss_that_is_not_finite_is_a_typed_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    model = backbone()
    with Supernet(model, space_of(model)) as supernet:
        own = supernet.parameters_of(0)[0]
        monkeypatch.setattr(Planted, "loss", lambda self, half, step: own.sum() * torch.nan)
        learner = PlantedLearner(Planted(model, (), 0))
        with pytest.raises(NonFiniteFailure, match="training loss is nan"):
            gathered(supernet, learner, learner.encode(), Recipe(steps=2, batch_size=8), 1.0, 0)


# -- as a sampler ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    parts = tiny.splits(tiny.sentiment(48), tiny.sentiment(8, seed=1))
    recipe = Recipe(epochs=1, batch_size=8, max_length=16, learning_rate=3e-3)
    return Evaluator(tiny.backbone("bert", with_tokenizer=True), tiny.SENTIMENT, parts, recipe)


def build(evaluator: Evaluator, over: SearchSpace, **options: Any) -> BudgetedSampler:
    made = samplers.build("prune-lawton", over, 3, {"evaluator": evaluator, **options})
    assert isinstance(made, BudgetedSampler)
    return made


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_training_run_answers_every_budget(
    evaluator: Evaluator, variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Recipe] = []

    def counted(*arguments: Any) -> list[Importance]:
        runs.append(arguments[3])
        return gathered(*arguments)

    monkeypatch.setattr("autopeft.searches.prune_lawton.gathered", counted)
    over = spaces.named("S2", evaluator.backbone)
    budgets = (40, 600, 1800, 5000)
    found = build(evaluator, over, budgets=budgets, variant=variant, epochs=2).ask([], 9)
    assert [run.n_steps(48) for run in runs] == [12]
    used = [count(evaluator.backbone, over.decode(c)).stored for c in found]
    assert all(0 < n <= most for n, most in zip(used, budgets, strict=True))
    assert used == sorted(used)


def test_free_ranks_need_a_space_that_has_them(evaluator: Evaluator) -> None:
    model = evaluator.backbone
    free = spaces.named("S2", model, sizes=range(9))
    (configuration,) = build(evaluator, free, budgets=3000).ask([])
    ranks = {p.size for p in free.decode(configuration) if p.method == "lora"}
    assert ranks - {1, 4, 8}
    (configuration,) = build(evaluator, spaces.named("S2", model), budgets=3000).ask([])
    ranks = {p.size for p in spaces.named("S2", model).decode(configuration) if p.method == "lora"}
    assert ranks <= {1, 4, 8}


def test_training_follows_the_recipe_unless_told_otherwise(evaluator: Evaluator) -> None:
    def recipe(own: Recipe, **options: Any) -> Recipe:
        return PruneSearch(None, PruneSettings(**options))._recipe(own)  # type: ignore[arg-type]

    own = Recipe(epochs=3, steps=7, learning_rate=0.1, warmup=0.5)
    assert recipe(own) == own
    assert recipe(own, epochs=2.0) == Recipe(epochs=2.0, learning_rate=0.1, warmup=0.5)
    assert recipe(own, steps=9, learning_rate=0.2) == Recipe(epochs=3, steps=9, learning_rate=0.2, warmup=0.5)


def test_settings_are_checked_together(evaluator: Evaluator) -> None:
    over = spaces.named("S2", evaluator.backbone)
    with pytest.raises(
        SettingsError, match=r"variant must be one of unstructured, .*but got 'x'; scored_epochs must be abo"
    ):
        build(evaluator, over, budgets=600, variant="x", scored_epochs=0)
    assert build(evaluator, over, budgets=600).settings == {
        "variant": "unstructured",
        "scored_epochs": 1.0,
        "epochs": None,
        "steps": None,
        "learning_rate": None,
        "budgets": ["at most 600 stored parameters"],
    }


def test_the_former_name_is_read_as_before_with_a_note(caplog: pytest.LogCaptureFixture) -> None:
    resolved(Settings(task="sst2", sampler="prunepeft"))
    assert "'prunepeft' is called 'prune-lawton' today" in caplog.text
    former: Any = samplers.lookup("prunepeft")
    assert former.presets == samplers.lookup("prune-lawton").presets
    # Trials of studies of before say that "prunepeft" proposed them, and it is by them that it knows where it is.
    assert former.build.name == "prunepeft"
    assert "prune-lawton" in samplers.names()
    assert "prunepeft" not in samplers.names()
