"""Hidden states kept below everything that is trained: what is learnt is the same, and stale ones are not used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

import tiny
from autopeft.architecture import Architecture, Placement
from autopeft.errors import SettingsError
from autopeft.network import trunk
from autopeft.training import trunks
from autopeft.training.checkpoint import Checkpoints
from autopeft.training.evaluator import Evaluator
from autopeft.training.recipe import Recipe
from autopeft.training.together import Together, trunk_depth

RECIPE = Recipe(
    learning_rate=3e-3, epochs=2, batch_size=8, max_length=16, evaluate_every=1, dropout=0.2, trunk_dropout=False
)
ONE_STACK = ("bert", "distilbert", "modernbert", "mpnet", "gpt2", "llama")


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def evaluator(family: str = "bert", **changes: Any) -> Evaluator:
    backbone = tiny.backbone(family, with_tokenizer=True)
    backbone.model.double()
    made = Evaluator(backbone, tiny.SENTIMENT, tiny.splits(tiny.sentiment(32), tiny.sentiment(16, seed=1)), RECIPE)
    return made.with_recipe(**changes)


def upper(made: Evaluator, layer: int = 2) -> Architecture:
    (stack,) = made.backbone.family.stacks
    return Architecture((Placement(f"{stack}.{layer}.ffn", "parallel", 4),))


def learnt(made: Evaluator, architecture: Architecture) -> dict[str, Tensor]:
    with made.trained(architecture, 3) as run:
        head = {name: value for name, value in made.learner.model.named_parameters() if name.startswith("head.")}
        return {name: value.detach().clone() for name, value in (head | run.attached.state()).items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.allclose(one[name], other[name], rtol=0, atol=1e-9) for name in one)


@pytest.mark.parametrize("family", ONE_STACK)
def test_what_is_learnt_on_kept_hidden_states_is_what_is_learnt_without(family: str) -> None:
    made = evaluator(family)
    with mock.patch.object(trunks, "captured", wraps=trunk.captured) as computed:
        kept = learnt(made, upper(made))
        passes = computed.call_count
        assert passes == 1  # 32 examples, once for both epochs
        assert same(learnt(made, upper(made)), kept)  # and for the next trial
        assert computed.call_count == passes
    made.trunks = trunks.Trunks(0, 0)
    assert same(learnt(made, upper(made)), kept)
    # With dropout below it is another training, so that nothing above is a comparison of a thing with itself.
    assert not same(learnt(made.with_recipe(trunk_dropout=True), upper(made)), kept)


def test_layers_of_the_trunk_compute_nothing_in_training() -> None:
    made, seen = evaluator(), list[bool]()
    first = made.backbone.module("encoder.layer.0.attention")
    learnt(made, upper(made))
    handle = first.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    learnt(made, upper(made))
    handle.remove()
    assert seen
    assert not any(seen)  # evaluations alone


def test_candidates_in_one_pass_learn_what_they_learn_alone() -> None:
    made = evaluator()
    architectures = [upper(made), Architecture((Placement("encoder.2.q", "lora", 2),))]
    alone = [learnt(made, architecture) for architecture in architectures]
    with Together([made, made], architectures, 3) as together:
        together.train()
        for place, wanted in enumerate(alone):
            with together.alone(place) as attached:
                assert same(attached.state(), {name: wanted[name] for name in attached.state()})
    # Another lowest layer is another dropout, and so another pass.
    measured = made.measure_all([*architectures, upper(made, 1)], [3, 3, 3], batch=3)
    assert [item.extra.get("together") for item in measured] == [2, 2, None]  # type: ignore[union-attr]


@pytest.mark.parametrize(("memory", "disk"), [(10**6, 0), (0, 10**6)])
def test_what_does_not_fit_makes_room_or_is_computed(memory: int, disk: int) -> None:
    made = evaluator()
    store = made.trunks = trunks.Trunks(memory, disk)
    of = lambda depth: store.of(made.backbone, made.learner, made.train_part, made.recipe, depth)  # noqa: E731
    first = of(1)
    assert first is not None
    assert first.is_mapped == (memory == 0)
    assert torch.equal(of(1).flat, first.flat)
    # Room for one and a half: the second takes the place of the first.
    made.trunks = store = trunks.Trunks(memory and first.n_bytes * 3 // 2, disk and first.n_bytes * 3 // 2)
    assert of(1) is of(1)
    assert of(2) is not None
    assert list(store._held) == [key for key in store._held if key[0] == 2]
    store = trunks.Trunks(memory and first.n_bytes - 1, disk and first.n_bytes - 1)
    assert of(1) is None


def test_what_is_stale_is_dropped() -> None:
    made = evaluator()
    before = learnt(made, upper(made))
    with torch.no_grad():
        made.backbone.module("encoder.layer.0").get_submodule("attention.output.dense").weight.mul_(3)
    after = learnt(made, upper(made))
    assert not same(after, before)
    made.trunks = trunks.Trunks(0, 0)
    assert same(learnt(made, upper(made)), after)


def test_a_run_that_is_resumed_elsewhere_ends_bit_for_bit_as_the_uninterrupted(tmp_path: Any) -> None:
    whole = learnt(evaluator(), upper(evaluator()))

    class Stop(BaseException):
        pass

    def stop(done: int, planned: int) -> None:
        if done == 5:
            raise Stop

    stopped = evaluator().with_checkpoints(Checkpoints(tmp_path))
    with pytest.raises(Stop), stopped.trained(upper(stopped), 3, stop):
        pass
    found = learnt(evaluator().with_checkpoints(Checkpoints(tmp_path)), upper(stopped))
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_the_trunk_ends_below_the_lowest_module_and_before_the_last_layer() -> None:
    backbone = tiny.backbone("bert")
    low, high = Placement("encoder.1.ffn", "parallel", 4), Placement("encoder.2.ffn", "parallel", 4)
    assert trunk_depth(backbone, [Architecture((high,)), Architecture((low, high))]) == 1
    assert trunk_depth(backbone, [Architecture(())]) == 2  # of three layers
    assert trunk_depth(backbone, [Architecture((Placement("model", "full", 1),))]) == 0


def test_models_without_one_trunk_are_refused() -> None:
    backbone = tiny.backbone("t5", with_tokenizer=True)
    splits = tiny.splits(tiny.sentiment(8), tiny.sentiment(8, seed=1))
    task = tiny.SENTIMENT.__class__(
        "tiny/words", "classification", ("text",), ("bad", "good"), verbalisers=("bad", "good")
    )
    with pytest.raises(SettingsError, match=r"one stack of layers, but .*encoder, decoder.* TextToTextLearner"):
        Evaluator(backbone, task, splits, RECIPE)
