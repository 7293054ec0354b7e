"""Resumed equals uninterrupted, bit for bit, for every sampler and every search: a new member is tested unedited."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tiny
from autopeft.architecture import Architecture
from autopeft.objective import Measurement
from autopeft.samplers import Sampler, build, lookup, names
from autopeft.samplers.random import initial_design
from autopeft.spaces import papers as spaces
from autopeft.spaces.lattice import SearchSpace
from autopeft.training.evaluator import Evaluator
from autopeft.training.recipe import Recipe
from formulas import formula, made
from lattice import autopeft_space

READERS = tuple(name for name in names() if lookup(name).reads_trials)
SEARCHES = tuple(name for name in names() if not lookup(name).reads_trials)

Evaluate = Callable[[Architecture, int], Measurement]


class Interrupted(BaseException):
    """Stands for a machine that is taken away: nobody catches it."""


# -- samplers that read trials ---------------------------------------------------------------------------------


def small_space() -> SearchSpace:
    return autopeft_space(3, 48, sizes=(0, 1, 6, 48))


def interrupted_in(n: int) -> Evaluate:
    """The formula, which does not come back from its n-th call."""
    left = [n]

    def evaluate(architecture: Architecture, seed: int) -> Measurement:
        left[0] -= 1
        if not left[0]:
            raise Interrupted
        return formula(architecture, seed)

    return evaluate


def measured(path: Path, name: str, evaluates: list[Evaluate]) -> list[tuple[Any, ...]]:
    """What a study of eight trials consists of, each part of which is done by a process of its own."""
    space = small_space()
    initial = initial_design(space, 4, 5)
    for evaluate in evaluates:
        with made(path, space) as study:
            try:
                study.run(evaluate, build(name, space, 7), 8, initial)
            except Interrupted:
                assert evaluate is not evaluates[-1]
    with made(path, space) as study:
        complete = [trial for trial in study.trials() if trial.is_complete]
    return [(trial.configuration, trial.origin, trial.measurement) for trial in complete]


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_study_in_three_parts_is_the_one_in_one(name: str, tmp_path: Path) -> None:
    """Interruptions in the initial design and among the sampler's own proposals; each gives a trial back."""
    whole = measured(tmp_path / "whole.db", name, [formula])
    assert [origin for _, origin, _ in whole] == ["initial"] * 5 + [name] * 3
    assert measured(tmp_path / "parts.db", name, [interrupted_in(3), interrupted_in(5), formula]) == whole


# -- searches that train ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    parts = tiny.splits(tiny.sentiment(64), tiny.sentiment(16, seed=1))
    recipe = Recipe(steps=6, batch_size=8, max_length=16, learning_rate=3e-3)
    return Evaluator(tiny.backbone("bert", with_tokenizer=True), tiny.SENTIMENT, parts, recipe)


@contextmanager
def passes(evaluator: Evaluator, most: int | None = None) -> Iterator[list[int]]:
    """Count the passes through the backbone within the block; the one after `most` does not come back."""
    count = [0]

    def hook(*_: object) -> None:
        if count[0] == most:
            raise Interrupted
        count[0] += 1

    handle = evaluator.backbone.model.register_forward_pre_hook(hook)
    try:
        yield count
    finally:
        handle.remove()


def search(evaluator: Evaluator, name: str, folder: Path) -> Sampler:
    options = {"evaluator": evaluator, "budgets": (600,), "checkpoint": folder, "checkpoint_every": 2}
    return build(name, spaces.named("S2", evaluator.backbone), 3, options)


def kept(folder: Path) -> dict[str, Any]:
    """What a search leaves in its folder, without the times."""
    found: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".json":
            found[path.name] = {k: v for k, v in json.loads(path.read_text()).items() if k != "seconds"}
        else:
            found |= {f"{path.name} {key}": value for key, value in load_file(path).items()}
    return found


def is_equal(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_in_three_parts_is_the_one_in_one(name: str, evaluator: Evaluator, tmp_path: Path) -> None:
    """Interruptions after a third and after two thirds of the passes; tensors and answers are the same to the bit."""
    with passes(evaluator) as count:
        expected = search(evaluator, name, tmp_path / "whole").ask([])
    for most in [count[0] // 3] * 2 if count[0] else []:  # some need no pass through the model
        with passes(evaluator, most), pytest.raises(Interrupted):
            search(evaluator, name, tmp_path / "parts").ask([])
        assert evaluator.backbone.occupant is None
    assert search(evaluator, name, tmp_path / "parts").ask([]) == expected
    whole, parts = kept(tmp_path / "whole"), kept(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert [name for name, value in whole.items() if not is_equal(value, parts[name])] == []
