"""PEFT methods, one a file; what they stand on is in `_method`."""

from __future__ import annotations

from autopeft.methods._method import (
    PACKAGE,
    Cuttable,
    Frozen,
    HasScale,
    Mask,
    Mergeable,
    Method,
    PrefixModule,
    Reads,
    StartsUneven,
    Traits,
    is_readable,
    lookup,
    names,
    sum_of_stored,
    unreadable,
)

__all__ = [
    "PACKAGE",
    "Cuttable",
    "Frozen",
    "HasScale",
    "Mask",
    "Mergeable",
    "Method",
    "PrefixModule",
    "Reads",
    "StartsUneven",
    "Traits",
    "is_readable",
    "lookup",
    "names",
    "sum_of_stored",
    "unreadable",
]
