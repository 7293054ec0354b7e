"""Architectures, counts and budgets; the papers' numbers on models without weights."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig, RobertaConfig, T5Config

from autopeft.architecture import (
    Architecture,
    Cost,
    Counts,
    Line,
    ParameterBudget,
    Placement,
    describe,
    layers_told,
    total,
)
from autopeft.backbones import Backbone
from autopeft.errors import ArchitectureError, BudgetError
from autopeft.network.build import count
from autopeft.objective import percent
from autopeft.training.heads import head_parameters
from fuzzing import at_once

SITES = st.builds(
    "{}.{}.{}".format, st.sampled_from(["encoder", "decoder"]), st.integers(0, 3), st.sampled_from(["ffn", "q"])
)
PLACEMENTS = st.builds(
    Placement, SITES, st.sampled_from(["serial", "lora"]), st.integers(1, 9), st.sampled_from([1, 0.5])
)
ARCHITECTURES = st.lists(PLACEMENTS, max_size=6, unique_by=lambda p: (p.site, p.method)).map(
    lambda p: Architecture(tuple(p))
)


_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}


@cache
def weightless(name: str) -> Backbone:
    """A model of the papers on the meta device: no weights, exact counts."""
    configs: dict[str, Any] = {
        "bert-base": BertConfig(),
        "bert-large": BertConfig(**_LARGE),
        "roberta-large": RobertaConfig(**_LARGE, vocab_size=50265, max_position_embeddings=514, type_vocab_size=1),
        "t5-base": T5Config(d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12),
        "t5-large": T5Config(d_model=1024, d_kv=64, d_ff=4096, num_layers=24, num_heads=16),
    }
    return Backbone.from_config(configs[name], device="meta")


def at(
    backbone: Backbone, method: str, size: int, roles: tuple[str, ...], layers: range | list[int] | None = None
) -> list[Placement]:
    """`method` at every site with one of `roles`, in `layers` (0-based) or everywhere."""
    sites = [site for site in backbone.sites.values() if site.role in roles]
    return [Placement(site.key, method, size) for site in sites if layers is None or site.layer in layers]


def share(backbone: Backbone, *placements: Placement) -> float:
    """Nominal percentage, rounded as the papers' checks are."""
    return round(percent(count(backbone, Architecture(placements))), 3)


def published() -> Architecture:
    """AutoPEFT-RTE: layers 3, 4, 8, 9, 10 counted from 1; serial 12, parallel 96, prefix 1."""
    bert, layers = weightless("bert-base"), [2, 3, 7, 8, 9]
    placed = at(bert, "serial", 12, ("ffn",), layers) + at(bert, "parallel", 96, ("ffn",), layers)
    return Architecture((*placed, *at(bert, "prefix", 1, ("kv",), layers)))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("bert-base", 109_482_240),
        ("bert-large", 335_141_888),
        ("roberta-large", 355_359_744),
        ("t5-base", 222_903_552),
        ("t5-large", 737_668_096),
    ],
)
def test_backbones_have_the_sizes_of_the_papers(name: str, parameters: int) -> None:
    assert weightless(name).n_parameters == parameters


def test_the_published_configuration_has_its_published_counts() -> None:
    head = head_parameters(768, 2)
    assert head == 592_130
    counts = count(weightless("bert-base"), published(), head)
    assert counts.nominal == 837_120
    assert round(percent(counts), 3) == 0.765
    assert counts.stored == 96_060 + 741_600 + 7_680
    assert counts.trained == 96_060 + 741_600 + 6_767_648 + 592_130 == 8_197_438
    assert round(percent(counts, "trained"), 2) == 7.49
    assert describe(published()) == [
        "parallel=96@ffn[3,4,8–10]",
        "prefix=1@kv[3,4,8–10]",
        "serial=12@ffn[3,4,8–10]",
    ]


@pytest.mark.parametrize(
    ("method", "size", "roles", "stored", "trained"),
    [
        ("serial", 12, ("ffn",), 96_060, 96_060),
        ("parallel", 96, ("ffn",), 741_600, 741_600),
        ("prefix", 1, ("kv",), 7_680, 6_767_648),
    ],
)
def test_each_module_of_it(method: str, size: int, roles: tuple[str, ...], stored: int, trained: int) -> None:
    bert = weightless("bert-base")
    counts = count(bert, Architecture(tuple(at(bert, method, size, roles, [2, 3, 7, 8, 9]))))
    assert (counts.stored, counts.trained) == (stored, trained)


def test_the_nominal_rule_gives_the_printed_percentages() -> None:
    bert, large, t5 = weightless("bert-base"), weightless("roberta-large"), weightless("t5-base")
    prefix = at(bert, "prefix", 30, ("kv",))
    assert share(bert, *at(bert, "serial", 48, ("ffn",))) == 0.808
    assert share(bert, *at(bert, "prefix", 10, ("kv",))) == 0.168
    assert share(bert, *at(bert, "lora", 8, ("q", "v"))) == 0.269
    assert share(bert, *at(bert, "parallel", 384, ("ffn",))) == 6.465
    assert share(bert, *at(bert, "parallel", 384, ("ffn",)), *prefix) == 6.970  # MAM
    unipelt = at(bert, "serial", 48, ("ffn",)) + at(bert, "prefix", 10, ("kv",)) + at(bert, "lora", 8, ("q", "v"))
    assert share(bert, *unipelt) == pytest.approx(1.246, abs=1e-3)
    assert share(large, *at(large, "serial", 64, ("ffn",))) == 0.885
    assert share(large, *at(large, "lora", 8, ("q", "v"))) == 0.221
    assert share(t5, *at(t5, "lora", 8, ("q", "v", "cross_q", "cross_v"))) == 0.397
    assert share(t5, *at(t5, "serial", 48, ("ffn",))) == 0.794


def test_full_fine_tuning_costs_everything() -> None:
    bert = weightless("bert-base")
    counts = count(bert, Architecture((Placement("model", "full", 1),)))
    assert counts.nominal == counts.stored == counts.trained == counts.backbone
    assert percent(counts) == 100.0


def test_budgets_of_the_second_paper_are_per_ten_thousand_of_t5_large() -> None:
    budget = ParameterBudget.parse("1.391‱", weightless("t5-large").n_parameters)
    assert budget.most == 102_609  # 737,668,096 * 1.391e-4 = 102,609.6
    assert budget.allows(102_600)
    assert not budget.allows(102_610)


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("0.5%", 0, 5_000),
        (" 0.5 % ", 0, 5_000),
        ("5‱", 0, 500),
        ("5%%", 0, 500),
        ("837120", 0, 837_120),
        (837_120, 0, 837_120),
        ("0.1%-0.5%", 1_000, 5_000),
        ("0.1% .. 0.5%", 1_000, 5_000),
        ("0.1-0.5%", 1_000, 5_000),
        ("1 .. 5 ‱", 100, 500),
        ("100-2000", 100, 2_000),
        ("1e3", 0, 1_000),
        ("1e-1%", 0, 1_000),
    ],
)
def test_budgets_are_read_as_people_write_them(text: str | int, least: int, most: int) -> None:
    assert ParameterBudget.parse(text, 1_000_000) == ParameterBudget(most, least)


@pytest.mark.parametrize("text", ["", "half", "-3", "5 percent", "0.5%-", "nan", "inf%", "1..2..3", "--1"])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(BudgetError, match="A budget is a share"):
        ParameterBudget.parse(text, 1_000_000)


@pytest.mark.parametrize(("least", "most"), [(5, 4), (-1, 4), (0, 0)])
def test_a_budget_has_an_order(least: int, most: int) -> None:
    with pytest.raises(BudgetError, match=f"0 <= least <= most and most >= 1, but got {least}..{most}"):
        ParameterBudget(most, least)


def test_a_budget_is_on_what_is_known_before_training() -> None:
    with pytest.raises(BudgetError, match="'nominal' or 'stored', but got 'trained'"):
        ParameterBudget(5, count="trained")
    with pytest.raises(BudgetError, match="depends on the head"):
        Cost(Line(0, 1), Line(0, 1)).line("trained")
    assert str(ParameterBudget(5_000, 10)) == "10 to 5,000 nominal parameters"
    assert str(ParameterBudget(5_000, count="stored")) == "at most 5,000 stored parameters"


def test_costs_are_lines_that_start_at_nothing() -> None:
    cost = Cost(nominal=Line(0, 10), stored=Line(3, 11))
    assert [cost.stored.at(size) for size in (0, 1, 2)] == [0, 14, 25]
    assert total([(cost, 2), (cost, 0), (cost, 1)], "stored") == 39
    assert total([(cost, 2), (cost, 1)], "nominal") == 30
    assert Counts(5, 6, 7, 200).as_dict() == {"nominal": 5, "stored": 6, "trained": 7, "backbone": 200}


@given(ARCHITECTURES, st.randoms())
def test_order_does_not_matter(architecture: Architecture, random: Any) -> None:
    shuffled = list(architecture)
    random.shuffle(shuffled)
    other = Architecture(tuple(shuffled))
    assert other == architecture
    assert hash(other) == hash(architecture)
    assert other.fingerprint == architecture.fingerprint


@given(ARCHITECTURES, ARCHITECTURES)
def test_equal_fingerprints_are_equal_architectures(first: Architecture, second: Architecture) -> None:
    assert (first.fingerprint == second.fingerprint) == (first == second)


@given(ARCHITECTURES)
def test_json_makes_the_round_trip(architecture: Architecture) -> None:
    assert Architecture.from_dict(json.loads(json.dumps(architecture.as_dict()))) == architecture
    assert architecture.is_empty == (len(architecture) == 0)
    assert all(architecture.size(p.method, p.site) == p.size for p in architecture)
    assert architecture.size("prefix", "encoder.0.kv") == 0


def test_fingerprints_never_change() -> None:
    # sha256 of '{"placements":[["serial","encoder.0.ffn",12]]}', computed with coreutils' sha256sum.
    assert Architecture((Placement("encoder.0.ffn", "serial", 12),)).fingerprint == "79b97cf6afb868be"


def test_files_make_the_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    published().save(path)
    assert Architecture.load(path) == published()
    path.write_text(json.dumps({"architecture": published().as_dict(), "value": 0.7}))
    assert Architecture.load(str(path)) == published()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"placements": 3}', '{"placements": [["serial", "encoder.0.ffn"]]}', "null"]
)
def test_unreadable_files_are_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ArchitectureError, match=r"broken\.json|placements"):
        Architecture.load(path)
    with pytest.raises(ArchitectureError, match=r"missing\.json"):
        Architecture.load(tmp_path / "missing.json")


@pytest.mark.parametrize("size", [0, -1, 1.5, "3", None])
def test_sizes_are_whole_and_positive(size: Any) -> None:
    with pytest.raises(ArchitectureError, match="whole number of at least 1 and at most 1,000,000, but got"):
        Placement("encoder.0.ffn", "serial", size)


def test_a_method_stands_once_at_a_site() -> None:
    twice = (Placement("encoder.0.ffn", "serial", 1), Placement("encoder.0.ffn", "serial", 2))
    with pytest.raises(ArchitectureError, match="serial@encoder\\.0\\.ffn"):
        Architecture(twice)


def test_architectures_speak_for_themselves() -> None:
    assert str(Architecture()) == "head only"
    mixed = Architecture(
        (
            Placement("decoder.1.ffn", "serial", 4),
            Placement("encoder.final_norm", "lnfit", 1),
            Placement("decoder.9.ffn", "serial", 4),
        )
    )
    assert describe(mixed) == ["lnfit=1@final_norm", "serial=4@decoder.ffn[2,10]"]
    assert mixed.methods == ("lnfit", "serial")
    assert str(Placement("encoder.0.ffn", "serial", 4)) == "serial@encoder.0.ffn:4"
    assert str(Placement("encoder.0.ffn", "serial", 4, 2)) == "serial@encoder.0.ffn:4×2"
    scaled = Architecture(tuple(Placement(f"encoder.{i}.q", "lora", 8, scale) for i, scale in enumerate((1, 3, 1, 3))))
    assert describe(scaled) == ["lora=8@q[1,3]", "lora=8@q[2,4]×3"]


def test_layers_in_a_row_are_told_as_ranges() -> None:
    sites = [f"decoder.{layer}.{role}" for layer in range(30) for role in "qv"]
    every = Architecture(tuple(Placement(site, "lora", 16) for site in sites))
    assert describe(every) == ["lora=16@decoder.q[1–30]", "lora=16@decoder.v[1–30]"]
    assert layers_told([11, 0, 1, 2, 3, 4, 5, 6, 7]) == "1–8,12"
    assert [layers_told(layers) for layers in ([], [0], [1, 0], [4, 2, 3])] == ["", "1", "1,2", "3–5"]


def test_the_method_s_own_scale_is_not_written() -> None:
    own, twice = (Placement("encoder.0.q", "lora", 8, scale) for scale in (1, 2))
    assert Architecture((own,)).as_dict() == {"placements": [["lora", "encoder.0.q", 8]]}
    assert Architecture((twice,)).as_dict() == {"placements": [["lora", "encoder.0.q", 8, 2.0]]}
    with pytest.raises(ArchitectureError, match="these stand twice: lora@encoder"):
        Architecture((own, twice))


BROKEN: tuple[Any, ...] = (
    *(None, [], 3, "x", {}, {"placements": None}, {"placements": 3}, {"placements": "abc"}, {"placements": {"a": 1}}),
    *({"placements": [row]} for row in (None, 3, "abc", [], ["lora", "s"], [1] * 5, {"a": 1, "b": 2, "c": 3})),
    *({"placements": [["lora", "encoder.0.q", size]]}
      for size in (0, -3, 10**9, 10**12, 10**30, True, 2.0, float("nan"), "x", None, [1], {})),
    *({"placements": [["lora", "encoder.0.q", 1, scale]]}
      for scale in (0, -1.5, True, float("nan"), float("inf"), 10**400, "x", None, [1])),
    *({"placements": [["lora", site, 1]]} for site in (None, 3, "", [], "a" * 201, "a\nb", "a\x1b[2Jb")),
    *({"placements": [[method, "encoder.0.q", 1]]} for method in (None, 3, "", {}, "l" * 10_000)),
    {"placements": [["lora", "encoder.0.q", 1], ["lora", "encoder.0.q", 2]]},
)  # fmt: skip


@pytest.mark.parametrize("data", BROKEN, ids=lambda data: repr(data)[:60])
def test_what_is_no_architecture_is_one_short_error(data: Any) -> None:
    with pytest.raises(ArchitectureError) as caught:
        Architecture.from_dict(data)
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


@pytest.mark.slow
def test_many_placements_take_time_in_proportion() -> None:
    """8,000 took 2.4 s when every one was looked for among all; as many as here would have taken six minutes."""
    rows = [["serial", f"encoder.{number}.ffn", 1] for number in range(100_000)]
    with at_once():
        assert len(Architecture.from_dict({"placements": rows})) == 100_000
    with pytest.raises(ArchitectureError, match=r"stand twice: .* and 99995 more\.$"):
        Architecture.from_dict({"placements": rows * 2})


def test_a_site_of_any_form_is_described() -> None:
    assert describe(Architecture((Placement("encoder.x.ffn", "lora", 2),))) == ["lora=2@ffn"]


def test_a_file_that_is_no_architecture_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "architecture.json"
    for text in ("[" * 20_000, '{"placements": [], "placements": []}', "NaN", '{"architecture": 3}', "[]", "null"):
        path.write_text(text)
        with pytest.raises(ArchitectureError):
            Architecture.load(path)


def test_a_size_that_equals_one_that_was_read_before_is_still_refused() -> None:
    assert Architecture.from_dict({"placements": [["lora", "encoder.0.q", 1]]}).size("lora", "encoder.0.q") == 1
    for size in (True, 1.0):
        with pytest.raises(ArchitectureError, match="whole number"):
            Architecture.from_dict({"placements": [["lora", "encoder.0.q", size]]})
