"""Metrics against values worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.tasks import _metrics as metrics
from autopeft.tasks._examples import Examples
from autopeft.tasks._text_metrics import overlap

LABELS = np.array([1, 1, 1, 0, 0, 0, 0, 1])
PREDICTED = np.array([1, 1, 0, 0, 0, 1, 0, 0])  # tp 2, fn 2, fp 1, tn 3


def test_accuracy_f1_and_matthews_of_a_hand_made_table() -> None:
    assert metrics.accuracy(LABELS, PREDICTED) == pytest.approx(5 / 8)
    assert metrics.f1(LABELS, PREDICTED) == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))
    expected = (2 * 3 - 1 * 2) / math.sqrt((2 + 1) * (2 + 2) * (3 + 1) * (3 + 2))
    assert metrics.matthews(LABELS, PREDICTED) == pytest.approx(expected)


def test_macro_f1_is_the_mean_over_classes_and_none_of_them_is_no_class() -> None:
    labels = np.array([0, 0, 1, 2])
    predictions = np.array([0, 1, 1, -1])
    # class 0: tp 1, fn 1: 2/3; class 1: tp 1, fp 1: 2/3; class 2: 0
    assert metrics.macro_f1(labels, predictions) == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)


def test_correlations_of_a_hand_made_series() -> None:
    labels = np.array([1.0, 2.0, 3.0, 4.0])
    predictions = np.array([1.0, 4.0, 9.0, 16.0])
    assert metrics.spearman(labels, predictions) == pytest.approx(1.0)
    centred, other = labels - 2.5, predictions - 7.5
    expected = (centred @ other) / math.sqrt((centred @ centred) * (other @ other))
    assert metrics.pearson(labels, predictions) == pytest.approx(expected)


def test_spearman_takes_the_mean_rank_of_ties() -> None:
    # ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5 of variances 4.5 and 5
    value = metrics.spearman(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 5.0, 5.0, 9.0]))
    assert value == pytest.approx(4.5 / math.sqrt(4.5 * 5))


@pytest.mark.parametrize("name", ["matthews", "spearman", "pearson"])
def test_a_constant_prediction_has_no_correlation_and_gives_no_warning(name: str) -> None:
    constant = np.ones(len(LABELS), dtype=np.int64)
    examples = Examples(LABELS, texts=[("x",)] * len(LABELS))
    assert metrics.measure([name], constant, examples) == {name: 0.0}
    swapped = Examples(constant, texts=[("x",)] * len(LABELS))
    assert metrics.measure([name], LABELS, swapped) == {name: 0.0}


def test_a_nearly_constant_prediction_gives_no_warning() -> None:
    nearly = np.array([1.0, 1.0 + 1e-15, 1.0, 1.0])
    assert -1.0 <= metrics.pearson(np.array([1.0, 2.0, 3.0, 4.0]), nearly) <= 1.0


def test_f1_is_zero_when_the_class_is_nowhere() -> None:
    nothing = np.zeros(3, dtype=np.int64)
    assert metrics.f1(nothing, nothing) == 0.0


def test_a_group_counts_when_all_of_it_is_right() -> None:
    labels, predictions = np.array([1, 0, 1, 0, 1]), np.array([1, 0, 0, 0, 1])
    # a: right, right; b: wrong, right; c: right
    assert metrics.grouped_exact_match(labels, predictions, ["a", "a", "b", "b", "c"]) == pytest.approx(2 / 3)


def test_answers_are_compared_without_case_punctuation_and_articles() -> None:
    assert overlap.normalised("The  U.S. Army, a force") == "us army force"
    assert overlap.exact_match("the Army!", ["Navy", "Army"]) == 1.0
    # two tokens against "obama": precision 1/2, recall 1; against "barack hussein obama": 2/2 and 2/3
    assert overlap.token_f1("Barack Obama", ["Obama"]) == pytest.approx(2 / 3)
    assert overlap.token_f1("Barack Obama", ["Obama", "Barack Hussein Obama"]) == pytest.approx(4 / 5)
    assert overlap.token_f1("Paris", ["Obama"]) == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_prediction_that_is_no_number_gives_nan(bad: float) -> None:
    examples = Examples(np.array([1.0, 2.0]), texts=[("a",), ("b",)])
    values = metrics.measure(["spearman", "pearson"], np.array([bad, 1.0]), examples)
    assert all(math.isnan(value) for value in values.values())


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40))
def test_metrics_stay_in_their_ranges(pairs: list[tuple[int, int]]) -> None:
    labels, predictions = np.array(pairs).T
    examples = Examples(labels, texts=[("x",)] * len(labels))
    names = ["accuracy", "f1", "macro_f1", "matthews", "spearman", "pearson"]
    values = metrics.measure(names, predictions, examples)
    assert all(0 <= values[name] <= 1 for name in names[:3])
    assert all(-1 - 1e-12 <= values[name] <= 1 + 1e-12 for name in names[3:])
