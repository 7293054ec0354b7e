"""DoRA against `peft` with the same weights, and on what no other module has touched."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from autopeft.architecture import Architecture, Placement
from autopeft.errors import ArchitectureError
from autopeft.network.attach import attach
from tiny import backbone, everywhere, fill, inputs, output


def theirs(model: nn.Module, targets: list[str], rank: int) -> nn.Module:
    """`model` with peft's DoRA at the named linear maps, alpha = r."""
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own, about versions of its dependencies
        settings = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=targets, use_dora=True)
        found: nn.Module = get_peft_model(model, settings)
    return found


def test_it_computes_what_peft_computes_and_has_its_gradients() -> None:
    found = backbone()
    plain = copy.deepcopy(found.model)
    where = everywhere(found, "dora", 3)
    batch, mask = inputs(found), inputs(found)["attention_mask"].bool()
    with fill(attach(found, where)) as attached:
        peer = theirs(plain, ["query", "value"], 3)
        weights = dict(peer.named_parameters())
        pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        for (site, _), module in attached.modules.items():
            path = f"base_model.model.{found.site(site).entry}"
            for own, other in (
                ("down.weight", "lora_A.default.weight"),
                ("up.weight", "lora_B.default.weight"),
                ("magnitude", "lora_magnitude_vector.default.weight"),
            ):
                pairs.append((module.get_parameter(own), weights[f"{path}.{other}"]))
        with torch.no_grad():
            for own_value, other_value in pairs:
                other_value.copy_(own_value)
        ours: Tensor = output(found)
        other = peer.eval()(**batch).last_hidden_state[mask]
        torch.testing.assert_close(ours, other, atol=1e-5, rtol=1e-5)
        ours.square().sum().backward()
        other.square().sum().backward()
        for own_value, other_value in pairs:
            torch.testing.assert_close(own_value.grad, other_value.grad, atol=1e-4, rtol=1e-4)


def test_untrained_it_changes_nothing() -> None:
    found = backbone()
    plain = output(found)
    with attach(found, everywhere(found, "dora", 3)):
        torch.testing.assert_close(output(found), plain, atol=1e-6, rtol=1e-6)


def test_it_scales_the_frozen_map_and_no_other_module_there() -> None:
    """Beside LoRA at the same map: the sum of what both add to the frozen output."""
    found = backbone()
    site = "encoder.0.q"
    both = Architecture((Placement(site, "dora", 2), Placement(site, "lora", 2)))
    with fill(attach(found, both)) as attached, torch.no_grad():
        x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1))
        linear = found.module(found.site(site).entry)
        y = nn.functional.linear(x, linear.weight, linear.bias)  # type: ignore[arg-type]
        wanted = attached.modules[site, "lora"](x, attached.modules[site, "dora"](x, y))
        torch.testing.assert_close(linear(x), wanted, atol=1e-6, rtol=1e-6)


def test_it_stands_at_linear_maps_only() -> None:
    found = backbone()
    with pytest.raises(ArchitectureError, match=r"dora stands at linear maps only .* but encoder\.0\.ffn is none"):
        attach(found, Architecture((Placement("encoder.0.ffn", "dora", 2),)))
