"""The made-up spaces and trials of `autopeft.testing`, by the short name under which tests ask for them."""

from autopeft.testing.lattice import (
    BACKBONE_PARAMETERS,
    FakeBackbone,
    FakeMethod,
    accuracy,
    autopeft_space,
    complete,
    failed,
    history,
    noisy,
    running,
    tiny_space,
)

__all__ = [
    "BACKBONE_PARAMETERS",
    "FakeBackbone",
    "FakeMethod",
    "accuracy",
    "autopeft_space",
    "complete",
    "failed",
    "history",
    "noisy",
    "running",
    "tiny_space",
]
