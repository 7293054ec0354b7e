from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.errors import DataError
from autopeft.pictures.cloud import cloud_data
from autopeft.pictures.front import front_data
from autopeft.pictures.hypervolume import hypervolume_data
from autopeft.pictures.layers import layers_data
from autopeft.pictures.learning import learning_data
from autopeft.pictures.points import NamedPoint, describe_point, evenly
from autopeft.pictures.results import results_data
from sample_trials import failed, measured, running


@given(st.integers(0, 200), st.integers(0, 30))
def test_evenly_keeps_both_ends_and_never_exceeds(n: int, most: int) -> None:
    chosen = evenly(n, most)
    assert len(chosen) == len(set(chosen)) == min(n, most)
    assert all(0 <= i < n for i in chosen)
    if n and most > 1:
        assert chosen[0] == 0
        assert chosen[-1] == n - 1


def test_named_point_lists_every_mistake() -> None:
    with pytest.raises(DataError, match=r"cost is -1.*mean is nan.*single seed has no standard deviation"):
        NamedPoint("x", -1, math.nan, 0.1, seeds=1)
    with pytest.raises(DataError, match=r"standard deviation is -0\.1; its number of seeds is -2"):
        NamedPoint("x", 1, 0.5, -0.1, seeds=-2)


def test_described_points_name_seeds_and_split_or_say_that_they_are_unknown() -> None:
    assert describe_point(NamedPoint("LoRA", 0.3, 0.6585, 0.0149, 5, "dev")) == "LoRA: 0.6585 ± 0.015 (5 seeds, dev)"
    assert describe_point(NamedPoint("LoRA", 0.3, 0.7, seeds=1, split="dev")) == "LoRA: 0.7 (single seed, dev)"
    runs = NamedPoint("LoRA", 0.3, 0.7, 0.1, 9, "dev", "runs")
    assert describe_point(runs) == "LoRA: 0.7 ± 0.1 (9 runs, dev)"
    assert describe_point(NamedPoint("LoRA", 0.3, 0.7)) == "LoRA: 0.7 (seeds unknown, split unknown)"


def test_front_data_hold_trials_front_labels_and_the_floor() -> None:
    trials = [measured(0, 1000, 0.6), failed(1), measured(2, 2000, 0.7), measured(3, 3000, 0.65), running(4)]
    data = front_data(trials, [NamedPoint("Serial", 0.8, 0.62)])
    assert data.trials == ((1.0, 0.6), (2.0, 0.7), (3.0, 0.65))
    assert [(point.key, point.cost, point.value) for point in data.front] == [(0, 1.0, 0.6), (2, 2.0, 0.7)]
    assert data.labels == ("serial 1 · layer 1, initial", "serial 3 · layer 1, initial")
    assert data.labelled == (0, 1)
    assert data.metric == "validation accuracy"
    assert data.shown_from == 0.6
    assert "3 measured trials: 2 points" in data.alt
    assert "Serial 0.62 at 0.8 %" in data.alt


def test_baselines_on_other_examples_stand_in_a_panel_of_their_own() -> None:
    trials = [measured(0, 1000, 0.6), measured(1, 2000, 0.7)]
    same, other = NamedPoint("a", 1, 0.6, split="validation"), NamedPoint("b", 1, 0.1, seeds=3, split="test")
    data = front_data(trials, [same, other])
    assert (data.baselines, data.beside) == ((same,), (other,))
    assert data.shown_from >= 0.6  # a figure of other examples does not move the axis
    assert "In a panel of their own, on other examples: b: 0.1 (3 seeds, test) at 1 %." in data.alt


def test_every_dot_says_who_found_it() -> None:
    trials = [measured(0, 1000, 0.6), measured(1, 2000, 0.7, origin="saas"), *(measured(i, 3000, 0.65) for i in (2, 3))]
    marks = front_data(trials).marks
    assert [mark.title[:30] for mark in marks["front-points"]] == [
        "#0, found by initial, seed 7: ", "#1, found by saas, seed 7: val",
    ]  # fmt: skip
    assert len(marks["trial-dots"]) + len(marks["low-dots"]) == 4


def test_a_diverged_trial_lies_below_what_is_shown() -> None:
    trials = [measured(i, 1000 + i, 0.7 + i / 1000) for i in range(40)] + [measured(40, 5000, 0.1)]
    data = front_data(trials)
    # The 0.05 quantile of 41 values is the third smallest, 0.701; the cheapest point of the front lies below it.
    assert data.shown_from == pytest.approx(0.7)
    assert min(point.value for point in data.front) >= data.shown_from


def test_labels_of_a_crowded_front_stand_apart() -> None:
    trials = [measured(i, 1000 + 10 * i, 0.5 + 0.001 * i) for i in range(50)]
    data = front_data(trials, most_labels=5)
    assert len(data.front) == 50
    assert len(data.labelled) == 5
    assert (data.labelled[0], data.labelled[-1]) == (0, 49)


def test_nothing_measured_gives_empty_pictures_that_say_so() -> None:
    trials = [failed(0), running(1)]
    assert "no trial has been measured" in front_data(trials).alt
    assert "no trial has been measured" in layers_data(trials).alt
    assert "no trial has been measured" in cloud_data({"s": trials}).alt
    assert "None was recorded" in learning_data(trials).alt
    assert "There is none" in results_data(()).alt


def test_layers_of_a_shared_space_are_one_panel_a_method() -> None:
    first = measured(0, 1000, 0.6, "serial@encoder.0.ffn:4", "prefix@encoder.0.attention:2")
    second = measured(1, 2000, 0.7, "serial@encoder.0.ffn:8", "serial@encoder.2.ffn:8")
    data = layers_data([first, second])
    assert data.panels == ("prefix", "serial")
    assert data.rows == ("layer 1", "layer 3")
    assert data.sizes.tolist() == [[[2, 0], [0, 0]], [[4, 8], [0, 8]]]
    assert data.frequency.tolist() == [1.0, 0.5]
    assert "layer 1 (100%)" in data.alt


def test_layers_of_encoder_and_decoder_split_by_role_where_sizes_differ() -> None:
    trial = measured(
        0, 1000, 0.6, "lora@decoder.1.q:4", "lora@encoder.0.q:1", "lora@encoder.0.v:16", "norm@decoder.final_norm:1"
    )
    data = layers_data([trial])
    assert data.rows == ("encoder 1", "decoder 2", "decoder final_norm")
    assert data.panels == ("lora at q", "lora at v", "norm at final_norm")
    assert data.sizes[:, :, 0].tolist() == [[1, 4, 0], [16, 0, 0], [0, 0, 1]]


def test_equal_sizes_at_every_role_are_one_panel_but_a_missing_role_is_not() -> None:
    both = measured(0, 1000, 0.6, "lora@encoder.0.q:8", "lora@encoder.0.v:8")
    some = measured(1, 2000, 0.7, "lora@encoder.0.q:8", "lora@encoder.1.q:8", "lora@encoder.1.v:8")
    assert layers_data([both]).panels == ("lora",)
    assert layers_data([both, some]).panels == ("lora at q", "lora at v")


def test_too_many_roles_fall_back_to_the_largest_size_of_a_layer() -> None:
    places = [f"lora@encoder.0.r{i}:{i + 1}" for i in range(9)]
    data = layers_data([measured(0, 1000, 0.6, *places)])
    assert data.panels == ("lora",)
    assert data.sizes.tolist() == [[[9]]]


def test_layers_and_methods_that_were_tried_but_are_not_on_the_front_are_shown() -> None:
    tried = measured(
        1, 90, 0.5, *(f"{method}@encoder.{i}.ffn:4" for i in range(3) for method in ("parallel", "serial"))
    )
    data = layers_data([measured(0, 10, 0.6, "serial@encoder.1.ffn:4"), tried])
    assert data.rows == ("layer 1", "layer 2", "layer 3")
    assert data.panels == ("parallel", "serial")
    assert data.frequency.tolist() == [0.0, 1.0, 0.0]
    assert "Never used: layer 1, layer 3." in data.alt


def test_cloud_groups_by_origin_and_merges_a_shared_initial_design() -> None:
    initial = [measured(0, 1000, 0.6), measured(1, 3000, 0.62)]
    ours, theirs = measured(2, 500, 0.7, origin="saas"), measured(2, 4000, 0.6, origin="random")
    one = cloud_data({"only": [*initial, ours, failed(3)]})
    assert [(series.name, series.points) for series in one.series] == [
        ("initial", ((1.0, 0.6), (3.0, 0.62))),
        ("saas", ((0.5, 0.7),)),
    ]
    assert one.series[0].quartiles() == (1.5, 2.0, 2.5)
    two = cloud_data({"a": [*initial, ours], "b": [*initial, theirs]})
    assert [series.name for series in two.series] == ["initial (shared)", "a: saas", "b: random"]
    apart = cloud_data({"a": [initial[0], ours], "b": [initial[1], theirs]})
    assert [series.name for series in apart.series] == ["a: initial", "b: initial", "a: saas", "b: random"]


def test_hypervolume_is_counted_by_hand_and_a_failure_leaves_it_unchanged() -> None:
    # reference (4 %, 0.5): (2 %, 0.6) dominates 2 x 0.1; (1 %, 0.55) adds 1 x 0.05
    trials = [measured(0, 2000, 0.6), failed(1), measured(2, 1000, 0.55), running(3)]
    data = hypervolume_data({"random": [trials]}, (4.0, 0.5))
    (curve,) = data.curves
    np.testing.assert_allclose(curve.mean, [0.2, 0.2, 0.25])
    np.testing.assert_array_equal(curve.low, curve.high)
    assert data.initial == 2
    assert "reference point: 4 % and 0.5" in data.caption
    assert "band" not in data.caption


def test_bands_span_the_seeds_or_the_standard_error() -> None:
    first = [measured(0, 2000, 0.6)]
    second = [measured(0, 2000, 0.7), measured(1, 1000, 0.7)]
    span = hypervolume_data({"s": [first, second]}, (4.0, 0.5)).curves[0]
    assert (span.seeds, len(span.mean)) == (2, 1)  # as long as the shortest seed
    assert (span.mean[0], span.low[0], span.high[0]) == pytest.approx((0.3, 0.2, 0.4))
    error = hypervolume_data({"s": [first, second]}, (4.0, 0.5), band="standard error")
    # values 0.2 and 0.4: deviation sqrt(0.02), divided by sqrt(2) gives 0.1
    assert error.curves[0].low[0] == pytest.approx(0.2)
    assert error.curves[0].high[0] == pytest.approx(0.4)
    assert "± 1 standard error" in error.caption
    assert error.initial == 0  # the designs differ in length


def test_a_sampler_without_seeds_is_refused() -> None:
    with pytest.raises(DataError, match="these have none: b, c"):
        hypervolume_data({"a": [[]], "b": [], "c": []}, (1.0, 0.0))


def test_learning_curves_ring_the_first_best_epoch() -> None:
    trials = [
        measured(0, 1000, 0.7, history=((0.5, 0.9), (0.7, 0.4), (0.7, 0.2))),
        measured(1, 2000, 0.8),
        measured(2, 3000, 0.6, history=((0.6, 0.3),)),
    ]
    data = learning_data(trials)
    assert [curve.name for curve in data.curves] == ["#0, 1 %"]  # the dominated and the unrecorded are left out
    assert (data.curves[0].epochs, data.curves[0].best) == ((1, 2, 3), 1)
    assert [curve.name for curve in learning_data(trials, [2, 0, 1]).curves] == ["#2, 3 %", "#0, 1 %"]
    with pytest.raises(DataError, match="but got 5, 9"):
        learning_data(trials, [9, 5, 0])


def test_results_are_ordered_by_cost_and_name_their_splits() -> None:
    points = [NamedPoint("b", 2.0, 0.7, 0.1, 3, "test"), NamedPoint("a", 1.0, 0.6, seeds=1, split="test")]
    data = results_data(points, metric="accuracy")
    assert [point.name for point in data.retrained] == ["a", "b"]
    assert data.metric == "test accuracy"
    assert "a: 0.6 (single seed, test) at 1 %; b: 0.7 ± 0.1 (3 seeds, test) at 2 %" in data.alt


@given(st.lists(st.tuples(st.integers(1, 50_000), st.floats(0, 1)), min_size=1, max_size=30), st.integers(2, 12))
def test_front_data_hold_for_any_trials(pairs: list[tuple[int, float]], most: int) -> None:
    data = front_data([measured(i, cost, value) for i, (cost, value) in enumerate(pairs)], most_labels=most)
    assert 1 <= len(data.labelled) <= most
    assert max(value for _, value in data.trials) == data.front[-1].value
    assert data.shown_from <= data.front[0].value
