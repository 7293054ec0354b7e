"""How many cases the long form of a fuzzer has, and their seed: stated, so that what was found can be found again."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from autopeft.collecting import uncollected

SEED = 20261127

N_CASES = int(os.environ.get("AUTOPEFT_FUZZ_CASES", "100000"))
"""Fewer where time allows no more; the documentation says how many were run."""


HANGS = 60.0
"""Seconds of processor time: what takes longer grows too fast with what it is given, on whatever machine.

The right answers come within milliseconds; the wrong ones that were seen would have taken minutes to years. A bound
near the first would judge the machine and what else runs on it.
"""


@contextmanager
def at_once() -> Iterator[None]:
    """What stands within does not hang, see `HANGS`, or the test fails.

    Python's search for garbage waits until it is over: after some ten thousand cases hypothesis keeps so much that one
    search takes a second, and it would be held against whichever case it falls into.
    """
    with uncollected():
        began = time.process_time()
        yield
        taken = time.process_time() - began
    assert taken < HANGS
