"""Learning rates before a search: one for all by a sweep, or one a method by a card, stored with the study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from autopeft.errors import OutOfMemoryFailure
from autopeft.session.parts import at_rest
from autopeft.study.study import Study
from autopeft.training.checkpoint import Checkpoints
from autopeft.training.rate_card import (
    CARD,
    PROXY,
    CardMaker,
    CardRun,
    RateCard,
    Signal,
    alone,
    runs_of,
    signal_from,
)
from autopeft.training.rate_sweep import ProxySignal, middle, smallest, sweep

if TYPE_CHECKING:
    from autopeft.session.session import Session
    from autopeft.training.evaluator import Evaluator

_CARD_RUNS = "rate_card_runs"
_SMALL_CARD_RUNS = "rate_card_runs_smallest"
"""The facts that keep the runs of a card that is not done, of middle sizes and of the smallest."""


def find_rates(
    session: Session, study: Study, on_line: Callable[[str], None] | None = None, folder: str | Path | None = None
) -> Signal | None:
    """Read it from the study, or find it out and store it. None when the settings want the recipe's own rate.

    Args:
        on_line: told of every run in a line.
        folder: of the study, where the trainings of what is interrupted are kept; None to keep nothing.
    """
    stored = signal_from(study.fact)
    if stored is not None or not session.settings.learning_rates:
        return stored
    is_card = session.settings.rates == "card"
    name, find = (CARD, _make_card) if is_card else (PROXY, _sweep)
    kept = None if folder is None else Checkpoints(Path(folder) / "checkpoints" / name, is_held=True)
    found = find(session, study, kept, on_line or _ignore)
    study.note(name, found.as_dict())
    if kept is not None:
        kept.clear()
    return found


def _sweep(session: Session, study: Study, kept: Checkpoints | None, say: Callable[[str], None]) -> ProxySignal:
    def tell(rate: float, value: float | None) -> None:
        say(f"learning rate {rate:g}: {'failed' if value is None else f'{value:.4f}'}")

    settings = session.settings
    evaluator = _at_rest(session).with_checkpoints(kept)
    try:
        return sweep(evaluator, middle(session.space), settings.learning_rates, settings.seed, tell)
    except OutOfMemoryFailure as failure:
        say(f"too little memory for an architecture of middle size, so that a small one is tried: {failure}")
        return sweep(evaluator, smallest(session.space), settings.learning_rates, settings.seed, tell)


def _at_rest(session: Session) -> Evaluator:
    # The best rate goes with the number of steps, so rates are tried with the batches that a search begins with.
    evaluator = session.evaluator
    return evaluator.with_recipe(**vars(at_rest(session.space, evaluator.recipe)))


def _make_card(session: Session, study: Study, kept: Checkpoints | None, say: Callable[[str], None]) -> RateCard:
    settings, evaluator = session.settings, _at_rest(session).with_checkpoints(kept)

    def make(name: str, is_smallest: bool) -> RateCard:
        def keep(run: CardRun, runs: Sequence[CardRun]) -> None:
            # Run by run, so that a card that is interrupted goes on where it was, on whichever machine.
            study.note(name, [asdict(one) for one in runs])
            say(str(run))

        parts, done = alone(session.space, is_smallest=is_smallest), list(runs_of(study.fact(name, ())))
        return CardMaker(evaluator, parts, settings.learning_rates, settings.seed, on_run=keep, runs=done).make()

    try:
        return make(_CARD_RUNS, is_smallest=False)
    except OutOfMemoryFailure as failure:
        say(f"too little memory for every method at its middle size, so that the smallest is tried: {failure}")
        return make(_SMALL_CARD_RUNS, is_smallest=True)


def _ignore(line: str) -> None:
    """The listener of those who want no lines."""


def carded(session: Session, study: Study) -> tuple[Session, tuple[float, ...]]:
    """For a retraining: `session` with the rates by method of the study's card, and the rates that are tried with them.

    Without a card they are as they were.
    """
    found = signal_from(study.fact)
    if not isinstance(found, RateCard):
        return session, session.settings.learning_rates
    return replace(session, evaluator=session.tuned(found)), found.around()
