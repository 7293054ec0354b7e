"""What every sampler that is given an evaluator promises, for every such member: each budget is answered within it."""

from __future__ import annotations

import pytest

from autopeft.samplers import lookup, names
from autopeft.testing._promise import Promise
from autopeft.testing.searches import PROMISES, evaluator

SAMPLERS = tuple(name for name in names() if not lookup(name).reads_trials)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.name)
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_search_keeps(promise: Promise, name: str) -> None:
    promise.check(name, evaluator())
