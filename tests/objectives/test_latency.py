"""Latency is a median of real passes of a stated batch, with the device waited for on both sides of the clock."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest

import small_case
from autopeft import objectives
from autopeft.architecture import Architecture, Counts
from autopeft.network.attach import attach
from autopeft.objective import Measurement
from autopeft.objectives._bench import Probe
from autopeft.objectives.latency import _PASSES, _WARM_UP, measure
from autopeft.session import Session
from autopeft.training.bench import readings


@pytest.fixture(autouse=True)
def _as_it_is_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere in the tests a latency is that of two passes."""
    monkeypatch.setattr("autopeft.objectives.latency._PASSES", _PASSES)
    monkeypatch.setattr("autopeft.objectives.latency._WARM_UP", _WARM_UP)


class Clock:
    """A device that is told to answer, and does so only when it is waited for."""

    def __init__(self, seconds: list[float], allowance: float = math.inf) -> None:
        self.architecture, self.counts, self.n_head = Architecture(()), Counts(1, 1, 1, 100), 0
        self.device, self.batch_size, self.length = "cuda:0", 4, 9
        self.now, self.told, self.allowance = 0.0, list[str](), allowance
        self._seconds: Iterator[float] = iter(seconds)

    def answer(self) -> None:
        self.told.append("answer")

    def forward(self) -> int:
        raise AssertionError("Latency is that of answers.")

    def synchronise(self) -> None:
        self.now += sum(next(self._seconds) for item in self.told if item == "answer")
        self.told = []


def test_the_device_is_waited_for_and_the_first_passes_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Clock([9.0, 9.0, 0.5, 0.1, 0.2])
    monkeypatch.setattr("autopeft.objectives.latency.time.perf_counter", lambda: probe.now)
    found = measure(probe)
    assert found["value"] == pytest.approx(200)
    assert found["fastest"] == pytest.approx(100)
    assert {name: found[name] for name in ("batch", "tokens", "passes", "device")} == {
        "batch": 4, "tokens": 9, "passes": 3, "device": "cuda:0",
    }  # fmt: skip


def test_quick_passes_are_timed_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Clock([0.001] * 99)
    monkeypatch.setattr("autopeft.objectives.latency.time.perf_counter", lambda: probe.now)
    assert measure(probe)["passes"] == 25


@pytest.mark.parametrize(("allowance", "passes"), [(0.0, 1), (0.3, 2), (0.45, 3), (60.0, 3)])
def test_what_is_only_for_the_record_takes_no_more_than_it_is_allowed_but_for_one_pass(
    monkeypatch: pytest.MonkeyPatch, allowance: float, passes: int
) -> None:
    probe = Clock([0.2, 0.2, 0.2], allowance)
    monkeypatch.setattr("autopeft.objectives.latency.time.perf_counter", lambda: probe.now)
    assert measure(probe)["passes"] == passes
    assert probe.now == pytest.approx(0.2 * passes)


@pytest.mark.parametrize(("cost", "allowance"), [("latency", math.inf), ("nominal", 0.02 * 50)])
def test_what_is_searched_by_is_measured_with_care_and_the_rest_in_a_share_of_the_training(
    case: small_case.Case, cost: str, allowance: float
) -> None:
    session = Session.build(case.settings(cost=cost))
    allowed = dict[str, float]()

    def measured(probe: Probe) -> dict[str, float]:
        allowed["latency"] = probe.allowance
        return {"value": 1.0}

    one = replace(objectives.lookup("latency"), measure=measured)
    with attach(session.backbone, Architecture(())) as attached:
        readings(session.evaluator, attached, [one], trained_seconds=50)
    assert allowed == {"latency": allowance}


def test_trials_of_before_say_it_too() -> None:
    old = Measurement({"f1": 0.5}, "f1", Counts(1, 1, 1, 100), 1.0, 0, 0.125, "validation")
    cost = objectives.lookup("latency")
    assert cost.known == "by a short measurement"
    assert cost.of(old) == 125.0
    assert cost.text(125.0) == "125 ms"
