"""What every task keeps, found by discovery: a new file under `tasks/` is tested here without an edit."""

from __future__ import annotations

import pytest

from autopeft import tasks
from autopeft.testing._promise import Promise
from autopeft.testing.tasks import PROMISES


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.name)
@pytest.mark.parametrize("name", tasks.names())
def test_a_task_keeps(promise: Promise, name: str) -> None:
    promise.check(tasks.lookup(name))


@pytest.mark.parametrize("name", tasks.names())
def test_a_task_is_found_by_its_own_name(name: str) -> None:
    assert tasks.lookup(name).name == name
