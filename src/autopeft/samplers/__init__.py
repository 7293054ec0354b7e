"""Samplers that read trials, one a file; what they stand on is in `_sampler`, `_propose` and `_bayes`."""

from __future__ import annotations

from autopeft.samplers._sampler import (
    PACKAGES,
    AnswersBudgets,
    HasSettings,
    Sampler,
    SamplerSpec,
    TellsMore,
    as_begun,
    build,
    check_cost,
    lookup,
    names,
    settings_of,
)

__all__ = [
    "PACKAGES",
    "AnswersBudgets",
    "HasSettings",
    "Sampler",
    "SamplerSpec",
    "TellsMore",
    "as_begun",
    "build",
    "check_cost",
    "lookup",
    "names",
    "settings_of",
]
