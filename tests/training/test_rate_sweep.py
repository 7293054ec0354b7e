"""The learning-rate sweep that comes before a search."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from autopeft.architecture import Architecture
from autopeft.errors import AutopeftError, SettingsError
from autopeft.paired import sampling_error
from autopeft.session import Session
from autopeft.training.rate_sweep import ProxySignal, beyond_edge, middle, needed, sweep
from small_case import Case

SIGNAL = ProxySignal("accuracy", ((1e-3, 0.7), (1.0, None)), 1e-3, 0.5, 0.6, 100, "abc")


@pytest.fixture(scope="module")
def session(case: Case) -> Session:
    return Session.build(case.settings(recipe={"steps": 30, "batch_size": 8, "max_length": 16}))


def test_the_best_rate_is_chosen_and_failures_lose(session: Session) -> None:
    architecture = middle(session.space)
    seen: list[tuple[float, float | None]] = []
    found = sweep(session.evaluator, architecture, (1e30, 1e-9, 1e-2), 3, lambda *pair: seen.append(pair))
    assert found.values == tuple(seen)
    assert [rate for rate, _ in found.values] == [1e30, 1e-9, 1e-2]
    assert found.values[0][1] is None
    again = {rate: session.evaluator.with_recipe(learning_rate=rate)(architecture, 3).value for rate in (1e-9, 1e-2)}
    assert dict(found.values[1:]) == again
    assert found.best == max(again.values())
    assert again[found.chosen] == found.best
    assert found.architecture == architecture.fingerprint
    # 16 balanced examples: a constant answer has 1/2, whose standard error is 1/8.
    assert (found.baseline, found.threshold, found.n_validation) == (0.5, 0.75, 16)


def test_of_equal_rates_the_smallest_is_chosen(session: Session) -> None:
    """Where no rate leaves the constant answer the largest is the likeliest to have diverged."""
    found = sweep(session.evaluator, middle(session.space), (1e-12, 1e-11, 1e-10), 3)
    assert len({value for _, value in found.values}) == 1
    assert found.chosen == 1e-12


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([(1e-4, 0.6), (3e-4, 0.7), (1e-3, 0.6)], None),
        ([(1e-4, 0.8), (3e-4, 0.7), (1e-3, 0.6)], 3.3e-5),
        ([(1e-3, 0.8), (1e-4, 0.6), (3e-4, 0.7)], 3.3e-3),  # in any order
        ([(1e-4, 0.7), (3e-4, 0.7), (1e-3, 0.7)], 3.3e-5),  # of equals the smallest
        ([(1e-4, 0.6), (3e-4, 0.7), (1e-3, None)], None),
        ([(1e-4, None), (3e-4, None)], None),
        ([(1e-4, 0.7)], None),
        ([(1e-4, 0.7), (1e-4, 0.7)], None),
    ],
)
def test_where_to_look_beyond_the_edge(values: list[tuple[float, float | None]], expected: float | None) -> None:
    assert beyond_edge(values) == expected


def test_a_sweep_goes_on_beyond_its_edge(monkeypatch: pytest.MonkeyPatch, session: Session) -> None:
    """The metric falls with the distance to 3e-5, which is two steps below what was given."""
    metric = lambda evaluator, candidate, rate, *more: 1 - abs(math.log(rate / 3e-5)) / 100  # noqa: E731
    monkeypatch.setattr("autopeft.training.rate_sweep._value", metric)
    tried = [3e-4, 9e-4, 1e-4, 3.3e-5, 1.1e-5]
    for widen, n in ((0, 2), (1, 3), (2, 4), (9, 5)):
        found = sweep(session.evaluator, middle(session.space), (3e-4, 9e-4), 0, widen=widen)
        assert [rate for rate, _ in found.values] == tried[:n]
        assert found.chosen == min(tried[:n], key=lambda rate: abs(math.log(rate / 3e-5)))


def test_what_is_known_is_not_trained_again(session: Session) -> None:
    found = sweep(session.evaluator, middle(session.space), (1e-3, 1e-2), 0, known={1e-3: 2.0, 1e-2: -1.0, 5.0: 9.0})
    assert (found.values, found.chosen) == (((1e-3, 2.0), (1e-2, -1.0)), 1e-3)


def test_nothing_to_try_and_nothing_that_trains(session: Session) -> None:
    with pytest.raises(SettingsError, match="at least one learning rate"):
        sweep(session.evaluator, Architecture(()), (), 0)
    with pytest.raises(AutopeftError, match=r"every learning rate of the sweep: 1e\+30, 1e\+35"):
        sweep(session.evaluator, middle(session.space), (1e30, 1e35), 0)


def test_signal_is_what_exceeds_the_threshold() -> None:
    assert SIGNAL.best == 0.7
    assert SIGNAL.has_signal
    blind = replace(SIGNAL, values=((1e-3, 0.6),))
    assert not blind.has_signal
    assert "THE PROXY HAS NO SIGNAL" in str(blind)
    assert "0.001: 0.7000, 1: failed; constant answer 0.5000, needed 0.6000: the proxy has signal" in str(SIGNAL)


def test_the_outcome_survives_json() -> None:
    assert ProxySignal.from_dict(json.loads(json.dumps(SIGNAL.as_dict()))) == SIGNAL


@pytest.mark.parametrize(
    ("baseline", "n", "expected"),
    [(0.5, 100, 0.05), (0.9, 100, 0.03), (0.0, 100, 0.1), (1.0, 25, 0.2), (math.nan, 25, 0.2)],
)
def test_standard_error(baseline: float, n: int, expected: float) -> None:
    """sqrt(p (1 - p) / n) of a share, 1 / sqrt(n) of a correlation."""
    assert sampling_error(baseline, n) == pytest.approx(expected)


def test_the_middle_has_all_layers_and_middle_sizes_or_fits_the_budget(case: Case, session: Session) -> None:
    # Sizes (0, 1, 2, 4) and (0, 1, 2): indices 2 and 1; prefix of length 1 and serial of width 2 in three layers.
    assert session.evaluator.counts(middle(session.space)).nominal == 3 * (4 + 2) * 32
    tight = Session.build(case.settings(space={"methods": {"serial": {}}, "budget": "130"}))
    assert 0 < tight.evaluator.counts(middle(tight.space)).nominal <= 130


@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e4])
def test_what_an_error_has_to_pass_is_in_its_unit_and_can_be_passed(unit: float) -> None:
    task = SimpleNamespace(objective="neg_mae", baseline=lambda part: {"neg_mae": -0.3779 * unit})
    evaluator: Any = SimpleNamespace(task=task, splits=SimpleNamespace(validation=range(20)))
    baseline, threshold = needed(evaluator)
    assert (baseline, threshold) == pytest.approx((-0.3779 * unit, -0.3779 * unit * (1 - 2 / 20**0.5)))
