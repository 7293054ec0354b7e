"""Trials written by hand, for the tests of pictures and reports."""

from __future__ import annotations

from typing import Any

from autopeft.architecture import Architecture, Counts, Placement
from autopeft.objective import Epoch, Measurement
from autopeft.spaces.lattice import Configuration
from autopeft.training.retraining import Retrained
from autopeft.trial import Failure, FailureKind, Trial, TrialState

BACKBONE = 100_000  # so that 1,000 parameters are 1 %


def architecture(*placements: str) -> Architecture:
    """``architecture("serial@encoder.0.ffn:12")``."""
    parts = [text.replace(":", "@").split("@") for text in placements]
    return Architecture(tuple(Placement(site, method, int(size)) for method, site, size in parts))


def measured(
    number: int,
    nominal: int,
    value: float,
    *placements: str,
    origin: str = "initial",
    split: str = "validation",
    history: tuple[tuple[float, float], ...] = (),
) -> Trial:
    """A measured trial; `history` holds pairs of metric and loss, one an epoch."""
    epochs = tuple(Epoch(i + 1, 10 * i, loss, {"accuracy": v}, 1.0) for i, (v, loss) in enumerate(history))
    counts = Counts(nominal, nominal + 10, nominal + 510, BACKBONE)
    what = architecture(*(placements or (f"serial@encoder.0.ffn:{number + 1}",)))
    result = Measurement({"accuracy": value}, "accuracy", counts, 100.0 + number, 2**20, 0.02, split, epochs)
    times = {"proposal_seconds": 0.5, "started": 1000.0 * number, "finished": 1000.0 * number + 200.0}
    return Trial(number, Configuration((number,)), what, TrialState.COMPLETE, origin, 7, result, **times)


def failed(number: int, kind: FailureKind = "oom", message: str = "out of memory", origin: str = "random") -> Trial:
    """A failed trial that ran for 30 seconds."""
    what = architecture(f"serial@encoder.1.ffn:{number + 1}")
    failure = Failure(kind, message)
    started = 1000.0 * number
    return Trial(
        number,
        Configuration((number,)),
        what,
        TrialState.FAILED,
        origin,
        7,
        None,
        failure,
        0.5,
        started,
        started + 30.0,
    )


def retrained(*values: float, nominal: int = 1000, split: str = "test") -> dict[str, Any]:
    """What `autopeft train` writes of an architecture that had these values, one a seed."""
    counts = Counts(nominal, nominal + 10, nominal + 510, BACKBONE)
    test = tuple(Measurement({"accuracy": v}, "accuracy", counts, 10.0, 2**20, 0.02, split) for v in values)
    seeds, what = tuple(range(len(values))), architecture("serial@encoder.0.ffn:1")
    return Retrained("what", what, seeds, test, (0.5,) * len(values), 1e-3).as_dict()


def running(number: int) -> Trial:
    """A trial that has begun."""
    return Trial(
        number, Configuration((number,)), architecture(), TrialState.RUNNING, "random", 7, started=1000.0 * number
    )
