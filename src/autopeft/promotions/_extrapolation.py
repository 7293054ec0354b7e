"""What a sampler is shown of trials that are paused: what they would probably be worth at their end.

A metric at a low rung is another quantity than at the end: lower, and spread differently. So it is carried from rung to
rung by straight lines, each fitted to the trials that reached both rungs of a pair.

That only the better trials are promoted does not bend such a line: whom it is fitted to was chosen by the value at the
lower rung, which is its input, and a regression holds whatever inputs it is asked at. From the lowest rung straight
to the end it would not hold, since who came there was chosen by the rungs between, too; hence the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from autopeft.objective import Measurement
from autopeft.trial import Trial, TrialState

_WEIGHT = 3.0
"""Of the assumption that a gain at a rung is as large at the next one, in trials."""


@dataclass(frozen=True)
class Step:
    """A straight line from the metric at a rung to that at the next one."""

    slope: float = 1.0
    intercept: float = 0.0

    def __call__(self, value: float) -> float:
        """What is to be expected at the next rung."""
        return self.intercept + self.slope * value


def steps_between(trials: Sequence[Trial]) -> list[Step]:
    """The lines between neighbouring rungs, from the lowest one; as many as anybody has climbed."""
    curves = [[one.value for one in trial.reached] for trial in trials]
    highest = max((len(curve) for curve in curves), default=0)
    return [_fitted(curves, rung) for rung in range(highest - 1)]


def _fitted(curves: Sequence[Sequence[float]], rung: int) -> Step:
    """Least squares, drawn towards a slope of 1 as if a few more trials lay on such a line, spread as all of the rung.

    With one pair that is a shift, with many the line itself.
    """
    # The spread is that of all who stood at the rung: those who went on are alike, and their spread alone would be too
    # small.
    here = np.array([curve[rung] for curve in curves if len(curve) > rung])
    pairs = np.array([(curve[rung], curve[rung + 1]) for curve in curves if len(curve) > rung + 1])
    x, y = pairs.T
    weight = _WEIGHT * float(here.var())
    spread = float(((x - x.mean()) ** 2).sum())
    together = float(((x - x.mean()) * (y - y.mean())).sum())
    # Where all are equal at the rung the pairs tell nothing of a slope, and a shift is all that can be known.
    slope = (together + weight) / (spread + weight) if spread + weight > 0 else 1.0
    return Step(slope, float(y.mean() - slope * x.mean()))


def extrapolated(trials: Sequence[Trial]) -> list[Trial]:
    """`trials`, those that stand at a rung as if they had ended with what is to be expected of them.

    Those that go on at the moment are among them: they are known by what they were worth, while what has never been
    measured stays as running as it is. A measurement that was not made says so: ``extra["extrapolated_from"]`` is the
    rung, from 0.
    """
    steps = steps_between(trials)
    values = [one.value for trial in trials for one in trial.reached]
    # A line knows no bounds, and most metrics have them: nothing is expected beyond what was measured at any rung.
    ends = (min(values), max(values)) if values else (0.0, 0.0)
    return [_ended(trial, steps, ends) for trial in trials]


def _ended(trial: Trial, steps: Sequence[Step], ends: tuple[float, float]) -> Trial:
    found = trial.so_far
    # A failure says something of the architecture itself, and a guess must not stand in its place.
    if found is None or trial.failure is not None:
        return trial
    rung = len(trial.reached) - 1
    value = trial.reached[rung].value
    for step in steps[rung:]:
        value = min(max(step(value), ends[0]), ends[1])
    return replace(trial, state=TrialState.COMPLETE, measurement=_with_value(found, value, rung), so_far=None)


def _with_value(found: Measurement, value: float, rung: int) -> Measurement:
    # The other metrics stay as they were measured: only what is searched for is carried on.
    metrics = {**found.metrics, found.objective: value}
    return replace(found, metrics=metrics, extra={**found.extra, "extrapolated_from": rung})
