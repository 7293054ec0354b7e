"""Latency: how long one batch takes to be answered, by the clock.

It is measured on what is attached, because no count tells it: many small modules are many calls, which a device takes
one after the other. Prefixes are folded by then and dropout is off, as they are where a model is used.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from statistics import median
from typing import Any

from autopeft.objective import Measurement, Objective
from autopeft.objectives._bench import Probe

_WARM_UP = 2
"""Passes that are not timed: the first ones allocate memory, choose kernels, and on a GPU compile them."""

_PASSES = (3, 25)
_SECONDS = 0.5
"""Passes are timed until so many seconds are over, but not fewer than the first and not more than the second number."""


def measure(probe: Probe) -> Mapping[str, Any]:
    """The median of some passes in milliseconds, and which batch was answered where and how often.

    The median, because whatever else a machine does makes single passes slower and none faster. Every trial is timed,
    whatever its search asks for, so that a report can show it; where that is all that it is for, it takes no more than
    it is allowed, but for the one pass that there has to be, and is not warmed up: an evaluation has just been.
    """
    least, most = _PASSES
    seconds, warm_up = _SECONDS, _WARM_UP
    if probe.allowance < math.inf:
        least, seconds, warm_up = 1, min(seconds, probe.allowance), 0
    for _ in range(warm_up):
        probe.answer()
    taken: list[float] = []
    while len(taken) < least or (len(taken) < most and math.fsum(taken) < seconds):
        probe.synchronise()  # what a GPU was told earlier must not be counted here
        began = time.perf_counter()
        probe.answer()
        probe.synchronise()  # nor what it was told here go uncounted
        taken.append(time.perf_counter() - began)
    about = {"batch": probe.batch_size, "tokens": probe.length, "passes": len(taken), "device": probe.device}
    return {"value": 1000 * median(taken), "fastest": 1000 * min(taken), **about}


def read(measurement: Measurement) -> float | None:
    """Of trials of earlier versions: the median of five passes, without a pass to warm up."""
    return 1000 * measurement.latency if measurement.latency else None


MEMBERS = {
    "latency": Objective(
        "latency",
        unit="ms",
        label="latency, ms a batch",
        about="median time to answer one evaluation batch of median length, in ms",
        measure=measure,
        read=read,
    )
}
