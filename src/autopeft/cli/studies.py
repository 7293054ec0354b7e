"""How commands name a study, open it, and pick a point of its front."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autopeft.masking import STORAGE_VARIABLE

if TYPE_CHECKING:
    from autopeft.study.study import Study

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an earlier result of the same kind; never anything else.")
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run the code that the model brings with it; no file can allow that."),
]
StudyFolder = Annotated[Path, typer.Argument(help="The folder of a study.", metavar="STUDY")]
Database = Annotated[
    str | None,
    typer.Option("--storage", envvar=STORAGE_VARIABLE, help="The database URL that the search was started with."),
]


@contextmanager
def opened(folder: Path, storage: str | None) -> Iterator[Study]:
    """The study in `folder`, or the one called after it in the database `storage`; closed at the end."""
    from autopeft.study.study import Study

    where, name = (folder / "study.db", None) if storage is None else (storage, folder.resolve().name)
    with Study.open(where, name) as study:
        yield study


def picked(study: Study, at: str) -> int:
    """The number of the trial that is best within the budget `at`.

    Raises:
        BudgetError: nothing was measured, or nothing fits.
    """
    from autopeft.architecture import ParameterBudget
    from autopeft.errors import BudgetError

    front = study.front()
    if not len(front):
        raise BudgetError("The study has no measured trial yet.")
    measured = study.trial(front.points[0].key).measurement
    assert measured is not None  # a front holds measured trials only
    backbone = measured.counts.backbone
    budget = ParameterBudget.parse(at, backbone)
    return int(front.at(100 * budget.most / backbone, 100 * budget.least / backbone).key)
