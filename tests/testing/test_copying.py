"""Copies of tiny models: whole, apart from one another, and with the ties and the methods of the original."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from autopeft.testing._copying import Copier
from tiny import MODEL_TYPES, backbone, output


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.act = lambda x: x + 1
        self.other = self.twice

    def twice(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.first(x)


def test_a_copy_keeps_ties_functions_and_bound_methods_and_shares_no_weight() -> None:
    original = Tied()
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(original)
    copies = Copier(original)
    one, other = copies(), copies()
    assert one.first.weight is one.second.weight
    assert one.other.__self__ is one
    assert one.act is original.act
    with torch.no_grad():
        one.first.weight.zero_()
    assert torch.equal(other.first.weight, original.first.weight)
    assert original.first.weight.any()


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_tiny_model_is_equal_each_time_and_a_change_stays_in_one(model_type: str) -> None:
    one, other = backbone(model_type), backbone(model_type)
    with torch.no_grad():
        plain = output(other)
        assert torch.equal(output(one), plain)
        for parameter in one.model.parameters():
            parameter.zero_()
    one.model.config.hidden_act = "changed"
    assert not output(one).any()
    assert torch.equal(output(other), plain)
    assert other.model.config.to_dict() == backbone(model_type).model.config.to_dict()


def test_a_tiny_model_has_the_precision_that_is_asked_for_now() -> None:
    """Whoever computed in double precision before leaves no such model behind."""
    torch.set_default_dtype(torch.float64)
    try:
        assert backbone("bert", vocab_size=101).model.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert backbone("bert", vocab_size=101).model.dtype == torch.float32
