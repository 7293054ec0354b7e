"""Peak memory of training: known after it alone, because activations and the optimiser decide it."""

from __future__ import annotations

from autopeft.objective import Measurement, Objective


def read(measurement: Measurement) -> float | None:
    """MiB; None where it was not kept, as in the cells of experiments."""
    return measurement.peak_memory / 2**20 if measurement.peak_memory else None


MEMBERS = {
    "peak-memory": Objective(
        "peak-memory",
        unit="MiB",
        label="peak memory of training, MiB",
        heading="peak MiB",
        about="most memory that training and evaluation held, of a GPU or of the process on a CPU, in MiB",
        read=read,
    )
}
