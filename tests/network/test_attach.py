"""Attaching and detaching: what fits where, in which order deltas apply, and what is refused."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from autopeft.architecture import Architecture, Placement
from autopeft.backbones import Backbone
from autopeft.errors import ArchitectureError, BackboneError, UnknownNameError
from autopeft.methods import lookup
from autopeft.network.attach import Attached, attach
from autopeft.network.build import count, prices
from autopeft.spaces.lattice import Axis, SearchSpace
from autopeft.training.learners import EncoderLearner
from autopeft.training.memory import checkpointing
from tiny import SENTIMENT, backbone, everywhere, fill, inputs, output


def placed(*texts: str) -> Architecture:
    """``placed("serial@encoder.0.ffn:3")``."""
    parts = [text.replace(":", "@").split("@") for text in texts]
    return Architecture(tuple(Placement(site, method, int(size)) for method, site, size in parts))


def test_the_empty_architecture_changes_nothing() -> None:
    found = backbone()
    plain = output(found)
    with attach(found, Architecture()) as attached:
        assert attached.parameters() == []
        assert attached.state() == {}
        assert torch.equal(output(found), plain)


def test_serial_and_parallel_combine_as_the_paper_writes_it() -> None:
    """``LN(x + h + SA(LN(x + h)) + 4 PA(x))`` (AutoPEFT, section 3.1), computed from the tensors of the last layer."""
    found = backbone()
    layer = found.module("encoder.layer.2")
    kept: dict[str, Tensor] = {}
    handle = found.module("encoder.layer.2.intermediate").register_forward_pre_hook(lambda m, a: kept.update(x=a[0]))
    batch = inputs(found)
    with fill(attach(found, placed("serial@encoder.2.ffn:3", "parallel@encoder.2.ffn:2"))) as attached, torch.no_grad():
        result = found.model(**batch).last_hidden_state
        x = kept["x"]
        h = layer.output.dense(layer.intermediate(x))
        norm = layer.output.LayerNorm

        def adapter(method: str, u: Tensor) -> Tensor:
            module = attached.modules["encoder.2.ffn", method]
            down, up = module.down, module.up
            hidden = torch.relu(u @ down.weight.T + down.bias)
            return hidden @ up.weight.T + up.bias

        wanted = norm(x + h + adapter("serial", norm(x + h)) + 4 * adapter("parallel", x))
    handle.remove()
    torch.testing.assert_close(result, wanted, atol=1e-5, rtol=1e-5)


def test_on_t5_the_adapter_reads_the_output_and_the_parallel_one_the_normalised_input() -> None:
    """Pre-LN: ``r + f0 + SA(f0) + 4 PA(LN(r))`` with ``f0 = FFN(LN(r))``."""
    found = backbone("t5")
    kept: dict[str, Tensor] = {}
    block = found.module("encoder.block.1.layer.1")
    handle = block.register_forward_hook(lambda m, a, o: kept.update(r=a[0], out=o))
    with fill(attach(found, placed("serial@encoder.1.ffn:3", "parallel@encoder.1.ffn:2"))) as attached, torch.no_grad():
        output(found)
        handle.remove()
        modules = {method: module for (_, method), module in attached.modules.items()}
        attached.masks.update(dict.fromkeys(attached.modules, 0))
        u = block.layer_norm(kept["r"])
        f = block.DenseReluDense(u)
        zero = torch.zeros_like(f)
        wanted = kept["r"] + f + modules["serial"](f, zero) + modules["parallel"](u, zero)
    torch.testing.assert_close(kept["out"], wanted, atol=1e-5, rtol=1e-5)


def test_the_released_form_on_t5_reads_what_the_release_reads() -> None:
    """The authors' release computes ``r + f + SA(r + f) + 4 PA(f)``."""
    found = backbone("t5")
    kept: dict[str, Tensor] = {}
    block = found.module("encoder.block.1.layer.1")
    handle = block.register_forward_hook(lambda m, a, o: kept.update(r=a[0], out=o))
    names = ("serial_released@encoder.1.ffn_block:3", "parallel_released@encoder.1.ffn_block:2")
    with fill(attach(found, placed(*names))) as attached, torch.no_grad():
        output(found)
        handle.remove()
        modules = {method: module for (_, method), module in attached.modules.items()}
        attached.masks.update(dict.fromkeys(attached.modules, 0))
        f = block.DenseReluDense(block.layer_norm(kept["r"]))
        zero = torch.zeros_like(f)
        wanted = kept["r"] + f + modules["parallel_released"](f, zero) + modules["serial_released"](kept["r"] + f, zero)
    torch.testing.assert_close(kept["out"], wanted, atol=1e-4, rtol=1e-5)


def test_lora_is_a_change_of_the_weight() -> None:
    found = backbone()
    batch = inputs(found)
    with fill(attach(found, everywhere(found, "lora"))) as attached, torch.no_grad():
        with_lora = found.model(**batch)[0]
        changes = {site: m.up.weight @ m.down.weight for (site, _), m in attached.modules.items()}
    for site, change in changes.items():
        found.module(found.site(site).entry).weight.data += change  # type: ignore[operator]
    torch.testing.assert_close(found.model(**batch)[0], with_lora, atol=1e-5, rtol=1e-5)


def test_lora_and_bias_at_one_linear_map() -> None:
    found = backbone()
    query = found.module("encoder.layer.0.attention.self.query")
    kept: dict[str, Tensor] = {}
    with fill(attach(found, placed("lora@encoder.0.q:2", "bitfit@encoder.0.q:1"))) as attached, torch.no_grad():
        handle = query.register_forward_hook(lambda m, a, o: kept.update(x=a[0], y=o))
        output(found)
        handle.remove()
        lora, bias = attached.modules["encoder.0.q", "lora"], attached.modules["encoder.0.q", "bitfit"]
        weight = query.weight + lora.up.weight @ lora.down.weight
        wanted = functional.linear(kept["x"], weight, query.bias + bias.bias)
    torch.testing.assert_close(kept["y"], wanted, atol=1e-5, rtol=1e-5)


def test_a_prefix_shares_its_trunk_and_folds_to_the_same_values() -> None:
    found = backbone()
    architecture = everywhere(found, "prefix", 2)
    with attach(found, architecture) as attached:
        trunks = {id(module.trunk) for module in attached.modules.values()}
        assert len(trunks) == 1
        # 800 hidden units: 2 * 32 + 32 * 800 + 800 once, 801 * 64 for each of the three layers.
        assert count(found, architecture).trained == 64 + 26_400 + 3 * 801 * 64
        before = output(found).detach()
        attached.fold()
        attached.fold()
        torch.testing.assert_close(output(found), before, atol=1e-6, rtol=1e-6)
        assert sum(value.numel() for value in attached.state().values()) == 3 * 2 * 2 * 32


def test_prefixes_of_different_length_share_one_trunk() -> None:
    found = backbone()
    architecture = placed("prefix@encoder.0.kv:2", "prefix@encoder.2.kv:5")
    with attach(found, architecture) as attached:
        assert count(found, architecture).trained == sum(p.numel() for p in attached.parameters())
        assert torch.isfinite(output(found)).all()


def test_every_mistake_is_listed_before_anything_is_hooked() -> None:
    found = backbone()
    wrong = placed("serial@encoder.0.kv:3", "prefix@encoder.1.ffn:2", "bitfit@encoder.1.q:3")
    with pytest.raises(ArchitectureError, match=r"bitfit.*only size.*prefix.*stands at kv.*serial.*stands at ffn"):
        attach(found, wrong)
    assert found.occupant is None


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("no_such@encoder.0.ffn:1", UnknownNameError, "Unknown method 'no_such'"),
        ("serial@encoder.7.ffn:1", BackboneError, r"no site 'encoder\.7\.ffn'"),
        ("lnfit@encoder.0.ffn:1", ArchitectureError, "stands at norms only"),
        ("serial_released@encoder.0.ffn_in:2", ArchitectureError, "32 and 64 wide at encoder.0.ffn_in"),
    ],
)
def test_what_cannot_stand_is_refused(text: str, error: type[Exception], message: str) -> None:
    found = backbone()
    with pytest.raises(error, match=message):
        attach(found, placed(text))
    assert found.occupant is None


def test_two_prefixes_at_one_attention_are_refused() -> None:
    with pytest.raises(ArchitectureError, match=r"encoder\.0\.kv holds two prefixes"):
        attach(backbone(), placed("prefix@encoder.0.kv:2", "prefix_direct@encoder.0.kv:2"))


def test_a_second_architecture_waits_for_the_first_to_go() -> None:
    found = backbone()
    first = attach(found, placed("serial@encoder.0.ffn:3"))
    with pytest.raises(ArchitectureError, match=r"one architecture at a time.*serial=3@ffn\[1\].*detach it first"):
        attach(found, placed("lora@encoder.0.q:1"))
    first.detach()
    with attach(found, placed("lora@encoder.0.q:1")):
        first.detach()  # idempotent: it does not take the second one away
        assert found.occupant == placed("lora@encoder.0.q:1")
    assert found.occupant is None


def test_removing_equals_masking() -> None:
    found = backbone()
    architecture = placed("serial@encoder.0.ffn:3", "parallel@encoder.0.ffn:2", "prefix_direct@encoder.1.kv:2")
    gone = architecture.placements[0]
    with fill(attach(found, architecture)) as attached, torch.no_grad():
        attached.masks[gone.site, gone.method] = 0
        masked = output(found)
        attached.remove(gone)
        assert torch.equal(output(found), masked)
        assert gone not in attached.architecture.placements
        with pytest.raises(ArchitectureError, match="is not attached"):
            attached.remove(gone)


def test_weights_of_another_architecture_are_refused() -> None:
    found = backbone()
    with attach(found, placed("serial@encoder.0.ffn:3")) as attached:
        state = attached.state()
    with (
        attach(found, placed("serial@encoder.0.ffn:4")) as attached,
        pytest.raises(ArchitectureError, match="differ in"),
    ):
        attached.load_state(state)
    with (
        attach(found, placed("serial@encoder.1.ffn:3")) as attached,
        pytest.raises(ArchitectureError, match="differ in"),
    ):
        attached.load_state(state)


def test_an_exception_inside_the_context_detaches() -> None:
    found = backbone()
    plain = output(found)
    with pytest.raises(RuntimeError, match="mid-flight"), fill(attach(found, everywhere(found, "serial"))):
        raise RuntimeError("mid-flight")
    assert torch.equal(output(found), plain)
    assert found.occupant is None


def test_an_exception_inside_the_forward_pass_leaves_no_stale_input() -> None:
    """The input held between entry and exit of a feed-forward must not reach the next pass."""
    found = backbone()
    with fill(attach(found, everywhere(found, "parallel"))), torch.no_grad():
        wanted = output(found)
        dense = found.module("encoder.layer.1.output.dense")

        def fail(*_: object) -> None:
            raise RuntimeError("in the middle")

        handle = dense.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="in the middle"):
            output(found)
        handle.remove()
        assert torch.equal(output(found), wanted)


def test_modules_switch_mode_and_follow_the_device() -> None:
    found = backbone()
    with attach(found, everywhere(found, "serial")) as attached:
        attached.train()
        assert all(module.training for module in attached.modules.values())
        attached.train(False)
        assert not any(module.training for module in attached.modules.values())
        assert {parameter.device.type for parameter in attached.parameters()} == {"cpu"}
    assert isinstance(attached, Attached)


def test_prices_are_the_methods_own() -> None:
    found = backbone()
    ((cost, size),) = prices(found, placed("serial@encoder.0.ffn:3"))
    assert (size, cost.nominal.at(3), cost.stored.at(3)) == (3, 2 * 32 * 3, 2 * 32 * 3 + 3 + 32)


def test_an_adapter_reads_the_frozen_norm_whatever_else_stands_at_it() -> None:
    found = backbone("bert")
    seen: list[Tensor] = []
    both = (Placement("encoder.0.ffn", "serial", 2), Placement("encoder.0.ffn_norm", "lnfit", 1))
    for placements in (both[:1], both):
        with attach(found, Architecture(placements)) as attached, torch.no_grad():
            norms = [module for (_, method), module in attached.modules.items() if method == "lnfit"]
            for parameter in (p for module in norms for p in module.parameters()):
                parameter.add_(1.0)  # a trained norm is not the frozen one
            serial = attached.modules["encoder.0.ffn", "serial"]
            serial.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
            output(found)
    assert torch.equal(seen[0], seen[1])


def test_a_space_holds_no_site_where_a_method_cannot_read() -> None:
    with pytest.raises(ArchitectureError, match="serial_released reads the sum of input and output"):
        SearchSpace.build(backbone(), [Axis(lookup("serial_released"), (0, 2), ("ffn_in",))])


def test_full_fine_tuning_and_modules_beside_it_are_stored_together() -> None:
    found = backbone()
    architecture = placed("full@model:1", "serial@encoder.0.ffn:3")
    with fill(attach(found, architecture)) as attached, torch.no_grad():
        for parameter in found.model.parameters():
            parameter.mul_(1.25)
        wanted = output(found)
        state = {name: value.clone() for name, value in attached.state().items()}
        assert sum(value.numel() for value in state.values()) == count(found, architecture).stored
    with attach(found, architecture, seed=1) as attached, torch.no_grad():
        attached.load_state(state)
        assert torch.equal(output(found), wanted)


def test_only_the_generator_of_the_processor_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    found = backbone(with_tokenizer=True)

    def fail(seed: int) -> None:
        raise AssertionError("the generators of every accelerator were reseeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", fail)
    attach(found, everywhere(found, "serial"), seed=1).detach()
    EncoderLearner(found, SENTIMENT).reset(1)
    Backbone.from_config(found.model.config, seed=1)


def test_two_threads_may_call_one_model() -> None:
    """They meet between entry and exit of a feed-forward, where the input and the padding of both are held."""
    found = backbone()
    batch, meeting = inputs(found), threading.Barrier(2)
    other = {"input_ids": batch["input_ids"].flip(0), "attention_mask": batch["attention_mask"].flip(0)}
    results: dict[int, Tensor] = {}

    def call(index: int, given: dict[str, Tensor]) -> None:
        with torch.no_grad():
            results[index] = output(found, given)

    def meet(*_: object) -> None:
        meeting.wait(60)

    architecture = placed("parallel@encoder.0.ffn:2", "serial_gated@encoder.1.ffn:2", "prefix_gated@encoder.1.kv:2")
    with fill(attach(found, architecture)), torch.no_grad():
        wanted = [output(found, batch), output(found, other)]
        dense = found.module("encoder.layer.0.output.dense")
        handle = dense.register_forward_pre_hook(meet)
        threads = [threading.Thread(target=call, args=item) for item in enumerate((batch, other))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        handle.remove()
    for index in (0, 1):
        torch.testing.assert_close(results[index], wanted[index], atol=1e-6, rtol=1e-6)


def test_what_is_computed_again_in_another_thread_sees_the_padding() -> None:
    """As the backward pass of an accelerator does under gradient checkpointing."""
    found = backbone()
    batch = inputs(found)
    found.model.double().train()
    with fill(attach(found, everywhere(found, "serial_gated"))) as attached:
        for module in attached.modules.values():
            module.double()
        wanted = torch.autograd.grad(output(found, batch).square().sum(), attached.parameters())
        with checkpointing(found.model, True):
            loss = output(found, batch).square().sum()
            thread = threading.Thread(target=loss.backward)
            thread.start()
            thread.join()
        for parameter, gradient in zip(attached.parameters(), wanted, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)
