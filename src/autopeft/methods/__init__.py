"""PEFT methods, one a file; what they stand on is in `_method`."""

from __future__ import annotations

from autopeft.methods._method import (
    PACKAGE,
    Cuttable,
    Mask,
    Method,
    PrefixModule,
    Reads,
    is_gated_apart,
    is_readable,
    lookup,
    names,
    sees_padding,
    sum_of_stored,
    unreadable,
)

__all__ = [
    "PACKAGE",
    "Cuttable",
    "Mask",
    "Method",
    "PrefixModule",
    "Reads",
    "is_gated_apart",
    "is_readable",
    "lookup",
    "names",
    "sees_padding",
    "sum_of_stored",
    "unreadable",
]
