"""How claimed trials are evaluated: one by one, or a batch at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from autopeft.errors import SettingsError, TrialFailure
from autopeft.objective import Measurement
from autopeft.study.events import Evaluate, EvaluateAll
from autopeft.study.ladder import Ladder
from autopeft.trial import Trial

_logger = logging.getLogger(__name__)


def results_of(
    trials: Sequence[Trial],
    evaluate: Evaluate,
    evaluate_all: EvaluateAll | None,
    ladder: Ladder | None = None,
) -> Iterator[Measurement | Exception]:
    """What each trial gave, or what was raised; one by one, as they come, where they are not evaluated at once."""
    # One pass over the backbone does not stop at rungs, so that what is to be paused is trained by itself.
    if len(trials) > 1 and evaluate_all is not None and all(trial.rung is None for trial in trials):
        try:
            results = evaluate_all([trial.candidate for trial in trials], [trial.seed for trial in trials])
            checked = [item if isinstance(item, TrialFailure) else _checked(item) for item in results]
        except Exception as error:
            _logger.warning("%d trials failed at once and are tried one by one: %s", len(trials), error)
        else:
            yield from checked
            return
    # Evaluated as they are asked for, so that each is stored before the next one is trained.
    for trial in trials:
        result: Measurement | Exception
        try:
            result = _checked(_evaluated(trial, evaluate, ladder))
        except Exception as error:
            result = error
        yield result


def _evaluated(trial: Trial, evaluate: Evaluate, ladder: Ladder | None) -> Measurement:
    if trial.rung is None:
        return evaluate(trial.candidate, trial.seed)
    if ladder is None or ladder.measure is None:
        raise SettingsError(f"Trial {trial.number} is to be paused at a rung, but nothing is given that does so.")
    return ladder.measure(trial.candidate, trial.seed, trial.rung)


def _checked(measurement: Measurement) -> Measurement:
    if not isinstance(measurement, Measurement):
        raise TypeError(f"evaluate must return a Measurement, but returned {type(measurement).__name__}.")
    return measurement
