"""Work in progress on disk: tensors and facts in one safetensors file, bound by a digest and replaced in one move.

What an architecture trains is about one per cent of the model, so a training run can be written down whole in the time
of a step or two. Two owners: `write` and `read` know what such a file is, a `RunFile` when one is worth writing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from autopeft.errors import StudyMismatchError, WriteError
from autopeft.reading import parse_json
from autopeft.writing import write_whole

_logger = logging.getLogger(__name__)

_FACTS, _DIGEST = "facts", "digest"

MOST_BYTES = 2**32
"""What the checkpoints of one folder may take together: `Checkpoints.bound` removes the oldest beyond it."""


@dataclass(frozen=True)
class Checkpoint:
    """What is kept: tensors by name, and facts that are JSON."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    def check(self, identity: str) -> None:
        """Raises:
        StudyMismatchError: its fact "identity" is another.
        """
        if self.facts["identity"] != identity:
            raise StudyMismatchError("The checkpoint belongs to a search with other settings, data, space or budget.")

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `prefix`, by the rest of their names."""
        return {name.removeprefix(prefix): found for name, found in self.tensors.items() if name.startswith(prefix)}


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` so that a crash leaves either the old file or the new one, never a part.

    Raises:
        WriteError: the file cannot be written.
    """
    # safetensors takes only tensors without holes, and whatever device goes on with the run reads them.
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    facts = json.dumps(checkpoint.facts)
    with write_whole(path) as part:
        save_file(tensors, part, metadata={_FACTS: facts, _DIGEST: _digest(tensors, facts)})


def read(path: Path) -> Checkpoint | None:
    """What `write` wrote, or None when there is no file.

    Raises:
        StudyMismatchError: the file is not such a checkpoint, or its digest is not that of its contents.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        facts = parse_json(about[_FACTS], is_finite=False)
        # Files of earlier versions, which interrupted searches may have left, hold no digest.
        if about.get(_DIGEST) not in (None, _digest(tensors, about[_FACTS])):
            raise ValueError("its digest is not that of its contents")
        return Checkpoint(tensors, facts)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise StudyMismatchError(
            f"{str(path)!r} is not a checkpoint that can be used: {error}. Move it away."
        ) from error


def in_order(found: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> list[Tensor]:
    """The tensors called "0", "1", ... for these parameters, of their shapes and types.

    Raises:
        ValueError, KeyError: they are others, of other shapes, or of other types.
    """
    values = [found[str(number)] for number in range(len(parameters))]
    wrong = [
        f"number {number} has shape {tuple(value.shape)} and type {value.dtype}, not {tuple(wanted.shape)} and "
        f"{wanted.dtype}"
        for number, (value, wanted) in enumerate(zip(values, parameters, strict=True))
        if value.shape != wanted.shape or value.dtype != wanted.dtype
    ]
    if wrong or len(found) != len(parameters):
        raise ValueError(f"it holds {len(found)} parameters of {len(parameters)}; {'; '.join(wrong[:3])}")
    return values


def _digest(tensors: Mapping[str, Tensor], facts: str) -> str:
    """SHA-256 of the facts and of every tensor: its name, type, shape and bytes."""
    found = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # Seen as bytes first: NumPy has no bfloat16, and the digest is about bits and not about values.
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def identity_of(facts: Mapping[str, Any]) -> str:
    """SHA-256 of `facts`, JSON-ready, and of the version of PyTorch: another one rounds differently."""
    told = json.dumps({**facts, "torch": torch.__version__}, sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


class RunFile:
    """The file of one training run, and when it is written anew.

    A run is written down at each of its evaluations, between them once in `between` seconds, and when it is
    interrupted. Writing takes no more than a twentieth of the time, so that a run that trains a large model whole is
    written less often.

    Args:
        path: of the file.
        identity: of the run; a file of another one is not read.
        is_held: whether the file of a run that is over is wanted, see `Checkpoints`.
        between: seconds after which a run that has not been evaluated is written all the same.
        share: of the time that writing may take; infinite writes at every evaluation, whatever it costs.

    Attributes:
        is_paused: whether the run stands at a rung and may go on.
    """

    def __init__(
        self, path: Path, identity: str, *, is_held: bool = False, between: float = 60.0, share: float = 0.05
    ) -> None:
        self.path, self._identity, self.is_held = path, identity, is_held
        self._between, self._share = between, share
        self._last, self._took = time.monotonic(), 0.0
        self.is_paused = False

    def load(self) -> Checkpoint | None:
        """What was written, or None where there is nothing that belongs to this run, which is logged."""
        try:
            found = read(self.path)
            if found is not None:
                found.check(self._identity)
            return found
        except (StudyMismatchError, KeyError, TypeError) as error:
            _logger.warning("%s is left alone, and the training begins anew: %s", self.path, error)
            return None

    def is_due(self, *, is_evaluated: bool) -> bool:
        """Whether it is worth writing now."""
        # Monotonic: a clock that is set back would otherwise keep a run unwritten for as long.
        passed = time.monotonic() - self._last
        is_wanted = is_evaluated or passed >= self._between
        # The last writing stands for the next one: how long a disk takes is learnt by asking it, and may change during
        # a run.
        return is_wanted and self._took <= self._share * passed

    def save(self, checkpoint: Checkpoint) -> None:
        """Write it down. A disk that is full or protected is logged: the training itself does not need the file."""
        began = time.monotonic()
        try:
            write(self.path, Checkpoint(checkpoint.tensors, {**checkpoint.facts, "identity": self._identity}))
        except WriteError as error:
            _logger.warning("The training goes on without a checkpoint: %s", error)
        self._last = time.monotonic()
        self._took = self._last - began

    def leave(self, checkpoint: Checkpoint, *, is_over: bool) -> None:
        """The run is paused or over: write it down, whatever that costs, where somebody may come back to it."""
        self.is_paused = not is_over
        if self.is_paused or self.is_held:
            self.save(checkpoint)

    def remove(self) -> None:
        """The run has ended."""
        with suppress(OSError):  # what stays is of no harm: nobody's identity but this run's fits it
            self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Checkpoints:
    """The folder in which runs are written down; it is made when the first one is.

    Args:
        folder: of this purpose alone.
        is_held: whether runs that have ended stay until `clear`: of several that belong together, such as the seeds of
            a retraining, none is then trained twice.
        pace: options of `RunFile`.
    """

    folder: Path
    is_held: bool = False
    pace: Mapping[str, float] | None = None

    @contextmanager
    def of_run(self, identity: str) -> Iterator[RunFile]:
        """The file of the run with this identity, removed when the block ends unless the run may go on.

        That is so when the block was interrupted, when the run was paused, and when ended runs are held.
        """
        # Half of a digest names the file, since some systems bound the length of a path; the whole one inside decides.
        file = RunFile(
            self.folder / f"{identity[:32]}.safetensors", identity, is_held=self.is_held, **(self.pace or {})
        )
        try:
            yield file
        except Exception:  # it has failed; whatever else ends it is an interruption
            if not self.is_held:
                file.remove()
            raise
        if file.is_paused or self.is_held:
            self.bound()
        else:
            file.remove()

    def clear(self) -> None:
        """Remove every checkpoint, and the folder where nothing else is in it."""
        for path in self.folder.glob("*.safetensors"):
            with suppress(OSError):
                path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def bound(self, most_bytes: int = MOST_BYTES) -> None:
        """Remove what was written longest ago until the rest takes at most `most_bytes`.

        A run whose file is gone begins anew when it goes on: that costs time, and changes no result.
        """
        found = []
        # Other workers remove files between the listing and the look at them, so each is looked at on its own.
        for path in self.folder.glob("*.safetensors"):
            with suppress(FileNotFoundError):  # another worker's trial has just ended
                facts = path.stat()
                found.append((facts.st_mtime, facts.st_size, path))
        total = sum(size for _, size, _ in found)
        # Oldest first: a run that was written long ago is the one least likely to be taken up again.
        for _, size, path in sorted(found):
            if total <= most_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size
