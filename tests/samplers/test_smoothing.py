"""The surrogate's view of single noisy measurements."""

from dataclasses import replace

import numpy as np
import pytest

from autopeft.architecture import Counts
from autopeft.objective import Measurement
from autopeft.samplers._bayes.smoothing import sampling_variance, smooth
from autopeft.trial import Trial
from lattice import accuracy, autopeft_space, history, noisy


def _scored(trials: list[Trial], n: int) -> list[Trial]:
    return [
        replace(trial, measurement=replace(trial.measurement, extra={"n_scored": n}))
        for trial in trials
        if trial.measurement is not None
    ]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_smoothed_values_are_nearer_to_the_truth_than_the_measured_ones(seed: int) -> None:
    # The seeds are fixed, so nothing here is left to chance. Smoothing takes away half of the error.
    space = autopeft_space()
    configurations = space.sample(np.random.default_rng(seed), 60)
    truth = np.array([accuracy(space, configuration) for configuration in configurations])
    noise = 0.03
    n = round(float(np.mean(truth * (1 - truth))) / noise**2)  # so many examples make that noise
    trials = _scored(history(space, configurations, noisy(noise, seed)), n)
    measured = np.array([trial.measurement.value for trial in trials if trial.measurement is not None])
    smoothed = smooth(space, trials)
    seen = np.array([smoothed[trial.number] for trial in trials])
    assert np.abs(seen - truth).mean() < 0.6 * np.abs(measured - truth).mean()


def test_few_trials_and_equal_ones_are_taken_as_they_were_measured() -> None:
    space = autopeft_space()
    few = history(space, space.sample(np.random.default_rng(0), 7))
    equal = history(space, space.sample(np.random.default_rng(1), 30), lambda space, configuration: 0.5)
    for trials in (few, equal, []):
        measured = {trial.number: trial.measurement.value for trial in trials if trial.measurement is not None}
        assert smooth(space, trials) == measured


def _measured(value: float, n: int | None) -> Measurement:
    extra = {} if n is None else {"n_scored": n}
    return Measurement({"metric": value}, "metric", Counts(1, 1, 1, 100), 1.0, 0, 0.1, "validation", extra=extra)


def test_the_variance_of_a_share_is_that_of_its_examples() -> None:
    assert sampling_variance(_measured(0.8, 400)) == pytest.approx(0.0004)
    assert sampling_variance(_measured(1.0, 400)) == pytest.approx((1 / 400) * (1 - 1 / 400) / 400)
    assert sampling_variance(_measured(-0.2, 100)) == pytest.approx(0.01)
    assert sampling_variance(_measured(-350.0, 100)) is None  # an error in the unit of the labels
    assert sampling_variance(_measured(-0.2, 100), "neg_mae") is None
    assert sampling_variance(_measured(0.8, None)) is None
