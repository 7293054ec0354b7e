"""Points of a training run: how they are written, which steps they are, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from autopeft.errors import SettingsError
from autopeft.fidelity import FULL, Fidelity, Reached, rung_steps, rungs_of


@pytest.mark.parametrize(
    ("given", "expected", "told"),
    [
        (1, Fidelity(1.0), "1 epoch"),
        (0.5, Fidelity(0.5), "0.5 epochs"),
        ("3", Fidelity(3.0), "3 epochs"),
        ("10%", Fidelity(0.1, "share"), "10%"),
        (" 33.3 % ", Fidelity(0.333, "share"), "33.3%"),
        (Fidelity(2), Fidelity(2), "2 epochs"),
        ("100%", FULL, "100%"),
    ],
)
def test_a_fidelity_is_read_and_written(given: Any, expected: Fidelity, told: str) -> None:
    found = Fidelity.parse(given)
    assert found.unit == expected.unit
    assert found.amount == pytest.approx(expected.amount)
    assert Fidelity.parse(found.to_json()) == found
    assert str(found) == told


@pytest.mark.parametrize("given", [0, -1, "0%", "101%", "ten", "1 epoch", None, True, float("nan"), float("inf"), [1]])
def test_what_is_no_fidelity_is_refused(given: Any) -> None:
    with pytest.raises(SettingsError, match="A fidelity is"):
        Fidelity.parse(given)


def test_rungs_become_steps_and_the_end_is_the_last() -> None:
    assert rung_steps(rungs_of([1, 3]), 1000, 100) == (100, 300, 1000)
    assert rung_steps(rungs_of([1, 3, 10]), 1000, 100) == (100, 300, 1000)
    assert rung_steps(rungs_of(["10%", "30%", "100%"]), 50, 7) == (5, 15, 50)
    assert rung_steps((), 7, 3) == (7,)
    assert rung_steps(rungs_of(["0.1%"]), 7, 3) == (1, 7)  # at least one step


@pytest.mark.parametrize("rungs", [[3, 1], [1, 1], ["20%", "10%"]])
def test_rungs_that_do_not_increase_are_refused_before_anything_is_known_of_the_run(rungs: list[Any]) -> None:
    with pytest.raises(SettingsError, match="Rungs must increase"):
        rungs_of(rungs)


@pytest.mark.parametrize("rungs", [[11], [5, "10%"], ["1%", "1.4%"]])
def test_rungs_that_do_not_fit_the_run_are_refused(rungs: list[Any]) -> None:
    with pytest.raises(SettingsError, match=r"which has 100 steps, 10 an epoch"):
        rung_steps(rungs_of(rungs), 100, 10)


def test_what_was_reached_makes_the_round_trip() -> None:
    for fidelity in (Fidelity(3), Fidelity(0.1, "share"), FULL):
        found = Reached(fidelity, 30, 3.0, 0.75, 1.5)
        assert Reached.from_dict(found.as_dict()) == found
