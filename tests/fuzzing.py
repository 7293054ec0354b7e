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


@contextmanager
def at_once(seconds: float) -> Iterator[None]:
    """What stands within takes less than this many seconds of processor time, or the test fails.

    Python's search for garbage waits until it is over: after some ten thousand cases hypothesis keeps so much that one
    search takes a second, and it would be held against whichever case it falls into.
    """
    with uncollected():
        began = time.process_time()
        yield
        taken = time.process_time() - began
    assert taken < seconds
