"""Prints a lock file without PyTorch and the packages that it alone brings: see scripts/lock.

Usage: python scripts/lock_without_torch.py LOCK.txt
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

OF_TORCH = re.compile(r"(torch|triton|setuptools|nvidia-.+|cuda-.+)==")


def without_torch(lock: str) -> str:
    """`lock` without the entries of PyTorch: lines that begin with a name, each with the indented lines below it."""
    kept, is_kept = [], True
    for line in lock.splitlines(keepends=True):
        if line[:1].isalnum():
            is_kept = not OF_TORCH.match(line)
        if is_kept:
            kept.append(line)
    return "".join(kept)


if __name__ == "__main__":
    sys.stdout.write(without_torch(Path(sys.argv[1]).read_text()))
