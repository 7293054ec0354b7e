"""What every method promises on every family of backbones where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from autopeft import methods
from autopeft.architecture import Architecture, Placement
from autopeft.backbones import Backbone
from autopeft.errors import ArchitectureError
from autopeft.methods import Cuttable, Reads
from autopeft.network.attach import Attached, attach
from autopeft.network.build import count
from autopeft.testing._promise import keep, promise, promise_if, promises_in, refuses
from autopeft.testing.tiny import LEADS, backbone, everywhere, fill, inputs, output
from autopeft.training.memory import checkpointing


def _is_delta(_: str, method: str) -> bool:
    return methods.lookup(method).seam == "delta"


def _is_added(_: str, method: str) -> bool:
    return methods.lookup(method).seam != "backbone"


def _is_sized(_: str, method: str) -> bool:
    return methods.lookup(method).is_sized


def _has_scale(_: str, method: str) -> bool:
    return methods.lookup(method).has_scale


def _has_no_scale(family: str, method: str) -> bool:
    return not _has_scale(family, method)


def _is_added_and_first(family: str, method: str) -> bool:
    """Where many passes are made, one family is enough."""
    first = next(lead for lead in LEADS if len(everywhere(backbone(lead), method)))
    return _is_added(family, method) and family == first


def starts_at_zero(attached: Attached) -> bool:
    """Whether every fresh module gives back its `y`, whatever it reads."""
    generator = torch.Generator().manual_seed(0)
    for (key, name), module in attached.modules.items():
        site = attached.backbone.site(key)
        width = site.d_in if methods.lookup(name).reads is Reads.INPUT else site.d_out
        u = torch.randn(2, 3, width, generator=generator)
        y = torch.randn(2, 3, site.d_out, generator=generator)
        if not torch.equal(module(u, y), y):
            return False
    return True


def snapshot(found: Backbone) -> dict[str, Any]:
    """Everything of a model that an attachment could leave changed."""
    kept: dict[str, Any] = {}
    for path, module in found.model.named_modules():
        hooks = {name: list(value) for name, value in vars(module).items() if "hooks" in name and value is not None}
        kept[path] = (sorted(vars(module)), hooks, module.training)
    for path, parameter in found.model.named_parameters():
        kept["parameter " + path] = (parameter.requires_grad, parameter.grad, id(parameter))
    return kept


def same_state(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two states have the same names and, bit for bit, the same values."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@promise
def _names_roles_and_costs_are_consistent(family: str, method: str) -> None:
    found, member = backbone(family), methods.lookup(method)
    assert member.name == method
    for placement in everywhere(found, method):
        cost = member.cost(found.site(placement.site))
        assert cost.nominal.at(0) == cost.stored.at(0) == 0
        assert 0 <= cost.nominal.at(1) <= cost.stored.at(1)


@promise_if(_is_added)
def _masked_away_is_absent(family: str, method: str) -> None:
    found = backbone(family)
    plain = output(found)
    with fill(attach(found, everywhere(found, method))) as attached, torch.no_grad():
        assert not torch.equal(output(found), plain)
        attached.masks.update(dict.fromkeys(attached.modules, 0))
        assert torch.equal(output(found), plain)
        # A mask that is a tensor takes another way through the module than the number 0, which leaves it out.
        attached.masks.update({(p.site, p.method): torch.zeros(p.size) for p in attached.architecture})
        if methods.lookup(method).seam == "delta":
            assert torch.equal(output(found), plain)
        else:  # a masked prefix goes through a softmax of our own, which differs from the kernel by rounding
            torch.testing.assert_close(output(found), plain, atol=1e-5, rtol=1e-5)


@promise_if(_is_delta)
def _what_starts_at_zero_changes_nothing(family: str, method: str) -> None:
    found = backbone(family)
    plain = output(found)
    with attach(found, everywhere(found, method)) as attached:
        assert torch.equal(output(found), plain) == starts_at_zero(attached)


def scaled(architecture: Architecture, factor: float) -> Architecture:
    """The same placements, each with the scale `factor`."""
    return Architecture(tuple(replace(placement, scale=factor) for placement in architecture))


@promise_if(_has_scale)
def _a_scale_is_what_the_method_s_own_is_multiplied_by(family: str, method: str) -> None:
    found = backbone(family)
    plain, architecture = output(found), everywhere(found, method)
    own = methods.lookup(method)
    with fill(attach(found, scaled(architecture, 3.0))), torch.no_grad():
        given = output(found)
    with fill(attach(found, scaled(architecture, 1.0))), torch.no_grad():
        unscaled = output(found)
    larger = replace(own, scale=3.0 * own.scale)  # type: ignore[type-var, attr-defined]
    patched = mock.patch("autopeft.network.build.methods.lookup", return_value=larger)
    with patched, fill(attach(found, architecture)), torch.no_grad():
        assert torch.equal(output(found), given)
    assert not torch.equal(given, unscaled)
    assert torch.equal(output(found), plain)


@promise_if(_has_scale)
def _a_scale_changes_neither_the_start_nor_the_cost(family: str, method: str) -> None:
    found = backbone(family)
    architecture = everywhere(found, method)
    with attach(found, architecture, seed=3) as attached:
        start = {name: value.clone() for name, value in attached.state().items()}
    with attach(found, scaled(architecture, 0.25), seed=3) as attached:
        assert same_state(attached.state(), start)
    assert count(found, scaled(architecture, 0.25)) == count(found, architecture)


@promise_if(_has_no_scale)
def _a_method_without_a_scale_takes_none(family: str, method: str) -> None:
    found = backbone(family)
    with refuses(ArchitectureError, "has no scale"):
        attach(found, scaled(everywhere(found, method), 2.0))
    assert found.occupant is None


@promise
def _counts_are_what_is_there(family: str, method: str) -> None:
    for size in (1, 4):
        found = backbone(family)
        architecture = everywhere(found, method, size)
        counts = count(found, architecture, head=7)
        with attach(found, architecture) as attached:
            assert counts.trained == 7 + sum(parameter.numel() for parameter in attached.parameters())
            attached.fold()
            assert counts.stored == sum(value.numel() for value in attached.state().values())
        assert counts.backbone == sum(parameter.numel() for parameter in found.model.parameters())


@promise_if(_is_delta)
def _counts_are_what_is_there_where_input_and_output_differ_in_width(family: str, method: str) -> None:
    found, member = backbone(family), methods.lookup(method)
    sites = [site for site in found.sites.values() if site.seam == "delta" and site.d_in != site.d_out]
    for site in sites:
        architecture = Architecture((Placement(site.key, method, 3 if member.is_sized else 1),))
        try:
            attached = attach(found, architecture)
        except ArchitectureError:  # it says why it cannot stand there
            continue
        with fill(attached), torch.no_grad():
            counts = count(found, architecture)
            assert counts.trained == sum(parameter.numel() for parameter in attached.parameters())
            attached.fold()
            assert counts.stored == sum(value.numel() for value in attached.state().values())
            assert torch.isfinite(output(found)).all()


@promise_if(_is_added)
def _gradients_reach_every_added_parameter_and_none_of_the_backbone(family: str, method: str) -> None:
    found = backbone(family)
    # Of 24 rectified units some are alive, and with small weights no attention is so sure that its gradient is nought.
    with fill(attach(found, everywhere(found, method, 24)), std=0.05) as attached:
        result = output(found)
        torch.manual_seed(0)
        (result * torch.randn_like(result)).sum().backward()  # type: ignore[no-untyped-call]
        for (key, _), module in attached.modules.items():
            for name, parameter in module.named_parameters():
                assert parameter.grad is not None, (key, name)
                assert torch.isfinite(parameter.grad).all(), (key, name)
                # Softmax does not see a bias that is added to every key.
                assert parameter.grad.any() or key.endswith(("k", "final_norm")), (key, name)
        assert all(parameter.grad is None for parameter in found.model.parameters())
        assert not any(parameter.requires_grad for parameter in found.model.parameters())


@promise_if(_is_added_and_first)
def _who_draws_says_so_and_draws_apart(family: str, method: str) -> None:
    """Beside others an architecture must draw what it draws alone: see `Method.is_random`."""
    found = backbone(family)
    with fill(attach(found, everywhere(found, method, 24)), std=0.3) as attached, torch.no_grad():
        attached.train()
        torch.manual_seed(0)
        first, state = output(found), torch.get_rng_state()
        torch.manual_seed(0)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(output(found), first)
        # Of 4 experts at each of several sites other ones are drawn in one of 8 passes but once in 4^8.
        others = [output(found) for seed in range(8) if torch.manual_seed(seed)]
        assert any(not torch.equal(other, first) for other in others) == methods.lookup(method).is_random


@promise_if(_is_sized)
def _the_first_units_of_a_large_module_are_a_small_one(family: str, method: str) -> None:
    found = backbone(family)
    large, small = everywhere(found, method, 6), everywhere(found, method, 2)
    with fill(attach(found, large)) as attached, torch.no_grad():
        weights = {}
        for (site, name), module in attached.modules.items():
            assert isinstance(module, Cuttable)
            weights.update({f"{site}/{name}/{part}": v.clone() for part, v in module.cut(2).items()})
        attached.masks.update(dict.fromkeys(attached.modules, 2))
        whole_numbers = output(found)
        attached.masks.update(dict.fromkeys(attached.modules, torch.tensor([1.0, 1, 0, 0, 0, 0])))
        masked = output(found)
    with attach(found, small) as attached, torch.no_grad():
        attached.load_state(weights)
        own = output(found)
    torch.testing.assert_close(whole_numbers, own, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(masked, own, atol=3e-5, rtol=3e-5)  # other kernels, with other rounding


@promise
def _detaching_leaves_no_trace(family: str, method: str) -> None:
    found = backbone(family)
    plain, before = output(found), snapshot(found)
    state = {name: value.clone() for name, value in found.model.state_dict().items()}
    attached = attach(found, everywhere(found, method))
    assert found.model.state_dict().keys() == state.keys()
    fill(attached)
    output(found)
    attached.detach()
    attached.detach()
    assert snapshot(found) == before
    assert same_state(found.model.state_dict(), state)
    assert torch.equal(output(found), plain)


@promise_if(_is_added)
def _a_failure_in_the_middle_leaves_no_trace(family: str, method: str) -> None:
    found = backbone(family)
    before, asked = snapshot(found), list[str]()

    def failing(self: Backbone, path: str) -> nn.Module:
        asked.append(path)
        if len(asked) > 1 and path != asked[0]:  # the first site is hooked by then, at least in part
            raise MemoryError("no room for another module")
        found: nn.Module = self.model.get_submodule(path)
        return found

    with mock.patch.object(Backbone, "module", failing), refuses(MemoryError):
        attach(found, everywhere(found, method))
    assert snapshot(found) == before
    assert found.occupant is None


@promise
def _state_makes_the_round_trip(family: str, method: str) -> None:
    found = backbone(family)
    architecture = everywhere(found, method)
    with fill(attach(found, architecture)) as attached, torch.no_grad():
        if methods.lookup(method).seam == "backbone":
            next(iter(found.model.parameters())).mul_(1.5)
        before_folding = output(found)
        attached.fold()
        written = {name: value.clone() for name, value in attached.state().items()}
        wanted = output(found)
        torch.testing.assert_close(wanted, before_folding, atol=1e-5, rtol=1e-5)
    with attach(found, architecture, seed=1) as attached, torch.no_grad():
        attached.load_state(written)
        assert torch.equal(output(found), wanted)
        assert same_state(attached.state(), written)


@promise
def _padding_changes_nothing(family: str, method: str) -> None:
    found = backbone(family)
    batch = inputs(found)
    alone = {name: value[1:] for name, value in batch.items()}
    alone["input_ids"], alone["attention_mask"] = alone["input_ids"][:, :5], alone["attention_mask"][:, :5]
    with fill(attach(found, everywhere(found, method))), torch.no_grad():
        padded = output(found, {name: value[1:] for name, value in batch.items()})
        together = output(found, batch)[-len(padded) :]
        short = output(found, alone)
    torch.testing.assert_close(padded, short, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together, short, atol=1e-5, rtol=1e-5)


@promise_if(_is_added)
def _gradient_checkpointing_gives_the_same_gradients(family: str, method: str) -> None:
    found = backbone(family)
    batch = inputs(found)
    found.model.double().train()  # sums run in another order, and deep gradients magnify their rounding

    def gradients(attached: Attached) -> list[Tensor]:
        for parameter in attached.parameters():
            parameter.grad = None
        found.model(**batch, use_cache=False)[0].square().sum().backward()
        return [parameter.grad for parameter in attached.parameters() if parameter.grad is not None]

    with fill(attach(found, everywhere(found, method))) as attached:
        for module in attached.modules.values():
            module.double()
        plain = gradients(attached)
        with checkpointing(found.model, True):
            again = gradients(attached)
    assert len(plain) == len(again) == len(attached.parameters())
    largest = max(float(gradient.abs().max()) for gradient in plain)
    for first, second in zip(plain, again, strict=True):
        torch.testing.assert_close(first, second, atol=1e-6 * largest, rtol=1e-6)


@promise
def _half_precision_runs(family: str, method: str) -> None:
    found = backbone(family)
    # Weights at which no attention is so sure that a rounding turns it to another token.
    with fill(attach(found, everywhere(found, method)), std=0.1) as attached:
        exact = output(found).detach()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = output(found)
        mixed.float().square().mean().backward()  # type: ignore[no-untyped-call]
        assert all(torch.isfinite(p.grad).all() for p in attached.parameters() if p.grad is not None)
    assert_near(mixed, exact)
    found = backbone(family)
    found.model.to(torch.bfloat16)
    with fill(attach(found, everywhere(found, method)), std=0.1) as attached:
        half = output(found)
        assert half.dtype == torch.bfloat16
        half.float().square().mean().backward()  # type: ignore[no-untyped-call]
        assert all(p.dtype == torch.float32 for module in attached.modules.values() for p in module.parameters())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert_near(output(found), exact)
    assert_near(half, exact)


def assert_near(half: Tensor, exact: Tensor) -> None:
    """Eight bits of mantissa, some ten layers: a correlation above 0.98 with the exact result."""
    together = torch.stack([half.detach().float().flatten(), exact.flatten()])
    assert float(torch.corrcoef(together)[0, 1]) > 0.98


@promise_if(_is_added)
def _the_seed_decides_and_nothing_else(family: str, method: str) -> None:
    found = backbone(family)
    architecture = everywhere(found, method)

    def fresh(seed: int) -> list[Tensor]:
        with attach(found, architecture, seed=seed) as attached:
            return [parameter.detach().clone() for parameter in attached.parameters()]

    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = fresh(3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first, fresh(3), strict=True))
    other = fresh(4)
    is_constant = all(not parameter.any() for parameter in first)
    assert is_constant or not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


PROMISES = promises_in(dict(vars()))
"""What is promised of a method, by the family of the model and the name of the method."""


def check_method(name: str, *, model_types: Sequence[str] = LEADS) -> list[str]:
    """Check what a method promises on every family where it stands; the names of the promises, each once a family.

    Args:
        name: of a member, or the dotted path of one of your own, such as ``my_lab.mixers:MIXER``.
        model_types: the families, each by one of its model types.

    Raises:
        ExceptionGroup: some promises are not kept on a family.
        AssertionError: it stands in none of the families.
        UnknownNameError, SettingsError: there is no such method, or it lacks a trait.
    """
    methods.lookup(name)
    there = [family for family in model_types if len(everywhere(backbone(family), name))]
    assert there, f"{name} stands in none of {', '.join(model_types)}: its roles are {methods.lookup(name).roles}."
    return [f"{family}: {one}" for family in there for one in keep(f"{name} on {family}", PROMISES, family, name)]
