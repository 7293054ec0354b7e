"""A study that is only read: what commands that show something ask of it, and the shortest way to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from autopeft.objective import Objective
from autopeft.study.snapshot import snapshot_of
from autopeft.trial import Trial


class Readable(Protocol):
    """What is told of a study; `autopeft.study.study.Study` and `autopeft.study.snapshot.Snapshot` have it."""

    @property
    def location(self) -> str:
        """The path of the storage, or its URL without the password."""
        ...

    @property
    def objective(self) -> str:
        """The name of the metric that is maximised."""
        ...

    @property
    def cost(self) -> Objective:
        """What is minimised beside the metric."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that the study was made with."""
        ...

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of Python and the packages at the time the study was made."""
        ...

    def fact(self, key: str, default: Any = None) -> Any:
        """A fact that the study has noted; `default` when there is none."""
        ...

    def failed_proposals(self) -> list[dict[str, Any]]:
        """What samplers failed at, oldest first."""
        ...

    def trials(self, *, with_history: bool = True) -> tuple[Trial, ...]:
        """Every trial in order of number."""
        ...


@contextmanager
def opened_for_reading(storage: str | Path, name: str | None = None) -> Iterator[Readable]:
    """The study called `name`, or the only one; closed at the end.

    A file is read as it is now: what is written to it meanwhile may not be seen.

    Raises:
        InputError: as `autopeft.study.study.Study.open`.
    """
    snapshot = snapshot_of(storage, name) if isinstance(storage, Path) else None
    if snapshot is not None:
        yield snapshot
        return
    from autopeft.study.study import Study

    with Study.open(storage, name) as study:
        yield study
