"""The learning rate that all searches of one part of an experiment share: one sweep, kept beside their results."""

from __future__ import annotations

import logging
from dataclasses import replace

from autopeft.experiments._experiment import Place
from autopeft.session import Session
from autopeft.settings import Settings
from autopeft.training.rate_card import CardMaker, RateCard, Signal, alone
from autopeft.training.rate_sweep import ProxySignal, middle, sweep

log = logging.getLogger(__name__)

SWEEP = "proxy"
"""What the sweep, or the card of rates by method, is called among the cells."""


def tuned(settings: Settings, place: Place) -> Settings:
    """`settings` at the learning rates that were found; they are looked for when that has not been done yet."""
    if not settings.learning_rates:
        return settings
    # One sweep for all rivals: a rate of its own for each would compare rates and not searches.
    signal = swept(place)
    if signal is None:
        signal = _found(Session.build(settings))
        log.info("%s", signal)
        place.append(SWEEP, signal.as_dict())
    recipe = replace(settings.recipe, **signal.recipe_changes())
    return settings.with_changes(recipe=recipe, learning_rates=())


def _found(session: Session) -> Signal:
    evaluator, settings = session.evaluator, session.settings
    if settings.rates == "card":
        return CardMaker(evaluator, alone(session.space), settings.learning_rates, settings.seed).make()
    return sweep(evaluator, middle(session.space), settings.learning_rates, settings.seed)


def swept(place: Place) -> Signal | None:
    """What was seen of learning rates; None when nothing was looked for."""
    found = place.read().get(SWEEP)
    if found is None:
        return None
    return RateCard.from_dict(dict(found)) if "runs" in found else ProxySignal.from_dict(dict(found))
