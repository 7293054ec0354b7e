"""Decoders that answer in words: rows, padding on either side, what is learnt, what is written, what is compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import CONFIG_MAPPING

import tiny
from autopeft import methods
from autopeft.architecture import Architecture, Placement
from autopeft.backbones import Backbone, family_of
from autopeft.errors import ArchitectureError, BackboneError, SettingsError
from autopeft.network.attach import attach
from autopeft.network.shares import Shares
from autopeft.tasks._examples import Examples
from autopeft.tasks._task import Task
from autopeft.training.batches import Batch, collate
from autopeft.training.evaluator import Evaluator
from autopeft.training.learners import CausalLearner, EncoderLearner, Written, learner_for
from autopeft.training.learners._joined import UNLEARNT, Joined, closing
from autopeft.training.rate_card import CardMaker
from autopeft.training.rate_sweep import sweep
from autopeft.training.recipe import Recipe
from autopeft.training.tokens import token_lines

CPU = torch.device("cpu")
TEXT = Task("tiny/words", "text", ("prompt",), label="completion", metrics=("rouge_l",))
LIKELY = replace(TEXT, metrics=("neg_loss", "loss", "perplexity"))
PAIRS = (("w1 w2 w3", " good w4"), ("w5", " bad"), ("w6 w7 w8 w9 w10", " w11 w12 w13"))
DECODERS = [name for name in tiny.MODEL_TYPES if family_of(name).is_causal]


def examples(pairs: tuple[tuple[str, str], ...] = PAIRS) -> Examples:
    answers = [(answer,) for _, answer in pairs]
    return Examples(np.zeros(len(pairs), dtype=np.int64), texts=[(prompt,) for prompt, _ in pairs], answers=answers)


def decoder(model_type: str = "llama", **changes: Any) -> Backbone:
    return tiny.backbone(model_type, with_tokenizer=True, **changes)


def batch_of(learner: CausalLearner, given: Examples, max_length: int = 64) -> Batch:
    return collate(learner.encode(given, max_length), np.arange(len(given)), learner.pad, CPU)


def padded_left(batch: Batch, pad: int) -> Batch:
    """The same rows with their padding on the other side."""
    assert batch.targets is not None
    assert batch.starts is not None
    gap = batch.inputs["attention_mask"].shape[1] - batch.inputs["attention_mask"].sum(1)
    place = torch.arange(batch.targets.shape[1]) - gap[:, None]
    mask = place >= 0
    ids = batch.inputs["input_ids"].gather(1, place.clamp_min(0)).masked_fill(~mask, pad)
    targets = batch.targets.gather(1, place.clamp_min(0)).masked_fill(~mask, UNLEARNT)
    inputs = {"input_ids": ids, "attention_mask": mask.long()}
    return replace(batch, inputs=inputs, targets=targets, starts=batch.starts + gap)


@pytest.mark.parametrize("model_type", DECODERS)
def test_the_loss_is_that_of_transformers_own_language_model(model_type: str) -> None:
    found = decoder(model_type)
    learner = CausalLearner(found, LIKELY)
    batch = batch_of(learner, examples())
    own = found.language_model(**batch.inputs, labels=batch.targets)
    torch.testing.assert_close(learner.forward(batch).loss, own.loss, atol=1e-6, rtol=1e-6)
    hidden = found.model(**batch.inputs).last_hidden_state
    torch.testing.assert_close(learner.logits(hidden), own.logits, atol=1e-6, rtol=1e-6)
    learnt = batch.targets != UNLEARNT  # type: ignore[operator]
    assert learnt.sum(1).tolist() == [3, 2, 4]  # the words of the answer, and the end


@pytest.mark.parametrize("model_type", DECODERS)
@pytest.mark.parametrize("method", ["lora", "serial", "prefix_direct"])
def test_padding_on_either_side_gives_the_same_loss_and_gradients(model_type: str, method: str) -> None:
    found = decoder(model_type)
    if tiny.everywhere(found, method).is_empty:
        pytest.skip(f"{method} has no place of its own on {model_type}")  # whose queries and values are one map
    found.model.double()
    found.__dict__.pop("language_model", None)
    learner = CausalLearner(found, LIKELY)
    right = batch_of(learner, examples())
    losses, gradients = [], []
    for batch in (right, padded_left(right, learner.pad)):
        attached = tiny.fill(attach(found, tiny.everywhere(found, method, 2)))
        for parameter in attached.parameters():
            parameter.data = parameter.data.double()
        with attached:
            loss = learner.forward(batch).loss
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            gradients.append(torch.cat([one.grad.flatten() for one in attached.parameters() if one.grad is not None]))
    torch.testing.assert_close(losses[0], losses[1], atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-10, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", DECODERS)
@pytest.mark.parametrize("method", ["lora", "prefix_direct"])
def test_what_is_written_in_a_batch_is_what_is_written_alone_token_by_token(model_type: str, method: str) -> None:
    found = decoder(model_type)
    found.model.double()
    learner = CausalLearner(found, replace(TEXT, metrics=("exact_match",)))
    learner.most_tokens = 8
    attached = tiny.fill(attach(found, tiny.everywhere(found, method, 2)))
    for parameter in attached.parameters():
        parameter.data = parameter.data.double()
    with attached, torch.no_grad():
        batch = batch_of(learner, examples())
        said = [one.text for one in learner.outputs(batch)]
        for row, text in enumerate(said):
            assert batch.starts is not None
            ids = batch.inputs["input_ids"][row : row + 1, : int(batch.starts[row])]
            start = ids.shape[1]
            # Without a cache and without padding, one token after the other.
            while ids.shape[1] < start + 8 and ids[0, -1] != 1:
                ids = torch.cat([ids, found.language_model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
            assert text == learner.tokenizer.decode(ids[0, start:], skip_special_tokens=True).strip()


def test_gradients_of_the_answers_are_those_of_a_plain_reference() -> None:
    found = decoder()
    learner = CausalLearner(found, LIKELY)
    batch = batch_of(learner, examples())
    with attach(found, Architecture((Placement("model", "full", 1),))) as attached:
        learner.forward(batch).loss.backward()  # type: ignore[no-untyped-call]
        ours = [one.grad.clone() for one in attached.parameters() if one.grad is not None]
        for one in attached.parameters():
            one.grad = None
        logits = found.language_model(**batch.inputs).logits[:, :-1].flatten(0, 1)
        assert batch.targets is not None
        functional.cross_entropy(logits, batch.targets[:, 1:].flatten(), ignore_index=-100).backward()  # type: ignore[no-untyped-call]
        theirs = [one.grad for one in attached.parameters() if one.grad is not None]
    assert len(ours) == len(theirs) > 10
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_the_loss_on_all_reads_the_prompts_too_and_scores_the_answers_alone() -> None:
    found = decoder()
    every, answers = CausalLearner(found, replace(LIKELY, loss_on="all")), CausalLearner(found, LIKELY)
    batch = batch_of(every, examples())
    assert batch.targets is not None
    assert torch.equal(batch.targets != UNLEARNT, batch.inputs["attention_mask"].bool())
    torch.testing.assert_close(
        every.forward(batch).loss, found.language_model(**batch.inputs, labels=batch.targets).loss
    )
    assert every.outputs(batch) == answers.outputs(batch_of(answers, examples()))


def test_the_validation_loss_is_the_mean_over_tokens_and_the_perplexity_its_exponential() -> None:
    learner = CausalLearner(decoder(), LIKELY)
    given = examples()
    told = learner.score(learner.outputs(batch_of(learner, given)), given)
    loss = float(learner.forward(batch_of(learner, given)).loss)
    assert told == {
        "neg_loss": pytest.approx(-loss, abs=1e-6),
        "loss": pytest.approx(loss, abs=1e-6),
        "perplexity": pytest.approx(np.exp(loss), rel=1e-5),
    }
    # One by one the batches have other numbers of tokens, of which none may count more than another.
    apart = [learner.outputs(batch_of(learner, given.subset([row])))[0] for row in range(3)]
    assert learner.score(apart, given)["loss"] == pytest.approx(loss, abs=1e-6)
    assert all(one.text is None for one in apart)


def test_loss_and_text_are_told_together_when_both_are_asked_for() -> None:
    learner = CausalLearner(decoder(), replace(TEXT, metrics=("rouge_l", "loss")))
    learner.most_tokens = 4
    found = learner.outputs(batch_of(learner, examples()))
    assert all(isinstance(one.text, str) and one.loss > 0 for one in found)
    perfect = [Written(answer.strip(), 0.5, 2) for _, answer in PAIRS]
    assert learner.score(perfect, examples()) == {"rouge_l": 1.0, "loss": 0.25}


CLASSES = replace(tiny.SENTIMENT, label_names=("bad", "w1 good", "w1 w2 w3"))


def log_likelihoods(found: Backbone, learner: CausalLearner, text: str, *, is_mean: bool) -> list[float]:
    """By the definition, one answer after the other."""
    told = []
    for name in CLASSES.label_names:
        prompt = learner.tokenizer(f"text: {text}\nAnswer:")["input_ids"]
        answer = learner.tokenizer(name, add_special_tokens=False)["input_ids"]
        logits = found.language_model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        parts = [float(logits[len(prompt) + place - 1, token]) for place, token in enumerate(answer)]
        told.append(sum(parts) / (len(parts) if is_mean else 1))
    return told


@pytest.mark.parametrize("answer", ["words", "words_per_token"])
def test_classes_are_scored_by_the_likelihoods_of_their_words(answer: Any) -> None:
    found = decoder()
    learner = CausalLearner(found, CLASSES, answer)
    given = tiny.sentiment(4)
    scored = learner.outputs(batch_of(learner, given))
    for row, one in enumerate(scored):
        wanted = log_likelihoods(found, learner, given.texts[row][0], is_mean=answer == "words_per_token")
        np.testing.assert_allclose(one, wanted, atol=1e-5)
    assert learner.score(scored, given)["accuracy"] == np.mean([np.argmax(one) for one in scored] == given.labels)


def test_one_word_answers_are_compared_in_one_pass_over_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    found = decoder()
    learner = CausalLearner(found, tiny.SENTIMENT, "words")
    given = tiny.sentiment(6)
    batch = batch_of(learner, given)
    rows: list[int] = []
    handle = found.model.register_forward_pre_hook(
        lambda _, __, inputs: rows.append(len(inputs["input_ids"])), with_kwargs=True
    )
    quick = learner.outputs(batch)
    monkeypatch.setattr("autopeft.training.learners.causal._is_one_token_each", lambda _: False)
    slow = learner.outputs(batch)
    handle.remove()
    assert rows == [6, 12]
    np.testing.assert_allclose(quick, slow, atol=1e-5)


def test_a_choice_is_trained_on_its_right_answer_alone() -> None:
    found = decoder()
    task = Task("tiny/choice", "multiple_choice", ("text",), metrics=("accuracy",))
    learner = CausalLearner(found, task, "words")
    given = Examples(
        np.array([1, 0]), choices=[[("w1", "w2"), ("w1", "w3 w4")], [("w5", "w6"), ("w5", "w7"), ("w5", "w8")]]
    )
    encoded = learner.encode(given, 64)
    assert encoded.rows is not None
    assert encoded.rows.tolist() == [0, 2, 5]
    words = [learner.tokenizer.decode(encoded.tokens[row], skip_special_tokens=True) for row in range(5)]
    assert [text.rpartition("<unk> ")[2] or text for text in words][1].endswith("w3 w4")
    loss = learner.forward(batch_of(learner, given)).loss
    right = [
        learner.forward(batch_of(learner, Examples(np.array([0]), choices=[[pair]])))
        for pair in (("w1", "w3 w4"), ("w5", "w6"))
    ]
    assert float(loss) == pytest.approx((2 * float(right[0].loss) + float(right[1].loss)) / 3, abs=1e-6)
    assert [len(one) for one in learner.outputs(batch_of(learner, given))] == [2, 3]


def test_long_prompts_lose_their_beginnings_and_answers_stay_whole_while_they_can() -> None:
    row = Joined([0, *range(1, 21)], [UNLEARNT] * 15 + [*range(15, 21)], 15, n_framing=1)
    kept = row.within(12)
    assert kept.ids == [0, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]
    assert (kept.start, kept.cut_prompt, kept.cut_answer) == (6, 9, 0)
    assert kept.targets == [UNLEARNT] * 6 + [15, 16, 17, 18, 19, 20]
    short = row.within(4)
    assert short.ids == [14, 15, 16, 17]
    assert (short.start, short.cut_prompt, short.cut_answer) == (1, 14, 3)
    assert row.within(21) == row


def test_what_is_cut_is_told() -> None:
    found = decoder()
    given = examples((("w1 " * 30, " good"), ("w1", " bad"), ("w2", " w3" * 40)))
    parts = tiny.splits(given, given, "text")
    told = token_lines(Evaluator(found, LIKELY, parts, Recipe(steps=1, max_length=16)))
    assert told["cut"] == (
        "To fit 16 tokens, of 3 examples is cut: of 1 prompts the beginning (in the median 17 tokens, at most "
        "17); of 1 answers the end, which is then not learnt: raise recipe.max_length"
    )
    assert token_lines(Evaluator(found, LIKELY, parts, Recipe(steps=1, max_length=64))) == {}


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        (LIKELY, "score"),
        (replace(TEXT, metrics=("rouge_l",)), "score"),
        (CLASSES, "words"),
        (CLASSES, "words_per_token"),
        (CLASSES, "generate"),
    ],
)
def test_several_candidates_in_one_pass_are_what_they_are_alone(task: Task, answer: Any) -> None:
    found = decoder()
    learner = CausalLearner(found, task, answer)
    learner.most_tokens = 4
    given = examples() if task.answers.is_text_only else tiny.sentiment(4, n_classes=3)
    batch = batch_of(learner, given)
    places = [
        Architecture((Placement("decoder.1.q", "lora", 2),)),
        Architecture((Placement("decoder.2.ffn_in", "lora", 3), Placement("decoder.0.v", "lora", 1))),
    ]
    alone = []
    for place in places:
        with tiny.fill(attach(found, place)), torch.no_grad():
            alone.append((learner.forward(batch).loss, learner.outputs(batch)))
    with Shares(found, places, seed=0) as shares, torch.no_grad():
        for member in shares.members:
            tiny.fill(member)
        together = learner.forward_shares(batch, shares, [None, None])
        outputs = learner.outputs_of_shares(batch, shares, [None, None])
    for (loss, said), one, other in zip(alone, together, outputs, strict=True):
        torch.testing.assert_close(one.loss, loss, atol=1e-6, rtol=1e-6)
        if answer.startswith("words"):
            np.testing.assert_allclose(np.array(other), np.array(said), atol=1e-5)
        else:
            assert [written.text for written in other] == [written.text for written in said]
            assert [written.loss for written in other] == pytest.approx([written.loss for written in said], abs=1e-4)


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        (replace(TEXT, metrics=("exact_match",)), "score"),
        # Forty steps of training each, so that one of the three has to do by default.
        pytest.param(tiny.SENTIMENT, "words", marks=pytest.mark.slow),
        pytest.param(tiny.SENTIMENT, "generate", marks=pytest.mark.slow),
    ],
)
def test_a_decoder_learns_to_answer(task: Task, answer: Any) -> None:
    found = decoder(tie_word_embeddings=True)  # of unit scale, which a vocabulary that is drawn is not
    given = tiny.sentiment(32)
    if task.answers.is_text_only:
        words = [(" good",) if label else (" bad",) for label in given.labels]
        given = Examples(given.labels * 0, texts=given.texts, answers=words)
    recipe = Recipe(learning_rate=2e-2, steps=40, batch_size=16, max_length=32, evaluate_every=100)
    evaluator = Evaluator(found, task, tiny.splits(given, given.subset(range(16)), task.kind), recipe, answer=answer)
    roles = ("q", "v", "o", "ffn_in", "ffn_out")
    place = Architecture(tuple(Placement(f"decoder.{n}.{role}", "lora", 8) for n in range(3) for role in roles))
    assert evaluator(place, 0).value > 0.9


def test_a_sweep_and_a_card_of_rates_compare_a_likelihood_with_the_model_that_has_nothing_attached() -> None:
    found, given = decoder(), examples()
    evaluator = Evaluator(found, LIKELY, tiny.splits(given, given, "text"), Recipe(steps=1, batch_size=4))
    place = Architecture((Placement("decoder.0.q", "lora", 2),))
    bare = evaluator.score(evaluator.validation_part, given)["neg_loss"]
    swept = sweep(evaluator, place, [1e-3], 0)
    card = CardMaker(evaluator, {"lora": place}, [1e-3], 0).make()
    for signal in (swept, card):
        assert (signal.baseline, signal.threshold) == (bare, bare)


def test_a_module_that_looks_at_later_tokens_is_refused() -> None:
    found = decoder()
    learner = CausalLearner(found, LIKELY)
    gated = next(name for name in methods.names() if methods.lookup(name).sees_padding)
    found.occupant = SimpleNamespace(methods=(gated,))
    for call in (learner.forward, learner.outputs):
        with pytest.raises(ArchitectureError, match=f"must not see later ones, but {gated} looks at all tokens"):
            call(batch_of(learner, examples()))


def test_which_learner_a_decoder_gets() -> None:
    found = decoder()
    assert isinstance(learner_for(found, tiny.SENTIMENT), EncoderLearner)
    for answer in ("words", "words_per_token", "generate"):
        assert isinstance(learner_for(found, tiny.SENTIMENT, answer), CausalLearner)
    assert isinstance(learner_for(found, TEXT), CausalLearner)
    with pytest.raises(SettingsError, match="Class weights belong to a head"):
        learner_for(found, replace(tiny.SENTIMENT, class_weights="balanced"), "words")
    with pytest.raises(SettingsError, match="gives no text, so the answer 'words' cannot be had"):
        learner_for(tiny.backbone(with_tokenizer=True), tiny.SENTIMENT, "words")
    with pytest.raises(SettingsError, match="The answer 'words' is a decoder's"):
        learner_for(tiny.backbone("t5", with_tokenizer=True), tiny.SENTIMENT, "words")
    with pytest.raises(BackboneError, match="encoders do not write"):
        _ = tiny.backbone().language_model


def test_the_vocabulary_is_the_checkpoint_s(tmp_path: Path) -> None:
    found = decoder()
    whole = found.language_model
    whole.save_pretrained(tmp_path / "whole", max_shard_size="20KB")
    found.tokenizer.save_pretrained(tmp_path / "whole")
    assert (tmp_path / "whole" / "model.safetensors.index.json").exists()
    again = Backbone.from_pretrained(tmp_path / "whole")
    batch = tiny.inputs(found)
    assert torch.equal(again.language_model(**batch).logits, whole(**batch).logits)
    found.model.save_pretrained(tmp_path / "inner")
    found.tokenizer.save_pretrained(tmp_path / "inner")
    with pytest.raises(
        BackboneError, match=r"cannot write: its checkpoint has no 'lm_head.weight' of shape \(99, 32\)"
    ):
        _ = Backbone.from_pretrained(tmp_path / "inner").language_model
    tied = decoder(tie_word_embeddings=True)
    assert tied.language_model.get_output_embeddings().weight is tied.model.get_input_embeddings().weight


def test_conversations_are_tokenised_by_the_chat_template() -> None:
    found = decoder()
    found.tokenizer.chat_template = (
        "{% for m in messages %}{{ 'w70 ' if m['role'] == 'user' else 'w71 ' }}{{ m['content'] }} </s> {% endfor %}"
        "{% if add_generation_prompt %}w71 {% endif %}"
    )
    learner = CausalLearner(found, LIKELY)
    before = [
        {"role": "user", "content": "w1"},
        {"role": "assistant", "content": "w2"},
        {"role": "user", "content": "w3"},
    ]
    given = Examples(
        np.zeros(1, dtype=np.int64), texts=[("w1",)], answers=[("w4",)], fields=[(("messages", json.dumps(before)),)]
    )
    (row,) = learner.joined(given)
    words = learner.tokenizer.convert_ids_to_tokens(row.ids)
    learnt = [word for word, target in zip(words, row.targets, strict=True) if target != UNLEARNT]
    assert " ".join(words).endswith("w70 w1 </s> w71 w2 </s> w70 w3 </s> w71 w4 </s>")
    assert learnt == ["w2", "</s>", "w4", "</s>"]  # both turns of the assistant, and nothing else
    assert words[row.start :] == ["w4", "</s>"]


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("granite", {"logits_scaling": 8.0}),
        ("cohere", {"logit_scale": 0.25}),
        ("cohere2", {"logit_scale": 0.25}),
        ("gemma2", {"final_logit_softcapping": 0.5}),
        ("opt", {"word_embed_proj_dim": 16, "ffn_dim": 32}),
    ],
)
def test_what_stands_between_hidden_states_and_words_is_the_model_s_own(model_type: str, changes: Any) -> None:
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"pad_token_id": 0, "bos_token_id": 3, "eos_token_id": 1, "vocab_size": 200, "head_dim": 8}
    config = CONFIG_MAPPING[model_type](**{**size, "num_key_value_heads": 1, **ends, **changes})
    found = Backbone.from_config(config, tokenizer=tiny.tokenizer("llama"))
    with torch.no_grad():
        for parameter in found.model.parameters():
            parameter.normal_(std=0.5, generator=torch.Generator().manual_seed(0))
    learner = CausalLearner(found, LIKELY)
    batch = batch_of(learner, examples())
    own = found.language_model(**batch.inputs, labels=batch.targets)
    torch.testing.assert_close(learner.forward(batch).loss, own.loss, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        learner.logits(found.model(**batch.inputs).last_hidden_state), own.logits, atol=1e-5, rtol=1e-5
    )
    assert found.language_model.get_submodule(found.language_model.base_model_prefix) is found.model


def test_a_row_has_the_room_that_its_own_prompt_leaves() -> None:
    """Beside a prompt that leaves two tokens, a short one is written as long as alone."""
    found = decoder(max_position_embeddings=14)
    learner = CausalLearner(found, replace(TEXT, metrics=("exact_match",)))
    learner.most_tokens, learner.__dict__["_ends"] = 8, [199]  # which is never said
    pairs = ((" ".join(f"w{i}" for i in range(11)), " w1"), ("w1 w2", " w1"), ("w3 w4 w5 w6 w7 w8 w9", " w1"))
    together = [one.text for one in learner.outputs(batch_of(learner, examples(pairs)))]
    alone = [learner.outputs(batch_of(learner, examples((pair,))))[0].text for pair in pairs]
    assert together == alone
    lengths = [len(learner.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in together]
    assert lengths[0] < lengths[1] <= 8


def test_what_closes_a_turn_ends_an_answer_and_so_does_what_the_model_s_makers_say() -> None:
    found = decoder()
    found.tokenizer.add_tokens(["<turn>", "<think>"], special_tokens=True)
    turn, think = found.tokenizer.convert_tokens_to_ids(["<turn>", "<think>"])
    found.tokenizer.chat_template = (
        "{% for m in messages %}{{ 'w70 ' if m['role'] == 'user' else 'w71 <think> ' }}{{ m['content'] }} <turn> "
        "{% endfor %}{% if add_generation_prompt %}w71 {% endif %}"
    )
    found.language_model.generation_config.eos_token_id = [1, 42]
    found.language_model.generation_config.repetition_penalty = 9.0
    learner = CausalLearner(found, replace(TEXT, metrics=("exact_match",)))
    assert closing(found.tokenizer) == turn != think
    assert learner._ends == sorted({1, 42, turn})
    asked: list[Any] = []
    whole = found.language_model
    generate = whole.generate
    whole.generate = lambda **given: asked.append(whole.generation_config.repetition_penalty) or generate(**given)
    learner.outputs(batch_of(learner, examples()))
    # Greedy is greedy: what the makers would add to it is not, and stands as it was afterwards.
    assert set(asked) == {None}
    assert whole.generation_config.repetition_penalty == 9.0
