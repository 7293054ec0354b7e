"""Candidates in one pass end with what they end with one by one: every method, in double precision, with dropout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from unittest import mock

import pytest
import torch

import tiny
from autopeft import methods
from autopeft.architecture import Architecture, Placement
from autopeft.backbones import Backbone
from autopeft.candidate import Candidate, Changes
from autopeft.errors import NonFiniteFailure, OutOfMemoryFailure, TrialFailure
from autopeft.objective import Measurement
from autopeft.tasks._task import Task
from autopeft.training.evaluator import Evaluator
from autopeft.training.recipe import Recipe
from autopeft.training.together import Together, passes

QUICK = Recipe(learning_rate=3e-3, steps=3, batch_size=8, max_length=16, evaluate_every=0.5, dropout=0.1)
IN_WORDS = Task("tiny/words", "classification", ("text",), ("bad", "good"), verbalisers=("bad", "good"))


def evaluator(family: str = "bert", **changes: Any) -> Evaluator:
    """In double precision, heads included, and with a task that the family can be put to."""
    found = tiny.backbone(family, with_tokenizer=True)
    found.model.double()
    task = IN_WORDS if found.family.is_text_to_text else tiny.SENTIMENT
    made = Evaluator(found, task, tiny.splits(tiny.sentiment(32), tiny.sentiment(16, seed=1)), QUICK)
    return made.with_recipe(**changes)


@pytest.fixture(autouse=True)
def _double() -> Any:
    """What is added is made in double precision, too."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def trained(made: Evaluator, candidates: list[Candidate], seed: int = 3, **options: Any) -> list[Any]:
    """The state and the fit of each, or its failure, trained in one pass."""
    under = [made.with_recipe(**vars(candidate.recipe_for(made.recipe))) for candidate in candidates]
    with Together(under, [candidate.architecture for candidate in candidates], seed, **options) as together:
        found: list[Any] = []
        for place, fitted in enumerate(together.train()):
            if isinstance(fitted, TrialFailure):
                found.append(fitted)
                continue
            with together.alone(place) as attached:
                found.append((kept(made, attached.state()), fitted))
    return found


def kept(made: Evaluator, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    head = {name: value for name, value in made.learner.model.named_parameters() if name.startswith("head.")}
    return {name: value.detach().clone() for name, value in {**state, **head}.items()}


def alone(made: Evaluator, candidate: Candidate, seed: int = 3) -> Any:
    with made.trained(candidate, seed) as run:
        return kept(made, run.attached.state()), run.fitted


def same(first: Any, second: Any) -> None:
    assert first[0].keys() == second[0].keys()
    for name, value in first[0].items():
        torch.testing.assert_close(value, second[0][name], rtol=1e-9, atol=1e-9)
    assert (first[1].steps, first[1].kept) == (second[1].steps, second[1].kept)
    for one, other in zip(first[1].history, second[1].history, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-9)
        assert (one.step, one.metrics) == (other.step, other.metrics)


def upper(found: Backbone, method: str, size: int) -> Architecture:
    """`method` above the first layer."""
    placed = tiny.everywhere(found, method, size)
    return Architecture(tuple(p for p in placed if p.site.split(".")[1] != "0"))


FEW = ("lora", "prefix", "serial_gated", "adamix")
CASES = [
    pytest.param(family, name, marks=() if family == "bert" or name in FEW else pytest.mark.slow)
    for family in ("bert", "t5", "llama")
    for name in tiny.fitting(family)
    if methods.lookup(name).seam != "backbone"
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "method"), CASES)
def test_every_method_ends_with_what_it_ends_with_alone(family: str, method: str) -> None:
    made = evaluator(family)
    found = made.backbone
    several = [
        Candidate(upper(found, method, 3)),
        Candidate(tiny.everywhere(found, method, 2), Changes(rate_factor=2.0)),
        Candidate(upper(found, "lora", 2), Changes(rate_factors=(("lora", 3.0),))),
    ]
    sees_padding = methods.lookup(method).sees_padding
    places = passes(found, [c.architecture for c in several], [made.recipe] * 3, [3] * 3, 3)
    assert sorted(map(sorted, places)) == ([[0, 1], [2]] if sees_padding else [[0, 1, 2]])
    chosen = several[:2] if sees_padding else several
    for candidate, given in zip(chosen, trained(made, chosen), strict=True):
        same(given, alone(made, candidate))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "t5"])
@pytest.mark.parametrize(
    "changes",
    [
        {"has_trunk": False},
        {"consistency": 0.5},
        {"drop_layers": 2, "steps": 6},
        {"gradient_checkpointing": True},
        {"dropout": None, "precision": "bf16"},
        {"keep": "last", "warmup": 0.5, "clip": 0.0, "weight_decay": 0.1},
    ],
    ids=str,
)
def test_every_recipe_gives_what_it_gives_alone(family: str, changes: dict[str, Any]) -> None:
    options = {"has_trunk": changes.pop("has_trunk")} if "has_trunk" in changes else {}
    made = evaluator(family, **changes)
    several = [Candidate(upper(made.backbone, name, 2)) for name in ("adamix", "prefix")]
    for candidate, given in zip(several, trained(made, several, **options), strict=True):
        same(given, alone(made, candidate))


def test_one_that_stops_early_or_fails_leaves_the_others_as_they_were() -> None:
    made = evaluator(steps=60, patience=1, evaluate_every=1)
    several = [
        Candidate(upper(made.backbone, "lora", 2)),
        Candidate(upper(made.backbone, "serial", 2), Changes(learning_rate=1e200)),
        Candidate(upper(made.backbone, "serial", 2), Changes(learning_rate=1e-12)),
        Candidate(upper(made.backbone, "prefix", 2)),
    ]
    found = trained(made, several)
    assert isinstance(found[1], NonFiniteFailure)
    assert found[2][1].steps < 60
    for place in (0, 2, 3):
        same(found[place], alone(made, several[place]))
    measured = made.measure_all(several, [3] * 4, batch=4)
    assert [type(item) for item in measured] == [Measurement, NonFiniteFailure, Measurement, Measurement]
    assert made.backbone.occupant is None


def without_times(item: Any) -> Any:
    history = [(point.step, point.metrics, pytest.approx(point.loss, rel=1e-9)) for point in item.history]
    extra = {name: value for name, value in item.extra.items() if name not in ("train_seconds", "together")}
    return item.metrics, item.counts, history, extra


def test_measured_in_passes_is_measured_one_by_one() -> None:
    """Whatever cannot share a pass has one of its own, and everything comes back in order."""
    made = evaluator()
    lora, prefix = upper(made.backbone, "lora", 2), upper(made.backbone, "prefix", 2)
    several = [prefix, Architecture((Placement("model", "full", 1),)), Candidate(lora, Changes(rate_factor=2)), lora]
    several += [tiny.everywhere(made.backbone, "lora_gated"), lora, Architecture()]
    seeds = [3, 3, 3, 3, 3, 4, 3]
    steps: list[tuple[int, int]] = []
    at_once = made.measure_all(several, seeds, lambda *done: steps.append(done), batch=3)
    one_by_one = made.measure_all(several, seeds)
    assert [without_times(item) for item in at_once] == [without_times(item) for item in one_by_one]
    together = [item.extra.get("together") for item in at_once if isinstance(item, Measurement)]
    assert sorted(together, key=str) == [3, 3, 3, None, None, None, None]
    assert len(steps) == 5 * 3


def test_a_pass_without_memory_is_done_in_halves() -> None:
    made = evaluator()
    several = [upper(made.backbone, name, 2) for name in ("lora", "serial", "prefix", "parallel")]
    expected = [without_times(item) for item in made.measure_all(several, [3] * 4)]
    tried: list[int] = []
    train = Together.train

    def short(self: Together, *args: Any) -> Any:
        tried.append(len(self.shares.members))
        if tried[-1] > 1:
            raise MemoryError("no room")
        return train(self, *args)

    with mock.patch.object(Together, "train", short):
        found = made.measure_all(several, [3] * 4, batch=4)
    assert tried == [4, 2, 2]
    assert [without_times(item) for item in found] == expected
    assert not any(isinstance(item, OutOfMemoryFailure) for item in found)
