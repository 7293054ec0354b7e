"""Operations are counted: by hand for one adapter, and module by module as in one piece for every method."""

from __future__ import annotations

from functools import cache

import pytest

import tiny
from autopeft import objectives
from autopeft.architecture import Architecture, Placement
from autopeft.objective import Objective
from autopeft.training.bench import EvaluatorBench
from autopeft.training.evaluator import Evaluator
from autopeft.training.recipe import Recipe
from covering import covering

OPERATIONS: Objective = objectives.lookup("operations")
MODELS = ("bert", "t5", "llama")


@cache
def bench(model_type: str) -> EvaluatorBench:
    parts = tiny.splits(tiny.sentiment(8), tiny.sentiment(8, seed=1))
    found = tiny.backbone(model_type, with_tokenizer=True)
    return EvaluatorBench(Evaluator(found, tiny.SENTIMENT, parts, Recipe(batch_size=8, max_length=16)))


def priced(model_type: str, *placements: Placement) -> float:
    value = OPERATIONS.priced(bench(model_type), Architecture(placements))
    assert value is not None
    return value * 1e9


def test_an_adapter_costs_two_products_a_token() -> None:
    with bench("bert").attached(Architecture(())) as probe:
        tokens = probe.forward()
    hidden, units = tiny.backbone("bert").hidden_size, 3
    one = priced("bert", Placement("encoder.0.ffn", "serial", units)) - priced("bert")
    assert one == pytest.approx(2 * tokens * (hidden * units + units * hidden))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "method"), covering([(m, method) for m in MODELS for method in tiny.fitting(m)])
)
def test_modules_add_up_to_what_a_whole_pass_takes(model_type: str, method: str) -> None:
    own = bench(model_type)
    architecture = tiny.everywhere(tiny.backbone(model_type, with_tokenizer=True), method, 2)
    with own.attached(architecture) as probe:
        assert OPERATIONS.measure is not None
        whole = OPERATIONS.measure(probe)
    assert priced(model_type, *architecture) == pytest.approx(whole["value"] * 1e9, rel=1e-12)
    assert whole["tokens"] > 0


def test_different_methods_add_up_too() -> None:
    found = tiny.backbone("bert", with_tokenizer=True)
    named = {"serial": 2, "prefix": 3, "lora": 3}
    parts = [placement for method, size in named.items() for placement in tiny.everywhere(found, method, size)]
    with bench("bert").attached(Architecture(tuple(parts))) as probe:
        assert OPERATIONS.measure is not None
        whole = OPERATIONS.measure(probe)["value"]
    assert priced("bert", *parts) == pytest.approx(whole * 1e9, rel=1e-12)
