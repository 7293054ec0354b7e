"""What every kind of answer keeps, found by discovery: a new file under `tasks/_answers/` is tested without an edit."""

from __future__ import annotations

import pytest

from autopeft.tasks import _answers
from autopeft.testing._promise import Promise
from autopeft.testing.answers import PROMISES


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.name)
@pytest.mark.parametrize("name", _answers.names())
def test_a_kind_of_answer_keeps(promise: Promise, name: str) -> None:
    promise.check(_answers.lookup(name))
