"""Tasks put to a tiny T5 in words: encoding, the two ways of reading an answer, and that it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from autopeft.architecture import Architecture, Placement
from autopeft.backbones import Backbone
from autopeft.errors import DataError, SettingsError
from autopeft.network.attach import attach
from autopeft.tasks._examples import Examples
from autopeft.tasks._task import Task
from autopeft.training.batches import collate
from autopeft.training.evaluator import Evaluator
from autopeft.training.learners import learner_for, text_to_text
from autopeft.training.learners.text_to_text import TextToTextLearner
from autopeft.training.recipe import Recipe
from tiny import SENTIMENT, backbone, everywhere, fill, sentiment, splits

CPU = torch.device("cpu")
FULL = Architecture((Placement("model", "full", 1),))


@pytest.fixture
def t5() -> Backbone:
    return backbone("t5", with_tokenizer=True)


def test_a_text_to_text_backbone_gets_this_learner(t5: Backbone) -> None:
    learner = learner_for(t5, SENTIMENT)
    assert isinstance(learner, TextToTextLearner)
    assert learner.n_head == 0
    assert learner.reset(0) == []
    assert not isinstance(learner_for(backbone(with_tokenizer=True), SENTIMENT), TextToTextLearner)


def test_how_answers_are_read_is_chosen_and_checked(t5: Backbone) -> None:
    learner = learner_for(t5, SENTIMENT, "generate")
    assert isinstance(learner, TextToTextLearner)
    assert learner.answer == "generate"
    made = Evaluator(t5, SENTIMENT, splits(sentiment(8), sentiment(4)), Recipe(steps=1), answer="generate")
    for own in (made, made.with_recipe(steps=2), made.with_recipe(max_length=16)):
        assert isinstance(own.learner, TextToTextLearner)
        assert own.learner.answer == "generate"
    with pytest.raises(SettingsError, match="gives no text, so the answer 'generate' cannot be had"):
        learner_for(backbone(with_tokenizer=True), SENTIMENT, "generate")


def test_many_labels_are_scored_a_few_at_a_time(t5: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tuple(f"w{n}" for n in range(1, 21))
    task = Task("tiny/many", "classification", ("text",), label_names=names, verbalisers=names)
    learner = TextToTextLearner(t5, task)
    examples = Examples(np.zeros(3, dtype=np.int64), texts=[("good w3",), ("bad",), ("w7 w8 w9",)])
    batch = collate(learner.encode(examples, 16), np.arange(3), learner.pad, CPU)
    t5.model.eval()
    whole = learner.outputs(batch)
    rows: list[int] = []
    handle = t5.model.get_decoder().register_forward_pre_hook(
        lambda _, __, inputs: rows.append(len(inputs["input_ids"])), with_kwargs=True
    )
    monkeypatch.setattr(text_to_text, "_MOST_ROWS", 12)
    few = learner.outputs(batch)
    handle.remove()
    assert rows == [12] * 5  # 3 examples with 4 of the 20 labels at a time
    np.testing.assert_allclose(np.array(few), np.array(whole), rtol=1e-5)


def test_sources_and_targets_are_the_task_s_words(t5: Backbone) -> None:
    task = replace(SENTIMENT, inputs=("w1",))  # a field name that the vocabulary of the test knows only without colon
    learner = TextToTextLearner(t5, task)
    encoded = learner.encode(Examples(np.array([1, 0]), texts=[("good w3",), ("bad",)]), 128)
    words = learner.tokenizer.convert_ids_to_tokens(encoded.tokens[0].tolist())
    assert words == ["<unk>", "<unk>", "good", "w3", "</s>"]  # "sentiment", "w1:"
    assert encoded.targets is not None
    assert learner.tokenizer.convert_ids_to_tokens(encoded.targets[0].tolist()) == ["1", "</s>"]
    assert learner.tokenizer.convert_ids_to_tokens(encoded.targets[1].tolist()) == ["0", "</s>"]
    assert learner.encode(sentiment(2), 8).lengths.max() <= 8


def test_the_loss_is_the_cross_entropy_of_the_target_tokens(t5: Backbone) -> None:
    learner = TextToTextLearner(t5, SENTIMENT)
    batch = collate(learner.encode(sentiment(3), 64), np.arange(3), learner.pad, CPU)
    assert batch.targets is not None
    with torch.no_grad():
        start = torch.zeros(3, 1, dtype=torch.long)
        shifted = torch.cat([start, batch.targets[:, :-1]], dim=1)
        logits = t5.model(**batch.inputs, decoder_input_ids=shifted).logits
        wanted = -logits.log_softmax(-1).gather(2, batch.targets[..., None]).mean()
        torch.testing.assert_close(learner.forward(batch).loss, wanted)


def test_scores_are_log_likelihoods_of_the_whole_label(t5: Backbone) -> None:
    """Labels of one and of two words: the shorter one's padding counts nothing."""
    task = replace(SENTIMENT, verbalisers=("bad", "good w7"))
    learner = TextToTextLearner(t5, task)
    batch = collate(learner.encode(sentiment(3), 64), np.arange(3), learner.pad, CPU)
    with torch.no_grad():
        found = np.stack(learner.outputs(batch))
        for column, label in enumerate(task.verbalisers):
            target = torch.tensor([learner.tokenizer(label)["input_ids"]] * 3)
            shifted = torch.cat([torch.zeros(3, 1, dtype=torch.long), target[:, :-1]], dim=1)
            logits = t5.model(**batch.inputs, decoder_input_ids=shifted).logits
            wanted = logits.log_softmax(-1).gather(2, target[..., None]).sum((1, 2)).numpy()
            np.testing.assert_allclose(found[:, column], wanted, rtol=1e-5)


def test_padding_does_not_change_a_score(t5: Backbone) -> None:
    learner = TextToTextLearner(t5, SENTIMENT)
    encoded = learner.encode(sentiment(6), 64)
    with fill(attach(t5, everywhere(t5, "prefix_direct"))), torch.no_grad():
        together = np.stack(learner.outputs(collate(encoded, np.arange(6), learner.pad, CPU)))
        alone = [learner.outputs(collate(encoded, np.array([i]), learner.pad, CPU))[0] for i in range(6)]
    np.testing.assert_allclose(together, np.stack(alone), atol=2e-5, rtol=1e-5)


@pytest.mark.slow
def test_it_learns_and_both_ways_of_reading_agree(t5: Backbone) -> None:
    """Full fine-tuning; saying always the same gives 0.5. A trained model says nothing but labels."""
    recipe = Recipe(epochs=10, batch_size=16, learning_rate=3e-3)
    made = Evaluator(t5, SENTIMENT, splits(sentiment(256), sentiment(64, seed=1)), recipe)
    generating = TextToTextLearner(t5, SENTIMENT, answer="generate")
    with made.trained(FULL, seed=0) as run:
        assert run.measure().value > 0.9
        encoded = made._encoded_validation
        scored = made.learner.score(made.outputs(encoded), made._validation)
        made.learner = generating
        said = made.outputs(encoded)
    assert set(said) <= {"0", "1"}
    assert generating.score(said, made._validation) == scored


@pytest.mark.slow
def test_peft_modules_learn_on_t5_too(t5: Backbone) -> None:
    recipe = Recipe(epochs=10, batch_size=16, learning_rate=1e-2)
    made = Evaluator(t5, SENTIMENT, splits(sentiment(256), sentiment(64, seed=1)), recipe)
    placed = (*everywhere(t5, "lora", 8), *everywhere(t5, "serial", 8))
    assert made(Architecture(placed), seed=0).value > 0.8


def test_a_number_is_decoded(t5: Backbone) -> None:
    task = Task("tiny/numbers", "regression", ("text",), metrics=("spearman",))
    learner = TextToTextLearner(t5, task)
    assert learner.answer == "generate"
    held = Examples(np.array([1.0, 3.04]), texts=[("good",), ("bad",)])
    encoded = learner.encode(held, 64)
    assert encoded.targets is not None
    words = [learner.tokenizer.convert_ids_to_tokens(encoded.targets[i].tolist()) for i in range(2)]
    assert words == [["1.0", "</s>"], ["3.0", "</s>"]]
    said = learner.outputs(collate(encoded, np.arange(2), learner.pad, CPU))
    assert all(isinstance(text, str) for text in said)
    assert learner.score(["1.0", "3.0"], held) == {"spearman": pytest.approx(1.0)}


def test_regression_is_learnt_by_decoding(t5: Backbone) -> None:
    """Two values, told apart by one word; a constant answer gives a correlation of 0."""
    task = Task("tiny/numbers", "regression", ("text",), metrics=("spearman",))

    def numbers(n: int, seed: int) -> Examples:
        drawn = sentiment(n, seed)
        return Examples(np.where(drawn.labels == 1, 3.0, 1.0), texts=drawn.texts)

    recipe = Recipe(epochs=6, batch_size=16, learning_rate=3e-3)
    made = Evaluator(t5, task, splits(numbers(192, 0), numbers(32, 1), task.kind), recipe)
    assert made(FULL, seed=0).value > 0.8


def test_an_answer_that_is_no_label_is_wrong(t5: Backbone) -> None:
    learner = TextToTextLearner(t5, SENTIMENT, answer="generate")
    held = sentiment(4)  # labels 0, 1, 0, 1
    assert learner.score(["0", "1", "w3", ""], held) == {"accuracy": 0.5}


def test_without_a_tokenizer_nothing_can_be_encoded() -> None:
    with pytest.raises(DataError, match="has no tokenizer"):
        TextToTextLearner(backbone("t5"), SENTIMENT)


def test_sources_are_cut_where_a_table_of_positions_ends() -> None:
    long = Examples(np.array([0]), texts=[("good w1 " * 60,)])
    for family, most in (("bart", 64), ("t5", 100)):  # T5's positions are relative, and know no end
        learner = TextToTextLearner(backbone(family, with_tokenizer=True), SENTIMENT)
        assert len(learner.encode(long, 100).tokens[0]) == most
