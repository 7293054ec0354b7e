"""A surrogate that is told how noisy measured metrics are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autopeft.errors import SettingsError
from autopeft.samplers import build, settings_of
from autopeft.samplers._bayes.outcome import OutcomeTransform
from autopeft.samplers._bayes.settings import PRESETS
from autopeft.samplers.saas_nehvi import SaasNehvi
from autopeft.spaces.lattice import SearchSpace
from autopeft.trial import Trial
from lattice import autopeft_space, complete

OPTIONS = {"transform": "z-score", "metric_noise": "sampling"}


def _trials(space: SearchSpace, n_scored: int | None) -> list[Trial]:
    """25 trials of about 0.7 and one of them, by luck or not, of 0.9."""
    configurations = space.sample(np.random.default_rng(3), 25)
    values = 0.7 + 0.01 * np.random.default_rng(4).standard_normal(25)
    values[12] = 0.9
    found = [complete(space, i, c, float(v)) for i, (c, v) in enumerate(zip(configurations, values, strict=True))]
    extra = {} if n_scored is None else {"n_scored": n_scored}
    return [replace(t, measurement=replace(t.measurement, extra=extra)) for t in found if t.measurement is not None]


def _height(n_scored: int | None, metric_noise: str) -> float:
    """How far the surrogate follows the lucky one, as a share of how far it lies above the mean."""
    space = autopeft_space()
    sampler = SaasNehvi(space, 0, replace(PRESETS["recommended"], transform="z-score", metric_noise=metric_noise))
    data = sampler._data(_trials(space, n_scored))
    scale = OutcomeTransform("z-score", data.values)
    x, y = sampler._encoded(data.configurations), scale(data.values)
    model = sampler._fit(data, 0)
    return float(model.posterior(x).mean.detach().reshape(-1, 25).mean(0)[12] / y[12])


@pytest.mark.slow
def test_a_lucky_value_of_few_examples_is_not_taken_at_its_word() -> None:
    assert _height(20, "sampling") < 0.3  # a standard error of 0.1: 0.9 is two of them above the others
    assert _height(1_000_000, "sampling") > 0.9
    assert _height(20, "fitted") == pytest.approx(_height(1_000_000, "fitted"))  # which is not told
    assert _height(None, "sampling") == pytest.approx(_height(None, "fitted"))  # nobody knows


def test_it_proposes_and_its_study_says_so_while_others_are_as_they_were() -> None:
    space = autopeft_space()
    sampler = build("saas-nehvi", space, 0, OPTIONS)
    (proposed,) = sampler.ask(_trials(space, 100), 1)
    assert space.is_feasible(proposed)
    assert settings_of(sampler)["metric_noise"] == "sampling"
    assert "metric_noise" not in settings_of(build("saas-nehvi", space, 0, {}))
    with pytest.raises(SettingsError, match="metric_noise"):
        build("saas-nehvi", space, 0, {"metric_noise": "pony"})


def test_a_spread_is_never_none_where_a_transform_is_flat() -> None:
    scale = OutcomeTransform("rank-normal", (0.1, 0.2, 0.3))
    space = autopeft_space()
    sampler = SaasNehvi(space, 0, replace(PRESETS["recommended"], metric_noise="sampling"))
    data = replace(sampler._data(_trials(space, 10)), values=(5.0,) * 25)
    spread = data.spread(scale)
    assert spread is not None
    assert (spread > 0).all()
