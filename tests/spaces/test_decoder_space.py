"""The space for decoders: ranks by group and band, the scale's exponent, the rule for the rate, the first trials."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import BertConfig, LlamaConfig

import tiny
from autopeft.architecture import Architecture, ParameterBudget, Placement
from autopeft.backbones import Backbone
from autopeft.candidate import Candidate
from autopeft.errors import SettingsError
from autopeft.session.parts import build_space, initial_design, resolved, ruled
from autopeft.settings import AxisSettings, Settings, SpaceSettings
from autopeft.spaces import decoder
from autopeft.spaces.dials import with_dials
from autopeft.spaces.lattice import Configuration, SearchSpace
from autopeft.training.recipe import Recipe, ruled_rate
from autopeft.training.retraining import baseline

SETTINGS = Settings(task="glue/sst2", space=SpaceSettings(name="decoder"), trials=20)


@pytest.fixture(scope="module")
def smollm() -> Backbone:
    config = LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        vocab_size=99,
    )  # fmt: skip
    return Backbone.from_config(config, device="meta")


@pytest.fixture(scope="module")
def space(smollm: Backbone) -> SearchSpace:
    return build_space(smollm, SpaceSettings(name="decoder"))


def test_it_has_a_rank_by_group_and_band_an_exponent_and_a_factor_on_the_rate(space: SearchSpace) -> None:
    assert [choice.name for choice in space.choices] == [
        *(f"lora-attention@decoder.{band}" for band in ("0-7", "8-14", "15-22", "23-29")),
        *(f"lora-ffn@decoder.{band}" for band in ("0-7", "8-14", "15-22", "23-29")),
        "scale.exponent",
        "rate.all",
    ]
    assert {choice.values for choice in space.choices[:8]} == {(0, 1, 2, 4, 8, 16, 32, 64)}
    assert len(space.slots) == 30 * 7
    ends = Configuration((1, 0, 0, 0, 0, 0, 0, 7, 1, 2))
    held = {(p.site.split(".")[1], p.site.split(".")[-1]): p.size for p in space.decode(ends)}
    assert {key: size for key, size in held.items() if size == 1} == {
        (str(layer), role): 1 for layer in range(8) for role in ("q", "k", "v", "o")
    }
    assert {key: size for key, size in held.items() if size == 64} == {
        (str(layer), role): 64 for layer in range(23, 30) for role in ("ffn_in", "ffn_gate", "ffn_out")
    }


def test_every_uniform_lora_is_a_point_of_it(space: SearchSpace, smollm: Backbone) -> None:
    for rank in (1, 16, 64):
        # Alpha is fixed at 32, so that the scale is 32 / rank, where alpha = rank is 1.
        uniform = Architecture(tuple(replace(p, scale=32 / rank) for p in baseline(f"lora_all:{rank}", smollm)))
        point = space.configuration(uniform)
        assert point is not None
        assert space.decode(point) == uniform


def test_the_scale_falls_with_the_rank_or_with_its_root(space: SearchSpace) -> None:
    scales = {}
    for exponent in range(2):
        point = Configuration((1, 3, 5, 7, *[0] * 4, exponent, 2))
        scales[exponent] = {p.size: p.scale for p in space.decode(point)}
    assert scales[1] == {1: 32.0, 4: 8.0, 16: 2.0, 64: 0.5}  # alpha / r with alpha 32
    assert scales[0] == {1: 8.0, 4: 4.0, 16: 2.0, 64: 1.0}  # alpha / sqrt(r) with alpha 8


def test_identities_are_equal_exactly_where_candidates_are(space: SearchSpace) -> None:
    few = build_space(
        tiny.backbone("llama"), SpaceSettings(name="decoder", bands=1, methods={"lora": AxisSettings((0, 8, 16))})
    )
    points = list(few.enumerate())
    assert len({few.identity(point) for point in points}) == len({few.candidate(point) for point in points})
    # Of 8 pairs of ranks 3 have nothing but 16 in them, where both exponents give one scale; 5 rates each.
    assert len({few.identity(point) for point in points}) == 5 * (5 * 2 + 3)
    for point in points:
        again = few.configuration(few.candidate(point))
        assert again is not None
        assert few.candidate(again) == few.candidate(point)
    wrong = Candidate(Architecture((Placement("decoder.0.q", "lora", 8, 3.0),)))
    assert few.configuration(wrong) is None


def test_the_design_begins_with_all_linear_lora_of_rank_16(space: SearchSpace, smollm: Backbone) -> None:
    ready = resolved(SETTINGS)
    assert (ready.initial, ready.start, ready.rates) == (12, "baselines", "rule")
    design = initial_design(space, ready)
    assert len({space.identity(point) for point in design}) == len(design) == 12
    held = [space.candidate(point) for point in design]
    uniform = [replace(p, scale=2.0) for p in baseline("lora_all:16", smollm)]
    assert held[0] == Candidate(Architecture(tuple(uniform)))
    assert held[2].architecture == held[0].architecture
    assert held[2].changes.rate_factor == 2
    assert {p.site.split(".")[-1] for p in held[3].architecture} == {"q", "k", "v", "o"}
    # The first k of n are the design of k.
    assert initial_design(space, ready.with_changes(initial=5)) == design[:5]


def test_what_the_budget_forbids_is_not_tried_first(smollm: Backbone) -> None:
    tight = decoder.build(smollm, budget=ParameterBudget(700_000))
    found = [tight.candidate(point) for point in decoder.first(tight)]
    assert {p.size for candidate in found for p in candidate.architecture} == {1, 2}
    assert all(tight.is_feasible(point) for point in decoder.first(tight))


def test_the_rate_follows_the_width(smollm: Backbone) -> None:
    assert ruled_rate(2000) == 5e-4
    assert ruled_rate(576) == pytest.approx(5e-4 * (2000 / 576) ** 0.78, rel=5e-3)
    ready = ruled(resolved(SETTINGS), smollm)
    assert ready.recipe.learning_rate == ruled_rate(576) == 0.00132
    assert ready.learning_rates == ()
    # What a study keeps is resolved, and must resolve to itself.
    assert ruled(resolved(ready), smollm) == ready


def test_a_rate_that_is_written_stands(smollm: Backbone) -> None:
    own = ruled(resolved(SETTINGS.with_changes(recipe=Recipe(learning_rate=3e-4))), smollm)
    assert own.recipe.learning_rate == 3e-4
    tried = ruled(resolved(SETTINGS.with_changes(learning_rates=(1e-4, 5e-4))), smollm)
    assert (tried.rates, tried.learning_rates, tried.recipe) == ("sweep", (1e-4, 5e-4), SETTINGS.recipe)


def test_other_methods_take_lora_s_place_where_they_are_asked_for() -> None:
    methods = {"lora": AxisSettings((0, 4), ("q", "v")), "dora": AxisSettings(), "lnfit": AxisSettings()}
    space = build_space(tiny.backbone("llama"), SpaceSettings(name="decoder", methods=methods, bands=3))
    names = [choice.name.partition("@")[0] for choice in space.choices[:-2]]
    assert names == [*["lora-attention"] * 3, *["dora-attention"] * 3, *["dora-ffn"] * 3, *["lnfit"] * 4]
    assert {slot.site.split(".")[-1] for slot in space.slots if slot.method == "lora"} == {"q", "v"}
    assert [dial.methods for dial in space.dials] == [("dora", "lora"), ()]


def test_more_bands_than_layers_are_a_band_a_layer() -> None:
    space = build_space(tiny.backbone("llama"), SpaceSettings(name="decoder", bands=8))
    assert [c.name.partition("@")[2] for c in space.choices[:3]] == ["decoder.0-0", "decoder.1-1", "decoder.2-2"]


def test_a_space_of_one_s_own_is_shared_by_bands_too() -> None:
    methods = {"serial": AxisSettings((0, 2)), "lnfit": AxisSettings()}
    space = build_space(tiny.backbone("llama"), SpaceSettings(methods=methods, sharing="band", bands=2, layers="all"))
    bands = ["decoder.0-1", "decoder.2-2"]
    # The last norm is in no layer, and so in no band.
    wanted = [*(f"serial@{band}" for band in bands), *(f"lnfit@{band}" for band in bands), "lnfit@decoder"]
    assert [choice.name for choice in space.choices] == wanted


def test_a_fused_projection_belongs_to_attention() -> None:
    space = decoder.build(tiny.backbone("gpt_neox"), bands=1)
    groups: dict[str, set[str]] = {}
    for slot in space.slots:
        label = space.choices[slot.size].name.partition("@")[0]
        groups.setdefault(label, set()).add(slot.site.split(".")[-1])
    assert groups == {"lora-attention": {"qkv", "o"}, "lora-ffn": {"ffn_in", "ffn_out"}}


def test_an_encoder_has_it_too() -> None:
    bert = Backbone.from_config(BertConfig(hidden_size=48, num_hidden_layers=4, num_attention_heads=4), device="meta")
    assert {choice.name.partition("@")[0] for choice in decoder.build(bert).choices} == {
        "lora-attention", "lora-ffn", "scale.exponent",
    }  # fmt: skip


def test_what_does_not_fit_it_is_refused(space: SearchSpace) -> None:
    with pytest.raises(
        SettingsError, match=r"`space.bands` is of the space 'decoder' and of `sharing: band`, but .* 'S1'"
    ):
        build_space(tiny.backbone("llama"), SpaceSettings(name="S1", bands=4))
    with pytest.raises(SettingsError, match=r"`space.scales` is given, but this space chooses"):
        with_dials(space, rate_factors={}, scales={"lora": (1, 2)})
