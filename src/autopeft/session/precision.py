"""The precision of a search: as its study has it, else as it is measured before there is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from autopeft.errors import InputError
from autopeft.session.session import Session, place_of_study
from autopeft.study.study import Study
from autopeft.training.chosen_precision import PrecisionBench, StepBench, choose_precision
from autopeft.training.precision_choice import Precision, PrecisionChoice
from autopeft.training.rate_sweep import middle

Tell = Callable[[str], None]


def settled(
    session: Session,
    folder: str | Path | None,
    storage: str | None = None,
    *,
    tell: Tell | None = None,
    bench: PrecisionBench | None = None,
    measures: bool = True,
) -> Session:
    """`session` in the precision of its study, or in the one that a measurement chooses, if it leaves that open.

    A study that has begun keeps its precision, whatever a measurement would say today and on this machine: its trials
    are compared with each other.

    Args:
        folder: of the study, which need not be there; None where there is to be none.
        storage: see `Session.study`.
        tell: told in a line before what takes longer than some steps.
        bench: what is measured; None for training steps of the session's own.
        measures: False takes float32 for a study that has not begun, where this is not the machine that trains it.
    """
    if not session.is_precision_open:
        return session
    begun = _begun(folder, storage)
    if begun is None and measures:
        found = _measured(session, tell, bench)
        # Another process may have begun the study in the meantime, and the first is right.
        begun = _begun(folder, storage)
        if begun is None:
            return replace(_in(session, found.precision), precision=found)
    return _in(session, begun or "float32")


def _measured(session: Session, tell: Tell | None, bench: PrecisionBench | None) -> PrecisionChoice:
    """What a measurement on an architecture of middle size chooses; see `choose_precision`."""
    settings, evaluator = session.settings, session.evaluator
    most, a_run = settings.trainings or session.total, settings.recipe.n_steps(evaluator.n_train)
    return choose_precision(
        bench or StepBench(evaluator, middle(session.space), settings.seed),
        planned=min(most, session.total) * a_run,
        a_run=a_run,
        device=str(session.backbone.device),
        tell=tell,
    )


def _in(session: Session, precision: Precision) -> Session:
    recipe = replace(session.settings.recipe, precision=precision)
    evaluator = session.evaluator.with_recipe(precision=precision)
    settings = session.settings.with_changes(recipe=recipe)
    return replace(session, settings=settings, evaluator=evaluator, is_precision_open=False)


def _begun(folder: str | Path | None, storage: str | None) -> Precision | None:
    """The precision of the study there; None where there is none."""
    if folder is None:
        return None
    try:
        with Study.open(*place_of_study(Path(folder), storage)) as study:
            recipe = study.settings.get("recipe", {})
    except InputError:
        # Whatever is wrong with the storage is told by who makes the study there.
        return None
    return "bf16" if recipe.get("precision") == "bf16" else "float32"
