"""The very small models of `autopeft.testing`, by the short name under which tests ask for them."""

from autopeft.testing.tiny import (
    LEADS,
    MODEL_TYPES,
    SENTIMENT,
    WORDS,
    backbone,
    everywhere,
    fill,
    fitting,
    inputs,
    output,
    sentiment,
    splits,
    tokenizer,
)

__all__ = [
    "LEADS",
    "MODEL_TYPES",
    "SENTIMENT",
    "WORDS",
    "backbone",
    "everywhere",
    "fill",
    "fitting",
    "inputs",
    "output",
    "sentiment",
    "splits",
    "tokenizer",
]
