"""Where modules start, method by method, against what their papers and releases say, and how much a first step changes.

Weights are drawn by the thousand, so that a sample deviation lies within 5 % of its value but with probability 1e-4.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from autopeft import methods
from autopeft.backbones import Site
from autopeft.methods.adapter import Bottleneck
from autopeft.methods.lowrank import LowRankBottleneck
from autopeft.searches._supernet import Starts, Supernet
from autopeft.searches.bipeft.settings import PRESETS
from autopeft.searches.oneshot import OneShotSettings
from autopeft.spaces import papers as spaces
from tiny import backbone

D = 768


def built(method: str, size: int = 64, role: str = "ffn", d: int = D) -> nn.Module:
    """A fresh module between two widths of `d`."""
    torch.manual_seed(0)
    site = Site("encoder", 0, role, "a", "a", None, d, d)
    return methods.lookup(method).build([(site, size)], {})[site.key]


def deviation(module: nn.Module, name: str) -> float:
    return float(module.get_parameter(name).detach().std())


def are_zero(module: nn.Module) -> set[str]:
    return {name for name, value in module.named_parameters() if not value.detach().any()}


# Kaiming-uniform with a = √5 is uniform within 1 / √d, so that its deviation is 1 / √(3 d).
KAIMING = 1 / math.sqrt(3 * D)


@pytest.mark.parametrize(("method", "scale"), [("lora", 1), ("lora_double", 2), ("lora_s3delta", 16)])
def test_lora_starts_with_kaiming_and_zero_and_is_scaled_as_its_paper_has_it(method: str, scale: float) -> None:
    """Hu et al., section 4.1 and release; BIPEFT scales by nothing, S3Delta by alpha 16 at rank 1."""
    module = built(method)
    assert module.scale == scale
    assert are_zero(module) == {"up.weight"}
    assert deviation(module, "down.weight") == pytest.approx(KAIMING, rel=0.05)


@pytest.mark.parametrize(
    ("method", "std", "scale"),
    [
        *(("serial", 0.02, 1), ("houlsby", 0.02, 1)),
        *(("serial_bipeft", 0.01, 1), ("parallel_bipeft", 0.01, 1)),
    ],
)
def test_adapters_that_start_normal(method: str, std: float, scale: float) -> None:
    """AutoPEFT's serial adapter as in adapter-transformers; those of BIPEFT's S1 N(0, 0.01²), unscaled."""
    module = built(method)
    assert isinstance(module, Bottleneck)
    assert module.scale == scale
    assert are_zero(module) == {"down.bias", "up.bias"}
    for name in ("down.weight", "up.weight"):
        assert deviation(module, name) == pytest.approx(std, rel=0.05)


def test_the_parallel_adapter_starts_at_zero_and_is_scaled_by_four() -> None:
    """He et al. 2022, table 6; AutoPEFT's release."""
    module = built("parallel")
    assert module.scale == 4
    assert are_zero(module) == {"up.weight", "down.bias", "up.bias"}
    assert deviation(module, "down.weight") == pytest.approx(KAIMING, rel=0.05)


def test_a_free_prefix_starts_small_and_normal() -> None:
    torch.manual_seed(0)
    site = Site("encoder", 0, "kv", "a", "a", None, D, D, heads=12, d_head=64)
    module = methods.lookup("prefix_direct").build([(site, 16)], {})[site.key]
    assert deviation(module, "prefix") == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(("method", "role"), [("ia3", "k"), ("bitfit", "q"), ("lnfit", "ffn_norm")])
def test_factors_biases_and_norms_start_by_changing_nothing(method: str, role: str) -> None:
    found = backbone("bert")
    site = next(site for site in found.sites.values() if site.role == role)
    module = methods.lookup(method).build([(site, 1)], {})[site.key]
    assert are_zero(module) == set(dict(module.named_parameters()))


@pytest.mark.parametrize(("method", "zero"), [("adapter_lr", {"b_up"}), ("adapter_lr_s3delta", set[str]())])
def test_low_rank_adapters_start_as_in_the_releases(method: str, zero: set[str]) -> None:
    """Glorot with the gain of a rectifier; S3Delta leaves no factor at zero, and of BIPEFT's zeros one is alive."""
    module = built(method)
    assert isinstance(module, LowRankBottleneck)
    assert are_zero(module) == {"bias_down", "bias_up", *zero}
    for name in {"a_down", "b_down", "a_up", "b_up"} - zero:
        rows, columns = module.get_parameter(name).shape
        assert deviation(module, name) == pytest.approx(math.sqrt(2 * 2 / (rows + columns)), rel=0.05)


# -- even starts -------------------------------------------------------------------------------------------


def units(module: LowRankBottleneck, u: Tensor) -> float:
    """The size of what the zero factor is multiplied with, where the input has size 1: what its first step changes."""
    module.b_up = nn.Parameter(torch.eye(len(module.b_up), len(module.a_up)))
    with torch.no_grad():
        change = module(u, torch.zeros_like(u))[..., : len(module.a_up)]
    return float(change.square().mean().sqrt())


@pytest.mark.parametrize("d", [384, 768, 1024])
def test_from_an_even_start_a_step_changes_about_as_much_as_in_lora(d: int) -> None:
    """LoRA's units have 1 / √3 of the size of their input; from the release's start more than three times that."""
    sizes: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(20):
        for is_even in sizes:
            module = built("adapter_lr", 8, d=d)
            assert isinstance(module, LowRankBottleneck)
            torch.manual_seed(seed)
            for factor in (module.a_down, module.b_down, module.a_up):
                nn.init.xavier_uniform_(factor, gain=math.sqrt(2))
            if is_even:
                module.even_start()
            sizes[is_even].append(units(module, torch.randn(64, d)) * math.sqrt(3))
    # Single values vary by a tenth, so that means of twenty lie within 10 % of these but with probability 1e-5.
    even, released = (sum(sizes[is_even]) / 20 for is_even in (True, False))
    assert 0.8 < even < 2
    assert released > 3
    assert released > 2.5 * even


def test_of_the_presets_recommended_alone_starts_evenly() -> None:
    assert {name: preset.starts for name, preset in PRESETS.items()} == {
        **dict.fromkeys(("paper", "released", "earlier"), "method"),
        "recommended": "even",
    }
    assert OneShotSettings().starts == "method"


@pytest.mark.parametrize("starts", ["method", "even"])
def test_a_supernet_starts_as_asked(starts: Starts) -> None:
    model = backbone("bert")
    with Supernet(model, spaces.named("S2", model), starts=starts) as net:
        index = next(i for i, (_, method) in enumerate(net.candidates.keys) if method == "adapter_lr")
        module = net.module_of(index)
        rows, columns = module.get_parameter("a_down").shape
        most = float(module.get_parameter("a_down").detach().abs().max())
        bound = math.sqrt(6 / (rows + columns))  # Glorot-uniform without a gain
        assert (most <= bound) is (starts == "even")
        assert most <= math.sqrt(2) * bound
