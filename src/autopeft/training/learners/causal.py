"""A decoder that answers in words: the answer is what follows the prompt.

Free text is written greedily and scored against gold texts, or scored by its likelihood without being written. Classes
and choices are scored by the likelihoods of what stands for them, or written too. Rows are padded on the right in
training; what is gone on from is padded on the left.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationConfig

from autopeft.backbones import Backbone
from autopeft.errors import ArchitectureError, DataError
from autopeft.methods import lookup
from autopeft.network.dropout import next_draw
from autopeft.network.shares import Shares
from autopeft.tasks._examples import Examples
from autopeft.tasks._metrics import is_likelihood, likelihoods
from autopeft.tasks._task import Task
from autopeft.tasks._wording import wording
from autopeft.training.batches import Batch, Encoded, Ragged
from autopeft.training.consistency import Forward
from autopeft.training.learners._joined import UNLEARNT, Joined, closing, join_messages, join_texts
from autopeft.training.learners._learner import Answer, Side
from autopeft.training.learners._own_head import OwnHead


@dataclass(frozen=True)
class Written:
    """What a decoder makes of one example.

    Args:
        text: what it wrote; None where that was not asked for.
        loss: the sum over the gold answer's tokens of the negative logarithm of their probabilities, in nats; 0 where
            it was not asked for.
        n_tokens: tokens of the gold answer.
    """

    text: str | None = None
    loss: float = 0.0
    n_tokens: int = 0


class CausalLearner:
    """A task put to a decoder in words.

    Attributes:
        answer: "words" and "words_per_token" compare the likelihoods of what may be answered, "generate" writes.
        most_tokens: where writing ends at the latest.
    """

    def __init__(self, backbone: Backbone, task: Task, answer: Answer = "generate") -> None:
        """Raises:
        BackboneError: the checkpoint has no vocabulary.
        DataError: the backbone has no tokenizer.
        """
        if backbone.tokenizer is None:
            raise DataError(f"{backbone.name} has no tokenizer, so texts cannot be encoded.")
        self.backbone, self.tokenizer = backbone, backbone.tokenizer
        self.wording = wording(task)
        self.task = self.wording.task
        self.model: nn.Module = backbone.language_model
        self._head = OwnHead(backbone.language_model, backbone.model, backbone.name)
        self.most_tokens = task.answers.most_tokens
        self.pad, self.n_head = int(self.tokenizer.pad_token_id), 0
        is_listed = task.answers.is_listed and bool(self.task.verbalisers or task.answers.has_candidates)
        self.answer: Answer = answer if is_listed else "generate"
        self._has_likelihoods = any(map(is_likelihood, task.metrics))
        self._is_writing = not all(map(is_likelihood, task.metrics))

    def keep_unit(self) -> None:
        """Numbers are said in words here, in the unit of the data as they are."""

    def facts(self) -> dict[str, Any]:
        """Nothing: what is to be said is among the encoded examples."""
        return {}

    # -- rows ----------------------------------------------------------------------------------------------------------

    def encode(self, examples: Examples, max_length: int, side: Side = "right") -> Encoded:
        """One row an example, or one for everything that may be answered; the beginnings of long prompts are cut.

        Args:
            side: without meaning: the answer goes on from the end of its prompt, which is kept.
        """
        limit = min(max_length, self.backbone.n_positions or max_length)
        rows = [row.within(limit) for row in self.joined(examples)]
        sizes = [1] * len(rows) if self.answer == "generate" else self._sizes(examples)
        return Encoded(
            Ragged.of([row.ids for row in rows]),
            None,
            examples.labels,
            rows=None if self.answer == "generate" else np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            targets=Ragged.of([row.targets for row in rows]),
            starts=np.array([row.start for row in rows], dtype=np.int64),
        )

    def joined(self, examples: Examples) -> list[Joined]:
        """The rows of `examples` in full length."""
        asked = [
            (self.wording.prompt(examples, index), said)
            for index in range(len(examples))
            for said in self._said(examples, index)
        ]
        is_all = self.task.loss_on == "all"
        if any(not isinstance(prompt, str) for prompt, _ in asked):
            return [
                join_messages(self.tokenizer, prompt, said, is_all_learnt=is_all)
                for prompt, said in asked
                if not isinstance(prompt, str)
            ]
        pairs = [(prompt, self.wording.answer(said)) for prompt, said in asked if isinstance(prompt, str)]
        # What is compared is not ended: how sure a model is that nothing follows is no part of what it answers.
        return join_texts(self.tokenizer, pairs, is_ended=self.answer == "generate", is_all_learnt=is_all)

    def _said(self, examples: Examples, index: int) -> Sequence[str]:
        if self.answer == "generate":
            return [self.task.target_text(examples, index)]
        return self.wording.candidates(examples, index)

    def _sizes(self, examples: Examples) -> list[int]:
        return [len(self.wording.candidates(examples, index)) for index in range(len(examples))]

    # -- no head -------------------------------------------------------------------------------------------------------

    def reset(self, seed: int) -> list[nn.Parameter]:
        """There is no head."""
        return []

    def fresh_head(self, seed: int) -> None:
        """There is no head."""

    def take_head(self, head: nn.Module | None) -> None:
        """There is no head."""

    # -- training ------------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> Forward:
        """Cross-entropy over the learnt tokens of the right answers, and the logits of each of them."""
        next_draw()
        inputs, targets = _right_rows(batch)
        return self._learnt(self._hidden(inputs), targets)

    def forward_shares(self, batch: Batch, shares: Shares, heads: Sequence[nn.Module | None]) -> list[Forward]:
        """The same for every share."""
        next_draw()
        inputs, targets = _right_rows(batch)
        shares.begin(len(targets))
        return [self._learnt(hidden, targets) for hidden in shares.split(self._hidden(inputs))]

    def _hidden(self, inputs: dict[str, Tensor]) -> Tensor:
        """Hidden states ``(rows, tokens, d)``; padding may be on either side."""
        self._check_order()
        mask = inputs["attention_mask"]
        more = {}
        if self.backbone.takes_positions:
            more["position_ids"] = (mask.cumsum(-1) - 1).clamp_min(0)
        found: Tensor = self.backbone.model(**inputs, **more).last_hidden_state
        return found

    def _check_order(self) -> None:
        """Refuse modules that look across tokens: they would see the answer before it is given."""
        wrong = [name for name in getattr(self.backbone.occupant, "methods", ()) if lookup(name).sees_padding]
        if wrong:
            raise ArchitectureError(
                f"A token of a decoder that writes must not see later ones, but {', '.join(wrong)} looks at all tokens."
            )

    def _learnt(self, hidden: Tensor, targets: Tensor) -> Forward:
        logits, learnt = self._logits_of_learnt(hidden, targets)
        return Forward(functional.cross_entropy(logits.float(), learnt), logits)

    def _logits_of_learnt(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(learnt, vocabulary)`` where something is learnt, and what: no other position is computed.

        The vocabulary is the widest product of a small model, and most positions are prompts.
        """
        is_learnt = targets[:, 1:] != UNLEARNT
        return self.logits(hidden[:, :-1][is_learnt]), targets[:, 1:][is_learnt]

    def logits(self, hidden: Tensor) -> Tensor:
        """``(..., d)`` to ``(..., vocabulary)``, as the language model itself gives them."""
        return self._head(hidden)

    # -- answers -------------------------------------------------------------------------------------------------------

    def outputs(self, batch: Batch) -> list[Any]:
        """Likelihoods of what may be answered, ``(classes,)`` or ``(choices,)``, or what is `Written`."""
        if self.answer == "generate":
            return self._written(batch, None)[0]
        return self._compared(batch, None)[0]

    def outputs_of_shares(self, batch: Batch, shares: Shares, heads: Sequence[nn.Module | None]) -> list[list[Any]]:
        """The same for every share."""
        return self._written(batch, shares) if self.answer == "generate" else self._compared(batch, shares)

    def score(self, outputs: Sequence[Any], examples: Examples) -> dict[str, float]:
        """The task's metrics."""
        if self.answer != "generate":
            return self.task.score(outputs, examples)
        if not self._is_writing:
            found = dict.fromkeys(self.task.metrics, float("nan"))
        else:
            found = self.task.score_texts([one.text for one in outputs], examples)
        losses, tokens = [one.loss for one in outputs], [one.n_tokens for one in outputs]
        return found | likelihoods(self.task.metrics, losses, tokens)

    def _compared(self, batch: Batch, shares: Shares | None) -> list[list[NDArray[np.float32]]]:
        assert batch.targets is not None
        assert batch.sizes is not None
        inputs, targets, sizes = batch.inputs, batch.targets, list(batch.sizes)
        if _is_one_token_each(batch):
            return self._compared_at_once(batch, shares)
        found = [
            losses[0] / (losses[1] if self.answer == "words_per_token" else 1)
            for losses in self._losses(inputs, _answers_alone(targets, batch.starts), shares)
        ]
        return [[-part.cpu().numpy() for part in torch.split(one, sizes)] for one in found]

    def _compared_at_once(self, batch: Batch, shares: Shares | None) -> list[list[NDArray[np.float32]]]:
        """Where every answer is one token behind one prompt, one row an example tells the likelihoods of all."""
        assert batch.starts is not None
        assert batch.sizes is not None
        first = torch.tensor(np.cumsum([0, *batch.sizes[:-1]]), device=batch.labels.device)
        inputs = {name: value[first] for name, value in batch.inputs.items()}
        starts = batch.starts.to(first.device)
        tokens = batch.inputs["input_ids"].gather(1, starts[:, None])[:, 0]  # (rows,): what each row answers
        found = []
        for hidden in self._per_share(inputs, shares):
            at_border = hidden[torch.arange(len(first), device=first.device), starts[first] - 1]
            told = self.logits(at_border).float().log_softmax(-1)  # (examples, vocabulary)
            parts = torch.split(tokens, list(batch.sizes))
            found.append([row[part].cpu().numpy() for row, part in zip(told, parts, strict=True)])
        return found

    def _written(self, batch: Batch, shares: Shares | None) -> list[list[Written]]:
        n, n_shares = len(batch.inputs["input_ids"]), 1 if shares is None else len(shares.active)
        found = [[Written()] * n for _ in range(n_shares)]
        if self._has_likelihoods:
            assert batch.targets is not None
            told = self._losses(batch.inputs, _answers_alone(batch.targets, batch.starts), shares)
            found = [[Written(None, float(loss), int(count)) for loss, count in zip(*one, strict=True)] for one in told]
        if self._is_writing:
            said = self._texts(batch, shares)
            found = [
                [replace(one, text=text) for one, text in zip(own, said[place * n : (place + 1) * n], strict=True)]
                for place, own in enumerate(found)
            ]
        return found

    def _losses(self, inputs: dict[str, Tensor], targets: Tensor, shares: Shares | None) -> list[tuple[Tensor, Tensor]]:
        """For every share the sum of the losses of each row's answer, in nats, and its tokens; both ``(rows,)``."""
        is_learnt = targets[:, 1:] != UNLEARNT
        row = torch.nonzero(is_learnt)[:, 0]
        counts = is_learnt.sum(1)
        found = []
        for hidden in self._per_share(inputs, shares):
            logits, learnt = self._logits_of_learnt(hidden, targets)
            losses = functional.cross_entropy(logits.float(), learnt, reduction="none")
            found.append((torch.zeros(len(targets), device=row.device).index_add(0, row, losses), counts))
        return found

    def _per_share(self, inputs: dict[str, Tensor], shares: Shares | None) -> Sequence[Tensor]:
        if shares is None:
            return [self._hidden(inputs)]
        shares.begin(len(inputs["input_ids"]))
        return shares.split(self._hidden(inputs))

    # -- writing -------------------------------------------------------------------------------------------------------

    def _texts(self, batch: Batch, shares: Shares | None) -> list[str]:
        """What is written behind each prompt, one share after the other."""
        self._check_order()
        assert batch.starts is not None
        n, n_shares = len(batch.starts), 1 if shares is None else len(shares.active)
        # Each row has the room that its own prompt leaves. In one pass with a longer prompt it would have that one's,
        # and what is written for a row must not depend on who stands beside it.
        room = (self._most_positions() - batch.starts).clamp(1, self.most_tokens)
        found = [""] * (n * n_shares)
        for most in sorted(set(room.tolist())):
            rows = torch.nonzero(room == most)[:, 0]
            texts = self._written_behind(_prompts(batch, rows, self.pad), most, shares)
            places = [place * n + row for place in range(n_shares) for row in rows.tolist()]
            for place, text in zip(places, texts, strict=True):
                found[place] = text
        return found

    def _written_behind(self, inputs: dict[str, Tensor], most: int, shares: Shares | None) -> list[str]:
        """At most so many tokens behind each prompt, greedily, one share after the other."""
        if shares is not None:  # greedy decoding counts the rows that it is given, so it is given all
            shares.begin(len(inputs["input_ids"]))
            inputs = {name: shares.repeat(value) for name, value in inputs.items()}
        config = GenerationConfig(
            max_new_tokens=most, do_sample=False, num_beams=1, pad_token_id=self.pad, eos_token_id=self._ends
        )
        whole = self.backbone.language_model
        own, whole.generation_config = whole.generation_config, GenerationConfig()
        try:
            # What a model's makers set, such as a penalty for repeating, would be added to what is asked here.
            with torch.no_grad():
                found = whole.generate(**inputs, generation_config=config)
        finally:
            whole.generation_config = own
        width = inputs["input_ids"].shape[1]
        return [text.strip() for text in self.tokenizer.batch_decode(found[:, width:], skip_special_tokens=True)]

    def _most_positions(self) -> int:
        """Tokens that the model was made for, prompt and answer together."""
        told = getattr(self.backbone.model.config, "max_position_embeddings", None)
        return self.backbone.n_positions or told or sys.maxsize

    @cached_property
    def _ends(self) -> list[int]:
        """The tokens that end an answer: the tokenizer's, the model's, and what its chat template closes a turn with.

        A chat model may close its turns otherwise than texts end, and tell so in its generation configuration alone.
        """
        told = [getattr(self.backbone.language_model.generation_config, "eos_token_id", None)]
        told += [self.tokenizer.eos_token_id, self.backbone.model.config.eos_token_id, closing(self.tokenizer)]
        flat = [token for one in told for token in (one if isinstance(one, (list, tuple)) else [one])]
        return sorted({int(token) for token in flat if token is not None})


def _right_rows(batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs and targets of the right answers alone."""
    assert batch.targets is not None
    if batch.sizes is None:
        return batch.inputs, batch.targets
    first = torch.tensor(np.cumsum([0, *batch.sizes[:-1]]), device=batch.labels.device)
    rows = first + batch.labels
    return {name: value[rows] for name, value in batch.inputs.items()}, batch.targets[rows]


def _answers_alone(targets: Tensor, starts: Tensor | None) -> Tensor:
    """The targets of the last answers: a prompt that is trained on is not scored."""
    assert starts is not None
    before = torch.arange(targets.shape[1]) < starts[:, None]
    return targets.masked_fill(before.to(targets.device), UNLEARNT)


def _is_one_token_each(batch: Batch) -> bool:
    """Whether every row's answer is one token, and rows of one example have one prompt."""
    assert batch.starts is not None
    assert batch.sizes is not None
    lengths = batch.inputs["attention_mask"].sum(1).cpu()
    if not bool((lengths == batch.starts + 1).all()):
        return False
    ids, first = batch.inputs["input_ids"], np.repeat(np.cumsum([0, *batch.sizes[:-1]]), batch.sizes)
    is_prompt = torch.arange(ids.shape[1]) < batch.starts[:, None]
    is_same = (ids == ids[torch.as_tensor(first, device=ids.device)]).cpu() | ~is_prompt
    return bool(is_same.all()) and bool((batch.starts == batch.starts[torch.as_tensor(first)]).all())


def _prompts(batch: Batch, rows: Tensor, pad: int) -> dict[str, Tensor]:
    """What stands before the last answers of `rows`, padded on the left, so that all go on from the last column."""
    assert batch.starts is not None
    device = batch.inputs["input_ids"].device
    ids, starts = batch.inputs["input_ids"][rows.to(device)], batch.starts[rows].to(device)
    width = int(starts.max())
    place = torch.arange(width, device=device) - (width - starts)[:, None]  # negative at padding
    mask = place >= 0
    return {
        "input_ids": ids.gather(1, place.clamp_min(0)).masked_fill(~mask, pad),
        "attention_mask": mask.long(),
    }
