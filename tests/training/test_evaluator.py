"""The evaluator on tiny models: what it measures, that it learns, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from autopeft.architecture import Architecture, Placement
from autopeft.backbones import Backbone
from autopeft.candidate import Candidate, Changes
from autopeft.errors import ArchitectureError, DataError, NonFiniteFailure, SettingsError, UnknownNameError
from autopeft.network.attach import attach
from autopeft.network.build import count
from autopeft.objective import Measurement
from autopeft.saved.save import Described, load, save
from autopeft.tasks._examples import Examples
from autopeft.tasks._task import Task
from autopeft.training.batches import collate
from autopeft.training.evaluator import Evaluator
from autopeft.training.heads import Head, head_parameters, loss_of, pooled
from autopeft.training.learners import EncoderLearner, learner_for
from autopeft.training.memory import Memory
from autopeft.training.recipe import Recipe
from autopeft.training.retraining import baseline
from tiny import LEADS, SENTIMENT, backbone, everywhere, fitting, output, sentiment, splits

SERIAL = Architecture((Placement("encoder.0.ffn", "serial", 4),))
MIXED = Architecture((Placement("encoder.0.ffn", "serial", 4), Placement("encoder.1.kv", "prefix", 2)))
QUICK = Recipe(epochs=1, batch_size=8, learning_rate=1e-3)


def evaluator(recipe: Recipe = QUICK, n: int = 24, model_type: str = "bert", **changes: Any) -> Evaluator:
    found = backbone(model_type, with_tokenizer=True, **changes)
    return Evaluator(found, SENTIMENT, splits(sentiment(n), sentiment(16, seed=1)), recipe)


def test_a_measurement_has_all_that_was_promised() -> None:
    made = evaluator(replace(QUICK, epochs=2))
    found = made(MIXED, seed=0)
    assert found.objective == "accuracy"
    assert 0 <= found.metrics["accuracy"] <= 1
    assert found.counts == count(made.backbone, MIXED, head_parameters(32, 2)) == made.counts(MIXED)
    assert found.seconds > 0
    assert found.latency > 0
    assert found.peak_memory > 10_000_000  # bytes; the interpreter with torch is larger
    assert found.split == "validation"
    assert [epoch.step for epoch in found.history] == [3, 6]
    assert found.value == max(epoch.metrics["accuracy"] for epoch in found.history)
    assert found.extra["n_train"] == 24
    assert found.extra["n_scored"] == 16
    assert found.extra["steps"] == 6
    assert found.extra["learning_rate"] == 1e-3
    assert 0 < found.extra["train_seconds"] <= found.seconds
    assert Measurement.from_dict(json.loads(json.dumps(found.as_dict()))) == found


def without_times(found: Measurement) -> list[tuple[float, dict[str, float]]]:
    return [(epoch.loss, dict(epoch.metrics)) for epoch in found.history]


def test_the_same_seed_gives_the_same_history_and_another_does_not() -> None:
    made = evaluator(replace(QUICK, epochs=2), hidden_dropout_prob=0.1)
    torch.manual_seed(1)
    first = without_times(made(MIXED, seed=3))
    torch.manual_seed(2)
    made(SERIAL, seed=9)
    assert without_times(made(MIXED, seed=3)) == first
    assert without_times(evaluator(replace(QUICK, epochs=2), hidden_dropout_prob=0.1)(MIXED, seed=3)) == first
    assert without_times(made(MIXED, seed=4)) != first


def test_the_global_generator_is_left_as_it_was() -> None:
    made = evaluator()
    before = torch.random.get_rng_state()
    made(MIXED, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", LEADS)
def test_every_method_can_be_measured_on_every_family_and_goes_again(model_type: str) -> None:
    recipe = Recipe(steps=1, batch_size=4, learning_rate=1e-4)
    made = evaluator(recipe, n=8, model_type=model_type)
    state = {name: value.clone() for name, value in made.backbone.model.state_dict().items()}
    plain = output(made.backbone)
    for method in fitting(model_type):
        found = made(everywhere(made.backbone, method, 2), seed=0)
        assert np.isfinite(found.value), method
    assert torch.equal(output(made.backbone), plain)
    assert all(torch.equal(value, state[name]) for name, value in made.backbone.model.state_dict().items())


@pytest.mark.parametrize("model_type", ["bert", pytest.param("llama", marks=pytest.mark.slow)])
def test_a_separable_task_is_learnt(model_type: str) -> None:
    """One word decides; saying always the same gives 0.5."""
    recipe = Recipe(epochs=10, batch_size=16, learning_rate=5e-3)
    found = backbone(model_type, with_tokenizer=True)
    made = Evaluator(found, SENTIMENT, splits(sentiment(256), sentiment(64, seed=1)), recipe)
    placed = (*everywhere(found, "lora", 4), *everywhere(found, "serial", 8))
    assert made(Architecture(placed), seed=0).value > 0.9


def test_nan_is_a_typed_failure_and_the_backbone_is_as_before() -> None:
    made = evaluator(Recipe(epochs=2, batch_size=8, learning_rate=1e30, clip=0.0))
    plain = output(made.backbone)
    for architecture in (SERIAL, Architecture((Placement("model", "full", 1),))):
        with pytest.raises(NonFiniteFailure):
            made(architecture, seed=0)
        assert made.backbone.occupant is None
        assert not made.backbone.model.training  # no dropout for whoever comes next
        assert torch.equal(output(made.backbone), plain)
        assert all(parameter.grad is None for parameter in made.backbone.model.parameters())


def test_the_fraction_of_the_data_is_fixed_across_architectures() -> None:
    made = evaluator(replace(QUICK, data_fraction=0.25), n=40)
    assert made.n_train == 10
    again = evaluator(replace(QUICK, data_fraction=0.25), n=40)
    assert made._train.tokens.flat.tolist() == again._train.tokens.flat.tolist()
    data = splits(sentiment(40), sentiment(16, seed=1))
    other = Evaluator(made.backbone, SENTIMENT, data, made.recipe, data_seed=1)
    assert other._train.tokens.flat.tolist() != made._train.tokens.flat.tolist()
    assert made(SERIAL, seed=0).extra["n_train"] == made(MIXED, seed=1).extra["n_train"] == 10


def test_another_recipe_shares_what_was_encoded_unless_it_must_not() -> None:
    made = evaluator()
    faster = made.with_recipe(learning_rate=5e-4)
    assert faster._train is made._train
    assert faster.recipe.learning_rate == 5e-4
    assert made.recipe.learning_rate == 1e-3
    assert made.with_recipe(data_fraction=0.5).n_train == 12
    assert made.with_recipe(max_length=8)._train is not made._train


def test_what_is_inside_the_context_is_trained_and_folded() -> None:
    made = evaluator()
    plain = output(made.backbone)
    with made.trained(MIXED, seed=0) as run:
        assert not torch.equal(output(made.backbone), plain)
        assert sum(value.numel() for value in run.attached.state().values()) == made.counts(MIXED).stored
        held_out = run.measure("test", sentiment(12, seed=7))
        assert (held_out.split, held_out.extra["n_scored"]) == ("test", 12)
        assert run.measure().value == made.score(made._encoded_validation, made._validation)["accuracy"]
    assert torch.equal(output(made.backbone), plain)


def test_progress_reaches_the_caller() -> None:
    told = list[tuple[int, int]]()
    evaluator()(SERIAL, 0, lambda done, planned: told.append((done, planned)))
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("changes", [{"gradient_checkpointing": True}, {"precision": "bf16"}])
def test_saving_memory_changes_little(changes: dict[str, Any]) -> None:
    made = evaluator(replace(QUICK, epochs=2))
    hooks = [len(module._forward_hooks) for module in made.backbone.model.modules()]
    plain = made(MIXED, seed=0)
    saved = made.with_recipe(**changes)(MIXED, seed=0)
    tolerance = 1e-5 if "gradient_checkpointing" in changes else 3e-2
    assert saved.history[-1].loss == pytest.approx(plain.history[-1].loss, abs=tolerance)
    assert [len(module._forward_hooks) for module in made.backbone.model.modules()] == hooks
    assert without_times(made(MIXED, seed=0)) == without_times(plain)


def test_the_head_alone_is_an_architecture() -> None:
    made = evaluator()
    found = made(Architecture(), seed=0)
    assert found.counts.nominal == found.counts.stored == 0
    assert found.counts.trained == 32 * 32 + 32 + 32 * 2 + 2


def test_outputs_come_in_the_order_of_the_examples() -> None:
    made = evaluator()
    held = made._encoded_validation
    with made.trained(SERIAL, seed=0):
        together = made.outputs(held)
        small = made.with_recipe(batch_size=1).outputs(held)
    assert len(together) == 16
    np.testing.assert_allclose(np.stack(together), np.stack(small), atol=1e-5)


# -- other kinds of task -----------------------------------------------------------------------------------


def choices(n: int, seed: int) -> Examples:
    """Two to four candidates; the right one holds ``good``."""
    rng = np.random.default_rng(seed)
    candidates, labels = [], []
    for _ in range(n):
        size = int(rng.integers(2, 5))
        right = int(rng.integers(size))
        word = [f"w{number}" for number in rng.integers(1, 80, size=size)]
        candidates.append(tuple((f"w1 {word[i]}", "good" if i == right else "bad") for i in range(size)))
        labels.append(right)
    return Examples(np.array(labels, dtype=np.int64), choices=candidates)


@pytest.mark.slow
def test_multiple_choice_is_learnt() -> None:
    """Two to four choices; saying always the first is right for about a third."""
    task = Task("tiny/choices", "multiple_choice", ("premise", "choice"))
    found = backbone(with_tokenizer=True)
    recipe = Recipe(epochs=12, batch_size=16, learning_rate=5e-3)
    made = Evaluator(found, task, splits(choices(128, 0), choices(48, 1), task.kind), recipe)
    placed = (*everywhere(found, "lora", 4), *everywhere(found, "serial", 8))
    measured = made(Architecture(placed), seed=0)
    assert measured.value > 0.9
    assert measured.counts.trained == made.counts(Architecture(placed)).stored + head_parameters(32, 1)


def test_texts_are_cut_where_the_model_s_positions_end() -> None:
    long = Examples(np.array([0, 1]), texts=[("good w1 " * 60,), ("bad w2 " * 60,)])
    for family, most in (("bert", 64), ("roberta", 63)):  # RoBERTa begins after the position of padding
        found = backbone(family, with_tokenizer=True)
        assert found.n_positions == most
        learner = EncoderLearner(found, SENTIMENT)
        learner.tokenizer.model_max_length = int(1e30)  # as where a checkpoint does not say
        assert len(learner.encode(long, 128).tokens[0]) == most
    assert backbone("t5").n_positions is None


def test_nothing_to_train_is_said() -> None:
    found = backbone("t5", with_tokenizer=True)
    made = Evaluator(found, SENTIMENT, splits(sentiment(8), sentiment(4)), QUICK)
    with pytest.raises(ArchitectureError, match="nothing to train"):
        made(Architecture(()), seed=0)


def test_scores_of_choices_have_the_length_of_their_example() -> None:
    task = Task("tiny/choices", "multiple_choice", ("premise", "choice"))
    held = choices(10, 3)
    made = Evaluator(backbone(with_tokenizer=True), task, splits(choices(8, 0), held, task.kind), QUICK)
    rows = made.outputs(made._encoded_validation)
    assert [len(row) for row in rows] == [len(own) for own in held.choices]


def test_choices_that_an_example_does_not_have_count_nothing_in_the_loss() -> None:
    task = Task("tiny/choices", "multiple_choice", ("premise", "choice"))
    learner = EncoderLearner(backbone(with_tokenizer=True), task)
    learner.model.eval()
    held = choices(6, 3)
    assert len({len(own) for own in held.choices}) > 1
    batch = collate(learner.encode(held, 64), np.arange(6), learner.pad, torch.device("cpu"))
    with torch.no_grad():
        scores = [torch.tensor(row) for row in learner.outputs(batch)]
        wanted = sum(-row.log_softmax(0)[label] for row, label in zip(scores, held.labels, strict=True)) / 6
        torch.testing.assert_close(learner.forward(batch).loss, wanted)


def numbers(n: int, seed: int) -> Examples:
    """How often ``good`` occurs among four words."""
    rng = np.random.default_rng(seed)
    hits = rng.integers(0, 5, size=n)
    texts = [(" ".join(rng.permutation(["good"] * hit + ["bad"] * (4 - hit))),) for hit in hits]
    return Examples(hits.astype(np.float64), texts=texts)


def test_regression_is_learnt() -> None:
    """Spearman's correlation; a constant gives 0."""
    task = Task("tiny/numbers", "regression", ("text",), metrics=("spearman", "pearson"))
    found = backbone(with_tokenizer=True)
    recipe = Recipe(epochs=12, batch_size=16, learning_rate=5e-3)
    made = Evaluator(found, task, splits(numbers(128, 0), numbers(48, 1), task.kind), recipe)
    measured = made(everywhere(found, "serial", 8), seed=0)
    assert measured.objective == "spearman"
    assert measured.value > 0.9
    assert measured.metrics.keys() == {"spearman", "pearson"}


# -- heads and learners ------------------------------------------------------------------------------------


def test_the_head_is_the_one_of_the_release() -> None:
    torch.manual_seed(0)
    head = Head(8, 3).eval()
    hidden = torch.randn(4, 8)
    wanted = torch.tanh(hidden @ head.dense.weight.T + head.dense.bias) @ head.out.weight.T + head.out.bias
    torch.testing.assert_close(head(hidden), wanted)
    assert sum(parameter.numel() for parameter in head.parameters()) == head_parameters(8, 3) == 64 + 8 + 24 + 3
    assert not head.dense.bias.any()
    large = Head(200, 200)
    # 40,000 draws of N(0, 0.02²): the standard error of the deviation is 0.02 / sqrt(80,000) = 7e-5; ten of them.
    assert large.dense.weight.std().item() == pytest.approx(0.02, abs=7e-4)


def test_pooling_reads_the_first_token_or_the_last_that_is_no_padding() -> None:
    hidden = torch.arange(16.0).view(2, 4, 2)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    assert pooled(hidden, mask, "first").tolist() == [[0, 1], [8, 9]]
    assert pooled(hidden, mask, "last").tolist() == [[6, 7], [12, 13]]
    assert pooled(hidden, None, "last").tolist() == [[6, 7], [14, 15]]
    left = torch.tensor([[0, 1, 1, 1], [0, 0, 0, 1]])
    assert pooled(hidden, left, "last").tolist() == [[6, 7], [14, 15]]


def test_losses_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [0.0, np.log(3.0)]])
    assert float(loss_of(logits, torch.tensor([0, 1]), "classification")) == pytest.approx(
        (np.log(2) + np.log(4 / 3)) / 2
    )
    assert float(loss_of(torch.tensor([[1.0], [3.0]]), torch.tensor([2.0, 5.0]), "regression")) == pytest.approx(2.5)
    padded = torch.tensor([[0.0, 0.0, float("-inf")]])
    assert float(loss_of(padded, torch.tensor([1]), "multiple_choice")) == pytest.approx(np.log(2))


def test_a_pair_of_texts_is_joined_as_the_tokenizer_does_it() -> None:
    task = Task("tiny/pairs", "classification", ("first", "second"), label_names=("no", "yes"))
    learner = EncoderLearner(backbone(with_tokenizer=True), task)
    encoded = learner.encode(Examples(np.array([0]), texts=[("good w1", "bad")]), 128)
    words = learner.tokenizer.convert_ids_to_tokens(encoded.tokens[0].tolist())
    assert words == ["<s>", "good", "w1", "</s>", "bad", "</s>"]
    assert encoded.types is not None
    assert encoded.types[0].tolist() == [0, 0, 0, 0, 1, 1]


def test_long_texts_are_cut_to_the_limit_or_the_model_s_own() -> None:
    learner = EncoderLearner(backbone(with_tokenizer=True), SENTIMENT)
    long = Examples(np.array([0]), texts=[(" ".join(["good"] * 200),)])
    assert learner.encode(long, 10).lengths.tolist() == [10]
    assert learner.encode(long, 512).lengths.tolist() == [64]


@pytest.mark.parametrize("model_type", ["bert", "t5"])
def test_what_is_kept_of_a_long_text_is_its_beginning_or_its_end(model_type: str) -> None:
    learner = learner_for(backbone(model_type, with_tokenizer=True), SENTIMENT)
    words = [f"w{number}" for number in range(30)]
    single = Examples(np.array([0]), texts=[(" ".join(words),)])
    kept = {side: learner.encode(single, 10, side).tokens[0].tolist() for side in ("right", "left")}
    assert {side: len(ids) for side, ids in kept.items()} == {"right": 10, "left": 10}
    tokenizer = learner.backbone.tokenizer
    told = {side: tokenizer.decode(ids) for side, ids in kept.items()}
    assert ("w3" in told["right"].split(), "w29" in told["right"].split()) == (True, False)
    assert ("w3" in told["left"].split(), "w29" in told["left"].split()) == (False, True)
    assert tokenizer.truncation_side == "right"  # what others ask of it is not changed


def test_of_a_pair_the_longer_text_is_cut_on_the_side_that_was_said() -> None:
    task = Task("tiny/pairs", "classification", ("first", "second"), label_names=("no", "yes"))
    learner = EncoderLearner(backbone(with_tokenizer=True), task)
    pair = Examples(np.array([0]), texts=[(" ".join(f"w{number}" for number in range(30)), "good bad")])
    words = learner.tokenizer.convert_ids_to_tokens(learner.encode(pair, 8, "left").tokens[0].tolist())
    assert words == ["<s>", "w27", "w28", "w29", "</s>", "good", "bad", "</s>"]


def test_another_side_is_encoded_anew() -> None:
    long = Examples(np.array([0, 1]), texts=[("good " + "w1 " * 30,), ("bad " + "w1 " * 30,)])
    made = Evaluator(backbone(with_tokenizer=True), SENTIMENT, splits(long, long), Recipe(steps=1, max_length=8))
    ends = made.with_recipe(truncation_side="left")
    assert made.train_part.tokens[0].tolist() != made.train_part.tokens[1].tolist()
    assert ends.train_part.tokens[0].tolist() == ends.train_part.tokens[1].tolist()  # the word that tells them is cut


def test_without_a_tokenizer_nothing_can_be_encoded() -> None:
    with pytest.raises(DataError, match="has no tokenizer"):
        EncoderLearner(Backbone(backbone().model), SENTIMENT)


def test_a_tokenizer_without_padding_pads_with_its_end() -> None:
    found = backbone("llama", with_tokenizer=True)
    bare = type(found.tokenizer)(tokenizer_object=found.tokenizer.backend_tokenizer, eos_token="</s>")
    assert EncoderLearner(Backbone(found.model, bare), SENTIMENT).pad == 1


def test_rates_by_method() -> None:
    """A factor far below 1 leaves its method where it started, and the others move."""
    backbone = tiny.backbone("bert", with_tokenizer=True)
    recipe = Recipe(steps=5, batch_size=8, max_length=16, learning_rate=1e-2, rate_factors={"prefix": 1e-12})
    parts = tiny.splits(tiny.sentiment(24), tiny.sentiment(16, seed=1))
    evaluator, architecture = Evaluator(backbone, tiny.SENTIMENT, parts, recipe), baseline("mam:2", backbone)
    with attach(backbone, architecture, seed=3) as fresh:
        fresh.fold()
        before = {name: value.clone() for name, value in fresh.state().items()}
    with evaluator.trained(architecture, 3) as run:
        after = run.attached.state()
        moved = {name: bool((value - before[name]).abs().max() > 1e-4) for name, value in after.items()}
    assert moved == {name: "/parallel/" in name for name in before}


def test_a_rate_of_an_unknown_method_is_refused() -> None:
    backbone = tiny.backbone("bert", with_tokenizer=True)
    parts = tiny.splits(tiny.sentiment(24), tiny.sentiment(16, seed=1))
    with pytest.raises(UnknownNameError, match="prefx"):
        Evaluator(backbone, tiny.SENTIMENT, parts, Recipe(rate_factors={"prefx": 0.1}))


@pytest.mark.parametrize(("platform", "wanted"), [("linux", 7 * 1024), ("darwin", 7)])
def test_peak_memory_is_in_bytes_on_every_system(platform: str, wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(torch.device("cpu"))
    memory.is_own = False  # as where the system keeps the peak of the whole process alone
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=7))
    monkeypatch.setattr(sys, "platform", platform)
    found = memory.peak()
    monkeypatch.undo()
    assert found == wanted


PRICES = Task("tiny/prices", "regression", ("text",), metrics=("spearman", "mae", "rmse"))


def prices(n: int, seed: int) -> Examples:
    """Two kinds of houses, of 250,000 and 450,000, give or take."""
    found = sentiment(n, seed)
    noise = np.random.default_rng(seed).normal(0, 5000, n)
    return Examples(250_000 + 200_000.0 * found.labels + noise, texts=found.texts)


@pytest.mark.slow
def test_numbers_of_any_size_are_learnt_and_answered_in_their_own_unit(tmp_path: Path) -> None:
    recipe = Recipe(epochs=10, batch_size=16, learning_rate=3e-3)
    found, held = backbone(with_tokenizer=True), prices(48, 1)
    made = Evaluator(found, PRICES, splits(prices(128, 0), held, PRICES.kind), recipe)
    constant = PRICES.baseline(held)
    assert constant["mae"] > 90_000
    with made.trained(everywhere(found, "lora", 4), seed=0) as run:
        measured = run.measure()
        given = made.learner.model.eval()(**found.tokenizer(["good w1"], return_tensors="pt")).logits.item()  # type: ignore[misc]
        about = Described("regression", (), ("text",), {"task": "files/prices", "format": "plain"})
        save(tmp_path / "saved", run.attached, made.learner.model, about)
    assert measured.metrics["mae"] < 0.5 * constant["mae"]
    assert measured.metrics["mae"] <= measured.metrics["rmse"] < 0.6 * constant["rmse"]
    assert given == pytest.approx(450_000, rel=0.2)
    loaded = load(tmp_path / "saved", backbone=found)
    assert loaded(**found.tokenizer(["good w1"], return_tensors="pt")).logits.item() == given  # type: ignore[misc]


def test_a_loss_does_not_depend_on_the_unit_of_the_labels() -> None:
    """Standardised on the training part: mean and deviation drop out, so two units train alike."""
    found, train = backbone(with_tokenizer=True), prices(32, 0)
    small = replace(train, labels=train.labels / 1000 - 7)
    losses = []
    for part in (train, small):
        learner = EncoderLearner(found, PRICES, part)
        batch = collate(learner.encode(part, 64), np.arange(8), learner.pad, torch.device("cpu"))
        learner.model.eval()
        losses.append(learner.forward(batch).loss.item())
        with torch.no_grad():
            values = torch.as_tensor(np.stack(learner.outputs(batch)))
        whole = learner.model(**batch.inputs, labels=batch.labels)
        assert whole.loss.item() == pytest.approx(losses[-1], rel=1e-6)
        assert torch.equal(whole.logits.squeeze(-1), values)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_list_of_candidates_gives_what_they_give_one_by_one() -> None:
    made = evaluator()
    wanted = [Candidate(MIXED), Candidate(MIXED, Changes(rate_factor=3)), Candidate(SERIAL)]
    found = made.measure_all([MIXED, *wanted[1:]], [3, 3, 4])
    alone = [made(candidate, seed) for candidate, seed in zip(wanted, (3, 3, 4), strict=True)]
    assert [without_times(item) for item in found if isinstance(item, Measurement)] == list(map(without_times, alone))
    assert [item.extra["learning_rate"] for item in found if isinstance(item, Measurement)] == [1e-3, 3e-3, 1e-3]
    assert without_times(alone[0]) != without_times(alone[1])
    assert made.recipe == QUICK


def test_changes_by_method_train_as_the_recipe_s_own_factors_do() -> None:
    made, factors = evaluator(), (("prefix", 5.0), ("serial", 0.5))
    changed = made(Candidate(MIXED, Changes(learning_rate=2e-3, rate_factors=factors)), 0)
    other = made.with_recipe(learning_rate=2e-3, rate_factors=dict(factors))
    assert without_times(changed) == without_times(other(MIXED, 0)) != without_times(made(MIXED, 0))


def test_other_batches_train_as_a_recipe_with_them_does_and_in_a_pass_of_their_own() -> None:
    made = evaluator()
    wanted = [Candidate(MIXED), Candidate(MIXED, Changes(batch_factor=0.5)), Candidate(SERIAL)]
    found = made.measure_all(wanted, [3, 3, 3], batch=3)
    half = made.with_recipe(batch_size=QUICK.batch_size // 2, steps=2 * made.recipe.n_steps(made.n_train))
    measured = [item for item in found if isinstance(item, Measurement)]
    assert without_times(measured[1]) == without_times(half(MIXED, 3)) != without_times(made(MIXED, 3))
    assert ["together" in item.extra for item in measured] == [True, False, True]
    assert len({item.extra["n_processed"] for item in measured}) == 1


def test_a_candidate_that_fails_leaves_the_others_as_they_were() -> None:
    made = evaluator()
    good = without_times(made(MIXED, 3))
    found = made.measure_all([MIXED, Candidate(MIXED, Changes(learning_rate=1e30)), MIXED], [3, 3, 3])
    assert isinstance(found[1], NonFiniteFailure)
    assert [without_times(item) for item in (found[0], found[2]) if isinstance(item, Measurement)] == [good, good]
    assert made.backbone.occupant is None


def test_a_failure_that_is_kept_holds_nothing_of_its_run() -> None:
    (failure,) = evaluator().measure_all([Candidate(MIXED, Changes(learning_rate=1e30))], [3])
    assert isinstance(failure, NonFiniteFailure)
    frames = [frame for frame, _ in traceback.walk_tb(failure.__traceback__)]
    assert any(frame.f_code.co_name == "fit" for frame in frames)  # where it happened is known
    held = [value for frame in frames if frame.f_code.co_name != "_measured" for value in frame.f_locals.values()]
    assert not [value for value in held if isinstance(value, (torch.Tensor, torch.optim.Optimizer, Evaluator))]


def test_every_candidate_has_a_seed() -> None:
    with pytest.raises(SettingsError, match="Every candidate has a seed, but got 2 and 1 seeds"):
        evaluator().measure_all([MIXED, SERIAL], [3])


def test_what_a_run_costs_is_found_out_once_for_all_its_measurements() -> None:
    given = evaluator()
    architecture = Architecture((Placement("encoder.0.ffn", "serial", 2),))
    with given.trained(architecture, 0) as run:
        first, second = run.measure(), run.measure("test", given.splits.test)
    # Two readings of a clock are never equal to the last digit, so this one was read once.
    assert first.costs["latency"] == second.costs["latency"]
    assert first.split != second.split


COUNT_FAULTS = """
import resource
from pathlib import Path
import torch
from autopeft.training.memory import memory_given_back, memory_kept

def faults():
    torch.empty(2**24).fill_(1)  # 64 MB, twice what glibc keeps at most of its own accord
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):  # a hole may be some bytes short until there is one that fits
        torch.empty(2**24).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

usual = faults()
with memory_kept():
    kept = faults()
held = resident()
with memory_given_back():
    pass
print(usual, kept, held - resident())
"""
"""Pages that the system had to clear for a large block that was asked for again and again, and bytes given back."""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
@pytest.mark.parametrize("is_chosen", [False, True])
def test_memory_is_kept_where_it_is_asked_for_and_given_back_after(is_chosen: bool) -> None:
    # In a process of its own: how a heap can grow depends on all that has been loaded into this one.
    own = {"MALLOC_MMAP_MAX_": "65536"} if is_chosen else {}
    command = [sys.executable, "-c", COUNT_FAULTS]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **own})
    usual, kept, given_back = map(int, run.stdout.split())
    if is_chosen:  # whoever chooses by glibc's own means is not overruled
        assert kept > usual / 2
    else:
        assert kept < usual / 2
        assert given_back > 2**25
