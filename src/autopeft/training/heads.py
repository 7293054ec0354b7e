"""The task head, and a transformers model made of a backbone and a head.

The head is the one of AutoPEFT's release: dropout, linear, tanh, dropout, linear, on the last hidden state at the
first token (at the last token for causal decoders). It is trained with every architecture and is counted only in
*trained*.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from autopeft.backbones import Backbone
from autopeft.errors import ArchitectureError
from autopeft.methods import lookup
from autopeft.tasks import _answers as answers


@dataclass(frozen=True)
class LabelScale:
    """The unit in which a head gives numbers: it learns ``(number - mean) / deviation``; its answers are turned back.

    Without it, a head that starts near 0 and moves a little at each step never comes to prices of 300,000.
    """

    mean: float
    deviation: float

    @classmethod
    def of(cls, labels: NDArray[Any]) -> LabelScale:
        """That of the labels that are trained on; labels that are all one keep their unit."""
        # Labels that are all one have a deviation of zero, and dividing by it would leave nothing to learn from.
        return cls(float(labels.mean()), float(labels.std()) or 1.0)

    def standardised(self, labels: Tensor) -> Tensor:
        """Labels in the head's unit, in the precision of the labels."""
        return (labels - self.mean) / self.deviation

    def restored(self, given: Tensor) -> Tensor:
        """What a head gives in the unit of the labels, in float32 or better."""
        # In bf16 a price of 300,000 would be rounded to steps of 2,048.
        return given.float() * self.deviation + self.mean


class Head(nn.Module):
    """``W2 dropout(tanh(W1 dropout(h)))``; weights N(0, 0.02²), biases 0; dropout 0.1."""

    def __init__(self, d: int, n_outputs: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.dense = nn.Linear(d, d)
        self.out = nn.Linear(d, n_outputs)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.dense, self.out):
            # BERT's initialisation, which the release applies to its head, instead of PyTorch's default for linear
            # maps.
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """``(batch, d)`` to ``(batch, n_outputs)``."""
        return cast(Tensor, self.out(self.dropout(torch.tanh(self.dense(self.dropout(hidden))))))


def head_parameters(d: int, n_outputs: int) -> int:
    """Number of parameters of a `Head`."""
    return d * d + d + d * n_outputs + n_outputs


class HeadedModel(PreTrainedModel):  # type: ignore[misc]  # transformers is untyped here
    """A backbone and a head as one transformers model for sequence classification or regression.

    Called like any other: ``model(**tokenizer(texts, return_tensors="pt", padding=True)).logits``, of shape
    ``(batch, n_outputs)``. What is attached to the backbone is part of what it computes. Numbers are in the unit of
    the labels, whatever the `LabelScale` in which the head learnt them; a loss is in that scale.
    """

    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(
        self, backbone: Backbone, head: Head, problem: str = "classification", scale: LabelScale | None = None
    ) -> None:
        super().__init__(backbone.model.config)
        self.backbone = backbone.model
        # Not a module but a handle of this package, so it is no part of the state that transformers saves.
        self._source = backbone
        self.head = head
        self.pooling = backbone.family.pooling
        self.problem, self.scale = problem, scale
        # transformers sets it in `post_init`, which is not called, as it would initialise the pretrained backbone anew;
        # saving reads it.
        self.all_tied_weights_keys: dict[str, str] = {}

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **inputs: Any
    ) -> SequenceClassifierOutput:
        """Logits ``(batch, n_outputs)``, and the loss when `labels` are given."""
        given = self.unscaled(input_ids, attention_mask, **inputs)
        loss = None
        if labels is not None:
            loss = loss_of(given, labels if self.scale is None else self.scale.standardised(labels), self.problem)
        return SequenceClassifierOutput(loss=loss, logits=given if self.scale is None else self.scale.restored(given))

    def unscaled(self, input_ids: Tensor, attention_mask: Tensor | None = None, **inputs: Any) -> Tensor:
        """What the head itself gives, ``(batch, n_outputs)``: the logits, but numbers in units of `scale`."""
        return self.answer(self.read(input_ids, attention_mask, **inputs), self.head)

    def read(self, input_ids: Tensor, attention_mask: Tensor | None = None, **inputs: Any) -> Tensor:
        """The hidden states that a head reads, ``(batch, d)``; with several shares of the batch those of all."""
        if self.pooling == "last" and attention_mask is not None:
            # Counted from the first real token: padding on the left would move the text away from what is in front.
            inputs.setdefault("position_ids", (attention_mask.long().cumsum(-1) - 1).clamp_min(0))
        with only_first_token(self._source):
            hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **inputs).last_hidden_state
        return pooled(hidden, attention_mask, self.pooling)

    @staticmethod
    def answer(read: Tensor, head: Head) -> Tensor:
        """What `head` makes of what `read` gives."""
        return cast(Tensor, head(read.to(head.dense.weight.dtype)))  # it may be more precise than the backbone

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers, where nothing is attached.

        Raises:
            ArchitectureError: an architecture is attached, which transformers would leave out.
        """
        check_savable(self._source)
        super().save_pretrained(*args, **kwargs)


def check_savable(backbone: Backbone) -> None:
    """Refuse to let transformers save a model to which something is attached.

    Raises:
        ArchitectureError: an architecture is attached, which transformers would leave out.
    """
    if backbone.occupant is not None:
        raise ArchitectureError(
            f"save_pretrained would leave out what is attached to {backbone.name}, {backbone.occupant}: "
            "use autopeft.saved.save, or detach it first."
        )


@contextmanager
def only_first_token(backbone: Backbone) -> Iterator[None]:
    """Within it, the last layer goes on from its attention with the first token alone, where nothing else is read.

    Exact, and two thirds of the last layer's products less: the head reads that token, and after the last attention no
    token looks at another. Everything is computed where a family does not say where that is
    (`Family.mixing`), where a module looks across tokens (`sees_padding`), where the feed-forward takes the tokens in
    chunks, which do not divide one token, and under gradient checkpointing, whose second pass comes when this context
    is over.
    """
    family, attached = backbone.family, getattr(backbone.occupant, "methods", ())
    is_read_alone = family.pooling == "first" and bool(family.mixing) and not _any_looks_across(attached)
    # Chunks are cut along the tokens, and one token cannot be cut.
    is_chunked = getattr(backbone.model.config, "chunk_size_feed_forward", 0) > 1
    if not is_read_alone or is_chunked or _is_checkpointing(backbone.model):
        yield
        return
    # A family that pools at its first token is an encoder and has one stack.
    last = list(backbone.module(next(iter(family.stacks.values())).layers).children())[-1]
    handle = last.get_submodule(family.mixing).register_forward_hook(_cut)
    try:
        yield
    finally:
        handle.remove()


def _any_looks_across(names: Iterable[str]) -> bool:
    return any(lookup(name).sees_padding for name in names)


def _is_checkpointing(model: PreTrainedModel) -> bool:
    # transformers 5 renamed it on the way and warns at the old name, which older releases have only.
    is_new = hasattr(type(model), "is_activation_checkpointing")
    return bool(model.is_activation_checkpointing if is_new else model.is_gradient_checkpointing)


def _cut(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    """``(batch, tokens, d)`` to ``(batch, 1, d)``."""
    # Attention modules give a tuple with their weights, whole layers of some families a tensor.
    return (output[0][:, :1], *output[1:]) if isinstance(output, tuple) else output[:, :1]


def pooled(hidden: Tensor, mask: Tensor | None, pooling: Literal["first", "last"]) -> Tensor:
    """The hidden state that the head reads: ``(batch, tokens, d)`` to ``(batch, d)``.

    The `mask` may be that of one of several equal shares of the batch.
    """
    if pooling == "first":
        return hidden[:, 0]
    if mask is None:
        return hidden[:, -1]
    # The largest position that is not padding, so that padding may be on either side.
    last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(dim=1).repeat(len(hidden) // len(mask))
    return hidden[torch.arange(len(hidden), device=hidden.device), last]


def loss_of(logits: Tensor, labels: Tensor, problem: str) -> Tensor:
    """The loss of the kind of answer called `problem`, in float32: see `autopeft.tasks._answers`."""
    return answers.lookup(problem).loss(logits, labels)
