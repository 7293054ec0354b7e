"""Which precision is chosen for what was measured; no test here looks at a real clock."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from autopeft.errors import NonFiniteFailure, OutOfMemoryFailure, SettingsError
from autopeft.session import Session
from autopeft.training.chosen_precision import StepBench, choose_precision
from autopeft.training.precision_choice import PRECISION, Precision, PrecisionChoice, choice_from
from autopeft.training.rate_sweep import middle
from autopeft.training.recipe import Recipe
from small_case import Case

NOISE = np.random.default_rng(0).normal(0, 0.02, 100)


class Bench:
    """Seconds and losses that are given; counts what it is asked for."""

    def __init__(
        self, float32: float = 1.0, bf16: float = 0.5, worse: float = 0.0, end: float = 0.5, product: float = 1.0
    ) -> None:
        self.times: dict[Precision, float] = {"float32": float32, "bf16": bf16}
        self.worse, self.end, self.slower = worse, end, product
        self.timed: list[Precision] = []
        self.run: list[tuple[Precision, int]] = []

    def product(self, precision: Precision) -> float:
        return self.slower if precision == "bf16" else 1.0

    def seconds(self, precision: Precision) -> float:
        self.timed.append(precision)
        # The first of each prepares, and is to be left out.
        return self.times[precision] * (2 if self.timed.count(precision) == 1 else 1)

    def losses(self, precision: Precision, steps: int) -> Sequence[float]:
        self.run.append((precision, steps))
        falling = np.linspace(1, self.end, steps) + NOISE[:steps]
        return list(map(float, falling + (self.worse if precision == "bf16" else 0)))


def chosen(bench: Bench, planned: float = 10_000, a_run: int = 200, **more: Any) -> PrecisionChoice:
    return choose_precision(bench, planned=planned, a_run=a_run, device="cpu", **more)


def test_the_faster_one_is_chosen_if_it_keeps_the_loss() -> None:
    bench, told = Bench(), list[str]()
    found = chosen(bench, tell=told.append)
    assert (found.precision, found.steps, found.device) == ("bf16", 100, "cpu")
    assert dict(found.seconds) == {"float32": 1.0, "bf16": 0.5}
    assert bench.timed == ["float32", "bf16"] * 4
    assert bench.run == [("float32", 100), ("bf16", 100)]
    assert told == ["a step takes 0.5 s in bf16 and 1 s in float32: 100 steps in each show whether bf16 keeps the loss"]
    assert str(found).startswith("bf16: a step takes 0.5 s in bf16 and 1 s in float32, and after 100 steps the loss is")


@pytest.mark.parametrize(("seconds", "expected"), [(0.9, "bf16"), (0.92, "float32"), (1.0, "float32")])
def test_less_than_a_tenth_is_no_reason(seconds: float, expected: str) -> None:
    bench = Bench(bf16=seconds)
    assert chosen(bench).precision == expected
    assert bool(bench.run) is (expected == "bf16")


@pytest.mark.parametrize(("slower", "steps"), [(1.4, 8), (1.6, 4), (8.0, 2)])
def test_a_slow_one_is_timed_no_longer_than_needed(slower: float, steps: int) -> None:
    bench = Bench(bf16=slower)
    found = chosen(bench)
    assert (found.precision, len(bench.timed), bench.run) == ("float32", steps, [])
    assert found.losses == {}
    assert found.seconds["bf16"] > found.seconds["float32"]


def test_where_products_are_slower_no_step_is_timed() -> None:
    # A processor without the instructions takes half a minute for a step in bf16, however few are asked for.
    bench = Bench(product=1.01)
    found = chosen(bench)
    assert (found.precision, bench.timed, bench.run) == ("float32", [], [])
    assert found.why == "a matrix product takes 1.01 s in bf16 and 1 s in float32"
    assert chosen(Bench(product=0.99)).precision == "bf16"


def test_the_margin_is_two_standard_errors_of_the_last_quarter() -> None:
    """25 losses with the spread of the noise and of the slope: both by hand."""
    last = np.linspace(1, 0.5, 100)[75:] + NOISE[75:]
    margin = 2 * last.std(ddof=1) / 5
    assert margin > 0.01  # or the hundredth would be the one that counts
    for share, expected in ((0.95, "bf16"), (1.05, "float32")):
        found = chosen(Bench(worse=share * margin))
        assert found.precision == expected
        assert found.margin == pytest.approx(margin)
        assert dict(found.losses) == pytest.approx({"float32": last.mean(), "bf16": last.mean() + share * margin})
        assert ("not within" in found.why) is (expected == "float32")


def test_a_loss_that_has_come_to_nothing_has_a_hundredth_of_its_beginning() -> None:
    class Quiet(Bench):
        def losses(self, precision: Precision, steps: int) -> Sequence[float]:
            return [2.0] * (steps // 2) + [self.worse if precision == "bf16" else 0.0] * (steps - steps // 2)

    assert chosen(Quiet(worse=0.019)).precision == "bf16"
    assert chosen(Quiet(worse=0.021)).precision == "float32"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_without_an_end_is_not_kept_and_can_be_stored(bad: float) -> None:
    found = chosen(Bench(worse=bad))
    assert found.precision == "float32"
    json.dumps(found.as_dict(), allow_nan=False)


@pytest.mark.parametrize(
    "failure", [NonFiniteFailure("The loss is nan."), OutOfMemoryFailure("too little"), RuntimeError("no kernel")]
)
def test_what_bf16_cannot_do_leaves_float32(failure: Exception) -> None:
    class Failing(Bench):
        def losses(self, precision: Precision, steps: int) -> Sequence[float]:
            if precision == "bf16":
                raise failure
            return super().losses(precision, steps)

    found = chosen(Failing())
    assert (found.precision, found.why) == ("float32", f"the measurement failed: {failure}")


@pytest.mark.parametrize(
    ("planned", "a_run", "timed", "steps"),
    [
        (4000, 200, True, 100),
        (3999, 200, True, 99),  # a twentieth, for both
        (800, 200, True, 20),
        (799, 200, False, 0),
        (10_000, 30, True, 30),
        (10_000, 8, True, 8),
        (10_000, 7, False, 0),
        (6, 2, False, 0),
    ],
)
def test_no_more_is_measured_than_a_share_of_the_search(planned: int, a_run: int, timed: bool, steps: int) -> None:
    bench = Bench()
    found = chosen(bench, planned=planned, a_run=a_run)
    assert (bool(bench.timed), found.steps) == (timed, steps)
    assert len(bench.timed) <= 0.01 * planned
    assert sum(n for _, n in bench.run) <= 0.05 * planned
    if not timed:
        assert found.precision == "float32"
        assert "too few to measure" in found.why


def test_what_is_stored_is_read_again() -> None:
    found = chosen(Bench())
    facts = {PRECISION: json.loads(json.dumps(found.as_dict()))}
    assert choice_from(lambda name: facts.get(name)) == found
    assert choice_from(lambda name: None) is None


@pytest.fixture(scope="module")
def session(case: Case) -> Session:
    return Session.build(case.settings(recipe={"steps": 30, "batch_size": 8, "max_length": 16, "warmup": 0.1}))


def ticking(*seconds: float) -> Callable[[], float]:
    return itertools.accumulate(itertools.chain(*((0.0, second) for second in seconds))).__next__


def test_the_bench_times_a_step_of_a_typical_batch(session: Session) -> None:
    before = torch.get_rng_state()
    bench = StepBench(session.evaluator, middle(session.space), 1, ticking(0.25, 0.5))
    assert [bench.seconds("float32"), bench.seconds("bf16")] == [0.25, 0.5]
    # Of five products the quickest counts.
    bench = StepBench(session.evaluator, middle(session.space), 1, ticking(0.5, 0.25, 0.75, 0.5, 0.5))
    assert bench.product("bf16") == 0.25
    bench = StepBench(session.evaluator, middle(session.space), 1)
    assert torch.equal(torch.get_rng_state(), before)
    batch, lengths = bench._batch(), np.sort(session.evaluator.train_part.lengths)
    assert len(batch.indices) == 8
    assert batch.inputs["input_ids"].shape[1] == lengths[16 - 4 : 16 + 4].max()


def test_the_bench_runs_a_training_and_tells_every_loss(session: Session) -> None:
    """Their mean is what the training itself says; what is in bf16 is near, but not the same."""
    architecture = middle(session.space)
    bench = StepBench(session.evaluator, architecture, 1)
    full, half = bench.losses("float32", 20), bench.losses("bf16", 20)
    with session.evaluator.with_recipe(steps=20, evaluate_every=100.0).trained(architecture, 1) as run:
        (epoch,) = run.fitted.history
    assert len(full) == len(half) == 20
    assert sum(full) / 20 == pytest.approx(epoch.loss, rel=1e-5)
    assert full != half
    assert half == pytest.approx(full, abs=0.02)


def test_nothing_is_trained_in_an_open_precision(session: Session) -> None:
    with pytest.raises(SettingsError, match="'auto' is chosen by a search"):
        session.evaluator.with_recipe(**vars(Recipe(precision="auto")))
