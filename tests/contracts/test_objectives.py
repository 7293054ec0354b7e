"""What every cost keeps, found by discovery: a new file under `objectives/` is tested here without an edit."""

from __future__ import annotations

import pytest

from autopeft import objectives
from autopeft.testing._promise import Promise
from autopeft.testing.objectives import PROMISES


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.name)
@pytest.mark.parametrize("name", objectives.names())
def test_a_cost_keeps(promise: Promise, name: str) -> None:
    if promise.is_about(objectives.lookup(name)):
        promise.check(objectives.lookup(name))


@pytest.mark.parametrize("name", objectives.names())
def test_a_cost_is_found_by_its_own_name(name: str) -> None:
    assert objectives.lookup(name).name == name
