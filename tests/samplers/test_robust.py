"""The preset `robust`: clipped values, the constant answer as floor, wider inputs, the band of a budget."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from autopeft.architecture import ParameterBudget
from autopeft.errors import SettingsError
from autopeft.objective import Objective
from autopeft.objectives import Costing
from autopeft.samplers import build, settings_of
from autopeft.samplers._bayes.inputs import Inputs
from autopeft.samplers._bayes.outcome import OutcomeTransform
from autopeft.samplers._bayes.settings import EARLIER, PRESETS, BayesSettings
from autopeft.samplers.random import initial_design
from autopeft.samplers.saas_nehvi import SaasNehvi
from autopeft.spaces.lattice import SearchSpace
from autopeft.trial import Trial
from lattice import autopeft_space, complete, history, tiny_space

ROBUST = PRESETS["robust"]
QUICK = {"preset": "robust", "surrogate": "gp", "mc_samples": 8, "pareto_starts": 1, "random_starts": 1, "moves": 3}


# -- values ----------------------------------------------------------------------------------------------------


def test_runs_that_collapsed_do_not_squeeze_the_good_ones_together() -> None:
    values = (0.54, 0.54, 0.55, 0.80, 0.82, 0.83, 0.84, 0.85, 0.86)
    plain, clipped = (OutcomeTransform(kind, values)(values) for kind in ("z-score", "clipped"))
    assert list(clipped) == sorted(clipped)
    assert clipped[0] == clipped[2] == -3
    assert clipped[4] == 0  # the median
    assert np.diff(clipped[4:]) == pytest.approx(np.full(4, clipped[5]))  # the metric's own distances
    assert clipped[-1] - clipped[4] > 5 * (plain[-1] - plain[4])


def test_clipping_changes_nothing_but_the_scale_where_nothing_collapsed() -> None:
    values = tuple(np.random.default_rng(0).normal(0.7, 0.02, 40))
    plain, clipped = (OutcomeTransform(kind, values)(values) for kind in ("z-score", "clipped"))
    assert np.corrcoef(plain, clipped)[0, 1] == pytest.approx(1)
    assert list(OutcomeTransform("clipped", (0.5, 0.5, 0.5))((0.5, 0.6))) == pytest.approx([0, 0.1])


def test_what_is_clipped_stays_as_noisy_as_the_rest() -> None:
    values = np.array([0.1, 0.80, 0.82, 0.84, 0.86])
    scale = OutcomeTransform("clipped", tuple(values))
    widths = scale.widths(values, np.full(5, 0.01))
    assert widths == pytest.approx(np.full(5, widths[-1]))
    assert widths[-1] == pytest.approx(scale([0.85])[0] - scale([0.84])[0])


def _known(trials: list[Trial], constant: float | None) -> list[Trial]:
    """The trials, with what always saying the same would measure."""
    extra = {"n_scored": 200, "constant": constant}
    return [replace(t, measurement=replace(t.measurement, extra=extra)) for t in trials if t.measurement is not None]


def _four(space: SearchSpace, constant: float | None) -> list[Trial]:
    design = initial_design(space, 0, 4)
    return _known([complete(space, n, c, 0.4 + 0.1 * n) for n, c in enumerate(design)], constant)


def test_values_below_the_constant_answer_count_as_it() -> None:
    space = autopeft_space()
    robust, plain = SaasNehvi(space, 0, ROBUST), SaasNehvi(space, 0, replace(ROBUST, floor="none", reference="initial"))
    assert robust._data(_four(space, 0.55)).values == pytest.approx((0.55, 0.55, 0.6, 0.7))
    assert robust._data(_four(space, 0.55)).reference[0] == pytest.approx(0.55)
    for sampler, constant in ((plain, 0.55), (robust, None)):  # nobody asked, or nobody knows
        assert sampler._data(_four(space, constant)).values == pytest.approx((0.4, 0.5, 0.6, 0.7))
        assert sampler._data(_four(space, constant)).reference[0] == pytest.approx(0.37)


# -- inputs ----------------------------------------------------------------------------------------------------


def test_wide_inputs_say_what_the_choices_add_up_to() -> None:
    space = autopeft_space()
    design = space.sample(np.random.default_rng(0), 50)
    narrow, wide = (Inputs(space, "unit", kind)(design) for kind in ("choices", "wide"))
    assert narrow == pytest.approx(space.encode(design))
    assert wide[:, : space.n_choices] == pytest.approx(narrow)
    assert 0 <= wide.min()
    assert wide.max() <= 1
    assert Inputs(space, "unit", "wide").width == wide.shape[1] > space.n_choices
    costs = [space.cost(configuration, "stored") for configuration in design]
    assert spearmanr(wide[:, -1], costs)[0] == pytest.approx(1)
    occupied = [len(tuple(space.decode(configuration))) for configuration in design]
    assert spearmanr(wide[:, -2], occupied)[0] == pytest.approx(1)
    largest = Inputs(space, "unit", "wide")([space.largest()])
    assert largest == pytest.approx(np.ones_like(largest))


def test_a_space_of_one_architecture_has_inputs_too() -> None:
    space = tiny_space()
    assert np.isfinite(Inputs(space, "released", "wide")(list(space.enumerate()))).all()


# -- the band of a budget --------------------------------------------------------------------------------------


def _limited(least: int = 0) -> tuple[SearchSpace, int]:
    space = autopeft_space()
    most = space.cost_range()[1] // 20
    return space.within(ParameterBudget(most, least)), most


def _proposed_costs(space: SearchSpace, n: int, **options: Any) -> list[int]:
    trials = history(space, initial_design(space, 0, 8))
    return [space.cost(found) for found in build("saas-nehvi", space, 0, {**QUICK, **options}).ask(trials, n)]


@pytest.mark.slow
def test_with_a_budget_the_best_within_its_upper_half_is_sought() -> None:
    space, most = _limited()
    assert min(_proposed_costs(space, 2)) >= most / 2
    assert min(_proposed_costs(space, 1, band=0.9)) >= 0.9 * most
    assert min(_proposed_costs(space, 2, goal="front")) < most / 2


def test_a_least_cost_of_the_budget_is_the_band_as_it_is() -> None:
    space, most = _limited(least=1)
    assert SaasNehvi(space, 0, ROBUST)._costs.band == ParameterBudget(most, 1)
    for unlimited in (autopeft_space(), _limited()[0]):
        other = Costing(Objective("layers", counted=None), lambda architecture: float(len(tuple(architecture))))
        assert SaasNehvi(unlimited, 0, ROBUST, other)._costs.band is None  # a budget of parameters says nothing of it
    assert SaasNehvi(autopeft_space(), 0, ROBUST)._costs.band is None


@pytest.mark.slow
def test_in_the_band_cost_does_not_matter_and_outside_nothing_is_gained() -> None:
    space, most = _limited()
    trials = history(space, initial_design(space, 0, 12))
    sampler = SaasNehvi(space, 0, replace(ROBUST, surrogate="gp", mc_samples=8))
    configurations = space.sample(np.random.default_rng(5), 60)
    inside = np.array([2 * space.cost(configuration) >= most for configuration in configurations])
    scores = sampler.score(trials, configurations)
    assert inside.any()
    assert np.isfinite(scores[inside]).all()
    assert np.isneginf(scores[~inside]).all()


def test_when_the_band_is_used_up_the_rest_of_the_space_is_proposed() -> None:
    space = tiny_space()
    most = space.cost_range()[1]
    limited = space.within(ParameterBudget(most))
    sampler = SaasNehvi(limited, 0, replace(ROBUST, surrogate="gp", mc_samples=8))
    band = list(sampler._costs.aim.enumerate())
    trials = history(limited, band)
    (found,) = sampler.ask(trials, 1)
    assert limited.identity(found) not in {limited.identity(configuration) for configuration in band}


# -- what a study is ------------------------------------------------------------------------------------------


_OF_GOALS = {"band", "limit_low", "limit_high"}
"""What has one default in every preset."""


@pytest.mark.parametrize("preset", ["recommended", "paper", "released"])
def test_earlier_presets_are_stored_as_they_were(preset: str) -> None:
    # When hyper-parameters are fitted is what the first changed; a study that began before goes on with all fits.
    assert set(PRESETS[preset].as_dict()) & set(EARLIER) == ({"refit"} if preset == "recommended" else set())
    assert set(PRESETS["robust"].as_dict()) - set(BayesSettings().as_dict()) == set(EARLIER) - _OF_GOALS
    assert settings_of(build("saas-nehvi", autopeft_space(), 0))["preset"] == "recommended"


def test_wrong_values_of_the_new_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"inputs must be .*; floor must be .*; goal must be .*; band must be"):
        build("saas-nehvi", tiny_space(), 0, {"inputs": "x", "floor": "x", "goal": "x", "band": 2.0})
