"""The methods and spaces of BIPEFT and S3Delta: counts on T5-large without weights, formulas on tiny modules."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, LlamaConfig, T5Config

from autopeft import methods
from autopeft.architecture import Architecture, ParameterBudget, Placement
from autopeft.backbones import Backbone, Site, families
from autopeft.errors import ArchitectureError, UnknownNameError
from autopeft.methods.adapter import Bottleneck
from autopeft.methods.bitfit import Bias
from autopeft.methods.layernorm import NormWeight
from autopeft.methods.lora import LowRank
from autopeft.methods.lowrank import LowRankBottleneck
from autopeft.network.attach import attach
from autopeft.network.build import count
from autopeft.spaces import papers as spaces

LAYERS = 24


@pytest.fixture(scope="module")
def t5_large() -> Backbone:
    config = T5Config(
        d_model=1024, d_kv=64, d_ff=4096, num_layers=24, num_decoder_layers=24, num_heads=16, vocab_size=32128
    )
    return Backbone.from_config(config, device="meta")


@pytest.fixture(scope="module")
def bert_base() -> Backbone:
    return Backbone.from_config(BertConfig(), device="meta")


def everywhere(backbone: Backbone, method: str, roles: tuple[str, ...], size: int) -> Architecture:
    sites = [site.key for site in backbone.sites.values() if site.role in roles]
    return Architecture(tuple(Placement(site, method, size) for site in sites))


# -- known answers -----------------------------------------------------------------------------------------


def test_s2_on_t5_large_has_the_counts_of_the_paper(t5_large: Backbone) -> None:
    space = spaces.named("S2", t5_large)
    assert t5_large.n_parameters == 737_668_096
    assert len(space.slots) == space.n_choices == 916
    by_method = Counter(slot.method for slot in space.slots)
    assert by_method == {"lora": 192 + 96, "adapter_lr": 96, "bitfit": 288 + 122, "lnfit": 122}
    assert Counter(len(choice.values) for choice in space.choices) == {4: 384, 2: 532}
    largest = Counter[str]()
    for slot in space.slots:
        largest[slot.method] += slot.cost.stored.at(space.choices[slot.size].values[-1])
    assert largest == {"lora": 7_077_888, "adapter_lr": 1_723_392, "bitfit": 567_296, "lnfit": 124_928}
    assert space.cost_range("stored")[1] == 9_493_504


def test_s3deltas_space_has_its_modules_at_rank_1(t5_large: Backbone) -> None:
    space = spaces.named("S3Delta-M", t5_large)
    assert Counter(slot.method for slot in space.slots) == {
        "lora_s3delta": 192 + 96, "adapter_lr_s3delta": 96, "bitfit": 288 + 122, "lnfit": 122
    }  # fmt: skip
    assert Counter(choice.values for choice in space.choices) == {(0, 1): 916}
    assert [spaces.about(name).rpartition(": ")[2] for name in ("S2", "S3Delta-M")] == [
        "a size for every placement", "a switch for every placement"
    ]  # fmt: skip


def test_s2_counts_at_each_size(t5_large: Backbone) -> None:
    space = spaces.named("S2", t5_large)
    costs = {(slot.method, slot.site): slot.cost.stored for slot in space.slots}
    for size in (1, 4, 8):
        assert costs["lora", "encoder.3.q"].at(size) == 2 * 1024 * size
        assert costs["lora", "decoder.3.ffn_in"].at(size) == (1024 + 4096) * size
        assert costs["adapter_lr", "decoder.23.attention"].at(size) == 2112 * size + 1056
    assert costs["bitfit", "encoder.0.ffn_in"].at(1) == 4096
    assert costs["bitfit", "encoder.0.ffn_out"].at(1) == 1024
    assert costs["lnfit", "decoder.5.cross_attention_norm"].at(1) == 1024
    assert ("bitfit", "decoder.5.cross_q") not in costs


def test_s1_on_t5_large(t5_large: Backbone) -> None:
    space = spaces.named("S1", t5_large)
    assert Counter(slot.method for slot in space.slots) == dict.fromkeys(
        ("serial_bipeft", "parallel_bipeft", "prefix_direct"), 2 * LAYERS
    )
    costs = {slot.method: slot.cost.stored for slot in space.slots}
    assert [costs["serial_bipeft"].at(d) for d in (1, 4, 8)] == [d * (2 * 1024 + 1) + 1024 for d in (1, 4, 8)]
    assert costs["prefix_direct"].at(4) == 2 * 4 * 1024


def test_the_budget_of_the_paper_is_102600_parameters(t5_large: Backbone) -> None:
    assert round(102_600 / t5_large.n_parameters * 1e4, 2) == 1.39
    space = spaces.named("S2", t5_large, budget=ParameterBudget(102_600, count="stored"))
    assert space.budget is not None


@pytest.mark.parametrize(
    ("method", "roles", "size", "per_ten_thousand"),
    [
        ("serial_bipeft", ("attention", "ffn"), 24, 65.33),
        ("lora_double", ("q", "v"), 8, 21.32),
        ("bitfit", (*methods.lookup("bitfit").roles, "lm_head"), 1, 8.13),
        ("lnfit", methods.lookup("lnfit").roles, 1, 1.694),
    ],
)
def test_baselines_on_t5_large(
    t5_large: Backbone, method: str, roles: tuple[str, ...], size: int, per_ten_thousand: float
) -> None:
    counts = count(t5_large, everywhere(t5_large, method, roles, size))
    digits = len(str(per_ten_thousand).partition(".")[2])
    assert round(counts.stored / counts.backbone * 1e4, digits) == per_ten_thousand


def test_autopefts_spaces_on_bert_base(bert_base: Backbone) -> None:
    found = {name: spaces.named(name, bert_base) for name in spaces.NAMES}
    assert found["SA"].cardinality == 11
    assert found["SA-Layer"].cardinality == 2**12 * 11
    assert found["SA-PA-Layer"].cardinality == found["PA-PT-Layer"].cardinality == 2**12 * 11**2
    assert found["SA-PA-PT-Layer"].cardinality == 5_451_776
    assert found["SA-PA-PT-Layer"].n_valid == 5_446_350
    # The largest configuration and one module alone at its largest, in percent of BERT-base.
    assert round(found["SA-PA-PT-Layer"].cost_range()[1] / 109_482_240 * 100, 3) == 38.789
    assert round(found["SA"].cost_range()[1] / 109_482_240 * 100, 3) == 12.930


def test_scaling_is_ten_points_with_one_size_for_all(bert_base: Backbone) -> None:
    space = spaces.named("Scaling", bert_base)
    sizes = []
    for configuration in space.enumerate():
        architecture = space.decode(configuration)
        assert len(architecture) == 3 * 12
        (size,) = {placement.size for placement in architecture}
        sizes.append(size)
    assert sizes == [1, 3, 6, 12, 24, 48, 96, 192, 384, 768]


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(families()))
@pytest.mark.parametrize("name", spaces.NAMES)
def test_every_space_can_be_attached_to_every_family(family: str, name: str) -> None:
    backbone = tiny(family)
    space = spaces.named(name, backbone, sizes=(0, 1, 2))
    most = [len(choice.values) - 1 for choice in space.choices]
    from autopeft.spaces.lattice import Configuration

    architecture = space.decode(Configuration(tuple(most)))
    assert {placement.method for placement in architecture} == {slot.method for slot in space.slots}
    with attach(backbone, architecture) as attached:
        stored = sum(value.numel() for value in folded(attached.fold, attached.state).values())
    assert stored == space.cost(Configuration(tuple(most)), "stored")


def test_an_unknown_space_is_named_with_the_nearest(bert_base: Backbone) -> None:
    with pytest.raises(UnknownNameError, match="'SA-PA-Layer'"):
        spaces.named("SA-PA-Layers", bert_base)


# -- what the modules compute ------------------------------------------------------------------------------


def test_the_low_rank_adapter_is_the_printed_formula() -> None:
    torch.manual_seed(0)
    module = filled(LowRankBottleneck(64, 2, 8))
    u, y = torch.randn(3, 64), torch.randn(3, 64)
    down = module.b_down @ module.a_down  # (2, 64), of rank 8 at most
    up = module.b_up @ module.a_up  # (64, 2)
    hidden = functional.gelu(u @ down.T + module.bias_down, approximate="tanh")
    torch.testing.assert_close(module(u, y), y + hidden @ up.T + module.bias_up)


def test_the_low_rank_adapter_starts_at_zero_and_every_factor_learns() -> None:
    torch.manual_seed(0)
    module = LowRankBottleneck(64, 2, 8)
    zero = [name for name, value in module.named_parameters() if not value.detach().any()]
    assert zero == ["b_up", "bias_down", "bias_up"]
    x, target = torch.randn(16, 64), torch.randn(16, 64)
    assert torch.equal(module(x, x), x)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    for _ in range(3):
        optimiser.zero_grad()
        functional.mse_loss(module(x, x), target).backward()
        optimiser.step()
    assert all(not torch.equal(value, before[name]) for name, value in module.named_parameters())


@pytest.mark.parametrize("is_centred", [True, False])
def test_a_trained_norm_weight_equals_a_norm_with_that_weight(is_centred: bool) -> None:
    torch.manual_seed(0)
    x, weight, change = 3 * torch.randn(2, 5, 16) + 1, torch.randn(16), torch.randn(16)
    norm: nn.Module = nn.LayerNorm(16, eps=1e-6) if is_centred else nn.RMSNorm(16, eps=1e-6)
    norm.get_parameter("weight").data = weight.clone()
    module = NormWeight(16, 1e-6, is_centred)
    y = norm(x)
    assert torch.equal(module(x, y), y)
    module.weight.data = change
    norm.get_parameter("weight").data = weight + change
    torch.testing.assert_close(module(x, y), norm(x))


def test_a_bias_is_added_and_gated() -> None:
    module, y = Bias(4), torch.ones(2, 4)
    module.bias.data = torch.tensor([1.0, 2.0, 3.0, 4.0])
    expected = torch.tensor([2.0, 3.0, 4.0, 5.0]).expand(2, 4)
    assert torch.equal(module(y, y), expected)
    assert torch.equal(module(y, y, 1), expected)
    assert torch.equal(module(y, y, torch.zeros(1)), y)


def test_bipefts_adapters_have_gelu_and_small_weights_and_no_scale() -> None:
    site = Site("encoder", 0, "ffn", "a", "b", None, 512, 512)
    torch.manual_seed(0)
    for name in ("serial_bipeft", "parallel_bipeft"):
        module = methods.lookup(name).build([(site, 64)], {})["encoder.0.ffn"]
        assert isinstance(module, Bottleneck)
        # 32,768 normal numbers: the sample deviation is within 5 % with probability above 1 - 1e-20.
        assert float(module.down.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
        assert float(module.up.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
        u, y = torch.randn(2, 512), torch.randn(2, 512)
        hidden = functional.gelu(module.down(u), approximate="tanh")
        torch.testing.assert_close(module(u, y), y + module.up(hidden))


def test_houlsby_stands_after_both_sublayers_with_swish(bert_base: Backbone) -> None:
    method = methods.lookup("houlsby")
    assert method.roles == ("attention", "ffn")
    architecture = everywhere(bert_base, "houlsby", method.roles, 64)
    assert len(architecture) == 24
    assert count(bert_base, architecture).nominal == 24 * 2 * 768 * 64
    site = bert_base.site("encoder.0.ffn")
    module = method.build([(site, 4)], {})[site.key]
    assert isinstance(module, Bottleneck)
    u = torch.randn(2, 768)
    hidden = module.down(u)
    torch.testing.assert_close(module(u, u), u + module.up(hidden * torch.sigmoid(hidden)))


def test_s3deltas_lora_has_scale_16() -> None:
    site = Site("encoder", 0, "q", "a", "a", None, 8, 8)
    module = methods.lookup("lora_s3delta").build([(site, 1)], {})[site.key]
    assert isinstance(module, LowRank)
    filled(module)
    x = torch.randn(2, 8)
    torch.testing.assert_close(module(x, x), x + 16 * (x @ module.down.weight.T) @ module.up.weight.T)


def test_t5_order_is_the_one_of_the_release() -> None:
    """``y = f + LoRA(x) + ΔLN(x)``, then the bias, then the adapter that reads the sum, then SA, then PA."""
    names = ("lora", "lnfit", "bitfit", "adapter_lr", "serial_bipeft", "parallel_bipeft")
    orders = [methods.lookup(name).order for name in names]
    assert orders == sorted(set(orders))


def test_serial_and_parallel_on_t5_are_the_papers_formula() -> None:
    backbone = tiny("t5")
    key = "encoder.1.ffn"
    architecture = Architecture((Placement(key, "serial_bipeft", 3), Placement(key, "parallel_bipeft", 2)))
    block = backbone.module("encoder.block.1.layer.1")
    r = torch.randn(2, 5, 32)
    u = backbone.module("encoder.block.1.layer.1.layer_norm")(r)
    f = backbone.module("encoder.block.1.layer.1.DenseReluDense")(u)
    with attach(backbone, architecture) as attached, torch.no_grad():
        serial, parallel = (filled(attached.modules[key, name]) for name in ("serial_bipeft", "parallel_bipeft"))
        assert isinstance(serial, Bottleneck)
        assert isinstance(parallel, Bottleneck)
        expected = r + f + bottleneck(serial, f) + bottleneck(parallel, u)
        torch.testing.assert_close(block(r), expected)


def test_norms_are_recognised_in_every_family() -> None:
    assert tiny("bert").site("encoder.0.ffn_norm").is_centred
    assert tiny("bert").site("encoder.0.ffn_norm").epsilon == BertConfig().layer_norm_eps
    assert not tiny("t5").site("decoder.final_norm").is_centred
    assert tiny("t5").site("decoder.final_norm").epsilon == T5Config().layer_norm_epsilon
    assert tiny("llama").site("decoder.final_norm").epsilon == LlamaConfig().rms_norm_eps
    assert tiny("bert").site("encoder.0.q").epsilon is None


def test_a_norm_method_elsewhere_is_refused() -> None:
    with pytest.raises(ArchitectureError, match=r"norms only, but these are none: encoder\.0\.q"):
        attach(tiny("bert"), Architecture((Placement("encoder.0.q", "lnfit", 1),)))


@pytest.mark.parametrize("family", sorted(families()))
def test_tuned_norms_equal_a_backbone_with_other_norms(family: str) -> None:
    """LNFit and BitFit at every norm against the same backbone whose norms hold the sums."""
    backbone, tuned = tiny(family), tiny(family)
    roles = methods.lookup("lnfit").roles
    both = (*everywhere(backbone, "lnfit", roles, 1), *everywhere(backbone, "bitfit", roles, 1))
    is_centred = next(site.is_centred for site in backbone.sites.values() if site.epsilon is not None)
    chosen = both if is_centred else tuple(p for p in both if p.method == "lnfit")
    with attach(backbone, Architecture(tuple(chosen))) as attached, torch.no_grad():
        for (site, method), module in attached.modules.items():
            filled(module)
            norm = tuned.module(tuned.site(site).exit)
            if method == "bitfit" and norm.bias is None:  # ModernBERT's have none, which is a bias of zeros
                norm.bias = nn.Parameter(torch.zeros_like(next(iter(module.parameters()))))
            own = norm.get_parameter("weight" if method == "lnfit" else "bias")
            own += next(iter(module.parameters()))
        torch.testing.assert_close(output(backbone), output(tuned), rtol=1e-4, atol=1e-5)


# -- masks and cuts ----------------------------------------------------------------------------------------

MODULES: dict[str, Any] = {
    "lora": lambda size: LowRank(6, 4, size, 2.0),
    "adapter": lambda size: Bottleneck(6, 4, size, functional.relu, 4.0),
    "adapter_lr": lambda size: LowRankBottleneck(4, 3, size),
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("size", [1, 3, 5])
def test_a_masked_module_equals_the_smaller_one_cut_out_of_it(name: str, size: int) -> None:
    torch.manual_seed(size)
    module, small = filled(MODULES[name](5)), MODULES[name](size)
    small.load_state_dict({key: value.clone() for key, value in module.cut(size).items()})
    u, y = torch.randn(2, 3, 4 if name == "adapter_lr" else 6), torch.randn(2, 3, 4)
    mask = (torch.arange(5) < size).float()
    torch.testing.assert_close(module(u, y, mask), small(u, y))
    assert torch.equal(module(u, y, size), small(u, y))
    assert torch.equal(module(u, y, 0 * mask), y)


# -- tools -------------------------------------------------------------------------------------------------


def tiny(family: str) -> Backbone:
    from transformers import AutoConfig

    found = families()[family]
    return Backbone.from_config(AutoConfig.for_model(found.model_types[0], **found.tiny))


def folded(fold: Any, state: Any) -> dict[str, Tensor]:
    fold()
    found: dict[str, Tensor] = state()
    return found


def filled(module: Any) -> Any:
    """The module with random parameters in place of zeros."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape))
    return module


def bottleneck(module: Bottleneck, u: Tensor) -> Tensor:
    hidden = functional.gelu(u @ module.down.weight.T + module.down.bias, approximate="tanh")
    return hidden @ module.up.weight.T + module.up.bias


def output(backbone: Backbone) -> Tensor:
    inputs = {"input_ids": torch.arange(10).view(2, 5) % 90}
    if backbone.family.is_text_to_text:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    with torch.no_grad():
        first: Tensor = backbone.model(**inputs)[0]
    return first
