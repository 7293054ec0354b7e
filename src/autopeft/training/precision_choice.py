"""What a study keeps of the measurement of its precision, as data: reports read it without PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

PRECISION = "precision"
"""The fact of a study that keeps what was measured and chosen, see `PrecisionChoice.as_dict`."""

Precision = Literal["float32", "bf16"]


@dataclass(frozen=True)
class PrecisionChoice:
    """What was chosen, why, and what was measured for it.

    Args:
        precision: the chosen one.
        why: the reason in words, with its numbers.
        device: where it was measured.
        seconds: by precision, of the quickest step; empty where none was timed.
        losses: by precision, the mean over the last quarter of the run; empty where none was compared.
        margin: by how much the loss in bf16 might have been higher; None where none was compared.
        steps: of each of the runs that were compared.
    """

    precision: Precision
    why: str
    device: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)
    margin: float | None = None
    steps: int = 0

    def __str__(self) -> str:
        return f"{self.precision}: {self.why}"

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        return asdict(self)


def choice_from(fact: Callable[[str], Any]) -> PrecisionChoice | None:
    """What a study says was measured, by what gives its facts; None where it measured nothing."""
    told = fact(PRECISION)
    return None if told is None else PrecisionChoice(**told)
