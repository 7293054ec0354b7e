"""Paired differences, what they could have shown, and corrections for several of them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from autopeft.paired import Paired, grain_of, holm, metric_error, paired, sampling_error
from autopeft.tasks import _metrics


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12).filter(lambda values: np.std(values) > 1e-6))
def test_interval_and_p_value_are_those_of_the_paired_t_test(values: list[float]) -> None:
    found = Paired(tuple(range(len(values))), tuple(values))
    peer = stats.ttest_1samp(values, 0.0)
    assert found.interval == pytest.approx(tuple(peer.confidence_interval(0.95)), rel=1e-6, abs=1e-9)
    assert found.p_value == pytest.approx(peer.pvalue, rel=1e-6, abs=1e-12)
    assert (found.verdict == "no difference shown") == (peer.pvalue >= 0.05)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_a_detectable_difference_is_found_in_four_of_five_cases(n: int) -> None:
    # The simulated share of 20,000 has a standard error of 0.0028; five of them are passed once in two million runs.
    rng = np.random.default_rng(n)
    spread = 0.02
    planned = Paired(tuple(range(n)), tuple(spread * (np.arange(n) - (n - 1) / 2)))
    error = planned.standard_error
    assert error is not None
    detectable = planned.detectable
    assert detectable is not None
    drawn = detectable + error * math.sqrt(n) * rng.standard_normal((20_000, n))
    lows = drawn.mean(1) - stats.t.ppf(0.975, n - 1) * drawn.std(1, ddof=1) / math.sqrt(n)
    assert float((lows > 0).mean()) == pytest.approx(0.8, abs=5 * 0.0028)


def test_equal_differences_do_not_look_certain_where_the_metric_has_steps() -> None:
    first, second = {1: 0.83, 2: 0.81, 3: 0.85}, {1: 0.82, 2: 0.80, 4: 0.9}
    assert paired(first, second).seeds == (1, 2)
    found = paired(first, second, grain=0.005)
    assert found.p_value == pytest.approx(0.2163, abs=1e-4)  # 0.01 over 0.005 / sqrt(2), one degree of freedom
    assert found.verdict == "no difference shown"
    assert Paired((1, 2), (0.0, 0.0)).p_value == 1.0


def test_one_seed_and_none_allow_no_statement() -> None:
    assert Paired((1,), (0.3,)).verdict == "one seed allows no statement"
    assert (Paired((1,), (0.3,)).p_value, Paired((1,), (0.3,)).detectable) == (None, None)
    assert Paired((), ()).verdict == "no seed in common"


def test_holm_multiplies_by_what_is_left_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([0.5, 0.9]) == (1.0, 1.0)
    assert holm([]) == ()


def test_an_error_in_the_labels_unit_is_judged_alike_in_every_unit() -> None:
    for unit in (1e-4, 1.0, 1e4):
        assert metric_error("neg_mae", -0.4 * unit, 16) == pytest.approx(0.1 * unit)
        worse = {40: -8e-5 * unit, 41: -8.2e-5 * unit, 42: -7.9e-5 * unit}
        better = {40: -1e-5 * unit, 41: -1.1e-5 * unit, 42: -0.9e-5 * unit}
        assert paired(better, worse, grain_of("neg_mae", 20)).verdict == "better"
    # What a constant answer measures and two standard errors are still below the best that an error can be.
    assert -0.3779 + 2 * metric_error("neg_mae", -0.3779, 20) < 0
    # Shares and correlations are as before, and so is what they move in.
    for name, value in (("accuracy", 0.8), ("spearman", -0.2), ("matthews", 0.0), ("neg_loss", -0.5)):
        assert metric_error(name, value, 400) == sampling_error(value, 400)
    assert [grain_of(name, 20) for name in ("accuracy", "spearman", "neg_rmse", "neg_loss", "perplexity")] == [
        *(0.05, 0.05),
        *(0.0, 0.0, 0.0),
    ]


def test_every_error_that_tasks_know_has_no_grain() -> None:
    assert all(grain_of(name, 20) == grain_of(f"neg_{name}", 20) == 0 for name in _metrics._ERRORS)
