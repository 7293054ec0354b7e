"""The supernet against the architectures it stands for: equal outputs, exact costs, less work after removal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig

from autopeft import methods
from autopeft.backbones import Backbone, families
from autopeft.errors import ArchitectureError, SettingsError
from autopeft.network.attach import attach
from autopeft.network.build import count
from autopeft.searches._supernet import Gates, State, Supernet, hard_sizes, temperature
from autopeft.spaces import papers as spaces
from autopeft.spaces.lattice import Axis, SearchSpace

CASES = [(family, name) for family in sorted(families()) for name in ("S1", "S2")]


def tiny(family: str) -> Backbone:
    found = families()[family]
    return Backbone.from_config(AutoConfig.for_model(found.model_types[0], **found.tiny))


def output(backbone: Backbone) -> Tensor:
    inputs = {"input_ids": torch.arange(14).view(2, 7) % 90, "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    inputs["attention_mask"][1, 5:] = 0
    if backbone.family.is_text_to_text:
        inputs["decoder_input_ids"] = torch.arange(6).view(2, 3)
    found: Tensor = backbone.model(**inputs)[0]
    return found


def filled(supernet: Supernet, seed: int = 3) -> Supernet:
    """Random weights everywhere, so that nothing is hidden by a zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for index in range(len(supernet)):
            for parameter in supernet.parameters_of(index):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return supernet


def random_sizes(supernet: Supernet, seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    rows = supernet.candidates.sizes
    return [int(rng.choice([0, *row[row > 0]])) for row in rows]


def one_hot(supernet: Supernet, sizes: list[int]) -> tuple[Tensor, Tensor]:
    keep = torch.tensor([float(size > 0) for size in sizes])
    spread = torch.zeros(supernet.candidates.sizes.shape)
    for row, size in enumerate(sizes):
        column = list(supernet.candidates.sizes[row]).index(size) if size else 0
        spread[row, column] = 1.0
    return keep, spread


@pytest.mark.parametrize(("family", "name"), CASES)
def test_whole_sizes_equal_the_attached_architecture_bit_for_bit(family: str, name: str) -> None:
    backbone = tiny(family)
    with filled(Supernet(backbone, spaces.named(name, backbone))) as supernet, torch.inference_mode():
        sizes = random_sizes(supernet, 1)
        supernet.take(sizes)
        expected = output(backbone)
        architecture = supernet.architecture(sizes)
        weights = supernet.weights(architecture)
    assert {placement.size for placement in architecture} == {1, 4, 8}
    with attach(backbone, architecture) as attached, torch.inference_mode():
        attached.load_state(weights)
        assert torch.equal(output(backbone), expected)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_masks_equal_whole_sizes_up_to_rounding(family: str, name: str) -> None:
    backbone = tiny(family)
    with filled(Supernet(backbone, spaces.named(name, backbone))) as supernet, torch.inference_mode():
        sizes = random_sizes(supernet, 2)
        supernet.take(sizes)
        expected = output(backbone)
        supernet.gate(*one_hot(supernet, sizes))
        torch.testing.assert_close(output(backbone), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_all_off_is_the_plain_backbone_bit_for_bit(family: str, name: str) -> None:
    backbone = tiny(family)
    with torch.inference_mode():
        plain = output(backbone)
        with filled(Supernet(backbone, spaces.named(name, backbone))) as supernet:
            supernet.take([0] * len(supernet))
            assert torch.equal(output(backbone), plain)
        assert torch.equal(output(backbone), plain)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_a_removed_module_equals_one_that_is_off(family: str, name: str) -> None:
    backbone = tiny(family)
    with filled(Supernet(backbone, spaces.named(name, backbone))) as supernet, torch.inference_mode():
        sizes = random_sizes(supernet, 4)
        off = [index for index in range(len(sizes)) if index % 3]
        kept = [0 if index in off else size for index, size in enumerate(sizes)]
        supernet.take(kept)
        expected = output(backbone)
        supernet.remove(off)
        supernet.take(sizes)
        assert torch.equal(output(backbone), expected)
        supernet.gate(*one_hot(supernet, sizes))
        torch.testing.assert_close(output(backbone), expected, rtol=1e-4, atol=1e-5)


def test_removed_modules_leave_the_computation() -> None:
    """What runs is counted: hooks on the backbone and calls of added modules, both in proportion to what is left."""
    backbone = tiny("bert")
    supernet = Supernet(backbone, spaces.named("S2", backbone))
    keep, spread = one_hot(supernet, [int(row.max()) for row in supernet.candidates.sizes])
    calls = list[int]()
    for index in range(len(supernet)):
        site, method = supernet.candidates.keys[index]
        module = supernet._attached.modules[site, method]
        module.register_forward_pre_hook(lambda *_, index=index: calls.append(index))

    def run() -> tuple[int, int]:
        calls.clear()
        supernet.gate(keep, spread)
        output(backbone)
        return len(calls), hooks(backbone)

    everything, all_hooks = run()
    assert everything == len(supernet) == 3 * (6 + 2 + 8 + 2)
    assert all_hooks == 3 * (8 + 2 * 2)  # eight sub-modules with one hook, two split sites with two
    gone = [index for index, (site, _) in enumerate(supernet.candidates.keys) if not site.startswith("encoder.1.q")]
    supernet.remove(gone[:-1])
    left, hooks_left = run()
    assert (left, hooks_left) == (3, 2)  # LoRA and bias on one query, and the last one
    supernet.detach()
    assert hooks(backbone) == 0


def hooks(backbone: Backbone) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in backbone.model.modules())


def test_modules_that_are_off_are_not_computed() -> None:
    backbone = tiny("bert")
    with Supernet(backbone, spaces.named("S1", backbone)) as supernet:
        calls = list[str]()
        for (site, method), module in supernet._attached.modules.items():
            module.register_forward_pre_hook(lambda *_, name=f"{method}@{site}": calls.append(name))
        sizes = [4 if key == ("encoder.1.ffn", "parallel_bipeft") else 0 for key in supernet.candidates.keys]
        supernet.take(sizes)
        output(backbone)
        assert calls == ["parallel_bipeft@encoder.1.ffn"]


@pytest.mark.parametrize("name", ["S1", "S2"])
def test_the_expected_cost_is_exact_and_differentiable(name: str) -> None:
    backbone = tiny("t5")
    with Supernet(backbone, spaces.named(name, backbone)) as supernet:
        sizes = random_sizes(supernet, 5)
        exact = count(backbone, supernet.architecture(sizes)).stored
        assert float(supernet.expected_cost(*one_hot(supernet, sizes))) == exact
        assert sum(w.numel() for w in supernet.weights(supernet.architecture(sizes)).values()) == exact
        keep = torch.full((len(sizes),), 0.5, requires_grad=True)
        spread = one_hot(supernet, [int(row.max()) for row in supernet.candidates.sizes])[1]
        supernet.expected_cost(keep, spread).backward()  # type: ignore[no-untyped-call]
        assert keep.grad is not None
        assert keep.grad.tolist() == supernet.candidates.counts.max(axis=1).tolist()


def test_the_gradient_of_a_gate_is_the_effect_of_its_module() -> None:
    """For a gate at 1 and a module that enters linearly, the derivative is minus what removing it changes."""
    backbone = tiny("bert")
    with filled(Supernet(backbone, spaces.named("S2", backbone))) as supernet:
        last = supernet.candidates.keys.index(("encoder.2.ffn_norm", "bitfit"))
        keep, spread = one_hot(supernet, [int(row.max()) for row in supernet.candidates.sizes])
        keep.requires_grad_(True)
        weights = torch.linspace(-1, 1, 32)
        supernet.gate(keep, spread)
        on = (output(backbone) * weights).sum()
        on.backward()  # type: ignore[no-untyped-call]
        without = keep.detach().clone()
        without[last] = 0
        supernet.gate(without, spread)
        off = (output(backbone) * weights).sum()
        assert keep.grad is not None
        assert float(keep.grad[last]) == pytest.approx(float((on - off).detach()), rel=1e-3)


@pytest.mark.parametrize(
    ("space", "method"), [("S2", "adapter_lr"), ("S2", "lora"), ("S1", "serial_bipeft"), ("S1", "parallel_bipeft")]
)
def test_what_a_module_adds_is_linear_in_its_gate(space: str, method: str) -> None:
    """S3Delta adds every module times z; a gradient at z = 0 is what tells that a module should come in."""
    backbone = tiny("bert")
    with filled(Supernet(backbone, spaces.named(space, backbone))) as supernet:
        keys = supernet.candidates.keys
        at = next(index for index, (_, other) in enumerate(keys) if other == method)
        spread = one_hot(supernet, [int(row[row > 0][-1]) for row in supernet.candidates.sizes])[1]
        seen: list[torch.Tensor] = []
        handle = backbone.module(backbone.site(keys[at][0]).exit).register_forward_hook(
            lambda *args: seen.append(args[2])
        )

        def at_gate(z: float) -> tuple[torch.Tensor, torch.Tensor]:
            keep = torch.zeros(len(keys)).index_fill_(0, torch.tensor([at]), z).requires_grad_(True)
            supernet.gate(keep, spread)
            seen.clear()
            output(backbone)
            (slope,) = torch.autograd.grad((seen[0] * torch.linspace(-1, 1, seen[0].shape[-1])).sum(), keep)
            return seen[0].detach(), slope[at]

        (off, slope), (on, _), (half, _) = at_gate(0.0), at_gate(1.0), at_gate(0.3)
        handle.remove()
        change = on - off
        assert change.abs().max() > 1e-2
        torch.testing.assert_close(half - off, 0.3 * change, rtol=1e-4, atol=1e-6)
        assert float(slope) == pytest.approx(float((change * torch.linspace(-1, 1, change.shape[-1])).sum()), rel=1e-3)


def test_spaces_without_a_gate_for_every_placement_are_refused() -> None:
    backbone = tiny("bert")
    with pytest.raises(SettingsError, match=r"switched together.*; placements share a size"):
        Supernet(backbone, spaces.named("SA-PA-Layer", backbone))
    shared = SearchSpace.build(backbone, [axis("prefix")], sharing="placement", layers="all")
    with pytest.raises(SettingsError, match=r"prefix shares parameters between sites .*use prefix_direct"):
        Supernet(backbone, shared)
    assert hooks(backbone) == 0


def axis(method: str) -> Any:
    return Axis(methods.lookup(method), (0, 1, 4))


def test_what_is_not_attached_cannot_be_removed() -> None:
    backbone = tiny("bert")
    with Supernet(backbone, spaces.named("S1", backbone)) as supernet:
        supernet.remove([0])
        with pytest.raises(ArchitectureError, match="is not attached"):
            supernet.remove([0])


# -- gates -------------------------------------------------------------------------------------------------


def gates_of(name: str = "S2", **options: Any) -> tuple[Gates, Supernet]:
    backbone = tiny("bert")
    supernet = Supernet(backbone, spaces.named(name, backbone))
    supernet.detach()
    return Gates(supernet.candidates, seed=0, **options), supernet


def undecided(supernet: Supernet) -> State:
    n = len(supernet)
    return State(np.ones(n, dtype=bool), np.full(n, -1, dtype=np.int64))


def test_a_hard_draw_is_exactly_one_hot_and_has_the_soft_gradient() -> None:
    gates, _ = gates_of()
    draw = gates.draw_sizes(2.0, torch.Generator().manual_seed(1), "gumbel")
    assert set(draw.flatten().tolist()) == {0.0, 1.0}
    assert draw.sum(1).tolist() == [1.0] * len(draw)
    noise = -torch.empty(gates.size.shape).exponential_(generator=torch.Generator().manual_seed(1)).log()
    weights = torch.randn(gates.size.shape)
    (gradient,) = torch.autograd.grad((draw * weights).sum(), gates.size)
    soft = torch.softmax((gates.size + noise) / 2.0, -1)
    (expected,) = torch.autograd.grad((soft * weights).sum(), gates.size)
    torch.testing.assert_close(gradient, expected)


def test_draws_follow_the_probabilities() -> None:
    """Gumbel-max draws class k with probability softmax(k). 4,000 draws of p = 0.731: the share is within 0.03,
    more than four standard deviations (0.007); fails by chance with probability below 1e-4."""
    gates, _ = gates_of()
    with torch.no_grad():
        gates.keep.copy_(torch.tensor([0.0, 1.0]).expand_as(gates.keep))
    generator = torch.Generator().manual_seed(0)
    n = gates.keep.shape[0]
    draws = torch.stack([gates.draw_keep(5.0, generator, "gumbel").detach() for _ in range(4000 // n + 1)])
    assert float(draws.mean()) == pytest.approx(1 / (1 + np.exp(-1.0)), abs=0.03)


def test_without_gumbel_the_gates_are_the_softmax() -> None:
    gates, supernet = gates_of()
    generator = torch.Generator().manual_seed(0)
    keep, sizes = (draw(5.0, generator, "mixture") for draw in (gates.draw_keep, gates.draw_sizes))
    torch.testing.assert_close(keep, torch.softmax(gates.keep, -1)[:, 1])
    torch.testing.assert_close(sizes, torch.softmax(gates.size, -1))
    both = gates.combine(keep, sizes, undecided(supernet))
    for found, expected in zip(both, gates.probabilities(), strict=True):
        torch.testing.assert_close(found, expected)


def test_what_is_decided_is_not_drawn() -> None:
    gates, supernet = gates_of("S1")
    state = undecided(supernet)
    state.alive[3] = False
    state.fixed[5] = 2
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        keep, sizes = gates.combine(torch.ones(len(supernet)), gates.draw_sizes(5.0, generator, "gumbel"), state)
        assert float(keep[3].detach()) == 0.0
        assert sizes[5].tolist() == [0.0, 0.0, 1.0]
        assert hard_sizes(supernet.candidates, keep, sizes)[3] == 0
        assert hard_sizes(supernet.candidates, keep, sizes)[5] == 8


def test_entangled_gates_have_absence_among_the_sizes() -> None:
    gates, supernet = gates_of(is_entangled=True)
    rows = supernet.candidates.is_sized
    assert gates.size.shape == (int(rows.sum()), 4)
    draw = torch.zeros(gates.size.shape)
    draw[0, 0], draw[1:, 3] = 1.0, 1.0
    keep, sizes = gates.combine(torch.zeros(len(supernet)), draw, undecided(supernet))
    whole = hard_sizes(supernet.candidates, keep, sizes)
    sized = [size for size, is_sized in zip(whole, rows, strict=True) if is_sized]
    assert sized == [0] + [8] * (len(sized) - 1)
    assert not any(size for size, is_sized in zip(whole, rows, strict=True) if not is_sized)


def test_placements_may_have_different_numbers_of_sizes() -> None:
    backbone = tiny("bert")
    axes = [Axis(methods.lookup("lora"), (0, 2)), Axis(methods.lookup("serial"), (0, 1, 3, 7))]
    space = SearchSpace.build(backbone, axes, sharing="placement", layers="all")
    with Supernet(backbone, space) as supernet:
        gates = Gates(supernet.candidates, seed=0)
        state = undecided(supernet)
        for seed in range(20):
            generator = torch.Generator().manual_seed(seed)
            drawn = gates.draw_sizes(5.0, generator, "gumbel")
            sizes = hard_sizes(supernet.candidates, *gates.combine(torch.ones(len(supernet)), drawn, state))
            for (_, method), size in zip(supernet.candidates.keys, sizes, strict=True):
                assert size in {"lora": (2,), "serial": (1, 3, 7)}[method]
            supernet.take(sizes)
            assert space.configuration(supernet.architecture(sizes)) is not None


def test_the_temperature_falls_from_five_to_nearly_one() -> None:
    assert [temperature(epoch, 4) for epoch in range(4)] == [5.0, 4.0, 3.0, 2.0]
    assert temperature(19, 20) == pytest.approx(1 + 4 / 20)


def test_the_order_of_the_space_changes_nothing() -> None:
    backbone = tiny("bert")
    space = spaces.named("S2", backbone)
    turned = SearchSpace(space.choices, space.slots[::-1])
    with Supernet(backbone, space) as supernet:
        first = supernet.candidates
    with Supernet(backbone, turned) as supernet:
        second = supernet.candidates
    assert first.keys == second.keys
    assert np.array_equal(first.counts, second.counts)


def test_memory_is_that_of_the_largest_architecture() -> None:
    backbone = tiny("t5")
    space = spaces.named("S2", backbone)
    with Supernet(backbone, space) as supernet:
        held = sum(p.numel() for index in range(len(supernet)) for p in supernet.parameters_of(index))
    assert held == space.cost_range("stored")[1]


def test_full_fine_tuning_is_refused_and_nothing_stays_attached() -> None:
    backbone = tiny("bert")
    space = SearchSpace.build(backbone, [Axis(methods.lookup("full"), (0, 1))], sharing="placement", layers="all")
    with pytest.raises(SettingsError, match="full adds no module that a gate could stand on"):
        Supernet(backbone, space)
    assert backbone.occupant is None


def test_any_failure_releases_the_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Supernet) -> None:
        raise MemoryError("no room")

    backbone = tiny("bert")
    monkeypatch.setattr(Supernet, "_check", fail)
    with pytest.raises(MemoryError):
        Supernet(backbone, spaces.named("S1", backbone))
    assert backbone.occupant is None
