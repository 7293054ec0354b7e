"""What a study keeps of the measurement of its workers, as data: reports read it without PyTorch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

WORKERS = "workers"
"""The fact of a study that keeps what was measured last, see `WorkerChoice.as_dict`."""


@dataclass(frozen=True)
class WorkerChoice:
    """How many workers, why, and what was measured for it.

    Args:
        workers: the number.
        why: the reason in words, with its numbers.
        alone: seconds of a step of one process with all threads; None where none was timed.
        beside: seconds of a step of one of several processes; None where none was timed.
        tried: how many there were then.
    """

    workers: int
    why: str
    alone: float | None = None
    beside: float | None = None
    tried: int = 1

    def __str__(self) -> str:
        return f"{self.workers}: {self.why}"

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        return asdict(self)
