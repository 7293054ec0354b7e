"""Several architectures at once: each computes what it computes alone, on every family, with every method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from autopeft import methods
from autopeft.architecture import Architecture, Placement
from autopeft.backbones import Backbone
from autopeft.errors import ArchitectureError
from autopeft.network.attach import Attached, attach
from autopeft.network.dropout import quick_dropout
from autopeft.network.shares import Shares
from covering import covering
from tiny import LEADS, backbone, everywhere, fill, fitting

CASES = [(family, name) for family in LEADS for name in fitting(family) if methods.lookup(name).seam != "backbone"]
RATES = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2, "dropout": 0.2, "attention_dropout": 0.2}
RATES |= {"dropout_rate": 0.2, "resid_pdrop": 0.2, "embd_pdrop": 0.2, "attn_pdrop": 0.2}


def batch(found: Backbone, rows: int = 5) -> dict[str, Tensor]:
    """As many rows as tokens: whatever is no batch must not be taken for one."""
    generator = torch.Generator().manual_seed(11)
    tokens = torch.randint(4, 90, (rows, 5), generator=generator)
    mask = torch.ones_like(tokens)
    tokens[1, 3:], mask[1, 3:] = 0, 0
    more = {"decoder_input_ids": tokens[:, :3]} if found.family.is_text_to_text else {}
    return {"input_ids": tokens, "attention_mask": mask, **more}


def computed(found: Backbone, inputs: dict[str, Tensor]) -> Tensor:
    result: Tensor = found.model(**inputs)[0]
    return result


def alone(found: Backbone, architecture: Architecture, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    with ready(attach(found, architecture, seed=3), **options), quick_dropout(found.model):
        torch.manual_seed(7)
        return computed(found, inputs)


def ready(attached: Attached, *, is_training: bool = False) -> Attached:
    fill(attached, std=0.3)
    for module in attached.modules.values():
        module.double()
    attached.train(is_training)
    return attached


def at_once(
    found: Backbone,
    architectures: list[Architecture],
    inputs: dict[str, Tensor],
    *,
    has_trunk: bool = True,
    **options: Any,
) -> tuple[Tensor, ...]:
    with Shares(found, architectures, seed=3, has_trunk=has_trunk) as shares:
        for member in shares.members:
            ready(member, **options)
        shares.begin(len(inputs["input_ids"]))
        with quick_dropout(found.model, rows=shares.share_rows):
            torch.manual_seed(7)
            return shares.split(computed(found, inputs))


def same(first: Tensor, second: Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-9)


def upper(architecture: Architecture, layer: int) -> Architecture:
    """What of an architecture stands in this layer or above it."""
    kept = [p for p in architecture if not p.site.split(".")[1].isdigit() or int(p.site.split(".")[1]) >= layer]
    return Architecture(tuple(kept))


@pytest.mark.parametrize(("family", "method"), covering(CASES, every=2))
def test_each_computes_what_it_computes_alone(family: str, method: str) -> None:
    found = backbone(family)
    found.model.double()
    whole = everywhere(found, method, 4)
    shorter = Architecture(tuple(Placement(p.site, p.method, min(p.size, 2)) for p in whole))
    several = [whole, Architecture(), upper(shorter, 1), whole]
    inputs = batch(found)
    for given in zip(several, at_once(found, several, inputs), strict=True):
        same(given[1], alone(found, given[0], inputs))
    assert found.occupant is None


@pytest.mark.parametrize("has_trunk", [True, False])
@pytest.mark.parametrize("family", LEADS)
def test_each_is_trained_under_the_dropout_that_it_has_alone(family: str, has_trunk: bool) -> None:
    found = backbone(family, **RATES)
    found.model.double().train()
    several = [
        upper(everywhere(found, name, size), 1)
        for name, size in (("lora", 2), ("prefix", 2), ("prefix", 3), ("adamix", 2))
    ]
    inputs, options = batch(found), {"is_training": True}
    shares = at_once(found, several, inputs, has_trunk=has_trunk, **options)
    for given in zip(several, shares, strict=True):
        same(given[1], alone(found, given[0], inputs, **options))
    assert not torch.allclose(shares[0], shares[1])


@pytest.mark.parametrize("family", LEADS)
def test_what_is_below_all_of_them_is_computed_once(family: str) -> None:
    found = backbone(family)
    last = upper(everywhere(found, "lora"), len(found.module(list(found.family.stacks.values())[-1].layers)) - 1)
    placed = [p for p in last if p.site.startswith(list(found.family.stacks)[-1])]
    rows: list[int] = []
    for stack in found.family.stacks.values():
        for layer in found.module(stack.layers).children():
            layer.register_forward_hook(
                lambda module, args, output: rows.append(len(output[0] if isinstance(output, tuple) else output))
            )
    with Shares(found, [Architecture(tuple(placed))] * 3, seed=0) as shares, torch.no_grad():
        shares.begin(5)
        computed(found, batch(found))
    assert rows == [5] * (len(rows) - 1) + [15]


def test_only_one_of_them_is_as_alone() -> None:
    found = backbone()
    several = [everywhere(found, name) for name in ("lora", "prefix", "lora_gated")]
    inputs = batch(found)
    with Shares(found, several, seed=3) as shares, torch.no_grad():
        shares.begin(5)
        for member in shares.members:
            fill(member)
        for index in range(3):
            with shares.only(index):
                given = computed(found, inputs)
            whole = computed(found, inputs).split(5)[index]
            torch.testing.assert_close(given, whole, rtol=1e-5, atol=1e-5)
        shares.active = [2, 0]  # one is gone
        for given, expected in zip(computed(found, inputs).split(5), (2, 0), strict=True):
            with shares.only(expected):
                torch.testing.assert_close(given, computed(found, inputs), rtol=1e-5, atol=1e-5)


def test_nan_stays_with_whom_it_belongs_to() -> None:
    found = backbone()
    several = [everywhere(found, name) for name in ("lora", "prefix", "parallel")]
    inputs = batch(found)
    with Shares(found, several, seed=3) as shares:
        shares.begin(5)
        for member in shares.members:
            fill(member)
        before = computed(found, inputs).split(5)
        with torch.no_grad():
            for parameter in shares.members[1].parameters():
                parameter.fill_(torch.nan)
        after = computed(found, inputs).split(5)
        assert after[1].isnan().any()
        assert torch.equal(before[0], after[0])
        assert torch.equal(before[2], after[2])
        sum(part.sum() for part in after).backward()
        gradients = [p.grad for index in (0, 2) for p in shares.members[index].parameters() if p.grad is not None]
        assert gradients
        assert all(gradient.isfinite().all() for gradient in gradients)


def kept(found: Backbone) -> dict[str, Any]:
    modules = found.model.named_modules()
    return {path: (sorted(vars(module)), len(module._forward_pre_hooks)) for path, module in modules}


def test_nothing_is_left_behind() -> None:
    found = backbone()
    before = {
        path: (sorted(vars(module)), len(module._forward_pre_hooks)) for path, module in found.model.named_modules()
    }
    plain = computed(found, batch(found))
    with Shares(found, [everywhere(found, "lora"), everywhere(found, "prefix")], seed=0) as shares:
        with pytest.raises(ArchitectureError, match="holds 2 architectures at once already"):
            Shares(found, [], seed=0)
        with pytest.raises(ArchitectureError, match="2 architectures at once is attached"):
            attach(found, everywhere(found, "lora"))
        shares.members[0].detach()
    after = {
        path: (sorted(vars(module)), len(module._forward_pre_hooks)) for path, module in found.model.named_modules()
    }
    assert before == after
    assert torch.equal(computed(found, batch(found)), plain)
    with pytest.raises(ArchitectureError, match="has it alone"):
        Shares(found, [everywhere(found, "full")], seed=0)
    assert found.occupant is None
