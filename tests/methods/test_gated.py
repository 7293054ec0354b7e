"""UniPELT: what its gates compute, what they cost, and where they may not stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig

from autopeft import methods
from autopeft.architecture import Architecture, Cost, Line, Placement
from autopeft.backbones import Backbone, Seam, Site
from autopeft.errors import ArchitectureError
from autopeft.methods import Frozen, Mask, Reads, Traits
from autopeft.methods.gated import GatedDelta, GatedPrefix, InputGate
from autopeft.network.attach import attach
from autopeft.network.build import count
from autopeft.objective import percent
from autopeft.training.retraining import BASELINES, baseline
from tiny import backbone, everywhere, fill, inputs, output

OPEN = 100.0
"""A bias at which the sigmoid is 1 in single precision; its negative closes the gate."""


def test_a_gate_is_the_mean_of_sigmoids_over_the_tokens_that_are_there() -> None:
    gate = InputGate(2)
    gate.requires_grad_(False)
    gate.weight.copy_(torch.tensor([1.0, -1.0]))
    gate.bias.fill_(0.5)
    u = torch.tensor([[[1.0, 0], [0, 2], [9, 9]]])
    by_token = torch.sigmoid(torch.tensor([1.5, -1.5, 0.5]))
    assert float(gate(u, torch.tensor([[1, 1, 0]]))) == pytest.approx(float(by_token[:2].mean()))
    assert float(gate(u)) == pytest.approx(float(by_token.mean()))


@pytest.mark.parametrize("name", ["serial", "lora"])
def test_an_open_gate_is_the_method_itself_and_a_closed_one_is_absence(name: str) -> None:
    found = backbone()
    plain = output(found)
    with fill(attach(found, everywhere(found, name))) as attached, torch.no_grad():
        state = attached.state()
        ungated = output(found)
    with attach(found, everywhere(found, name + "_gated")) as attached, torch.no_grad():
        for (site, _), module in attached.modules.items():
            assert isinstance(module, GatedDelta)
            module.gate.weight.zero_()
            for part, value in module.inner.named_parameters():
                value.copy_(state[f"{site}/{name}/{part}"])
        for bias, expected in ((OPEN, ungated), (-OPEN, plain)):
            for module in attached.modules.values():
                module.get_parameter("gate.bias").fill_(bias)
            torch.testing.assert_close(output(found), expected, atol=1e-6, rtol=1e-6)


def test_the_gate_multiplies_the_keys_and_values_of_each_example_by_its_own_number() -> None:
    found = backbone()
    with fill(attach(found, everywhere(found, "prefix_gated"))) as attached:
        module = next(iter(attached.modules.values()))
        assert isinstance(module, GatedPrefix)
        x = torch.randn(2, 5, 32)
        visible = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
        ungated = module.inner.keys_values()
        gates = module.gate(x, visible).flatten()
        assert gates[0] != gates[1]
        for gated, pair in zip(module.keys_values(None, x, visible)[:2], ungated[:2], strict=True):
            assert pair is not None
            for example, gate in zip(gated, gates, strict=True):
                torch.testing.assert_close(example, gate * pair)


def test_the_gate_sees_the_padding_of_the_batch_in_hand() -> None:
    """Two passes with other padding: each is read anew, and none is left behind."""
    found = backbone()
    batch = inputs(found)
    with fill(attach(found, everywhere(found, "lora_gated"))) as attached, torch.no_grad():
        first = output(found, batch)
        found.model(input_ids=torch.randint(4, 90, (1, 3)))
        assert attached._hooks._visible is None
        assert torch.equal(output(found, batch), first)
    assert attached._hooks._visible is None


class Rescaled(nn.Module):
    """``y' = (1 + gate) y``: a module of somebody's own with a gate that knows nothing of padding."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.ones(1))

    def forward(self, u: Tensor, y: Tensor, mask: Mask = None) -> Tensor:
        return y * (1 + self.gate)


@dataclass(frozen=True)
class Rescaling(Traits):
    name: str = "test_gated:OWN"
    roles: tuple[str, ...] = ("ffn",)
    seam: Seam = "delta"
    reads: Reads = Reads.OUTPUT
    order: int = 70
    is_sized: bool = False

    def cost(self, site: Site) -> Cost:
        return Cost(Line(1, 0), Line(1, 0))

    def trained(self, placements: Sequence[tuple[Site, int]]) -> int:
        return len(placements)

    def build(self, placements: Sequence[tuple[Site, int]], frozen: Frozen) -> Mapping[str, nn.Module]:
        return {site.key: Rescaled() for site, _ in placements}


OWN = Rescaling()


def test_a_module_is_told_of_padding_only_when_its_method_asks_for_it() -> None:
    """What a module of somebody's own calls its parameters decides nothing."""
    found = backbone()
    plain = output(found)
    with attach(found, everywhere(found, OWN.name)) as attached, torch.no_grad():
        assert not torch.equal(output(found), plain)
        assert attached._hooks._visible is None


def test_the_baseline_has_the_published_size_on_bert_base() -> None:
    found = Backbone.from_config(BertConfig(), device="meta")
    unipelt = baseline("unipelt", found)
    counts = count(found, unipelt)
    assert counts.nominal == 2 * 768 * (48 + 10) * 12 + 4 * 768 * 8 * 12
    assert round(percent(counts), 2) == 1.25  # AutoPEFT, table 1
    gates = 12 * 4 * (768 + 1)  # for the adapter, the prefix, the LoRA of the query and of the value
    biases = 12 * (48 + 768)
    assert counts.stored == counts.nominal + gates + biases
    assert "unipelt" in BASELINES


def test_gates_do_not_stand_where_the_rest_of_the_input_is_not_read_yet() -> None:
    found = backbone("t5")
    assert {p.site.partition(".")[0] for p in everywhere(found, "lora_gated")} == {"encoder"}
    with pytest.raises(ArchitectureError, match=r"lora_gated stands in encoder stacks only"):
        attach(found, Architecture((Placement("decoder.0.q", "lora_gated", 2),)))
    assert "lora_gated" in methods.names()
