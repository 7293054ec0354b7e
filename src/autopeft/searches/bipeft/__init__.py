"""BIPEFT: bi-level search of positions and sizes (EMNLP Findings 2024)."""

from autopeft.searches.bipeft.sampler import MEMBERS

__all__ = ["MEMBERS"]
