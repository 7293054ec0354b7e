"""Latency is a median of real passes of a stated batch, with the device waited for on both sides of the clock."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from autopeft import objectives
from autopeft.architecture import Architecture, Counts
from autopeft.objective import Measurement
from autopeft.objectives.latency import _PASSES, _WARM_UP, measure


@pytest.fixture(autouse=True)
def _as_it_is_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere in the tests a latency is that of two passes."""
    monkeypatch.setattr("autopeft.objectives.latency._PASSES", _PASSES)
    monkeypatch.setattr("autopeft.objectives.latency._WARM_UP", _WARM_UP)


class Clock:
    """A device that is told to answer, and does so only when it is waited for."""

    def __init__(self, seconds: list[float]) -> None:
        self.architecture, self.counts, self.n_head = Architecture(()), Counts(1, 1, 1, 100), 0
        self.device, self.batch_size, self.length = "cuda:0", 4, 9
        self.now, self.told = 0.0, list[str]()
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


def test_trials_of_before_say_it_too() -> None:
    old = Measurement({"f1": 0.5}, "f1", Counts(1, 1, 1, 100), 1.0, 0, 0.125, "validation")
    cost = objectives.lookup("latency")
    assert cost.known == "by a short measurement"
    assert cost.of(old) == 125.0
    assert cost.text(125.0) == "125 ms"
