"""What lies between a task and a backbone: encoding, the loss of a batch, and the outputs that are scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from torch import nn

from autopeft.network.shares import Shares
from autopeft.tasks._examples import Examples
from autopeft.training.batches import Batch, Encoded
from autopeft.training.consistency import Forward

Answer = Literal["score", "generate", "words", "words_per_token"]
"""How a model's answer is read.

A text-to-text model compares the likelihoods of the labels ("score"), or decodes greedily ("generate"). A decoder has a
head for "score"; it answers in words for the others: decoded greedily ("generate"), or by the likelihoods of what may
be answered ("words"), of which "words_per_token" takes the means over the tokens."""


Side = Literal["right", "left"]
"""Where an example that is too long is cut, see `autopeft.training.recipe.Recipe`."""


class Learner(Protocol):
    """A task as seen by one backbone.

    Attributes:
        model: the module that is put into training and evaluation mode.
        n_head: parameters of the head, 0 where there is none.
        pad: the token id with which batches are padded.
    """

    model: nn.Module
    n_head: int
    pad: int

    def keep_unit(self) -> None:
        """Learn numbers in the unit of the data; without meaning where answers are no numbers or are texts."""
        ...

    def facts(self) -> dict[str, Any]:
        """What decides on what is learnt besides the backbone and the encoded examples, JSON-ready."""
        ...

    def encode(self, examples: Examples, max_length: int, side: Side = "right") -> Encoded:
        """Token ids of `examples`, truncated to `max_length` tokens on that side."""
        ...

    def reset(self, seed: int) -> list[nn.Parameter]:
        """A fresh head; returns its parameters."""
        ...

    def forward(self, batch: Batch) -> Forward:
        """One pass over a batch, differentiable: its mean loss and what it answered."""
        ...

    def fresh_head(self, seed: int) -> nn.Module | None:
        """A head as `reset` makes it from the same seed, beside the learner's own; None where there is none."""
        ...

    def take_head(self, head: nn.Module | None) -> None:
        """Let `head` be the learner's own."""
        ...

    def forward_shares(self, batch: Batch, shares: Shares, heads: Sequence[nn.Module | None]) -> list[Forward]:
        """`forward` of every architecture that has a share, with its own head, in one pass over the backbone."""
        ...

    def outputs_of_shares(self, batch: Batch, shares: Shares, heads: Sequence[nn.Module | None]) -> list[list[Any]]:
        """`outputs` of every architecture that has a share, with its own head, in one pass over the backbone."""
        ...

    def outputs(self, batch: Batch) -> list[Any]:
        """What the model gives for every example of a batch, in the form that `score` takes."""
        ...

    def score(self, outputs: Sequence[Any], examples: Examples) -> dict[str, float]:
        """The task's metrics of the outputs for `examples`."""
        ...
