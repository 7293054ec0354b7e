"""The learning rate that all searches of one part of an experiment share: one sweep, kept beside their results."""

from __future__ import annotations

import logging
from dataclasses import replace

from autopeft.experiments._experiment import Place
from autopeft.session import Session
from autopeft.settings import Settings
from autopeft.training.rate_sweep import ProxySignal, middle, sweep

log = logging.getLogger(__name__)

SWEEP = "proxy"
"""What the sweep is called among the cells."""


def tuned(settings: Settings, place: Place) -> Settings:
    """`settings` at the learning rate that the sweep chose; the sweep is made when there is none yet."""
    if not settings.learning_rates:
        return settings
    signal = swept(place)
    if signal is None:
        session = Session.build(settings)
        signal = sweep(session.evaluator, middle(session.space), settings.learning_rates, settings.seed)
        log.info("%s", signal)
        place.append(SWEEP, signal.as_dict())
    recipe = replace(settings.recipe, learning_rate=float(signal.chosen))
    return settings.with_changes(recipe=recipe, learning_rates=())


def swept(place: Place) -> ProxySignal | None:
    """What the sweep saw; None when there was none."""
    found = place.read().get(SWEEP)
    return None if found is None else ProxySignal.from_dict(dict(found))
