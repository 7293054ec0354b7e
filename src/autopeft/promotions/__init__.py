"""Promotions: which of the trials that are paused at a rung go on to the next one. One a file."""

from autopeft.promotions._promotion import PromotionSpec, build, lookup, names

__all__ = ["PromotionSpec", "build", "lookup", "names"]
