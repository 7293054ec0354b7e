"""How many cases the long form of a fuzzer has, and their seed: stated, so that what was found can be found again."""

from __future__ import annotations

import os

SEED = 20261127

N_CASES = int(os.environ.get("AUTOPEFT_FUZZ_CASES", "100000"))
"""Fewer where time allows no more; the documentation says how many were run."""
