"""Backbones: frozen pretrained transformers, one family a file; what they stand on is in `_backbone`."""

from __future__ import annotations

from autopeft.backbones._backbone import (
    LINEAR,
    NORMS,
    PACKAGE,
    PACKAGED,
    Backbone,
    Family,
    Role,
    Seam,
    Site,
    Stack,
    families,
    family_of,
    seeded,
)

__all__ = [
    "LINEAR",
    "NORMS",
    "PACKAGE",
    "PACKAGED",
    "Backbone",
    "Family",
    "Role",
    "Seam",
    "Site",
    "Stack",
    "families",
    "family_of",
    "seeded",
]
