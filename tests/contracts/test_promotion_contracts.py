"""What every promotion promises, for every member of the kind: a new file under `promotions` is tested unedited."""

from __future__ import annotations

import pytest

from autopeft import promotions
from autopeft.testing import check_promotion
from autopeft.testing._promise import Promise
from autopeft.testing.promotions import PROMISES

PAUSING = tuple(name for name in promotions.names() if promotions.lookup(name).build is not None)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.name)
@pytest.mark.parametrize("name", PAUSING)
def test_a_promotion_keeps(promise: Promise, name: str) -> None:
    promise.check(name)


class Greedy:
    """Lets everybody go on, those that have ended too."""

    name = "greedy"
    settings: dict[str, object] = {}  # noqa: RUF012

    def order(self, trials: list, cost: object) -> list[int]:  # type: ignore[type-arg]
        return [trial.number for trial in trials]

    def view(self, trials: list) -> list:  # type: ignore[type-arg]
        return trials


GREEDY = promotions.PromotionSpec("greedy", lambda: Greedy(), "All of them")


def test_one_that_keeps_nothing_is_told_what() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        check_promotion("contracts.test_promotion_contracts:GREEDY")
    notes = {note.split(": ", 1)[1] for error in caught.value.exceptions for note in error.__notes__}
    assert "only those who wait go on and each once" in notes
    assert "samplers see every trial and none that is paused" in notes
