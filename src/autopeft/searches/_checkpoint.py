"""A running search on disk: tensors and facts in one safetensors file, replaced in one move."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from autopeft.errors import StudyMismatchError
from autopeft.reading import parse_json
from autopeft.writing import write_whole

_FACTS = "facts"


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


class Stopwatch:
    """Wall-clock time of a search over all processes that worked on it, up to the last checkpoint of each.

    Attributes:
        earlier: seconds of the processes before this one.
    """

    def __init__(self) -> None:
        self.earlier, self._started = 0.0, time.perf_counter()

    def start(self) -> None:
        """Count this process from now."""
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """All of it until now."""
        return self.earlier + time.perf_counter() - self._started


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` so that a crash leaves either the old file or the new one, never a part."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    with write_whole(path) as part:
        save_file(tensors, part, metadata={_FACTS: json.dumps(checkpoint.facts)})


def read(path: Path) -> Checkpoint | None:
    """What `write` wrote, or None when there is no file.

    Raises:
        StudyMismatchError: the file is not such a checkpoint.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = parse_json((file.metadata() or {})[_FACTS], is_finite=False)
            return Checkpoint({name: file.get_tensor(name) for name in file.keys()}, facts)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise StudyMismatchError(f"{str(path)!r} is not a checkpoint of a search: {error}. Move it away.") from error
