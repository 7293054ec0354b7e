"""Backbones: frozen pretrained transformers, one family a file; what they stand on is in `_backbone` and `_sites`."""

from __future__ import annotations

from autopeft.backbones._backbone import ADDED, PACKAGE, PACKAGED, Backbone, families, family_of, seeded
from autopeft.backbones._sites import LINEAR, NORMS, Family, Role, Seam, Site, Stack, linear_weight

__all__ = [
    "ADDED",
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
    "linear_weight",
    "seeded",
]
