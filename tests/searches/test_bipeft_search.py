"""BIPEFT's search in a real supernet on synthetic problems, and as a sampler."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from autopeft import methods
from autopeft.errors import BudgetError, NonFiniteFailure, StudyMismatchError
from autopeft.searches._problem import TRAIN, Plan
from autopeft.searches._supernet import Supernet
from autopeft.searches.bipeft.search import BilevelSearch, BipeftResult
from autopeft.searches.bipeft.settings import PRESETS, BipeftSettings
from autopeft.spaces.lattice import Axis, SearchSpace
from planted import WIDTH, Planted, backbone, space_of

QUICK = BipeftSettings(triggers=12, warmup=0.2, learning_rate=0.01)


def searched(
    seed: int, settings: BipeftSettings = QUICK, budget: int | None = 600, steps: int = 120, **options: Any
) -> tuple[BipeftResult, Supernet]:
    model = backbone()
    problem = Planted(model, ("encoder.0.q", "encoder.0.v"), seed)
    plan = Plan(steps, settings.learning_rate or 0.01, budget, seed)
    with Supernet(model, space_of(model), seed=seed) as supernet:
        return BilevelSearch(supernet, problem, settings, plan).run(**options), supernet


# -- what it finds -----------------------------------------------------------------------------------------


def planted_share(found: BipeftResult) -> float:
    """Share of the two planted placements that were found."""
    sites = {(p.method, p.site) for p in found.architecture}
    return len(sites & {("lora", "encoder.0.q"), ("lora", "encoder.0.v")}) / 2


@pytest.mark.slow
def test_a_planted_architecture_is_found_with_the_first_seeds() -> None:
    """The quick form of the next test: these are fixed seeds, so nothing is random."""
    settings = replace(PRESETS["earlier"], triggers=12, warmup=0.2, learning_rate=0.01)
    found = [searched(seed, settings)[0] for seed in range(3)]
    assert [planted_share(one) for one in found] == [1, 1, 1]
    assert all(0 < one.parameters <= 600 for one in found)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["earlier", "paper"])
def test_a_planted_architecture_is_found(preset: str) -> None:
    """Eight LoRA, room for two of rank 8 (256 parameters each) and some smaller modules.

    A search whose choice did not depend on the data would hold both planted ones with probability p <= 1/2 (it was
    1/28 if it held two of eight, and it never held more than six of eight: 15/28); nine of ten then happen with
    probability below 11 / 2^10 = 1.1 %.
    """
    settings = replace(PRESETS[preset], triggers=12, warmup=0.2, learning_rate=0.01)
    found = [searched(seed, settings)[0] for seed in range(10)]
    assert sum(planted_share(one) == 1 for one in found) >= 9
    assert all(0 < one.parameters <= 600 for one in found)


@pytest.mark.slow
@pytest.mark.parametrize("repair", [{}, {"removal_misfits": "stop"}, {"regulariser": 0.0}, {"is_refilled": True}])
def test_the_released_search_loses_what_it_ranks_highest(repair: dict[str, Any]) -> None:
    """Its docstring names three points, any of which repairs it; these are five fixed seeds, so nothing is random."""
    settings = replace(PRESETS["released"], triggers=12, warmup=0.2, learning_rate=0.01, **repair)
    found = [planted_share(searched(seed, settings)[0]) for seed in range(5)]
    assert found.count(1.0) == 5 if repair else found.count(1.0) <= 2


@pytest.mark.slow
def test_with_scores_that_never_move_it_is_not_found() -> None:
    """gamma 1, the paper's control (table 7): all scores stay 0 and the choice does not depend on the data."""
    settings = replace(PRESETS["paper"], triggers=12, warmup=0.2, learning_rate=0.01, gamma=1.0)
    assert sum(planted_share(searched(seed, settings)[0]) == 1 for seed in range(3)) <= 1


@pytest.mark.slow
def test_more_budget_finds_more() -> None:
    counts = [searched(3, budget=budget, steps=60)[0].parameters for budget in (20, 600, 2000)]
    assert counts == sorted(counts)
    assert all(count <= budget for count, budget in zip(counts, (20, 600, 2000), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("budget", [16, 17, 40, 10_000])
def test_the_result_is_within_any_budget_and_never_empty(budget: int) -> None:
    model = backbone()
    found, _ = searched(1, budget=budget, steps=40)
    from autopeft.network.build import count

    counts = count(model, found.architecture)
    assert 0 < counts.stored == found.parameters <= budget
    configuration = space_of(model).configuration(found.architecture)
    assert configuration is not None


def test_too_few_steps_for_the_triggers_still_meet_the_budget(caplog: pytest.LogCaptureFixture) -> None:
    found, _ = searched(0, replace(QUICK, triggers=100), steps=10)
    assert 0 < found.parameters <= 600
    assert "are too few for 100 triggers" in caplog.text


def test_a_threshold_that_is_never_reached_is_projected_and_said(caplog: pytest.LogCaptureFixture) -> None:
    settings = replace(QUICK, threshold=1.0, gamma=0.0)
    found, _ = searched(0, settings, steps=30)
    assert 0 < found.parameters <= 600
    if len(found.history) < 12:
        assert "triggers fired in 30 steps; the rest was projected" in caplog.text


def test_a_run_without_modules_or_head_is_survived() -> None:
    """One placement: half of the weight passes have nothing to train."""
    model = backbone(1)
    space = SearchSpace.build(
        model, [Axis(methods.lookup("lora"), (0, 1, 2), ("q",))], sharing="placement", layers="all"
    )
    problem = Planted(model, ("encoder.0.q",), 0)
    with Supernet(model, space) as supernet:
        found = BilevelSearch(supernet, problem, replace(QUICK, triggers=3), Plan(30, 0.01, 100, 0)).run()
    assert len(found.architecture) == 1


# -- variants ----------------------------------------------------------------------------------------------

VARIANTS: tuple[Literal["entangled", "binary_then_size", "size_then_binary", "no_selection"], ...] = (
    "entangled",
    "binary_then_size",
    "size_then_binary",
    "no_selection",
)


@pytest.mark.slow
@pytest.mark.parametrize("gumbel", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_ablations_need_no_budget_and_keep_one_if_given(variant: Any, gumbel: bool) -> None:
    settings = replace(QUICK, variant=variant, gumbel=gumbel)
    free, _ = searched(0, settings, budget=None, steps=20)
    assert free.parameters > 600
    assert not free.history
    held, _ = searched(0, settings, budget=600, steps=20)
    assert 0 < held.parameters <= 600


def test_without_gumbel_the_search_selects_too() -> None:
    found, _ = searched(0, replace(QUICK, gumbel=False))
    assert len(found.history) == 12
    assert planted_share(found) == 1


def test_the_two_stages_move_one_kind_of_gate_each() -> None:
    for variant, moved in (("binary_then_size", "keep"), ("size_then_binary", "size")):
        search = fresh(replace(QUICK, variant=variant), budget=None, steps=20)  # type: ignore[arg-type]
        with search.problem.training():
            before = {"keep": search.gates.keep.clone(), "size": search.gates.size.clone()}
            for _ in range(10):
                search.step()
            half = {"keep": search.gates.keep.clone(), "size": search.gates.size.clone()}
            for _ in range(10):
                search.step()
        (other,) = {"keep", "size"} - {moved}
        assert not torch.equal(before[moved], half[moved])
        assert torch.equal(before[other], half[other])
        assert torch.equal(half[moved], search.gates.keep if moved == "keep" else search.gates.size)
        search.supernet.detach()


def test_alternating_updates_leave_the_idle_gates_alone_unless_the_release_is_asked_for() -> None:
    for is_idle_updated in (False, True):
        search = fresh(replace(QUICK, is_idle_updated=is_idle_updated))
        with search.problem.training():
            search.step()  # a pass over "keep"
            search.step()  # a pass over sizes
            size = search.gates.size.clone()
            search.step()  # "keep" again: the moments of the sizes may move them
        assert torch.equal(size, search.gates.size) is not is_idle_updated
        search.supernet.detach()


def fresh(settings: BipeftSettings, budget: int | None = 600, steps: int = 120, seed: int = 0) -> BilevelSearch:
    model = backbone()
    supernet = Supernet(model, space_of(model), seed=seed)
    problem = Planted(model, ("encoder.0.q", "encoder.0.v"), seed)
    return BilevelSearch(supernet, problem, settings, Plan(steps, 0.01, budget, seed))


# -- scores, against plain autograd ------------------------------------------------------------------------


def test_one_step_of_scores_is_equations_1_to_4() -> None:
    """Both gradients are taken again from scratch, with the gates that the passes drew."""
    search = fresh(replace(QUICK, clip=1e-3))  # the scores use gradients from before clipping
    supernet, n = search.supernet, len(search.candidates)
    passes: list[dict[str, Any]] = []
    original = search.problem.loss

    def loss(half: int, step: int) -> Tensor:
        found = original(half, step)
        parameters = [supernet.parameters_of(index) for index in range(n)]
        every = [p for owned in parameters for p in owned]
        gradients = torch.autograd.grad(found, every, retain_graph=True, allow_unused=True)
        flat = [torch.zeros_like(p) if g is None else g for p, g in zip(every, gradients, strict=True)]
        passes.append({"half": half, "w": [p.detach().clone() for p in every], "g": flat})
        return found

    search.problem.loss = loss  # type: ignore[method-assign]
    with search.problem.training():
        for _ in range(3):
            search.step()
    assert [one["half"] for one in passes] == [0, 1] * 3
    owners = [index for index in range(n) for _ in supernet.parameters_of(index)]
    expected = np.zeros(n)
    for train, validation in zip(passes[::2], passes[1::2], strict=True):
        for index in range(n):
            mine = [k for k, owner in enumerate(owners) if owner == index]
            w = [torch.cat([one["w"][k].flatten() for k in mine]).double() for one in (train, validation)]
            g = [torch.cat([one["g"][k].flatten() for k in mine]).double() for one in (train, validation)]
            if not (g[0].any() and g[1].any()):
                continue
            active = [int((part != 0).sum()) for part in g]
            # The first step's B is zero, so A has no gradient yet: the active parameters are then counted by hand.
            f = [float((a * b).abs().sum()) for a, b in zip(w, g, strict=True)]
            cos = float(torch.nn.functional.cosine_similarity(g[0], g[1], dim=0))
            count = [_active(search, index, part) for part in (train, validation)]
            assert all(least <= most for least, most in zip(active, count, strict=True))
            expected[index] = 0.85 * expected[index] + 0.15 * (f[0] / count[0] + cos * f[1] / count[1])
    assert search.selector is not None
    found = search.selector.scores
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-12)
    assert (found != 0).sum() >= 3
    supernet.detach()


def _active(search: BilevelSearch, index: int, one: dict[str, Any]) -> int:
    """Parameters of the units that got a gradient in the last map of a placement."""
    owners = [i for i in range(len(search.candidates)) for _ in search.supernet.parameters_of(i)]
    last = max(k for k, owner in enumerate(owners) if owner == index)
    gradient = one["g"][last]
    if gradient.dim() == 1:
        return int(gradient.numel())
    units = int((gradient.abs().sum(0) > 0).sum())
    return units * 2 * WIDTH


# -- interruption ------------------------------------------------------------------------------------------


class Interrupted(Exception):
    """Stands for a lost machine."""


def interrupt(search: BilevelSearch, at: int) -> None:
    original = search.problem.loss

    def loss(half: int, step: int) -> Tensor:
        if step == at and half == TRAIN:
            raise Interrupted
        return original(half, step)

    search.problem.loss = loss  # type: ignore[method-assign]


INTERRUPTED = [
    PRESETS["recommended"],
    BipeftSettings(),
    PRESETS["paper"],
    PRESETS["released"],
    BipeftSettings(gumbel=False),
    BipeftSettings(variant="entangled"),
]


PRESET_NAMES = ("recommended", "earlier", "paper", "released", "mixture", "entangled")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "at"),
    [
        # Early and late for the default, one of the two for each of the others; the long run tries the rest.
        pytest.param(one, at, id=f"{name}-{at}", marks=() if n == 0 or (n % 2 == 0) == (at == 7) else pytest.mark.slow)
        for n, (name, one) in enumerate(zip(PRESET_NAMES, INTERRUPTED, strict=True))
        for at in (7, 14)
    ],
)
def test_an_interrupted_search_ends_bit_for_bit_like_the_uninterrupted_one(
    settings: BipeftSettings, at: int, tmp_path: Path
) -> None:
    settings = replace(settings, triggers=6, warmup=0.1, spacing=2)
    whole = fresh(settings, steps=30)
    expected = whole.run()
    whole.supernet.detach()
    path = tmp_path / "search.safetensors"
    first = fresh(settings, steps=30)
    interrupt(first, at)
    with pytest.raises(Interrupted):
        first.run(path, every=5)
    first.supernet.detach()
    second = fresh(settings, steps=30)
    found = second.run(path, every=5)
    second.supernet.detach()
    assert replace(found, seconds=0.0, earlier=0.0) == replace(expected, seconds=0.0)
    assert expected.earlier == 0.0 < found.earlier < found.seconds
    assert torch.equal(second.gates.keep, whole.gates.keep)
    assert torch.equal(second.gates.size, whole.gates.size)
    for name, value in whole.state().tensors.items():
        assert torch.equal(second.state().tensors[name], value), name
    again = fresh(settings, steps=30)
    interrupt(again, 0)  # a search that is over is read from its checkpoint, not repeated
    assert again.run(path).architecture == expected.architecture
    again.supernet.detach()


def test_a_checkpoint_of_another_search_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "search.safetensors"
    first = fresh(QUICK, steps=10)
    first.run(path)
    first.supernet.detach()
    for other in (fresh(QUICK, steps=10, seed=1), fresh(replace(QUICK, gamma=0.5), steps=10)):
        with pytest.raises(StudyMismatchError, match="other settings, data, space or budget"):
            other.run(path)
        other.supernet.detach()
    path.write_bytes(b"no checkpoint")
    with pytest.raises(StudyMismatchError, match="is not a checkpoint"):
        fresh(QUICK, steps=10).run(path)


def test_a_loss_that_is_not_finite_stops_and_keeps_what_was_done(tmp_path: Path) -> None:
    path = tmp_path / "search.safetensors"
    search = fresh(QUICK, steps=40)
    original = search.problem.loss
    search.problem.loss = lambda half, step: original(half, step) * (np.nan if step == 17 else 1)  # type: ignore[method-assign]
    with pytest.raises(NonFiniteFailure, match="The training loss is nan at step 17 of 40"):
        search.run(path, every=10)
    search.supernet.detach()
    again = fresh(QUICK, steps=40)
    assert again.run(path).steps > 17
    again.supernet.detach()


def test_a_budget_below_the_smallest_module_is_an_error_before_work() -> None:
    model = backbone()
    with Supernet(model, space_of(model)) as supernet:
        with pytest.raises(BudgetError, match="smallest module of this space has 16 parameters; the budget is 15"):
            BilevelSearch(supernet, Planted(model, (), 0), QUICK, Plan(10, 0.01, 15, 0))
        with pytest.raises(BudgetError, match="none was given"):
            BilevelSearch(supernet, Planted(model, (), 0), QUICK, Plan(10, 0.01, None, 0))


def test_the_backbone_is_as_before_and_the_same_seed_gives_the_same(caplog: pytest.LogCaptureFixture) -> None:
    model = backbone()
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    plan = Plan(30, 0.01, 600, 4)
    results = []
    state = torch.get_rng_state()
    with caplog.at_level(logging.DEBUG):
        for _ in range(2):
            problem = Planted(model, ("encoder.0.q", "encoder.0.v"), 4)
            with Supernet(model, space_of(model), seed=4) as supernet:
                results.append(BilevelSearch(supernet, problem, replace(QUICK, triggers=5), plan).run())
            torch.rand(3)
    assert replace(results[0], seconds=0.0) == replace(results[1], seconds=0.0)
    assert "trigger 1 of 5" in caplog.text
    torch.set_rng_state(state)
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.model.parameters())


def test_removed_modules_free_their_optimiser_state_and_their_hooks() -> None:
    search = fresh(QUICK)
    with search.problem.training():
        while not search.step():
            pass
    n_before = len(search._weights._optimiser.state)
    hooks_before = sum(len(m._forward_hooks) for m in search.supernet._attached.backbone.model.modules())
    with search.problem.training():
        while not search.is_over:
            search.step()
    assert search.selector is not None
    alive = int(search.selector.alive.sum())
    assert alive == len(search.supernet._attached.modules) == int(search.supernet.alive.sum())
    assert len(search._weights._optimiser.state) <= 2 * alive < n_before
    hooks_after = sum(len(m._forward_hooks) for m in search.supernet._attached.backbone.model.modules())
    assert hooks_after < hooks_before
    search.supernet.detach()
