"""An encoder (or a decoder without its vocabulary) with a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from autopeft.backbones import Backbone, seeded
from autopeft.errors import DataError
from autopeft.network.dropout import from_one_state, next_draw
from autopeft.network.shares import Shares
from autopeft.network.trunk import giving
from autopeft.tasks._examples import Examples
from autopeft.tasks._task import Task
from autopeft.training.batches import Batch, Encoded
from autopeft.training.consistency import Forward
from autopeft.training.heads import Head, HeadedModel, LabelScale, head_parameters
from autopeft.training.kept_tokens import tokens_of
from autopeft.training.learners._learner import Side


class EncoderLearner:
    """A backbone with a head for classes, numbers or the scores of choices."""

    def __init__(self, backbone: Backbone, task: Task, train: Examples | None = None) -> None:
        """Args:
            train: what is trained on, from which numbers get their `LabelScale` and classes their balanced weights;
                without it numbers keep their unit, and all classes count alike.

        Raises:
            DataError: the backbone has no tokenizer.
        """
        if backbone.tokenizer is None:
            raise DataError(f"{backbone.name} has no tokenizer, so texts cannot be encoded.")
        self.backbone, self.task = backbone, task
        self.tokenizer = backbone.tokenizer
        self.pad = int(self.tokenizer.pad_token_id)
        self.n_outputs = task.outputs
        self.n_head = head_parameters(backbone.hidden_size, self.n_outputs)
        self.scale = (
            LabelScale.of(train.labels) if task.answers.is_scaled and train is not None and len(train) else None
        )
        weights = None if train is None or not len(train) else task.weights(train)
        self._weights = None if weights is None else torch.tensor(weights, dtype=torch.float32, device=backbone.device)
        # Every run resets it; one is there from the beginning so that the model can be asked for what it costs.
        self._headed = self._fresh(0)
        self.model: nn.Module = self._headed

    def _fresh(self, seed: int) -> HeadedModel:
        with seeded(seed):
            head = Head(self.backbone.hidden_size, self.n_outputs).to(self.backbone.device)
        return HeadedModel(self.backbone, head, self.task.kind, self.scale)

    def keep_unit(self) -> None:
        """Learn numbers in the unit of the data, as was done before they were standardised."""
        self.scale = self._headed.scale = None

    def facts(self) -> dict[str, Any]:
        """The unit in which numbers are learnt."""
        return {"scale": None if self.scale is None else asdict(self.scale)}

    def encode(self, examples: Examples, max_length: int, side: Side = "right") -> Encoded:
        """Token ids and token types; a pair of texts is joined as the tokenizer does it."""
        # A tokenizer often allows more than the model has positions for, and the embedding would then fail in the
        # middle of a run.
        positions = self.backbone.n_positions or max_length
        limit = min(max_length, positions, int(self.tokenizer.model_max_length))
        texts = list(examples.segments())
        pairs = [parts[1] for parts in texts] if texts and len(texts[0]) == 2 else None
        found = tokens_of(self.tokenizer, [parts[0] for parts in texts], pairs, most=limit, side=side)
        rows = None
        if examples.choices:
            rows = np.concatenate([[0], np.cumsum([len(choices) for choices in examples.choices])]).astype(np.int64)
        return Encoded(found.ids, found.types, examples.labels, rows)

    def reset(self, seed: int) -> list[nn.Parameter]:
        """A fresh head, initialised from `seed`."""
        self.take_head(self.fresh_head(seed))
        return list(self._headed.head.parameters())

    def fresh_head(self, seed: int) -> Head:
        """A head from `seed`, beside the learner's own."""
        return self._fresh(seed).head

    def take_head(self, head: nn.Module | None) -> None:
        """Let `head` be the learner's own."""
        self._headed.head = cast(Head, head)

    def forward(self, batch: Batch) -> Forward:
        """The loss of the task's kind of answer, and what two passes are compared by."""
        next_draw()
        with giving(self.backbone, batch.below):
            logits = self._headed.unscaled(**batch.inputs)
        return self._answered(logits, batch)

    def forward_shares(self, batch: Batch, shares: Shares, heads: Sequence[nn.Module | None]) -> list[Forward]:
        """The same for every share; every head draws what it draws alone."""
        next_draw()
        parts = self._parts(batch, shares)
        return [
            self._answered(self._headed.answer(parts[index], cast(Head, heads[index])), batch)
            for index in from_one_state(len(heads))
        ]

    def _parts(self, batch: Batch, shares: Shares) -> Sequence[Tensor]:
        """What each head reads, ``(rows, d)``."""
        shares.begin(len(batch.inputs["input_ids"]))
        with giving(self.backbone, batch.below):
            return shares.split(self._headed.read(**batch.inputs))

    def _answered(self, logits: Tensor, batch: Batch) -> Forward:
        logits = self._by_example(logits, batch.sizes)
        answers, labels = self.task.answers, batch.labels
        labels = labels if self.scale is None else self.scale.standardised(labels)
        return Forward(answers.loss(logits, labels, self._weights), answers.compared(logits))

    def outputs(self, batch: Batch) -> list[Any]:
        """Logits ``(classes,)``, one value ``()``, or one score a choice ``(choices,)``."""
        return self._outputs(self.model(**batch.inputs).logits, batch)

    def outputs_of_shares(self, batch: Batch, shares: Shares, heads: Sequence[nn.Module | None]) -> list[list[Any]]:
        """The same for every share."""
        given = [
            self._headed.answer(part, cast(Head, head))
            for part, head in zip(self._parts(batch, shares), heads, strict=True)
        ]
        return [self._outputs(logits if self.scale is None else self.scale.restored(logits), batch) for logits in given]

    def _outputs(self, logits: Tensor, batch: Batch) -> list[Any]:
        # NumPy, in which everything is scored, knows no bfloat16.
        logits = logits.float()
        if batch.sizes is not None:
            return [part.squeeze(-1).cpu().numpy() for part in torch.split(logits, list(batch.sizes))]
        return list(self.task.answers.shape(logits).cpu().numpy())

    def score(self, outputs: Sequence[Any], examples: Examples) -> dict[str, float]:
        """The task's metrics."""
        return self.task.score(outputs, examples)

    @staticmethod
    def _by_example(logits: Tensor, sizes: Sequence[int] | None) -> Tensor:
        """``(rows, 1)`` to ``(examples, most choices)``, absent choices at minus infinity."""
        if sizes is None:
            return logits
        parts = [part.squeeze(-1) for part in torch.split(logits, list(sizes))]
        return nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=float("-inf"))
