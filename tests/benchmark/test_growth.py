"""Exponents of growth and the forecast's arithmetic, by hand."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def growth(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark as a module."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("growth")


def test_an_exponent_and_its_standard_error_by_hand(growth: Any) -> None:
    assert growth.exponent([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx((2.0, 0.0), abs=1e-9)
    # Logarithms to base 2 of the sizes -1, 0, 1 about their mean; of the values 0, 2, 1: the slope is 1 / 2, what is
    # left -1/2, 1, -1/2, and the standard error the root of 3/2 over one degree of freedom and a spread of 2.
    assert growth.exponent([1, 2, 4], [1, 4, 2]) == pytest.approx((0.5, 0.75**0.5))


def test_a_forecast_multiplies_the_power_laws_of_all_axes(growth: Any) -> None:
    at = {**growth.BASE, "layers": 2 * growth.BASE["layers"], "width": 3 * growth.BASE["width"]}
    slopes = {"layers": 1.0, "width": 2.0, "length": 5.0, "k": 5.0}
    assert growth.along(slopes, 10.0, at) == pytest.approx(10 * 2 * 9)
    # A hundred weights of two bytes; ten that are trained, with gradient and two moments of four bytes each.
    assert growth.held_bytes(100, 10, 50.0, 2) == 200 + 160 + 50
    assert growth.operations(1000, 32) == 128_000


def test_lora_on_queries_and_values_is_counted_as_attached(growth: Any) -> None:
    from autopeft.network.attach import attach

    backbone = growth.tiny.backbone("bert")
    with attach(backbone, growth.lora(backbone)) as attached:
        assert growth.backbone_trained(backbone) == sum(p.numel() for _, p in attached.parameters_by_method())


def test_a_step_keeps_twice_as_much_for_twice_the_candidates(growth: Any) -> None:
    point = {"layers": 2, "width": 32, "length": 8}
    one, two = (growth.measured({**point, "k": k}, 2)["kept_bytes"] for k in (1, 2))
    assert 1.8 * one < two < 2.2 * one
