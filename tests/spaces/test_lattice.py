"""The lattice against brute force on small spaces, and the papers' spaces by their numbers."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import BertConfig, T5Config

from autopeft import methods
from autopeft.architecture import Architecture, Cost, Line, ParameterBudget, Placement
from autopeft.backbones import Backbone
from autopeft.candidate import Candidate
from autopeft.errors import BudgetError, SettingsError, SpaceExhaustedError
from autopeft.network.build import count
from autopeft.spaces import papers as spaces
from autopeft.spaces.build import binary_logarithmic_sizes
from autopeft.spaces.lattice import Axis, Choice, Configuration, Dial, SearchSpace, Slot
from lattice import FakeBackbone, FakeMethod, autopeft_space, tiny_space


@st.composite
def lattices(draw: st.DrawFn) -> SearchSpace:
    """Up to a few hundred points: sizes with or without 0, gates, shared by slots in any pattern, and perhaps dials."""
    sizes = draw(
        st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True).map(sorted), min_size=1, max_size=3)
    )
    n_gates = draw(st.integers(0, 2))
    choices = [Choice(f"size{i}", tuple(values)) for i, values in enumerate(sizes)]
    choices += [Choice(f"gate{i}", (0, 1)) for i in range(n_gates)]
    pattern = st.tuples(
        st.integers(0, len(sizes) - 1),
        st.one_of(st.none(), st.integers(len(sizes), len(sizes) + n_gates - 1)) if n_gates else st.none(),
        st.integers(1, 9),
        st.integers(0, 4),
    )
    slots = [
        Slot(f"method{number}", f"encoder.{number}.ffn", Cost(Line(0, weights), Line(bias, weights)), size, gate)
        for number, (size, gate, weights, bias) in enumerate(draw(st.lists(pattern, min_size=1, max_size=4)))
    ]
    return dialled(SearchSpace(tuple(choices), tuple(slots)), draw(DIALS))


FACTORS = st.lists(st.sampled_from([0.25, 1.0, 2.0]), min_size=1, max_size=2, unique=True).map(sorted).map(tuple)
DIALS = st.lists(st.tuples(st.sampled_from(["rate", "scale"]), st.booleans(), FACTORS), max_size=1)


def dialled(space: SearchSpace, dials: list[tuple[Any, bool, tuple[float, ...]]]) -> SearchSpace:
    """`space` with dials, each over all of its methods or over the first."""
    methods = tuple(sorted({slot.method for slot in space.slots}))
    for target, is_for_all, factors in dials:
        turned = methods[:1] if not is_for_all else () if target == "rate" else methods
        dial = Dial(target, turned, len(space.choices))
        space = replace(space, choices=(*space.choices, Choice(target, factors)), dials=(*space.dials, dial))
    return space


def all_points(space: SearchSpace) -> list[Configuration]:
    """Every point, the invalid ones among them."""
    return [
        Configuration(point) for point in itertools.product(*(range(len(choice.values)) for choice in space.choices))
    ]


def price(space: SearchSpace, architecture: Architecture, kind: str) -> int:
    costs = {(slot.method, slot.site): slot.cost for slot in space.slots}
    return sum(costs[p.method, p.site].line(kind).at(p.size) for p in architecture)  # type: ignore[arg-type]


@given(lattices())
def test_counting_agrees_with_brute_force(space: SearchSpace) -> None:
    points = all_points(space)
    valid = [point for point in points if not space.decode(point).is_empty]
    assert space.cardinality == len(points)
    assert space.n_valid == len(valid)
    assert [*space.enumerate()] == valid
    assert [space.is_feasible(point) for point in points] == [point in valid for point in points]


@given(lattices())
def test_identity_is_equality_of_candidates(space: SearchSpace) -> None:
    points = all_points(space)
    by_identity: dict[tuple[int, ...], Candidate] = {}
    for point in points:
        candidate = space.candidate(point)
        assert by_identity.setdefault(space.identity(point), candidate) == candidate
        assert candidate.architecture == space.decode(point)
    assert len(set(by_identity.values())) == len(by_identity)


@given(lattices())
def test_costs_are_those_of_the_decoded_architecture(space: SearchSpace) -> None:
    points = all_points(space)
    rows = np.array([point.indices for point in points])
    for kind in ("nominal", "stored"):
        wanted = [price(space, space.decode(point), kind) for point in points]
        assert space.costs(rows, kind).tolist() == wanted  # type: ignore[arg-type]
        assert space.cost(points[-1], kind) == wanted[-1]  # type: ignore[arg-type]
        valid = [cost for point, cost in zip(points, wanted, strict=True) if space.is_feasible(point)]
        if valid:
            assert space.cost_range(kind) == (min(valid), max(valid))  # type: ignore[arg-type]


@given(lattices())
def test_encoding_makes_the_round_trip(space: SearchSpace) -> None:
    points = all_points(space)
    rows = space.encode(points)
    assert rows.shape == (len(points), space.n_choices)
    assert rows.min() >= 0
    assert rows.max() <= 1
    released = space.encode(points, "released")
    assert ((released > 0) & (released < 1)).all()
    assert len({tuple(row) for row in released}) == len(points)
    for point, row in zip(points, rows, strict=True):
        decoded = space.decode_row(row)
        assert [
            len(c.values) == 1 or i == j for c, i, j in zip(space.choices, point.indices, decoded.indices, strict=True)
        ]
        assert space.candidate(decoded) == space.candidate(point)


@given(lattices())
def test_a_configuration_is_found_for_every_candidate(space: SearchSpace) -> None:
    for point in all_points(space):
        candidate = space.candidate(point)
        found = space.configuration(candidate)
        assert found is not None or candidate.architecture.is_empty
        assert found is None or space.candidate(found) == candidate


def test_an_architecture_outside_the_space_has_no_configuration() -> None:
    space = tiny_space()
    assert space.configuration(Architecture((Placement("encoder.0.ffn", "serial", 5),))) is None
    assert space.configuration(Architecture((Placement("encoder.9.ffn", "serial", 1),))) is None
    assert space.configuration(Architecture((Placement("encoder.0.ffn", "lora", 1),))) is None
    uneven = Architecture((Placement("encoder.0.ffn", "serial", 1), Placement("encoder.1.ffn", "serial", 2)))
    assert space.configuration(uneven) is None


@given(lattices())
def test_neighbours_are_one_exchange_away_and_mutual(space: SearchSpace) -> None:
    feasible = [*space.enumerate()]
    neighbours = {point: space.neighbours(point) for point in feasible}
    for point in feasible:
        wanted = [q for q in feasible if sum(a != b for a, b in zip(point.indices, q.indices, strict=True)) == 1]
        assert sorted(q.indices for q in neighbours[point]) == sorted(q.indices for q in wanted)
        assert all(point in neighbours[other] for other in neighbours[point])


@given(lattices(), st.integers(0, 99), st.data())
@settings(max_examples=60)
def test_budgets_are_always_respected(space: SearchSpace, seed: int, data: st.DataObject) -> None:
    valid = [*space.enumerate()]
    assume(valid)
    kind = data.draw(st.sampled_from(["nominal", "stored"]))
    target = space.cost(data.draw(st.sampled_from(valid)), kind)  # a budget that exactly this architecture meets
    assume(target >= 1)
    for budget in (ParameterBudget(target, target, kind), ParameterBudget(target, count=kind)):
        limited = space.within(budget)
        wanted = [point for point in valid if budget.allows(space.cost(point, kind))]
        assert [*limited.enumerate()] == wanted
        found = limited.sample(np.random.default_rng(seed), 7)
        assert len(found) == 7
        assert all(point in wanted for point in found)
        assert all(point in wanted for point in limited.neighbours(wanted[0]))


@given(lattices(), st.integers(0, 99))
@settings(max_examples=40)
def test_what_was_not_seen_is_found_until_nothing_is_left(space: SearchSpace, seed: int) -> None:
    left = {space.identity(point) for point in space.enumerate()}
    assume(left)
    rng, seen = np.random.default_rng(seed), set[tuple[int, ...]]()
    for _ in range(min(6, len(left))):
        identity = space.identity(space.unseen(seen, rng))
        assert identity not in seen
        seen.add(identity)
    with pytest.raises(SpaceExhaustedError):
        space.unseen(left, rng)


def test_sampling_is_uniform_over_the_feasible_points() -> None:
    """6 points, 3,000 draws: chi-squared with 5 degrees of freedom exceeds 30 with a probability of 1.5e-5."""
    space = tiny_space()
    found = space.sample(np.random.default_rng(0), 3_000)
    counts = [found.count(point) for point in space.enumerate()]
    assert len(counts) == 6
    assert sum((count - 500) ** 2 / 500 for count in counts) < 30


def test_the_smallest_of_a_large_space_is_found_under_the_tightest_budget() -> None:
    space = autopeft_space(24, 1024)
    smallest = 2 * 1024  # one layer, one unit of one method
    limited = space.within(ParameterBudget(smallest))
    for configuration in limited.sample(np.random.default_rng(0), 20):
        assert limited.cost(configuration) == smallest
        assert len(limited.decode(configuration)) == 1


@pytest.mark.parametrize(("least", "most"), [(1_990_000, 1_991_000), (42_000_000, 10**9), (2_048, 4_096)])
def test_narrow_ranges_of_a_large_space_are_hit(least: int, most: int) -> None:
    """1,536 k parameters: k = 1,296 (12 layers of 108 units, or 9 of 144, ...), the largest, and k = 2."""
    space = autopeft_space(12, 768).within(ParameterBudget(most, least))
    found = space.sample(np.random.default_rng(1), 30)
    assert len(found) == 30
    assert all(least <= space.cost(configuration) <= most for configuration in found)


def test_an_impossible_budget_says_what_is_possible() -> None:
    space = tiny_space()  # one or two layers of 16 or 32 weights
    with pytest.raises(BudgetError, match=r"at most 15 nominal parameters: they cost from 16 to 64 nominal"):
        space.within(ParameterBudget(15))
    with pytest.raises(BudgetError, match=r"65 to 70 nominal parameters: they cost from 16 to 64"):
        space.within(ParameterBudget(70, 65))
    with pytest.raises(BudgetError, match=r"was found that has 17 to 20 nominal"):
        space.within(ParameterBudget(20, 17))
    assert space.within(ParameterBudget(16)).within(None) == space


@pytest.mark.parametrize(("n", "least", "n_between"), [(31, 28, 8), pytest.param(101, 91, 20, marks=pytest.mark.slow)])
def test_a_tight_budget_of_a_large_space_is_met(n: int, least: int, n_between: int) -> None:
    """As BIPEFT's smallest budgets are on T5-large: 900 placements, of which half a dozen fit."""
    sizes, cost = (0, 1, 4, 8), Cost(nominal=Line(0, 1_000), stored=Line(24, 1_000))
    choices = tuple(Choice(f"lora@{index}", sizes) for index in range(900))
    slots = tuple(Slot("lora", f"encoder.{index}.q", cost, index) for index in range(900))
    space = SearchSpace(choices, slots, ParameterBudget(6_412, count="stored"))
    found = space.sample(np.random.default_rng(0), n)
    assert len({configuration.indices for configuration in found}) >= least
    assert all(0 < space.cost(configuration, "stored") <= 6_412 for configuration in found)
    between = SearchSpace(choices, slots, ParameterBudget(6_412, 5_000, count="stored"))
    drawn = between.sample(np.random.default_rng(0), n_between)
    assert all(5_000 <= between.cost(configuration, "stored") <= 6_412 for configuration in drawn)


def test_a_space_that_holds_nothing_says_so() -> None:
    empty = SearchSpace((Choice("size", (0,)),), (Slot("serial", "encoder.0.ffn", Cost(Line(0, 1), Line(0, 1)), 0),))
    assert (empty.cardinality, empty.n_valid) == (1, 0)
    with pytest.raises(SpaceExhaustedError, match="No feasible configuration"):
        empty.sample(np.random.default_rng(0))


@pytest.mark.parametrize("values", [(), (2, 1), (1, 1), (-1, 0)])
def test_values_increase(values: tuple[int, ...]) -> None:
    with pytest.raises(SettingsError, match="must increase"):
        Choice("size", values)


# -- building ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bert_base() -> Backbone:
    return Backbone.from_config(BertConfig(), device="meta")


def axes(*names: str, **options: Any) -> list[Axis]:
    return [Axis(methods.lookup(name), **options) for name in names]


def test_the_space_of_bert_base_is_the_papers(bert_base: Backbone) -> None:
    space = spaces.named("SA-PA-PT-Layer", bert_base)
    assert space.cardinality == 5_451_776 == 2**12 * 11**3
    assert space.n_valid == 5_446_350 == 4_095 * 1_330
    assert space.n_choices == 15
    assert len(space.neighbours(space.largest())) == 42
    assert round(100 * space.cost(space.largest()) / bert_base.n_parameters, 3) == 38.789
    assert space.choices[-1].values == (0, 1, 3, 6, 12, 24, 48, 96, 192, 384, 768)
    architecture = space.decode(space.largest())
    assert space.cost(space.largest()) == count(bert_base, architecture).nominal
    assert space.cost(space.largest(), "stored") == count(bert_base, architecture).stored


def test_the_space_of_a_large_model_is_the_papers() -> None:
    large = BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    space = spaces.named("SA-PA-PT-Layer", Backbone.from_config(large, device="meta"))
    assert space.cardinality == 2**24 * 12**3 == 28_991_029_248
    assert space.n_valid == (2**24 - 1) * (12**3 - 1)


def test_binary_logarithmic_sizes() -> None:
    assert len(binary_logarithmic_sizes(768)) == 11
    assert len(binary_logarithmic_sizes(1024)) == 12
    assert binary_logarithmic_sizes(384) == (0, 1, 3, 6, 12, 24, 48, 96, 192, 384)
    assert binary_logarithmic_sizes(1) == (0, 1)


def test_the_released_encoding_leaves_the_release_s_margins(bert_base: Backbone) -> None:
    space = spaces.named("SA-PA-PT-Layer", bert_base)
    row = space.encode([space.largest()], "released")[0]
    # "Leave out" is 0 for a layer that is on, sizes run from large to small: 0.25 for a bit, 0.0455 for a size.
    assert row[:12] == pytest.approx([0.25] * 12, abs=1e-4)
    assert row[12:] == pytest.approx([0.0455] * 3, abs=1e-4)
    nothing = space.encode([Configuration((0,) * 15)], "released")[0]
    assert nothing[:12] == pytest.approx([0.75] * 12, abs=1e-4)
    assert nothing[12:] == pytest.approx([0.9545] * 3, abs=1e-4)


@pytest.mark.parametrize(("sharing", "n_sizes"), [("shared", 1), ("layer", 12), ("placement", 24)])
def test_sharing_decides_the_number_of_sizes(bert_base: Backbone, sharing: Any, n_sizes: int) -> None:
    space = SearchSpace.build(bert_base, axes("lora", sizes=(0, 1, 4)), sharing=sharing, layers="all")
    assert space.n_choices == n_sizes
    assert space.cardinality == 3**n_sizes
    assert space.n_valid == 3**n_sizes - 1
    assert len(space.slots) == 24
    # One row a free size: the first choice moves 24, 2 or 1 placements.
    first = Configuration((1,) + (0,) * (n_sizes - 1))
    assert len(space.decode(first)) == 24 // n_sizes


def test_a_layer_of_many_sizes_is_counted_by_its_one_switch() -> None:
    cost = Cost(Line(0, 1), Line(0, 1))
    choices = (Choice("on", (0, 1)), *(Choice(f"size.{n}", (0, 1, 4)) for n in range(40)))
    space = SearchSpace(choices, tuple(Slot("lora", f"encoder.{n}.q", cost, n + 1, 0) for n in range(40)))
    assert space.n_valid == 3**40 - 1  # the switch on and some size above 0


def test_layers_may_be_given(bert_base: Backbone) -> None:
    space = SearchSpace.build(bert_base, axes("serial"), layers=[2, 3, 7])
    assert space.n_choices == 1
    assert {placement.site for placement in space.decode(space.largest())} == {f"encoder.{n}.ffn" for n in (2, 3, 7)}
    with pytest.raises(SettingsError, match="numbered 0 to 11, but got 12, 13"):
        SearchSpace.build(bert_base, axes("serial"), layers=[13, 0, 12])


def test_a_method_that_stands_nowhere_is_told_where_it_could() -> None:
    with pytest.raises(SettingsError, match=r"'lora' stands at q, v, but this backbone has only attention, ffn"):
        SearchSpace.build(FakeBackbone(2, 8), [Axis(FakeMethod("lora", ("q", "v"), 8))])
    with pytest.raises(SettingsError, match="at least one method"):
        SearchSpace.build(FakeBackbone(2, 8), [])
    with pytest.raises(SettingsError, match="'shared', 'layer', 'placement' or 'band', but got 'all'"):
        SearchSpace.build(FakeBackbone(2, 8), [], sharing="all")  # type: ignore[arg-type]


def test_sites_outside_the_layers_have_no_switch() -> None:
    config = T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_decoder_layers=2, num_heads=4, vocab_size=99)
    space = SearchSpace.build(Backbone.from_config(config, device="meta"), axes("lnfit"))
    gates = {slot.site: slot.switch for slot in space.slots}
    assert gates["encoder.final_norm"] is None
    assert gates["decoder.0.ffn_norm"] is not None
    names = [choice.name for choice in space.choices]
    assert names == ["layer.encoder.0", "layer.encoder.1", "layer.decoder.0", "layer.decoder.1", "lnfit"]
    # With every layer off the final norms are left: 2 * (2^4) points, the 16 without any norm invalid.
    assert (space.cardinality, space.n_valid) == (32, 16)


def test_a_space_is_identified_by_what_decides_its_architectures(bert_base: Backbone) -> None:
    space = SearchSpace.build(bert_base, axes("serial"))
    again = SearchSpace.build(bert_base, axes("serial"))
    assert space == again
    assert space.fingerprint == again.fingerprint
    others = [
        SearchSpace.build(bert_base, axes("parallel")),
        SearchSpace.build(bert_base, axes("serial"), layers="all"),
        SearchSpace.build(bert_base, axes("serial", sizes=(0, 1))),
        space.within(ParameterBudget(100_000)),
    ]
    assert len({space.fingerprint, *(other.fingerprint for other in others)}) == 5
