"""Iterative hybrid pruning: votes within blocks, who goes, and what it finds where the answer is known."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from autopeft import samplers
from autopeft.errors import SettingsError
from autopeft.searches._candidates import Candidates
from autopeft.searches._hybrid import Groups, kept, preferences, removed_first
from autopeft.searches._problem import Plan
from autopeft.searches._supernet import Supernet
from autopeft.searches.prune_yu import RULES, PruneYuSettings, measured
from autopeft.spaces import papers as spaces
from autopeft.testing import searches
from planted import Planted, backbone, space_of

PLANTED = ("encoder.0.q", "encoder.0.v")


def test_a_rule_votes_within_a_block_by_its_own_measure_and_what_has_least_goes_first() -> None:
    scores = np.array([[1.0, 2.0, 8.0, 4.0], [100.0, 300.0, 1.0, np.nan]])
    alive, block = np.array([True, True, True, True]), np.array([0, 0, 1, 1])
    found = preferences(scores, alive, block)
    np.testing.assert_allclose(found[:, :2].sum(axis=1), 1)
    np.testing.assert_allclose(found[:, 2:].sum(axis=1), 1)
    assert found[0, 0] / found[0, 1] == pytest.approx(np.exp(0.5))  # by 1/2 and 2/2 of the largest
    assert found[1, 0] > found[1, 1]
    np.testing.assert_allclose(found[1, 2:], 0.5)  # a value that is not known leaves the rule without opinion there
    # What is gone has no vote and gets none.
    assert preferences(scores, np.array([True, False, True, True]), block)[0, 1] == 0


def test_blocks_are_compared_by_the_mean_of_theirs_and_rules_by_their_weights() -> None:
    scores = np.array([[1.0, 1.0, 1.0, 2.0], [2.0, 1.0, 1.0, 1.0]])
    alive, block = np.ones(4, dtype=bool), np.array([0, 0, 1, 1])
    alike = removed_first(scores, alive, block, np.full((2, 2), 0.5))
    assert alike.sum() == pytest.approx(4)
    only_first = removed_first(scores, alive, block, np.array([[1.0, 1.0], [0.0, 0.0]]))
    assert only_first[:2] == pytest.approx([1, 1])
    assert only_first[2] > 1 > only_first[3]


def test_those_wanted_gone_most_go_until_the_target_holds_and_one_stays() -> None:
    wish, counts, alive = np.array([0.5, 2.0, 1.5, 1.0]), np.array([10.0, 10, 30, 20]), np.ones(4, dtype=bool)
    assert kept(wish, counts, alive, 60).tolist() == [True, False, True, True]
    assert kept(wish, counts, alive, 30).tolist() == [True, False, False, True]
    assert kept(wish, counts, alive, 0).sum() == 1
    assert kept(wish, counts, np.array([True, True, False, False]), 15).tolist() == [True, False, False, False]


def test_modules_are_all_of_a_method_in_a_layer_and_blocks_follow_the_depth() -> None:
    model = backbone(layers=6)
    candidates = Candidates.of(space_of(model))
    layers = {key: (site.stack, site.layer) for key, site in model.sites.items()}
    groups = Groups.of(candidates, layers, "layer")
    assert len(groups.block) == 12  # LoRA and a bias in each of six layers
    of_lora = [candidates.keys.index((f"encoder.{layer}.q", "lora")) for layer in range(6)]
    # Layers 0 to 5 against 0.2, 0.5 and 0.8 of the last one's number, 5.
    blocks = groups.block[groups.module[of_lora]].tolist()
    assert [blocks.index(block) for block in blocks] == [0, 1, 1, 3, 4, 4]
    single = Groups.of(candidates, layers, "placement")
    assert len(single.block) == len(candidates)
    assert groups.means(np.ones((2, len(candidates)))) == pytest.approx(np.ones((2, 12)))


def test_rules_see_that_planted_places_matter() -> None:
    model = backbone()
    with Supernet(model, space_of(model)) as supernet:
        columns = np.zeros(len(supernet), dtype=np.int64)
        supernet.remove([0])
        plan = Plan(60, 0.01, None, 0)
        scores = measured(supernet, Planted(model, PLANTED, 0), PruneYuSettings(), plan, columns)
        keys = supernet.candidates.keys
    assert scores.shape == (len(RULES), len(keys))
    assert np.isnan(scores[:, 0]).all()
    lora = [index for index, (_, method) in enumerate(keys) if method == "lora" and index]
    for name in ("magnitude", "activation", "loss"):
        best = sorted(lora, key=lambda index: -scores[RULES.index(name), index])[:2]
        assert {keys[index][0] for index in best} == set(PLANTED), name


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", "recommended"])
def test_every_budget_has_rounds_of_its_own_after_one_warm_up(preset: str, caplog: pytest.LogCaptureFixture) -> None:
    own = searches.evaluator()
    over = spaces.named("S2", own.backbone)
    options = {"evaluator": own, "budgets": (600, 3000), "preset": preset}
    with caplog.at_level(logging.INFO):
        sampler = samplers.build("prune-yu", over, 0, options)
        sampler.ask([], 2)
    assert caplog.text.count("after round 3") == 2
    weights = np.array(next(iter(sampler.told.values()))["weights"])  # type: ignore[attr-defined]
    assert weights.shape[0] == len(RULES)
    np.testing.assert_allclose(weights.sum(axis=0), 1)


def test_wrong_settings_are_told() -> None:
    with pytest.raises(SettingsError, match="warmup_rounds is at least 0, but got -1"):
        PruneYuSettings(warmup_rounds=-1)
    with pytest.raises(SettingsError, match="rounds must be"):
        PruneYuSettings(rounds=0)
