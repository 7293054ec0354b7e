"""How commands name a study, open it, and pick a point of its front."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autopeft.masking import STORAGE_VARIABLE
from autopeft.reading import followed

if TYPE_CHECKING:
    from autopeft.objective import Objective
    from autopeft.study.reading import Readable
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


Cost = Annotated[
    str | None,
    typer.Option("--cost", help="Tabulate by this cost, see `autopeft list costs`; else the search's."),
]


@contextmanager
def opened(folder: Path, storage: str | None) -> Iterator[Study]:
    """The study in `folder`, or the one called after it in the database `storage`; closed at the end."""
    from autopeft.study.study import Study

    with Study.open(*_place(folder, storage)) as study:
        yield study


@contextmanager
def opened_for_reading(folder: Path, storage: str | None) -> Iterator[Readable]:
    """As `opened`, for commands that show something and are done."""
    from autopeft.study.reading import opened_for_reading

    with opened_for_reading(*_place(folder, storage)) as study:
        yield study


def _place(folder: Path, storage: str | None) -> tuple[Path | str, str | None]:
    """Where a study lies, and its name there."""
    # In a file the only study is meant, whatever its folder is called by now; a database holds many.
    return (folder / "study.db", None) if storage is None else (storage, followed(folder).name)


def cost_of(study: Readable, name: str | None) -> Objective:
    """The cost that a command tabulates by: the one called `name`, or the study's own.

    Raises:
        InputError: there is no such cost, or no measured trial has stored it.
    """
    from autopeft import objectives
    from autopeft.errors import InputError
    from autopeft.trial import lacking

    if name is None:
        return study.cost
    cost, trials = objectives.lookup(name), study.trials(with_history=False)
    n_measured = sum(trial.is_complete for trial in trials)
    # An empty front would be taken for one of a search that found nothing.
    if n_measured and len(lacking(trials, cost)) == n_measured:
        raise InputError(
            f"None of the {n_measured} measured trials has stored the cost {name!r}, which is known {cost.known}: "
            "a search that is begun now stores it."
        )
    return cost


def picked(study: Readable, at: str, cost: Objective) -> int:
    """The number of the trial that is best within the limit `at` on `cost`.

    Raises:
        BudgetError: nothing was measured, or nothing fits.
    """
    from autopeft.errors import BudgetError
    from autopeft.trial import front_of, with_cost

    trials = study.trials(with_history=False)
    front, measured = front_of(trials, cost), with_cost(trials, cost)
    if not measured:
        raise BudgetError("The study has no measured trial yet.")
    # Counts are asked of a backbone, which all trials share.
    least, most = cost.limits(at, measured[0][1].counts)
    return int(front.at(most, least).key)
