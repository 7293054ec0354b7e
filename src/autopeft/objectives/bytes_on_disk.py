"""Bytes on disk: the weights that a saved model adds to its backbone, the task head among them."""

from __future__ import annotations

from autopeft.architecture import Architecture
from autopeft.objective import Objective
from autopeft.objectives._bench import Bench

_BYTES = 4
"""Of a parameter: modules and head are trained and saved in single precision."""


def price(bench: Bench, architecture: Architecture) -> float:
    """kB (1000 bytes) of weights. The file's header, names and shapes, comes on top: some hundred bytes a module."""
    return _BYTES * (bench.counts(architecture).stored + bench.n_head) / 1000


MEMBERS = {
    "bytes": Objective(
        "bytes",
        unit="kB",
        label="saved weights, kB",
        about="weights that a saved model adds to its backbone, head among them, in kB",
        price=price,
    )
}
