"""What the trunks of a backbone give for the training part, kept between epochs and trials.

Below the lowest module of an architecture nothing is trained, and with `Recipe.trunk_dropout` off nothing is drawn
there: hidden states depend on the example alone. They are computed once for all examples, in batches that depend on
nothing but the examples, so that a run that goes on in another process finds the same numbers, bit for bit.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autopeft.backbones import Backbone
from autopeft.errors import SettingsError
from autopeft.network.trunk import Below, can_have_trunk, captured, quiet
from autopeft.training.batches import Batch, Encoded, collate, evaluation_order
from autopeft.training.learners import EncoderLearner, Learner
from autopeft.training.precision import autocast
from autopeft.training.recipe import Recipe

_AT_ONCE = 32
"""Examples of a pass. Not the batch size: what is kept must be the same for recipes that differ in it."""


@dataclass(frozen=True)
class Kept:
    """The hidden states of all rows one after the other, `flat` ``(tokens, d)``, and where each begins."""

    depth: int
    flat: Tensor
    offsets: NDArray[np.int64]
    is_tuple: bool
    is_mapped: bool

    @property
    def n_bytes(self) -> int:
        """What it takes, in memory or on disk."""
        return self.flat.numel() * self.flat.element_size()

    def below(self, rows: NDArray[np.int64], width: int) -> Below:
        """That of a batch of `rows`, padded with zeros to `width` tokens."""
        hidden = self.flat.new_zeros(len(rows), width, self.flat.shape[1])
        for line, row in zip(hidden, rows, strict=True):
            part = self.flat[self.offsets[row] : self.offsets[row + 1]]
            line[: len(part)] = part
        return Below(self.depth, hidden, self.is_tuple)

    def put(self, rows: NDArray[np.int64], hidden: Tensor) -> None:
        """Keep what was computed for `rows`, ``(rows, tokens, d)``."""
        for line, row in zip(hidden, rows, strict=True):
            start, end = self.offsets[row], self.offsets[row + 1]
            self.flat[start:end] = line[: end - start]


class Trunks:
    """What was kept of the trunks of one backbone, the latest of what there is room for.

    Args:
        in_memory: bytes that may be kept in memory, of all together.
        on_disk: bytes that may be kept in files that are mapped into memory, of all together. They lie in the system's
            folder for temporary files and are gone with the process. What fits neither is computed whenever it is
            needed.
    """

    def __init__(self, in_memory: int = 2**30, on_disk: int = 2**33) -> None:
        self._room = {False: in_memory, True: on_disk}
        self._held: dict[tuple[object, ...], Kept] = {}
        self._stamp = (0, 0)

    def of(self, backbone: Backbone, learner: Learner, encoded: Encoded, recipe: Recipe, depth: int) -> Kept | None:
        """The hidden states of `encoded` below the layer `depth`; None where keeping them is impossible or no gain.

        They are computed where they are not there yet, which changes no random number of anybody.
        """
        is_short = recipe.n_processed(len(encoded)) < len(encoded)
        # The second pass of gradient checkpointing comes when the batch's own are gone.
        if depth < 1 or is_short or recipe.gradient_checkpointing:
            return None
        self._drop_stale(backbone)
        key = (depth, encoded.digest(), recipe.precision, str(backbone.model.dtype), str(backbone.device))
        kept = self._held.pop(key, None) or self._filled(backbone, learner, encoded, recipe, depth)
        if kept is not None:
            self._held[key] = kept  # behind all others: the first one is the one that was not used for longest
        return kept

    def _drop_stale(self, backbone: Backbone) -> None:
        """Forget all if a weight was written to since, as by an architecture that trains the backbone itself."""
        parameters = list(backbone.model.parameters())
        stamp = (id(backbone.model), sum(parameter._version for parameter in parameters))
        if stamp != self._stamp:
            self._held.clear()
        self._stamp = stamp

    def _filled(
        self, backbone: Backbone, learner: Learner, encoded: Encoded, recipe: Recipe, depth: int
    ) -> Kept | None:
        kept = None
        learner.model.eval()
        with torch.random.fork_rng(devices=[]), autocast(recipe, backbone.device):
            for indices in evaluation_order(encoded.lengths, _AT_ONCE):
                batch = collate(encoded, indices, learner.pad, backbone.device)
                below = captured(backbone, depth, lambda batch=batch: learner.forward(batch))  # type: ignore[misc]
                kept = kept or self._made(encoded, below)
                if kept is None:
                    return None
                kept.put(_rows(encoded, batch), below.hidden)
        return kept

    def _made(self, encoded: Encoded, like: Below) -> Kept | None:
        """Room for the hidden states of `encoded`, where there is any."""
        shape, dtype = (len(encoded.tokens.flat), like.hidden.shape[-1]), like.hidden.dtype
        n_bytes = shape[0] * shape[1] * dtype.itemsize
        is_mapped = n_bytes > self._room[False]
        if n_bytes > self._room[is_mapped]:
            return None
        self._make_room(n_bytes, is_mapped=is_mapped)
        flat = _mapped(shape, dtype) if is_mapped else torch.empty(shape, dtype=dtype)
        return None if flat is None else Kept(like.depth, flat, encoded.tokens.offsets, like.is_tuple, is_mapped)

    def _make_room(self, n_bytes: int, *, is_mapped: bool) -> None:
        for key, kept in list(self._held.items()):
            taken = sum(other.n_bytes for other in self._held.values() if other.is_mapped == is_mapped)
            if taken + n_bytes > self._room[is_mapped] and kept.is_mapped == is_mapped:
                del self._held[key]


def _rows(encoded: Encoded, batch: Batch) -> NDArray[np.int64]:
    """The rows of the examples of a batch, in its order."""
    if encoded.rows is None:
        return batch.indices
    return np.concatenate([np.arange(encoded.rows[i], encoded.rows[i + 1]) for i in batch.indices])


def _mapped(shape: tuple[int, int], dtype: torch.dtype) -> Tensor | None:
    """A tensor in a file without a name; None where the disk has no room or the system no way to be sure of it."""
    n_bytes = shape[0] * shape[1] * dtype.itemsize
    if not hasattr(os, "posix_fallocate"):
        return None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "trunk"
        try:
            with path.open("wb") as file:
                # Claimed beforehand: a disk that is full when a page of the mapping is written ends the process.
                os.posix_fallocate(file.fileno(), 0, n_bytes)
        except OSError:
            return None
        # Its name is gone when the folder is, and its room when the tensor is: no end of the process leaves it behind.
        return torch.from_file(str(path), shared=True, size=shape[0] * shape[1], dtype=dtype).view(shape)


def check_trunk(recipe: Recipe, backbone: Backbone, learner: Learner) -> None:
    """Refuse a recipe without dropout in the trunk where there is none.

    Raises:
        SettingsError: there are two stacks of layers, or no head reads them.
    """
    if not recipe.trunk_dropout and not (can_have_trunk(backbone) and isinstance(learner, EncoderLearner)):
        raise SettingsError(
            "recipe.trunk_dropout can be false where a head reads one stack of layers, but "
            f"{backbone.name} ({', '.join(backbone.family.stacks)}) answers through {type(learner).__name__}."
        )


@contextmanager
def on_trunk(
    trunks: Trunks, backbone: Backbone, learner: Learner, encoded: Encoded, recipe: Recipe, depth: int
) -> Iterator[Encoded]:
    """What to train on above the layer `depth`: `encoded`, with what is kept of the trunk unless dropout acts there.

    Within it nothing is dropped below, where the recipe says so.
    """
    if recipe.trunk_dropout:
        yield encoded
        return
    kept = trunks.of(backbone, learner, encoded, recipe, depth)
    with quiet(backbone, depth):
        yield encoded if kept is None else replace(encoded, below=kept.below)
