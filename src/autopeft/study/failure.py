"""What an exception in a training run means for the search."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field

from autopeft.errors import AutopeftError, TrialFailure, is_out_of_memory
from autopeft.masking import mask_text
from autopeft.trial import Failure, FailureKind

_SAME_CRASHES = 3


def failure_of(error: Exception) -> Failure:
    """What is stored about an exception that `evaluate` raised: its kind, message and traceback."""
    text = mask_text("".join(traceback.format_exception(error)))  # it is stored, and shown in reports
    message = mask_text(str(error)) or type(error).__name__
    if isinstance(error, TrialFailure) or _kind_of(error) != "crash":
        return Failure(_kind_of(error), message, text)
    return Failure("crash", f"{type(error).__name__}: {message}", text)


def _kind_of(error: Exception) -> FailureKind:
    kinds: dict[str, FailureKind] = {"oom": "oom", "nan": "nan", "infeasible": "infeasible", "crash": "crash"}
    if isinstance(error, TrialFailure):
        return kinds.get(error.kind, "crash")
    if isinstance(error, FloatingPointError):
        return "nan"
    return "oom" if is_out_of_memory(error) else "crash"


@dataclass
class CrashWatch:
    """Notices that the first three trials of a run all crash at the same place, as from a mistake in `evaluate`.

    Places are compared rather than messages, which may hold sizes or addresses.
    """

    _places: list[tuple[str, str, int]] = field(default_factory=list)
    _is_over: bool = False

    def measured(self) -> None:
        """A trial was measured: `evaluate` works."""
        self._is_over = True

    def failed(self, failure: Failure, error: Exception) -> None:
        """A trial failed.

        Raises:
            AutopeftError: it is the third one, all three crashed at the same place, and nothing was measured before.
        """
        frames = traceback.extract_tb(error.__traceback__)
        last = (frames[-1].filename, frames[-1].lineno or 0) if frames else ("", 0)
        self._places.append((type(error).__name__, *last))
        # A shortage of memory or a NaN is the architecture's own, and tells nothing of `evaluate`.
        self._is_over |= not failure.is_crash or len(set(self._places)) > 1
        if not self._is_over and len(self._places) == _SAME_CRASHES:
            raise AutopeftError(
                f"The first {_SAME_CRASHES} trials all crashed at the same place, so the search stops: "
                f"{failure.message}\n{failure.traceback}"
            ) from error
