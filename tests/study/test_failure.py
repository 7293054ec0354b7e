"""What an exception means for the search."""

from __future__ import annotations

import pytest
import torch

from autopeft.errors import AutopeftError, InfeasibleFailure, NonFiniteFailure, OutOfMemoryFailure, TrialFailure
from autopeft.study.failure import CrashWatch, failure_of


def raised(error: Exception) -> Exception:
    """`error` with a traceback."""
    try:
        raise error
    except Exception as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (OutOfMemoryFailure("no room"), "oom", "no room"),
        (NonFiniteFailure("loss is nan"), "nan", "loss is nan"),
        (InfeasibleFailure("no"), "infeasible", "no"),
        (TrialFailure("some reason"), "crash", "some reason"),
        (MemoryError(), "oom", "MemoryError"),
        (torch.OutOfMemoryError("CUDA out of memory"), "oom", "CUDA out of memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            "oom",
            "DefaultCPUAllocator: can't allocate memory",
        ),
        (RuntimeError("shapes differ"), "crash", "RuntimeError: shapes differ"),
        (FloatingPointError("overflow"), "nan", "overflow"),
        (ZeroDivisionError("division by zero"), "crash", "ZeroDivisionError: division by zero"),
    ],
)
def test_exceptions_are_sorted_by_kind(error: Exception, kind: str, message: str) -> None:
    failure = failure_of(raised(error))
    assert (failure.kind, failure.message) == (kind, message)
    assert "in raised" in failure.traceback


def test_three_crashes_at_one_place_are_noticed_whatever_they_say() -> None:
    watch = CrashWatch()
    for number in range(2):
        error = raised(KeyError(number))
        watch.failed(failure_of(error), error)
    error = raised(KeyError("third"))
    with pytest.raises(AutopeftError, match=r"first 3 trials all crashed.*'third'") as caught:
        watch.failed(failure_of(error), error)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("other", [ValueError("another type"), OutOfMemoryFailure("no crash"), None])
def test_anything_else_among_the_first_three_is_a_sign_of_life(other: Exception | None) -> None:
    watch = CrashWatch()
    for error in [KeyError(1), other, *[KeyError(2)] * 5]:
        if error is None:
            watch.measured()
        else:
            watch.failed(failure_of(raised(error)), raised(error))


def test_crashes_at_different_lines_are_different() -> None:
    watch = CrashWatch()
    try:
        raise KeyError(1)
    except KeyError as caught:
        elsewhere = caught
    for error in [raised(KeyError(1)), raised(KeyError(1)), elsewhere, elsewhere, elsewhere]:
        watch.failed(failure_of(error), error)


def test_what_is_stored_of_a_failure_holds_no_password() -> None:
    try:
        raise RuntimeError("cannot reach mlflow at postgresql://me:S3cret@PW@host/db?token=S3cret")
    except RuntimeError as error:
        found = failure_of(error)
    assert found.message == "RuntimeError: cannot reach mlflow at postgresql://me:***@host/db?token=***"
    assert "S3cret" not in found.traceback
