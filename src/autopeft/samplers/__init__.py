"""Samplers that read trials, one a file; what they stand on is in `_sampler`, `_propose` and `_bayes`."""

from __future__ import annotations

from autopeft.samplers._sampler import PACKAGES, Sampler, SamplerFactory, build, lookup, names

__all__ = [
    "PACKAGES",
    "Sampler",
    "SamplerFactory",
    "build",
    "lookup",
    "names",
]
