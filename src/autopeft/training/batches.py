"""Token sequences, encoded once and shared by all trials, and the batches made of them.

A batch is padded to its own longest sequence, and sequences of like length share a batch, so little of the work
is padding. Padding never changes a result: it is masked everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autopeft.network.trunk import Below

_POOL = 50  # batches whose examples are sorted by length together: long enough to help, short enough to stay random


@dataclass(frozen=True)
class Ragged:
    """Sequences of different lengths in one flat array; much smaller than a list of lists."""

    flat: NDArray[np.int32]
    offsets: NDArray[np.int64]  # (n + 1,)

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> Ragged:
        """Pack `sequences`."""
        lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
        flat = (
            np.concatenate([np.asarray(s, dtype=np.int32) for s in sequences]) if len(sequences) else np.zeros(0, "i4")
        )
        return cls(flat.astype(np.int32), np.concatenate([[0], np.cumsum(lengths)]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        return self.flat[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Length of every sequence."""
        return np.diff(self.offsets)

    def padded(self, rows: Sequence[int] | NDArray[np.int64], fill: int, width: int | None = None) -> Tensor:
        """The sequences at `rows`, padded on the right with `fill`: ``(len(rows), longest or width)``, int64."""
        parts = [self[int(row)] for row in rows]
        width = max(max((len(part) for part in parts), default=1), 1) if width is None else width
        out = np.full((len(parts), width), fill, dtype=np.int64)
        for line, part in zip(out, parts, strict=True):
            line[: len(part)] = part
        return torch.from_numpy(out)


@dataclass(frozen=True)
class Encoded:
    """Examples as token ids.

    Args:
        tokens: one row an example, or one row a choice for multiple choice.
        types: token types in the same shape, or None where the model has none.
        labels: int64 class ids or choice indices, or float64 targets, ``(n,)``.
        rows: for multiple choice, the first row of each example and the end, ``(n + 1,)``; None otherwise.
        targets: for text-to-text, the target token ids of each example; for a decoder that writes, of each row, as
            long as the row, -100 where nothing is learnt; None otherwise.
        starts: for a decoder that writes, where the answer of each row begins; None otherwise.
        below: gives, for rows and a width, what the trunk gives for them; None where that is computed.
    """

    tokens: Ragged
    types: Ragged | None
    labels: NDArray[np.int64] | NDArray[np.float64]
    rows: NDArray[np.int64] | None = None
    targets: Ragged | None = None
    starts: NDArray[np.int64] | None = None
    below: Callable[[NDArray[np.int64], int], Below] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Longest row of each example, in tokens."""
        if self.rows is None:
            return self.tokens.lengths
        # The longest choice decides how wide a batch becomes, whichever of them it is.
        return np.maximum.reduceat(self.tokens.lengths, self.rows[:-1])

    def digest(self) -> str:
        """SHA-256 of every token, type, label and row: what a training run sees."""
        found = hashlib.sha256()
        for part in (self.tokens, self.types, self.targets):
            for array in (part.flat, part.offsets) if part is not None else ():
                found.update(array.tobytes())
            # A mark between the parts, or tokens that move from one part to the next would give the same digest.
            found.update(b"|")
        found.update(str(self.labels.dtype).encode() + self.labels.tobytes())
        for places in (self.rows, self.starts):
            found.update(b"" if places is None else places.tobytes())
        return found.hexdigest()


@dataclass(frozen=True)
class Batch:
    """Model inputs, ``(rows, tokens)``, and what is known of the examples.

    `indices` says which examples they are; `sizes` how many rows each has (multiple choice), or None; `targets` and
    `starts` are those of `Encoded`, `starts` on the processor; `below` is what the trunk gives, where that is kept.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    indices: NDArray[np.int64]
    sizes: tuple[int, ...] | None = None
    targets: Tensor | None = None
    starts: Tensor | None = None
    below: Below | None = None


def collate(encoded: Encoded, indices: NDArray[np.int64], pad: int, device: torch.device) -> Batch:
    """The examples at `indices` as one batch on `device`. Target padding is -100, which losses ignore."""
    sizes = None
    rows = indices
    if encoded.rows is not None:
        sizes = tuple(int(encoded.rows[i + 1] - encoded.rows[i]) for i in indices)
        # All choices of an example stand in one batch, or its scores could not be compared.
        rows = np.concatenate([np.arange(encoded.rows[i], encoded.rows[i + 1]) for i in indices])
    tokens = encoded.tokens.padded(rows, pad)
    lengths = torch.from_numpy(encoded.tokens.lengths[rows])
    inputs = {"input_ids": tokens, "attention_mask": (torch.arange(tokens.shape[1]) < lengths[:, None]).long()}
    if encoded.types is not None:
        inputs["token_type_ids"] = encoded.types.padded(rows, 0)
    # The mark by which transformers leaves a position out of the loss.
    targets = None if encoded.targets is None else encoded.targets.padded(rows, -100).to(device)
    starts = None if encoded.starts is None else torch.from_numpy(encoded.starts[rows])
    labels = torch.as_tensor(encoded.labels[indices]).to(device)
    below = None if encoded.below is None else encoded.below(rows, tokens.shape[1])
    below = None if below is None else replace(below, hidden=below.hidden.to(device))
    on_device = {name: value.to(device) for name, value in inputs.items()}
    return Batch(on_device, labels, indices, sizes, targets, starts, below)


def training_order(
    lengths: NDArray[np.int64], batch_size: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """One epoch of batches, every example once: shuffled, sorted by length within pools, batches shuffled again.

    Only one batch may be smaller than `batch_size`.
    """
    # Sorted within pools and not over all examples, or every epoch would begin with the short ones and the model would
    # meet lengths one after the other.
    order = rng.permutation(len(lengths))
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), _POOL * batch_size):
        pool = order[start : start + _POOL * batch_size]
        # Stable, as the default sort places examples of equal length differently on other processors.
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    for index in rng.permutation(len(batches)):
        yield batches[index]


class TrainingOrder:
    """The batches of a training run, epoch after epoch, without end; it knows its place and can be put there again.

    Args:
        lengths: of the examples, ``(n,)``.
        batch_size: examples a batch.
        seed: decides the order.
    """

    def __init__(self, lengths: NDArray[np.int64], batch_size: int, seed: int) -> None:
        self._lengths, self._batch_size = lengths, batch_size
        self._rng = np.random.default_rng(seed)
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        # Kept from before the epoch is drawn: from it the same batches are drawn again, so that a place is a few
        # numbers and not a list of all batches.
        self._at_start = self._rng.bit_generator.state
        self._batches, self._given = list(training_order(self._lengths, self._batch_size, self._rng)), 0

    def __iter__(self) -> TrainingOrder:
        return self

    def __next__(self) -> NDArray[np.int64]:
        if self._given == len(self._batches):
            self._begin_epoch()
        self._given += 1
        return self._batches[self._given - 1]

    def state(self) -> dict[str, Any]:
        """The place, JSON-ready: the generator as the epoch began, and how many batches of it have been given."""
        return {"generator": self._at_start, "given": self._given}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to a place that `state` gave, of an order with the same arguments.

        Raises:
            ValueError, KeyError, TypeError: it is none.
        """
        # Read before anything changes, so that a state that is none leaves the order where it was.
        given = int(state["given"])
        self._rng.bit_generator.state = state["generator"]
        self._begin_epoch()
        if not 0 <= given <= len(self._batches):
            raise ValueError(f"An epoch has {len(self._batches)} batches, but {given} were given.")
        self._given = given


def evaluation_order(lengths: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """All examples once, longest first, so that a memory shortage shows at once."""
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
