"""BIPEFT's recommended rules: sizes by worth, a trigger that noise does not fire, scores within kinds, scaling."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from autopeft import methods, samplers
from autopeft.errors import SettingsError
from autopeft.searches._candidates import Candidates, Floats, Ints
from autopeft.searches._problem import Plan, facts_of
from autopeft.searches._supernet import Supernet
from autopeft.searches._worth import fill, filled, kinds_of, several, sizes_at, within_kinds
from autopeft.searches.bipeft.averages import Averages, least_agreement
from autopeft.searches.bipeft.movement import Movement
from autopeft.searches.bipeft.sampler import Pace
from autopeft.searches.bipeft.search import BilevelSearch, BipeftResult
from autopeft.searches.bipeft.selector import Beliefs, Pass, Selector, scaled
from autopeft.searches.bipeft.settings import PRESETS, BipeftSettings
from autopeft.spaces.lattice import Axis, SearchSpace
from planted import Planted, backbone

RECOMMENDED = PRESETS["recommended"]


def candidates(n: int = 40, per_unit: int = 32) -> Candidates:
    """Placements of one method with sizes 1, 4 and 8."""
    sizes = np.tile(np.array([1, 4, 8], dtype=np.int64), (n, 1))
    return Candidates(tuple((f"site.{index:02d}", "lora") for index in range(n)), sizes, sizes * per_unit)


# -- sizes by worth ----------------------------------------------------------------------------------------


def test_a_budget_goes_to_more_places_before_it_goes_to_larger_sizes() -> None:
    everyone = np.ones(4, dtype=bool)
    found = fill(np.array([1.0, 1.0, 1.0, 0.1]), candidates(4), 4 * 32, everyone)
    assert sizes_at(candidates(4), found).tolist() == [1, 1, 1, 1]
    # From 1 to 4 units the worth doubles for three times the parameters; a sixth of the score is then too little.
    found = fill(np.array([1.0, 0.3, 0.0, 0.0]), candidates(4), 5 * 32, everyone)
    assert sizes_at(candidates(4), found).tolist() == [4, 1, 0, 0]
    found = fill(np.array([1.0, 0.01, 0.0, 0.0]), candidates(4), 8 * 32, everyone)
    assert sizes_at(candidates(4), found).tolist() == [8, 0, 0, 0]


def test_what_a_module_needs_once_can_make_its_second_size_the_first() -> None:
    own = candidates(2)
    once = replace(own, counts=own.counts + 320)
    assert sizes_at(once, fill(np.array([1.0, 0.9]), once, 500, np.ones(2, dtype=bool))).tolist() == [4, 0]


def test_what_may_not_be_used_is_left_out_and_a_start_is_kept() -> None:
    allowed = np.array([False, True, True])
    start: Ints = np.array([-1, -1, 1], dtype=np.int64)
    found = fill(np.array([9.0, 1.0, 1.0]), candidates(3), 6 * 32, allowed, start)
    assert sizes_at(candidates(3), found).tolist() == [0, 1, 4]
    assert (fill(np.ones(3), candidates(3), 31, allowed) == -1).all()


# -- scores within kinds -----------------------------------------------------------------------------------


def test_the_scale_of_a_kind_says_nothing_within_kinds() -> None:
    """Adapter-LR starts with factors several times as large as LoRA's, which must not put it first."""
    kinds = np.array([0, 0, 0, 1, 1, 1])
    scores: Floats = np.array([1.0, 2.0, 3.0, 10.0, 20.0, 60.0])
    everyone, nothing = np.ones(6, dtype=bool), np.zeros(6)
    found = within_kinds(scores, kinds, everyone, nothing)
    assert found.tolist() == pytest.approx([0.5, 1.0, 1.5, 1 / 3, 2 / 3, 2.0])
    scaled_up = np.where(kinds == 1, 1e4 * scores, scores)
    assert within_kinds(scaled_up, kinds, everyone, nothing).tolist() == pytest.approx(found.tolist())


def test_what_was_removed_still_counts_in_the_mean_of_its_kind() -> None:
    kinds, scores = np.zeros(4, dtype=np.int64), np.array([1.0, 2.0, 3.0, 6.0])
    everyone = np.ones(4, dtype=bool)
    before = within_kinds(scores, kinds, everyone, np.zeros(4))
    alive = np.array([False, False, True, True])
    # All scores have halved since, as they do when the loss falls: who is left keeps the standing that they had.
    after = within_kinds(scores / 2, kinds, alive, np.where(alive, 0.0, before))
    assert after.tolist() == pytest.approx(before.tolist())
    assert within_kinds(np.zeros(4), kinds, everyone, np.zeros(4)).tolist() == [1, 1, 1, 1]


def test_further_answers_are_of_one_method_each_and_the_method_that_had_most_comes_first() -> None:
    keys = (("a", "bias"), ("a", "lora"), ("b", "bias"), ("b", "lora"))
    sizes, counts = np.array([[1, 0], [1, 2]] * 2), np.array([[10, 0], [30, 60]] * 2)
    candidates = Candidates(keys, sizes, counts)
    scores = np.array([1.0, 1.0, 0.5, 2.0])
    everyone, by_worth = np.ones(4, dtype=bool), partial(filled, scores, candidates, 70)
    first = by_worth(everyone)
    assert first.tolist() == [1, 0, 1, 1]
    found = [one.tolist() for one in several(candidates, first, by_worth, 9)]
    assert found == [[1, 0, 1, 1], [0, 1, 0, 1], [1, 0, 1, 0]]
    assert [len(several(candidates, first, by_worth, n)) for n in (1, 2)] == [1, 2]
    # What is too large for the budget is no answer, and neither is what was answered already.
    by_little = partial(filled, scores, candidates, 20)
    assert [one.tolist() for one in several(candidates, by_little(everyone), by_little, 9)] == [[1, 0, 1, 0]]


def test_the_kinds_are_the_methods() -> None:
    own = candidates(3)
    mixed = replace(own, keys=(("a", "lora"), ("a", "bitfit"), ("b", "lora")))
    assert kinds_of(mixed).tolist() == [1, 0, 1]


# -- the trigger -------------------------------------------------------------------------------------------


def driven(settings: BipeftSettings, strength: Floats, seed: int, steps: int = 200) -> Selector:
    """A selector that sees |w g| as noise times `strength` of each placement, half of them on in each pass."""
    own, rng = candidates(len(strength)), np.random.default_rng(seed)
    settings = scaled(settings, steps)
    selector = Selector(own, settings, 20 * 32, min(settings.triggers, 20))
    for step in range(1, steps + 1):
        passes = []
        for _ in range(2):
            sizes = np.where((rng.random(len(own)) < 0.5) & selector.alive, 8, 0)
            noise = np.abs(rng.normal(size=len(own)))
            passes.append(Pass(np.where(sizes > 0, strength * noise * 256, 0.0), sizes))
        selector.score(passes[0], passes[1], np.full(len(own), 0.5))
        logits = np.zeros((len(own), 3))
        selector.observe(Beliefs(np.full(len(own), 0.5), np.full((len(own), 3), 1 / 3), logits), step)
    return selector


@pytest.mark.parametrize("seed", range(5))
def test_pure_noise_does_not_fire_a_trigger(seed: int) -> None:
    """A rank correlation of 40 noisy scores is 0 ± 0.16; that it is above 0.5 once has a chance below 1 %."""
    noise = np.ones(40)
    assert not driven(RECOMMENDED, noise, seed).history
    # The rule of before fires on it until no trigger is left.
    assert driven(BipeftSettings(triggers=20), noise, seed).is_done


def test_a_ranking_that_repeats_fires_all_triggers() -> None:
    strength = np.geomspace(0.01, 10, 40)
    found = driven(RECOMMENDED, strength, 0)
    assert found.is_done
    steps = [trigger.step for trigger in found.history]
    assert min(np.diff(steps)) >= found.settings.spacing
    # Removal is spread: no trigger takes more than a third of all that goes.
    removed = [len(trigger.removed) for trigger in found.history]
    assert max(removed) <= sum(removed) / 3
    assert set(np.flatnonzero(found.alive)) <= set(range(10, 40))


def test_what_noise_reaches_grows_as_placements_go() -> None:
    assert least_agreement(0.5, 100) == 0.5
    assert least_agreement(0.5, 10) == pytest.approx(2.33 / 3)
    assert least_agreement(0.5, 2) == 0.99


def test_each_half_has_an_average_of_what_was_on() -> None:
    own = Averages(2, 0.5, "cosine")
    on, off = np.array([True, True]), np.array([True, False])
    own.take((np.array([4.0, 4.0]), np.array([2.0, 0.0])), (on, off), np.array([0.5, 0.0]))
    own.take((np.array([8.0, 0.0]), np.array([2.0, 6.0])), (off, on), np.array([0.5, 0.0]))
    # Of the first: (0.5 · 4 · 0.5 + 0.5 · 8) / 0.75 on the one half, 2 on the other, times its cosine.
    assert own.scores().tolist() == pytest.approx([20 / 3 + 0.5 * 2, 4.0])
    assert own.window == 2
    own.clear()
    assert own.window == 0
    with pytest.raises(SettingsError, match="stability 'split' needs averages 'halves'"):
        BipeftSettings(stability="split")


# -- shares of a search ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "triggers", "spacing", "rate"),
    [(60, 7, 5, 0.1), (300, 36, 5, 0.01 / 0.3), (1000, 100, 6, 0.01), (3000, 100, 18, 0.01)],
)
def test_rules_scale_with_the_number_of_steps(steps: int, triggers: int, spacing: int, rate: float) -> None:
    found = scaled(RECOMMENDED, steps)
    assert (found.triggers, found.spacing) == (triggers, spacing)
    assert found.architecture_learning_rate == pytest.approx(rate)
    assert 1 / (1 - found.gamma) == pytest.approx(steps / 2)
    assert scaled(PRESETS["paper"], steps) is PRESETS["paper"]


# -- planted -----------------------------------------------------------------------------------------------


def searched(seed: int, sites: tuple[str, ...], rank: int | None, budget: int, steps: int = 120) -> BipeftResult:
    """Eight LoRA of rank 1, 4 or 8 (32 parameters a rank), of which only `sites` can lower the loss."""
    model = backbone()
    axis = Axis(methods.lookup("lora"), (0, 1, 4, 8), ("q", "k", "v", "o"))
    space = SearchSpace.build(model, [axis], sharing="placement", layers="all")
    settings = replace(RECOMMENDED, learning_rate=0.01)
    problem = Planted(model, sites, seed, rank=rank)
    with Supernet(model, space, seed=seed) as supernet:
        return BilevelSearch(supernet, problem, settings, Plan(steps, 0.01, budget, seed)).run()


def are_small_ones_found(seed: int) -> bool:
    """Three sites that need rank 1, and room for four of rank 1."""
    sites = ("encoder.0.q", "encoder.0.k", "encoder.0.v")
    found = {p.site: p.size for p in searched(seed, sites, 1, 4 * 32).architecture}
    return all(found.get(site) == 1 for site in sites)


def is_large_one_found(seed: int) -> bool:
    """One site that needs full rank, and room for one of rank 8."""
    found = searched(seed, ("encoder.0.v",), None, 8 * 32)
    return [(p.site, p.size) for p in found.architecture] == [("encoder.0.v", 8)]


@pytest.mark.slow
def test_planted_sizes_are_found_in_both_directions() -> None:
    assert are_small_ones_found(0)
    assert is_large_one_found(0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 10))
def test_planted_sizes_are_found_with_every_seed(seed: int) -> None:
    assert are_small_ones_found(seed)
    assert is_large_one_found(seed)


# -- what the gates did ------------------------------------------------------------------------------------


def test_how_far_the_gates_have_moved_is_told(caplog: pytest.LogCaptureFixture) -> None:
    found = Movement.of(np.array([0.1, 0.5, 0.5, 0.9]))
    assert (found.least, found.most, found.decided) == (0.1, 0.9, 0.5)
    assert found.mean == pytest.approx(0.2)
    with caplog.at_level(logging.INFO):
        moved = searched(0, ("encoder.0.v",), None, 256, steps=12).movement
    assert "the gates' probabilities lie between" in caplog.text
    assert ("the gates have not decided" in caplog.text) is (moved.decided < 0.5)


# -- what studies of before are ----------------------------------------------------------------------------


def test_a_study_that_has_begun_keeps_what_its_preset_meant() -> None:
    before = facts_of(BipeftSettings(triggers=7))
    assert "sizes_by" not in before
    assert "least_steps" not in before
    assert facts_of(RECOMMENDED)["sizes_by"] == "worth"
    options = samplers.as_begun("bipeft", {"steps": 9, "budgets": [600]}, {**before, "budgets": ["600"]})
    assert options.pop("budgets") == [600]
    assert BipeftSettings(**options) == BipeftSettings(triggers=7, steps=9)
    assert samplers.as_begun("bipeft", {"steps": 9}, {}) == {"steps": 9}
    assert asdict(PRESETS["earlier"]) == asdict(BipeftSettings())


def test_paper_stops_where_the_paper_says_and_the_release_goes_on() -> None:
    """What does not fit ends the indicator (equation 5) and the removal (equation 6)."""
    for preset, rule in (("paper", "stop"), ("released", "skip")):
        assert (PRESETS[preset].indicator_misfits, PRESETS[preset].removal_misfits) == (rule, rule)


# -- how long a search is, and how many answers it gives -----------------------------------------------------


@pytest.mark.parametrize(
    ("most", "changes", "expected"),
    [
        (3000, {}, (300, 8)),  # nothing has to give way
        (1500, {}, (300, 5)),  # smaller batches
        (800, {}, (200, 4)),  # and then fewer steps
        (800, {"batch_size": 8}, (100, 8)),
        (800, {"steps": 300}, (300, 4)),
        (1, {}, (1, 4)),
    ],
)
def test_batches_give_way_before_steps(most: float, changes: dict[str, Any], expected: tuple[int, int]) -> None:
    found = Pace(300, 8).within(most, replace(RECOMMENDED, **changes))
    assert (found.steps, found.batch_size) == expected


def test_several_answers_need_sizes_by_worth() -> None:
    with pytest.raises(SettingsError, match="answers 2 need sizes_by 'worth'"):
        BipeftSettings(answers=2)
