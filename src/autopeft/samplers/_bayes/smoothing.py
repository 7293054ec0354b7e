"""What the surrogate makes of single noisy measurements: the posterior mean of every trial that was measured.

The best of many noisy values is too good by chance. The surrogate has seen the trial's neighbours too, and is told how
noisy a value is: fitted to a few dozen trials, a process that must find that out itself takes all noise for signal.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np

from autopeft.objective import Measurement
from autopeft.paired import ERRORS, sampling_error
from autopeft.samplers._bayes.outcome import OutcomeTransform
from autopeft.samplers._bayes.settings import Nuts
from autopeft.samplers._propose import quiet
from autopeft.spaces.lattice import SearchSpace
from autopeft.trial import Trial

_log = logging.getLogger(__name__)

_FEWEST = 8
"""With fewer trials than this the lengthscales are the prior's, and the mean says nothing that the values do not."""

_NO_NUTS = Nuts(0, 0, 1)  # the maximum a posteriori needs none


def sampling_variance(measurement: Measurement, metric: str = "") -> float | None:
    """The variance of a measured metric that comes from scoring a finite number of examples; None where not known.

    That of a share of right answers, which is near enough for the F measure and a correlation; metrics that are no
    shares (an error in the unit of the labels) have none that could be told from the value alone.
    """
    n, value = int(measurement.extra.get("n_scored", 0)), measurement.value
    # An error may lie between -1 and 1 as well, so that its name says more than its value where it is known.
    if not n or metric in ERRORS or not -1 <= value <= 1:
        return None
    # A value of 0 or 1 is no proof of certainty; one example more or less is left open.
    share = min(max(value, 1 / n), 1 - 1 / n) if value >= 0 else value
    return sampling_error(share, n) ** 2


def smooth(space: SearchSpace, trials: Sequence[Trial], seed: int = 0, metric: str = "") -> dict[int, float]:
    """The metric of every measured trial by number, as a SAAS process (maximum a posteriori) fitted to all sees it.

    The measured values themselves where there are fewer than eight, or where the process cannot be fitted.
    """
    measured = [(t.number, t.configuration, t.measurement) for t in trials if t.measurement is not None]
    values = {number: measurement.value for number, _, measurement in measured}
    if len(measured) < _FEWEST:
        return values
    natural = list(values.values())
    # This transform is linear: minus the mean, by the spread.
    scale, zero, spread = OutcomeTransform("z-score", tuple(natural)), np.mean(natural), np.std(natural, ddof=1)
    variances = [sampling_variance(measurement, metric) for _, _, measurement in measured]
    if not spread > 0 or math.isclose(spread, 0):
        return values
    with quiet(seed):
        import torch

        from autopeft.samplers._bayes.surrogate import FAILURES, fit

        x = torch.as_tensor(space.encode([configuration for _, configuration, _ in measured]), dtype=torch.float64)
        y = torch.as_tensor(scale(natural), dtype=torch.float64).unsqueeze(-1)
        known = [variance / spread**2 for variance in variances if variance is not None]
        noise = torch.tensor(known, dtype=torch.float64).unsqueeze(-1) if len(known) == len(measured) else None
        try:
            model = fit("saas-map", x, y, n_features=x.shape[-1], seed=seed, nuts=_NO_NUTS, noise=noise)
            with torch.no_grad():
                # An ensemble has a leading axis of members, whose means are averaged.
                means = model.posterior(x).mean.reshape(-1, len(measured)).mean(0).numpy()
        except FAILURES as error:
            _log.warning("The surrogate failed (%s); what was measured is taken as it is.", error)
            return values
    return {number: float(zero + spread * mean) for (number, _, _), mean in zip(measured, means, strict=True)}
