"""What every sampler promises, for every member of the kind: a new file under `samplers` is tested unedited."""

from __future__ import annotations

import pytest

from autopeft.kinds import members
from autopeft.samplers import lookup, names
from autopeft.testing._promise import Promise
from autopeft.testing.samplers import PROMISES, made, small_space

# A sampler that trains needs data and a model; what it promises is tested where it is.
SAMPLERS = tuple(name for name in names() if lookup(name).reads_trials)


def test_every_file_of_the_kind_has_a_member_with_its_name() -> None:
    space = small_space()
    assert set(SAMPLERS) <= set(members("autopeft.samplers"))
    for name in SAMPLERS:
        assert made(name, space).name == name


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.name)
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_keeps(promise: Promise, name: str) -> None:
    promise.check(name)
