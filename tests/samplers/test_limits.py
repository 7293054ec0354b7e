"""The preset `limits`: each proposal seeks the best value under a limit of cost of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autopeft.architecture import ParameterBudget
from autopeft.errors import SettingsError
from autopeft.objective import Objective
from autopeft.objectives import Costing
from autopeft.samplers import build
from autopeft.samplers._bayes.settings import PRESETS
from autopeft.samplers.random import initial_design
from autopeft.samplers.saas_nehvi import SaasNehvi
from autopeft.spaces.lattice import SearchSpace
from autopeft.trial import Trial
from lattice import autopeft_space, history

LIMITS = replace(PRESETS["limits"], surrogate="gp", mc_samples=8, pareto_starts=1, random_starts=1, moves=3)
SHARES = (2.0, 20.0)
"""Of the backbone, in percent; the space of these tests reaches beyond both."""


def _sampler(space: SearchSpace, seed: int = 0, **changes: Any) -> SaasNehvi:
    low, high = SHARES
    return SaasNehvi(space, seed, replace(LIMITS, **{"limit_low": low, "limit_high": high, **changes}))


def _limits(sampler: SaasNehvi, trials: list[Trial], n: int) -> list[int]:
    """The limit of each of `n` proposals."""
    bands = [sampler._sought(trials, place).band for place in range(n)]
    return [band.most for band in bands if band is not None]


def _trials(space: SearchSpace) -> list[Trial]:
    return history(space, initial_design(space, 0, 10))


def test_limits_cover_the_range_evenly_by_their_logarithm() -> None:
    space = autopeft_space()
    trials = _trials(space)
    assert trials[0].measurement is not None
    backbone = trials[0].measurement.counts.backbone
    low, high = (backbone * share / 100 for share in SHARES)
    limits = _limits(_sampler(space), trials, 16)
    assert len(limits) == 16
    places = np.sort(np.log(np.array(limits) / low) / np.log(high / low))
    assert places[0] >= -0.01
    assert places[-1] <= 1.01
    # Sixteen random ones leave a gap of a fifth of the range on average.
    assert np.diff([0, *places, 1]).max() < 0.17
    assert _limits(_sampler(space, seed=1), trials, 16) != limits


@pytest.mark.slow
def test_nothing_that_is_proposed_costs_more_than_its_limit_and_cheapness_earns_nothing() -> None:
    space = autopeft_space()
    sampler, trials = _sampler(space), _trials(space)
    found = sampler.ask(trials, 3)
    limits = _limits(sampler, trials, 3)
    assert all(space.cost(one) <= limit for one, limit in zip(found, limits, strict=True))
    scores = sampler.score(trials, candidates := space.sample(np.random.default_rng(5), 80))
    allowed = np.array([space.cost(candidate) <= limits[0] for candidate in candidates])
    assert allowed.any()
    assert np.isneginf(scores[~allowed]).all()
    assert np.isfinite(scores[allowed]).all()
    # The same surrogate under the axis of ranks, where the cheap ones of a front are worth more.
    front = _sampler(space, goal="front").score(trials, candidates)
    costs = np.array([space.cost(candidate) for candidate in candidates])[allowed]
    assert np.corrcoef(costs, scores[allowed])[0, 1] > np.corrcoef(costs, front[allowed])[0, 1]


def test_a_hard_budget_bounds_the_limits_and_one_of_another_count_rules_them_out() -> None:
    whole = autopeft_space()
    most = whole.cost_range()[1] // 20
    limited = whole.within(ParameterBudget(most))
    limits = _limits(_sampler(limited), _trials(limited), 12)
    assert len(limits) == 12
    assert max(limits) <= most
    assert min(limits) < most / 3
    stored = whole.within(ParameterBudget(most, count="stored"))
    assert _limits(_sampler(stored), _trials(stored), 4) == []
    other = Costing(Objective("layers", counted=None), lambda architecture: float(len(tuple(architecture))))
    assert SaasNehvi(whole, 0, LIMITS, other)._costs.under(1e6).band is None


def test_before_anything_is_measured_there_is_no_limit() -> None:
    space = autopeft_space()
    assert _limits(_sampler(space), [], 3) == []
    assert len(_sampler(space).ask([], 2)) == 2


def test_a_range_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"limit_low is at most limit_high, but got 9 and 8"):
        build("saas-nehvi", autopeft_space(), 0, {"preset": "limits", "limit_low": 9.0})
    with pytest.raises(SettingsError, match="goal 'limits' with an exact cost needs integration 'closed'"):
        build("saas-nehvi", autopeft_space(), 0, {"preset": "limits", "integration": "sampled"})
