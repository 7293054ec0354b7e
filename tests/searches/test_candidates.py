"""BIPEFT's arithmetic: hand-derived values, and properties that hold for any scores, counts and budgets."""

from __future__ import annotations

import math
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from autopeft.errors import BudgetError, SettingsError
from autopeft.searches._candidates import (
    Candidates,
    Drift,
    cosine,
    expected_counts,
    indicator,
    instability,
    most_stable,
    number_fixed,
    project,
    reduction,
    removal,
    sensitivity,
    smoothed,
    softmax,
    stability,
)
from autopeft.searches.bipeft.selector import Beliefs, Pass, Selector, n_triggers
from autopeft.searches.bipeft.settings import PRESETS, BipeftSettings

Array = np.ndarray[Any, Any]
Case = tuple[Candidates, BipeftSettings, int, int, int]

ONE_TO_FOUR = np.array([1.0, 2.0, 3.0, 4.0])
ALL = np.ones(4, dtype=bool)
RANK = np.arange(4)


def candidates(per_unit: list[int], is_sized: list[bool] | None = None) -> Candidates:
    """Placements with sizes 1, 4, 8 (or 1 alone) at `per_unit` parameters a unit and 3 once."""
    sized = is_sized or [True] * len(per_unit)
    sizes = np.array([[1, 4, 8] if s else [1, 0, 0] for s in sized], dtype=np.int64)
    counts = np.where(sizes > 0, sizes * np.array(per_unit)[:, None] + 3, 0)
    return Candidates(tuple((f"site{i:03}", "lora") for i in range(len(per_unit))), sizes, counts)


# -- formulas ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("train", 2.0), ("validation", 3.0), ("sum", 5.0), ("cosine", 2 + 0.5 * 3), ("cosine_sum", 0.5 * 5)],
)
def test_equation_3_and_its_variants(rule: Any, expected: float) -> None:
    found = sensitivity(np.array([2.0]), np.array([3.0]), np.array([0.5]), rule)
    assert found.tolist() == [expected]


@pytest.mark.parametrize(
    ("counted", "shares"), [("active", (1 / 8, 1 / 23)), ("all", (1 / 43, 1 / 23)), ("none", (1, 1))]
)
def test_a_score_is_a_mean_over_active_parameters_or_over_all_or_a_sum(
    counted: Any, shares: tuple[float, float]
) -> None:
    """Two placements with 5 and 20 parameters a unit and 3 once, both at one unit; the second has no other size."""
    found = candidates([5, 20], [True, False])
    selector = Selector(found, BipeftSettings(counted=counted, gamma=0.0), 30, 3)
    one = Pass(np.array([2.0, 2.0]), np.array([1, 1]))
    selector.score(one, one, np.ones(2))
    np.testing.assert_allclose(selector.scores, 4 * np.array(shares))


def test_equation_4_smooths_what_was_measured() -> None:
    found = smoothed(np.array([1.0, 1.0]), np.array([2.0, 2.0]), 0.75, np.array([True, False]))
    assert found.tolist() == [0.75 + 0.5, 1.0]


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.floats(0, 1e6))
def test_gamma_1_never_moves_a_score(scores: list[float], new: float) -> None:
    old = np.array(scores)
    assert np.array_equal(smoothed(old, np.full(len(old), new), 1.0, np.ones(len(old), dtype=bool)), old)


def test_the_indicator_stops_at_the_first_misfit_or_skips_it() -> None:
    counts = np.array([1.0, 2.0, 5.0, 2.0])
    assert indicator(ONE_TO_FOUR, counts, ALL, RANK, 5, "stop").tolist() == [False, False, False, True]
    assert indicator(ONE_TO_FOUR, counts, ALL, RANK, 5, "skip").tolist() == [True, True, False, True]
    alive = np.array([True, True, True, False])
    assert indicator(ONE_TO_FOUR, counts, alive, RANK, 5, "stop").tolist() == [False, False, True, False]


def test_what_is_larger_than_the_whole_budget_does_not_stop_the_indicator() -> None:
    counts = np.array([1.0, 2.0, 2.0, 6.0])  # the best alone is above 5
    assert indicator(ONE_TO_FOUR, counts, ALL, RANK, 5, "stop").tolist() == [True, True, True, False]
    assert indicator(ONE_TO_FOUR, counts, ALL, RANK, 3, "stop").tolist() == [False, False, True, False]


def test_the_cosine_of_a_zero_vector_is_0() -> None:
    assert cosine(np.zeros(3), np.ones(3)) == 0.0
    assert cosine(np.array([1, 1, 0]), np.array([1, 0, 1])) == pytest.approx(0.5)


def test_stability_needs_enough_indicators_and_averages_the_last() -> None:
    a, b = np.array([True, True]), np.array([True, False])
    half = math.sqrt(0.5)  # cosine of (1, 1) and (1, 0)
    assert stability([a, a], 2) is None
    assert stability([b, a, a, b], 2) == pytest.approx((1 + half) / 2)
    assert stability([b, a, a, b], 2, "lagged") == pytest.approx((half + half) / 2)
    assert stability([a, a, b], 2, "overrun") is None
    assert stability([b, a, a, b], 2, "overrun") == pytest.approx((half + 1 + half) / 2)


def test_expected_counts_are_means_or_the_fixed_count() -> None:
    counts = np.array([[10, 40, 80], [10, 40, 80], [7, 0, 0]])
    spread = np.array([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [1.0, 0, 0]])
    assert expected_counts(spread, counts, np.array([-1, 2, 0])).tolist() == [35.0, 80.0, 7.0]


def test_equation_6() -> None:
    assert reduction(1000, 100, 10, 0) == 90
    assert reduction(190, 100, 10, 9) == 90
    assert reduction(50, 100, 10, 5) == -10


def test_removal_takes_the_lowest_scores_within_the_allowance() -> None:
    counts = np.array([3.0, 5.0, 1.0, 1.0])
    found = removal(ONE_TO_FOUR, counts, ALL, RANK, 5.0, "stop")
    assert (found.indices, found.unspent) == ((0,), 2.0)
    found = removal(ONE_TO_FOUR, counts, ALL, RANK, 5.0, "skip")
    assert (found.indices, found.unspent) == ((0, 2, 3), 0.0)
    assert removal(ONE_TO_FOUR, counts, ALL, RANK, -5.0, "stop").indices == ()
    assert removal(ONE_TO_FOUR, counts, ALL, RANK, 0.5, "stop").indices == ()
    assert removal(ONE_TO_FOUR, counts, ALL, RANK, 0.5, "skip").indices == (0,)
    assert removal(ONE_TO_FOUR, counts, ALL, RANK, 99.0, "stop").indices == (0, 1, 2)  # never the last one


def test_equation_9_is_kl_times_the_mean_deviation() -> None:
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(6, 2, 3))
    drift = Drift.begin(steps[0])
    for logits in steps[1:]:
        drift = drift.followed_by(logits)
    valid = np.ones((2, 3), dtype=bool)
    deviation = steps.std(axis=0, ddof=1).mean(axis=1)
    now, then = softmax(steps[-1]), softmax(steps[0])
    expected = np.array([entropy(now[n], then[n]) for n in range(2)]) * deviation
    np.testing.assert_allclose(instability(drift, steps[-1], valid), expected)
    turned = np.array([entropy(then[n], now[n]) for n in range(2)]) * deviation
    np.testing.assert_allclose(instability(drift, steps[-1], valid, "start"), turned)


def test_a_single_step_has_no_deviation_and_missing_sizes_do_not_count() -> None:
    logits = np.array([[0.0, 1.0, 5.0]])
    assert instability(
        Drift.begin(logits), logits + np.array([[1.0, 0.0, 0.0]]), np.ones((1, 3), dtype=bool)
    ).tolist() == [0.0]
    two = np.array([[True, True, False]])
    steps = [np.array([[0.0, 0.0, 0.0]]), np.array([[1.0, 0.0, 9.0]])]
    drift = Drift.begin(steps[0]).followed_by(steps[1])
    p = math.e / (math.e + 1)
    kl = p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5)
    assert instability(drift, steps[1], two)[0] == pytest.approx(kl * math.sqrt(0.5) / 2)


def test_equation_10_carries_what_rounding_leaves() -> None:
    assert (number_fixed(10, 0.5, 4).n, number_fixed(10, 0.5, 4).carried) == (1, 0.25)
    assert number_fixed(10, 0.5, 4, carried=0.75).n == 2
    assert number_fixed(7, 0.0, 1).n == 7  # the last trigger fixes everything
    assert number_fixed(7, -1.0, 3).n == 0


def test_the_most_stable_are_fixed_first_ties_by_key() -> None:
    is_open = np.array([True, False, True, True])
    assert most_stable(np.array([2.0, 0.0, 1.0, 1.0]), is_open, np.array([0, 1, 3, 2]), 2) == (3, 2)


def test_a_budget_below_the_smallest_module_is_an_error_before_work() -> None:
    with pytest.raises(BudgetError, match=r"smallest module of this space has 8 parameters; the budget is 7"):
        Selector(candidates([5, 6]), BipeftSettings(), 7, 3)


def test_projection_leaves_out_the_lowest_and_refills() -> None:
    found = candidates([1, 10, 10])  # counts 4, 7, 11 and 13, 43, 83
    scores = np.array([1.0, 3.0, 2.0])
    chosen = np.array([2, 2, 2])
    assert project(scores, found, chosen, 1000).tolist() == [8, 8, 8]
    assert project(scores, found, chosen, 100).tolist() == [1, 8, 1]  # 83 stays, then 13 and 4 of 17
    assert project(scores, found, chosen, 100, False).tolist() == [0, 8, 0]
    assert project(scores, found, chosen, 60).tolist() == [1, 4, 1]  # all go, then 43, 13 and 4
    assert project(scores, found, chosen, 5, False).tolist() == [1, 0, 0]
    assert project(scores, found, np.array([-1, 0, -1]), 30).tolist() == [1, 1, 1]


def test_a_projection_with_room_for_a_module_lets_the_best_grow() -> None:
    found = candidates([1, 10, 10])  # counts 4, 7, 11 and 13, 43, 83
    scores = np.array([1.0, 3.0, 2.0])
    chosen = np.array([0, 0, 0])  # 4 + 13 + 13 = 30
    assert project(scores, found, chosen, 33).tolist() == [1, 1, 1]  # 3 are less than the smallest module
    assert project(scores, found, chosen, 60).tolist() == [1, 4, 1]
    assert project(scores, found, chosen, 140).tolist() == [8, 8, 4]  # 83, then 43 of 53, then 11
    assert project(scores, found, chosen, 10_000).tolist() == [8, 8, 8]
    assert project(scores, found, chosen, 140, False).tolist() == [1, 1, 1]


# -- properties --------------------------------------------------------------------------------------------


@st.composite
def searches(draw: st.DrawFn) -> Case:
    """Placements, settings, a budget that something fits, a number of triggers, and a seed."""
    n = draw(st.integers(1, 12))
    per_unit = draw(st.lists(st.integers(1, 50), min_size=n, max_size=n))
    is_sized = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    found = candidates(per_unit, is_sized)
    preset = draw(st.sampled_from(sorted(PRESETS)))
    chosen = PRESETS[preset]
    least, most = int(found.counts[:, 0].min()), int(found.counts.max(axis=1).sum())
    return found, chosen, draw(st.integers(least, most + 10)), draw(st.integers(1, 12)), draw(st.integers(0, 2**31))


def run(selector: Selector, seed: int, steps: int = 60, order: Array | None = None) -> Array:
    """A search whose passes are random numbers; `order` permutes the placements consistently."""
    rng = np.random.default_rng(seed)
    found = selector.candidates
    n, k = found.sizes.shape
    order = np.arange(n) if order is None else order
    base = rng.exponential(size=n)
    for step in range(steps):
        keep = rng.random(n)[order]
        logits = rng.normal(size=(n, k))[order]
        passes = [Pass((base * rng.exponential(size=n))[order], _some_size(found, rng.random(n)[order])) for _ in "tv"]
        selector.score(passes[0], passes[1], rng.uniform(-1, 1, n)[order])
        beliefs = beliefs_of(selector, keep, logits)
        selector.observe(beliefs, step)
        if selector.is_done:
            break
    return selector.finish(beliefs)


def beliefs_of(selector: Selector, keep: Array, logits: Array) -> Beliefs:
    valid = selector.candidates.sizes > 0
    return Beliefs(keep, softmax(np.where(valid, logits, -np.inf)), logits[selector.candidates.is_sized])


def _some_size(found: Candidates, uniform: Array) -> Array:
    n_sizes = (found.sizes > 0).sum(1) + 1
    index = np.floor(uniform * n_sizes).astype(int)
    return np.where(index > 0, found.sizes[np.arange(len(found)), np.maximum(index - 1, 0)], 0)


def _counts_of(found: Candidates, sizes: Array) -> Array:
    return np.where((found.sizes == sizes[:, None]) & (found.sizes > 0), found.counts, 0).sum(axis=1)


def cost(found: Candidates, sizes: Array) -> int:
    return int(_counts_of(found, sizes).sum())


@settings(max_examples=60)
@given(searches())
def test_every_search_ends_within_the_budget_and_not_empty(
    case: Case,
) -> None:
    found, chosen, budget, triggers, seed = case
    sizes = run(Selector(found, chosen, budget, triggers), seed)
    assert 0 < cost(found, sizes) <= budget
    assert all(size == 0 or size in row[row > 0] for size, row in zip(sizes, found.sizes, strict=True))


@settings(max_examples=40)
@given(searches())
def test_a_refilled_projection_leaves_no_room_for_another_module(
    case: Case,
) -> None:
    found, _, budget, triggers, seed = case
    sizes = run(Selector(found, PRESETS["earlier"], budget, triggers), seed)
    room = budget - cost(found, sizes)
    if room < found.least:
        return
    # Not within the smallest module of the budget: then no change of one placement or two brings it nearer.
    own = _counts_of(found, sizes)
    choices = [[0, *(int(count) for count, size in zip(*row, strict=True) if size)] for row in
               zip(found.counts, found.sizes, strict=True)]  # fmt: skip
    changes = [{0, *(count - int(before) for count in row)} for row, before in zip(choices, own, strict=True)]
    for first, second in combinations(changes, 2):
        assert all(not 0 < one + other <= room for one in first for other in second)


@settings(max_examples=40)
@given(searches())
def test_after_the_last_trigger_every_placement_is_fixed_or_removed(
    case: Case,
) -> None:
    found, chosen, budget, triggers, seed = case
    selector = Selector(found, chosen, budget, triggers)
    run(selector, seed, steps=150)
    if selector.is_done:
        assert not (selector.alive & (selector.fixed < 0)).any()
    removed = [index for trigger in selector.history for index in trigger.removed]
    fixed = [index for trigger in selector.history for index in trigger.fixed]
    assert len(set(removed)) == len(removed)
    assert len(set(fixed)) == len(fixed)
    assert set(np.flatnonzero(~selector.alive)) == set(removed)
    assert selector.alive.any()


@settings(max_examples=30)
@given(searches(), st.randoms(use_true_random=False))
def test_the_order_of_the_placements_changes_nothing(case: Case, random: Any) -> None:
    found, chosen, budget, triggers, seed = case
    order = np.array(random.sample(range(len(found)), len(found)))
    turned = Candidates(tuple(found.keys[i] for i in order), found.sizes[order], found.counts[order])
    straight, mixed = Selector(found, chosen, budget, triggers), Selector(turned, chosen, budget, triggers)
    assert np.array_equal(run(straight, seed)[order], run(mixed, seed, order=order))
    assert [t.step for t in straight.history] == [t.step for t in mixed.history]


@given(st.floats(1, 1e9), st.floats(0, 1e9), st.integers(1, 200))
def test_reductions_sum_to_the_excess_when_each_is_carried_out(start: float, budget: float, triggers: int) -> None:
    expected, reductions = start, []
    for done in range(triggers):
        reductions.append(reduction(expected, budget, triggers, done))
        expected -= reductions[-1]
    assert sum(reductions) == pytest.approx(start - budget, rel=1e-9, abs=1e-3)
    assert expected == pytest.approx(budget, rel=1e-9, abs=1e-3)


@settings(max_examples=50)
@given(st.integers(20, 60), st.integers(2, 15), st.integers(0, 1000), st.floats(0.1, 0.9))
def test_removals_of_small_modules_follow_the_reductions(n: int, triggers: int, seed: int, share: float) -> None:
    """All modules cost 4 and are kept surely: after trigger z the count is within one module of the straight line."""
    found = candidates([1] * n, [False] * n)
    budget = max(4, int(share * 4 * n))
    selector = Selector(found, BipeftSettings(hard_share=1.0, horizon=1, threshold=0.0), budget, triggers)
    run(selector, seed, steps=20 * triggers)
    assert selector.is_done
    left = 4 * n
    for z, trigger in enumerate(selector.history, start=1):
        left -= 4 * len(trigger.removed)
        line = 4 * n - (4 * n - budget) * z / triggers
        assert budget - 4 < left
        assert left <= line + 4
    assert budget <= left < budget + 4


@given(st.integers(1, 300), st.integers(1, 10_000), st.integers(1, 20))
def test_triggers_are_scaled_to_the_steps(wanted: int, steps: int, horizon: int) -> None:
    n = n_triggers(wanted, steps, horizon)
    assert 1 <= n <= wanted
    assert n == wanted or n == max(1, min(math.floor(0.7 * steps), steps - horizon))


def test_fewer_triggers_are_announced(caplog: pytest.LogCaptureFixture) -> None:
    assert n_triggers(100, 10, 5) == 5
    assert "10 steps are too few for 100 triggers, so there are 5" in caplog.text


def test_a_stored_selector_goes_on_as_if_nothing_had_happened() -> None:
    found = candidates([3, 9, 2, 14, 5, 8], [True, True, False, True, True, True])
    for preset in PRESETS.values():
        whole, first = (Selector(found, preset, 90, 6) for _ in range(2))
        rng = np.random.default_rng(1)
        for step in range(30):
            if step == 13:
                second = Selector(found, preset, 90, 6)
                second.load(first.state())
                first = second
            keep, logits = rng.random(6), rng.normal(size=(6, 3))
            passes = [Pass(rng.exponential(size=6), _some_size(found, rng.random(6))) for _ in "tv"]
            for selector in (whole, first):
                selector.score(passes[0], passes[1], np.ones(6))
                selector.observe(beliefs_of(selector, keep, logits), step)
        assert whole.history == first.history
        assert whole.history
        assert np.array_equal(whole.scores, first.scores)


# -- settings ----------------------------------------------------------------------------------------------


def test_mistakes_in_the_settings_are_listed_together() -> None:
    with pytest.raises(SettingsError) as caught:
        BipeftSettings(gamma=1.5, triggers=0, variant="whole", warmup=1.0, epochs="3")  # type: ignore[arg-type]
    for name in (
        "gamma must be",
        "triggers must be",
        "variant must be one of full",
        "warmup must be",
        "epochs must be",
    ):
        assert name in str(caught.value)


def test_the_presets_differ_where_the_paper_and_its_release_do() -> None:
    paper, released = (asdict(PRESETS[name]) for name in ("paper", "released"))
    differing = {name for name in paper if paper[name] != released[name]}
    assert differing == {
        *("optimiser_steps", "regulariser", "updates", "first", "is_idle_updated", "size_pass_keep", "is_clean"),
        *("cosine_of", "stability", "counts", "divergence", "fixing_values", "is_fixing_early"),
        *("indicator_misfits", "removal_misfits"),
    }
    for name in ("paper", "released", "earlier"):
        preset = PRESETS[name]
        assert (preset.triggers, preset.gamma, preset.horizon, preset.threshold) == (100, 0.85, 5, 0.85)
        assert (preset.architecture_learning_rate, preset.weight_decay, preset.clip) == (0.01, 1e-4, 2.0)
