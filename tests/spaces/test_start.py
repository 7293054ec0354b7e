"""The recommended space, and the design that begins with baselines and fills a space evenly."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import BertConfig, MPNetConfig

import tiny
from autopeft.architecture import ParameterBudget
from autopeft.backbones import Backbone, families
from autopeft.errors import SettingsError, UnknownNameError
from autopeft.methods import lookup
from autopeft.samplers.random import initial_design as random_design
from autopeft.session.parts import build_space, initial_design, resolved
from autopeft.settings import AxisSettings, Settings, SpaceSettings
from autopeft.spaces import named, papers, recommended
from autopeft.spaces.lattice import Axis, SearchSpace
from autopeft.spaces.start import baselines, baselines_first, layers_of
from autopeft.training.retraining import baseline

NAMES = ("lora", "lora_all", "dora", "serial", "parallel", "prefix", "bitfit", "lnfit")


def minilm(layers: int = 6) -> Backbone:
    config = BertConfig(hidden_size=384, num_hidden_layers=layers, num_attention_heads=12, intermediate_size=1536)
    return Backbone.from_config(config, device="meta")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return minilm()


@pytest.fixture(scope="module")
def space(backbone: Backbone) -> SearchSpace:
    return build_space(backbone, SpaceSettings(name="recommended"))


def test_every_uniform_baseline_is_a_point_of_the_space(backbone: Backbone, space: SearchSpace) -> None:
    for name in NAMES:
        size = {"bitfit": "", "lnfit": "", "serial": ":24", "parallel": ":24"}.get(name, ":8")
        assert space.configuration(baseline(name + size, backbone)) is not None, name + size
    assert [choice.name for choice in space.choices][-3:] == ["rate.all", "batch.all", "dropout.all"]
    assert space.choices[-3].values == pytest.approx((1 / 3, 1, 3))


def test_mpnet_has_all_of_it_and_every_family_some(caplog: pytest.LogCaptureFixture) -> None:
    mpnet = Backbone.from_config(MPNetConfig(num_hidden_layers=2), device="meta")
    held = {slot.method for slot in recommended.build(mpnet).slots}
    assert held == {"lora", "dora", "serial", "parallel", "prefix", "bitfit", "lnfit"}
    assert "recommended" not in caplog.text
    for name in families():
        assert len({slot.method for slot in recommended.build(tiny.backbone(name)).slots}) >= 4, name


def test_what_a_family_lacks_falls_out_with_a_line_that_says_so(caplog: pytest.LogCaptureFixture) -> None:
    # The attention of no family refuses a prefix today, so one is made that does.
    bert = tiny.backbone("bert")
    bert.__dict__["reached"] = frozenset()
    space = recommended.build(bert)
    assert "prefix" not in {slot.method for slot in space.slots}
    assert "The recommended space is without prefix: no place on bert." in caplog.text


def test_names_are_those_of_the_papers_and_our_two() -> None:
    assert tuple(named.SPACES) == (*papers.NAMES, "recommended", "decoder")
    assert all(one.name == name and one.about for name, one in named.SPACES.items())
    assert "LoRA" in named.lookup("recommended").about
    with pytest.raises(UnknownNameError, match="'pony'"):
        named.lookup("pony")
    with pytest.raises(SettingsError, match="A space is a `NamedSpace`, but 'json:loads' is <function"):
        named.lookup("json:loads")


def test_a_strangers_space_is_one_file_of_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "my_spaces.py").write_text(
        "from autopeft import methods\n"
        "from autopeft.spaces.named import NamedSpace\n"
        "from autopeft.spaces.lattice import Axis, SearchSpace\n"
        "def build(backbone, *, budget=None, bands=None, axes=()):\n"
        "    return SearchSpace.build(backbone, [Axis(methods.lookup('lora'))], layers='all', budget=budget)\n"
        "MINE = NamedSpace('mine', 'LoRA in all layers', build, start='baselines', n_initial=3, rates='card')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    wanted = SpaceSettings(name="my_spaces:MINE")
    ready = resolved(Settings(task="glue/sst2", space=wanted))
    assert (ready.start, ready.initial, ready.rates) == ("baselines", 3, "card")
    space = build_space(tiny.backbone("bert"), wanted)
    assert {slot.method for slot in space.slots} == {"lora"}
    assert len(initial_design(space, ready)) == 3
    # What it does not look at is said, and not passed over.
    build_space(tiny.backbone("bert"), replace(wanted, methods={"serial": AxisSettings()}))
    assert "'my_spaces:MINE' has methods of its own; `space.methods` is not looked at" in caplog.text


# -- the start ------------------------------------------------------------------------------------------------------


def test_it_begins_with_every_baseline_at_three_sizes_in_all_layers(backbone: Backbone, space: SearchSpace) -> None:
    design = baselines_first(space, 0, 30)
    first = [space.candidate(one) for one in design[:20]]
    assert all(one.changes.is_empty for one in first)
    assert set(layers_of(space, design[:20])) == {6}
    assert {one.architecture for one in first[:8]} == {
        baseline(name, backbone)
        for name in ("lora", "lora_all", "dora", "serial:24", "parallel:24", "prefix:8", "bitfit", "lnfit")
    }
    sizes = {item.size for one in first for item in one.architecture if one.architecture.methods == ("serial",)}
    assert sizes == {3, 24, 96}
    assert len({space.identity(one) for one in design}) == 30


def test_it_is_a_prefix_of_a_longer_one_and_depends_on_the_seed(space: SearchSpace) -> None:
    longer, other = baselines_first(space, 0, 40), baselines_first(space, 1, 40)
    assert longer[:25] == baselines_first(space, 0, 25)
    assert longer[:20] == other[:20]
    assert longer[20:] != other[20:]
    assert baselines_first(space, 0, 0) == []


def test_it_fills_costs_and_layers_where_random_points_do_not(backbone: Backbone, space: SearchSpace) -> None:
    filled, drawn = baselines_first(space, 0, 60), random_design(space, 0, 400)
    cheap = backbone.n_parameters / 1000

    def shares(design: list) -> tuple[float, float]:  # type: ignore[type-arg]
        costs = np.array([space.cost(one) for one in design])
        return float((costs < cheap).mean()), float((layers_of(space, design) == 6).mean())

    assert min(shares(filled)) > 0.25
    assert max(shares(drawn)) < 0.05  # by chance 0.001 and 0.016 of very many
    layers = list(layers_of(space, filled[20:]))
    assert min(layers.count(n) for n in range(1, 6)) >= 4


@pytest.mark.parametrize("sharing", ["shared", "layer", "placement"])
def test_it_keeps_to_a_budget_in_spaces_of_every_kind(backbone: Backbone, sharing: str) -> None:
    axes = [Axis(lookup("lora"), (0, 1, 2, 4)), Axis(lookup("bitfit"))]
    wide = SearchSpace.build(backbone, axes, sharing=sharing, layers="search")  # type: ignore[arg-type]
    tight = wide.within(ParameterBudget(20_000))
    design = baselines_first(tight, 3, 25)
    assert len(design) == 25
    assert all(tight.is_feasible(one) for one in design)
    assert set(layers_of(tight, design)) >= {1, 2, 3}


def test_a_space_that_holds_less_gives_less(backbone: Backbone) -> None:
    small = SearchSpace.build(backbone, [Axis(lookup("serial"), (1, 2))], layers="all")
    assert len(list(baselines(small))) == 2
    assert len(baselines_first(small, 0, 10)) == 2
