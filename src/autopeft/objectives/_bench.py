"""What an objective may ask: of a bench, where architectures are put to be priced, and of a probe, which holds one."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from autopeft.architecture import Architecture, Counts, Placement


class Probe(Protocol):
    """An architecture that is attached and in evaluation mode, with examples of the search to answer.

    Attributes:
        architecture, counts: what is attached, and its parameters.
        n_head: parameters of the task head, 0 where there is none.
        device: where it computes, such as "cpu" or "cuda:0".
        batch_size, length: examples of the batch that `answer` answers, and tokens of each, padding among them.
        allowance: seconds that a measurement may take which is only for the record; infinity for what is searched by.
    """

    architecture: Architecture
    counts: Counts
    n_head: int
    device: str
    batch_size: int
    length: int
    allowance: float

    def answer(self) -> None:
        """Answer the batch as an evaluation does. A GPU may still be at it afterwards: see `synchronise`."""
        ...

    def forward(self) -> int:
        """One forward pass over a single example of median length, without gradients; returns its tokens."""
        ...

    def synchronise(self) -> None:
        """Wait until the device has done what it was told to do."""
        ...


class Bench(Protocol):
    """A backbone and its task, on which architectures are put that are not trained.

    Attributes:
        n_head: parameters of the task head, 0 where there is none.
        kept: what objectives have found out and ask again, such as the operations of one module; for their own use.
    """

    n_head: int
    kept: dict[tuple[object, ...], float]

    def counts(self, architecture: Architecture) -> Counts:
        """The parameter counts of an architecture."""
        ...

    def kind_of(self, placement: Placement) -> tuple[object, ...]:
        """Equal for placements of one method and size at like places of different layers."""
        ...

    def deciding(self, architecture: Architecture) -> tuple[Placement, ...]:
        """The placements that make the backbone itself compute otherwise than without any; others stand beside them.

        At most one is given, for the second one changes nothing more.
        """
        ...

    def attached(self, architecture: Architecture) -> AbstractContextManager[Probe]:
        """The architecture, freshly initialised, until the context ends. Nothing else may be attached.

        Raises:
            ArchitectureError: it does not fit.
        """
        ...
