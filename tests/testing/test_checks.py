"""A stranger's members: the contracts run on them by one import, and what breaks a promise is found and named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autopeft import tasks
from autopeft.architecture import Cost, Line
from autopeft.backbones import Site, families
from autopeft.methods.bitfit import MEMBERS as BITFIT
from autopeft.samplers import SamplerSpec
from autopeft.tasks import _answers
from autopeft.testing import check_answers, check_family, check_method, check_sampler, check_search, check_task
from autopeft.testing.samplers import PROMISES

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


def broken(error: ExceptionGroup) -> set[str]:
    """The promises that were not kept."""
    return {note.partition(" does not keep: ")[2] for one in error.exceptions for note in one.__notes__}


def test_a_method_of_one_s_own_is_checked_by_one_import() -> None:
    kept = check_method("custom_method:SCALE", model_types=["bert", "t5"])
    assert {"bert: padding_changes_nothing", "t5: detaching_leaves_no_trace"} <= set(kept)


def test_a_sampler_of_one_s_own_is_checked_by_one_import() -> None:
    assert check_sampler("custom_sampler:CHEAPEST") == [promise.name for promise in PROMISES]


def test_members_of_the_package_are_checked_by_name() -> None:
    assert check_search("apet")
    assert check_task("glue/mrpc")
    assert check_answers(_answers.lookup("classification"))
    assert check_family(families()["bert"])


class Costly:
    """A bias that says it is twice as large as it is, and that never goes away."""

    def __init__(self) -> None:
        self.name = f"{__name__}:COSTLY"

    def __getattr__(self, name: str) -> object:
        return getattr(BITFIT["bitfit"], name)

    def cost(self, site: Site) -> Cost:
        return Cost(nominal=Line(0, 2 * site.d_out), stored=Line(0, 2 * site.d_out))

    def trained(self, placements: Sequence[tuple[Site, int]]) -> int:
        return sum(site.d_out for site, _ in placements)

    def build(self, placements: Sequence[tuple[Site, int]], frozen: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
        return {site.key: Stubborn(site.d_out) for site, _ in placements}


class Stubborn(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(d))

    def forward(self, u: Tensor, y: Tensor, mask: object = None) -> Tensor:
        return y + self.bias

    def cut(self, size: int) -> dict[str, Tensor]:
        return {"bias": self.bias}


COSTLY = Costly()


def test_a_method_that_breaks_promises_is_told_which() -> None:
    with pytest.raises(ExceptionGroup, match=r"COSTLY on bert breaks \d of \d+ promises") as caught:
        check_method(f"{__name__}:COSTLY", model_types=["bert"])
    assert {"masked away is absent", "counts are what is there"} <= broken(caught.value)
    assert "state makes the round trip" not in broken(caught.value)


class Repeating:
    """Proposes the first point again and again."""

    name = "repeating"

    def __init__(self, space: object, seed: int) -> None:
        self.space = space

    def ask(self, trials: object, n: int = 1) -> list[object]:
        return [next(self.space.enumerate())] * n  # type: ignore[attr-defined]


REPEATING = SamplerSpec("repeating", Repeating)


def test_a_sampler_that_breaks_promises_is_told_which() -> None:
    with pytest.raises(ExceptionGroup, match="breaks") as caught:
        check_sampler(f"{__name__}:REPEATING")
    assert {"proposals are new distinct and feasible", "unknown options are named"} <= broken(caught.value)
    with pytest.raises(AssertionError, match="reads trials"):
        check_search("random")
    with pytest.raises(AssertionError, match="check_search is for those"):
        check_sampler("apet")


WRONG = replace(tasks.lookup("glue/mrpc"), name="mrpc", metrics=("speed",), about="")


def test_a_task_that_breaks_promises_is_told_which() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        check_task(f"{__name__}:WRONG")
    assert {"it has a name and says what it is about", "its metrics and protocols exist"} <= broken(caught.value)


def test_a_family_that_breaks_promises_is_told_which() -> None:
    bert = families()["bert"]
    stack = bert.stacks["encoder"]
    wrong = replace(bert, stacks={"encoder": replace(stack, roles={"q": stack.roles["q"], "kv": stack.roles["kv"]})})
    with pytest.raises(ExceptionGroup) as caught:
        check_family(wrong)
    assert "a family says what is needed" in broken(caught.value)
    assert families()["bert"] is bert
