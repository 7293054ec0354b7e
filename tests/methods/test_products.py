"""Products with narrow matrices: the same values and gradients as written out, in the layout that is meant."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from autopeft.methods._products import add_up, narrow


@pytest.mark.parametrize("units", [1, 8, 15, 16, 40])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_what_is_added_and_its_gradients_are_those_of_three_steps(units: int, with_bias: bool, scale: float) -> None:
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)

    y, hidden, weight, bias = drawn(3, 5, 24), drawn(3, 5, units), drawn(24, units), drawn(24)
    parts = [y, hidden, weight, *([bias] if with_bias else [])]
    given = bias if with_bias else None
    plain = y + scale * functional.linear(hidden, weight, given)
    added = add_up(y, hidden, weight, given, scale)
    torch.testing.assert_close(added, plain, rtol=1e-12, atol=1e-12)
    wanted = torch.autograd.grad(plain.square().sum(), parts)
    for found, want in zip(torch.autograd.grad(added.square().sum(), parts), wanted, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-11, atol=1e-11)


def test_a_part_of_a_fused_output_and_two_precisions_are_added_too() -> None:
    y, units, weight = torch.randn(2, 3, 12)[..., 4:8], torch.randn(2, 3, 2), torch.randn(4, 2)
    torch.testing.assert_close(add_up(y, units, weight), y + units @ weight.t())
    assert add_up(y.to(torch.bfloat16), units, weight).dtype == torch.float32


def test_autocast_lowers_the_product_and_not_what_it_is_added_to() -> None:
    y, units, weight = torch.full((2, 3, 4), 1 + 2**-12), torch.randn(2, 3, 2), torch.zeros(4, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(add_up(y, units, weight), y)  # in bf16 it would be 1
        assert add_up(y.bfloat16(), units.bfloat16(), weight).dtype == torch.bfloat16


def test_nothing_is_added_bit_for_bit_where_the_weight_is_zero() -> None:
    y = torch.randn(2, 3, 8)
    assert torch.equal(add_up(y, torch.randn(2, 3, 4), torch.zeros(8, 4), torch.zeros(8), 4.0), y)


def test_the_layout_changes_and_no_value() -> None:
    weight = torch.randn(6, 3)
    assert torch.equal(narrow(weight), weight)
    assert narrow(weight).t().is_contiguous()
