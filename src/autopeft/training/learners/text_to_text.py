"""Text-to-text models (T5): the label is text.

Two ways of reading an answer: scoring the label words directly (fast, the default), and greedy decoding (the
BIPEFT paper's way; an answer that cannot be parsed is wrong).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutput

from autopeft.backbones import Backbone
from autopeft.errors import DataError
from autopeft.network.dropout import next_draw
from autopeft.network.shares import Shares
from autopeft.tasks._examples import Examples
from autopeft.tasks._task import Task
from autopeft.training.batches import Batch, Encoded, Ragged
from autopeft.training.consistency import Forward
from autopeft.training.kept_tokens import tokens_of
from autopeft.training.learners._learner import Answer, Side

_MOST_ROWS = 256
"""Decoder rows, examples times labels, that are scored at a time."""


class TextToTextLearner:
    """A task put to an encoder-decoder in words.

    Attributes:
        answer: "score" compares the likelihoods of the verbalised labels, "generate" decodes greedily.
    """

    def __init__(self, backbone: Backbone, task: Task, answer: Answer = "score") -> None:
        """Raises:
        DataError: the backbone has no tokenizer.
        """
        if backbone.tokenizer is None:
            raise DataError(f"{backbone.name} has no tokenizer, so texts cannot be encoded.")
        self.backbone, self.task = backbone, task
        self.model: nn.Module = backbone.model
        self.tokenizer = backbone.tokenizer
        self.pad, self.n_head = int(self.tokenizer.pad_token_id), 0
        # A number or a text has no finite list of words to compare.
        self.answer: Answer = answer if task.answers.is_listed and task.verbalisers else "generate"
        self._labels = self._tokens(task.verbalisers) if task.verbalisers else Ragged.of([])

    def _tokens(self, texts: Sequence[str]) -> Ragged:
        # With the end token, without which "1" could not be told from the beginning of "10".
        return Ragged.of(self.tokenizer(list(texts), add_special_tokens=True)["input_ids"])

    def keep_unit(self) -> None:
        """Numbers are said in words here, in the unit of the data as they are."""

    def facts(self) -> dict[str, Any]:
        """Nothing: what is to be said is among the encoded examples."""
        return {}

    def encode(self, examples: Examples, max_length: int, side: Side = "right") -> Encoded:
        """Sources truncated to `max_length` tokens or the model's positions; targets whole, with the end token."""
        sources = [self.task.source_text(examples, index) for index in range(len(examples))]
        targets = [self.task.target_text(examples, index) for index in range(len(examples))]
        # The recipe alone says where a source is cut unless a table of positions ends before (BART's, but not T5's).
        limit = min(max_length, self.backbone.n_positions or max_length)
        found = tokens_of(self.tokenizer, sources, None, most=limit, side=side)
        return Encoded(found.ids, None, examples.labels, targets=self._tokens(targets))

    def reset(self, seed: int) -> list[nn.Parameter]:
        """There is no head."""
        return []

    def forward(self, batch: Batch) -> Forward:
        """Cross-entropy over the target tokens, and the logits at each of them."""
        next_draw()
        found = self.model(**batch.inputs, labels=batch.targets)
        return Forward(found.loss, found.logits[batch.targets != -100])  # (target tokens, vocabulary)

    def fresh_head(self, seed: int) -> None:
        """There is no head."""

    def take_head(self, head: nn.Module | None) -> None:
        """There is no head."""

    def forward_shares(self, batch: Batch, shares: Shares, heads: Sequence[nn.Module | None]) -> list[Forward]:
        """The same for every share."""
        next_draw()
        assert batch.targets is not None
        shares.begin(len(batch.targets))
        # The model's own loss would be one mean over all shares.
        given = self.backbone.model.prepare_decoder_input_ids_from_labels(labels=batch.targets)
        found = shares.split(self.model(**batch.inputs, decoder_input_ids=given).logits)
        return [Forward(_cross_entropy(logits, batch.targets), logits[batch.targets != -100]) for logits in found]

    def outputs(self, batch: Batch) -> list[Any]:
        """Log-likelihoods of the labels ``(classes,)`` for "score", the decoded text for "generate"."""
        return self._scores(batch, None) if self.answer == "score" else self._texts(batch.inputs)

    def outputs_of_shares(self, batch: Batch, shares: Shares, heads: Sequence[nn.Module | None]) -> list[list[Any]]:
        """The same for every share."""
        n = len(batch.inputs["input_ids"])
        shares.begin(n)
        if self.answer == "score":
            found: list[Any] = self._scores(batch, shares)
        else:  # greedy decoding counts the rows that it is given, so it is given all
            found = self._texts({name: shares.repeat(value) for name, value in batch.inputs.items()})
        return [found[start : start + n] for start in range(0, len(found), n)]

    def score(self, outputs: Sequence[Any], examples: Examples) -> dict[str, float]:
        """The task's metrics."""
        if self.answer == "generate":
            return self.task.score_texts(outputs, examples)
        return self.task.score(outputs, examples)

    def _scores(self, batch: Batch, shares: Shares | None) -> list[NDArray[np.float32]]:
        # The encoder reads each example once; only the decoder, which is short, runs for every label.
        hidden = self.backbone.model.get_encoder()(**batch.inputs).last_hidden_state
        # So many labels at a time that memory does not grow with their number.
        n_labels, step = len(self._labels), max(1, _MOST_ROWS // len(hidden))
        parts = [range(first, min(first + step, n_labels)) for first in range(0, n_labels, step)]
        found = torch.cat([self._likelihoods(batch, hidden, part, shares) for part in parts], dim=1)
        return list(found.cpu().numpy())

    def _likelihoods(self, batch: Batch, hidden: Tensor, labels: range, shares: Shares | None) -> Tensor:
        """The logarithm of the likelihood of some labels, ``(examples, labels)``; one share after the other.

        Where there are `shares`, `hidden` is that of all of them or, below the lowest of their modules, of one.
        """
        mask = batch.inputs["attention_mask"].repeat_interleave(len(labels), 0)
        targets = self._labels.padded(labels, -100).to(hidden.device)  # (labels, tokens)
        rows = targets.repeat(len(mask) // len(labels), 1)  # (examples * labels, tokens)
        if shares is not None:
            shares.begin(len(rows))
        logits = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden.repeat_interleave(len(labels), 0)),
            attention_mask=mask,
            decoder_input_ids=self.backbone.model.prepare_decoder_input_ids_from_labels(labels=rows),
        ).logits.float()
        rows = rows.repeat(len(logits) // len(rows), 1)
        losses = functional.cross_entropy(logits.transpose(1, 2), rows, reduction="none")  # 0 where ignored
        # The sum and not the mean: the likelihood of a label is the product over its tokens, and a mean would prefer
        # long words.
        return (-losses.sum(1)).view(-1, len(labels))

    def _texts(self, inputs: dict[str, Tensor]) -> list[str]:
        with torch.no_grad():
            found = self.backbone.model.generate(
                **inputs, max_new_tokens=self.task.answers.most_tokens, do_sample=False, num_beams=1
            )
        return list(self.tokenizer.batch_decode(found, skip_special_tokens=True))


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean over the target tokens, as transformers takes it."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
