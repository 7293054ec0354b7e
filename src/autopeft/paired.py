"""Differences seed by seed: what a few runs of two rivals say of the difference of their means.

Rivals of one seed share the order of the examples and the cut of the data, so the difference within a seed varies less
than either side does. Student's t says what that allows to be claimed; Holm's rule what several claims at once do.
Both speak of further seeds on the same examples, not of other examples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

# scipy is imported where a number is asked of it: that takes a second, and commands that read a study ask for none.

_LEVEL = 0.95
_POWER = 0.8
_NORMAL_SHIFT = 1.96 + 0.84  # of a two-sided test at 5 % that is right in four of five cases


@dataclass(frozen=True)
class Paired:
    """Differences seed by seed, and what they tell of the mean difference.

    Args:
        seeds: those that both sides have.
        values: the differences, in the order of the seeds.
        grain: the smallest step that the values can take, such as one example in the metric. Differences that happen
            to be equal must not look certain, so their spread counts as at least one step; 0 for none.
    """

    seeds: tuple[int, ...]
    values: tuple[float, ...]
    grain: float = 0.0

    @property
    def mean(self) -> float:
        """The mean difference; NaN without a seed."""
        return fmean(self.values) if self.values else math.nan

    @property
    def standard_error(self) -> float | None:
        """Of the mean; None from fewer than two seeds."""
        n = len(self.values)
        return max(stdev(self.values), self.grain) / math.sqrt(n) if n > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean difference by Student's t; None from fewer than two seeds."""
        error = self.standard_error
        if error is None:
            return None
        from scipy.stats import t as student

        reach = float(student.ppf(0.5 + _LEVEL / 2, len(self.values) - 1)) * error
        return self.mean - reach, self.mean + reach

    @property
    def p_value(self) -> float | None:
        """Of a mean difference of 0, two-sided, by Student's t; None from fewer than two seeds."""
        error = self.standard_error
        if error is None:
            return None
        if error == 0:  # equal differences of a quantity without a grain
            return 1.0 if self.mean == 0 else 0.0
        from scipy.stats import t as student

        return 2 * float(student.sf(abs(self.mean) / error, len(self.values) - 1))

    @property
    def detectable(self) -> float | None:
        """The true difference that so many seeds of this spread would show in four of five cases; None from one seed.

        "No difference shown" says no more than that a difference of this size would probably have been seen.
        """
        error = self.standard_error
        return None if error is None else error * _shift(len(self.values))

    def seeds_to_tell(self, difference: float) -> int | None:
        """About how many seeds of this spread would show a true `difference` in four of five cases; None from one.

        By the normal distribution and two more, which is near Student's t from five seeds on.
        """
        error = self.standard_error
        if error is None or difference <= 0:
            return None
        spread = error * math.sqrt(len(self.values))
        return 2 + math.ceil((_NORMAL_SHIFT * spread / difference) ** 2)

    @property
    def verdict(self) -> str:
        """ "better", "worse", or why neither can be said."""
        if self.interval is None:
            return "one seed allows no statement" if self.values else "no seed in common"
        low, high = self.interval
        if low > 0 or high < 0:
            return "better" if low > 0 else "worse"
        return "no difference shown"


def _shift(n: int) -> float:
    """The true mean, in standard errors, at which a two-sided t test of `n` differences has its power."""
    from scipy.optimize import brentq
    from scipy.stats import nct
    from scipy.stats import t as student

    limit = float(student.ppf(0.5 + _LEVEL / 2, n - 1))
    # With one degree of freedom the limit is 12.7 standard errors; three times any limit has a power near 1.
    return float(brentq(lambda shift: float(nct.sf(limit, n - 1, shift)) - _POWER, 0.0, 3 * limit))


def paired(first: Mapping[int, float], second: Mapping[int, float], grain: float = 0.0) -> Paired:
    """`first` minus `second`, by seed; `grain` as in `Paired`."""
    seeds = tuple(sorted(set(first) & set(second)))
    return Paired(seeds, tuple(first[seed] - second[seed] for seed in seeds), grain)


def sampling_error(value: float, n: int) -> float:
    """The standard error of a metric that comes from scoring `n` examples.

    That of a share of right answers where `value` lies between 0 and 1, which is near enough for the F measure; that of
    a correlation about 0 where it is 0, negative or undefined.
    """
    return math.sqrt(value * (1 - value) / n) if 0 < value < 1 else 1 / math.sqrt(n)


ERRORS = frozenset(sign + name for name in ("mae", "rmse") for sign in ("", "neg_"))
"""Metrics in the unit of the labels, which no number says anything about that does not have this unit, too."""

_CONTINUOUS = ERRORS | {sign + name for name in ("loss", "perplexity") for sign in ("", "neg_")}


def metric_error(metric: str, value: float, n: int) -> float:
    """The standard error of `metric` of `value` that comes from scoring `n` examples, in the unit of the metric.

    An error in the unit of the labels is taken to vary among examples as much as its mean, as absolute errors do that
    are distributed exponentially: about ``|value| / sqrt(n)``. Of normal errors it is 0.76 of that, of a root mean
    square 0.71. All other metrics are as `sampling_error` says.
    """
    return abs(value) / math.sqrt(n) if metric in ERRORS else sampling_error(value, n)


def grain_of(metric: str, n: int) -> float:
    """The smallest step of `metric` on `n` examples, see `Paired`: one of them, or 0 where it moves continuously."""
    return 0.0 if metric in _CONTINUOUS else 1 / max(1, n)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Each p value corrected for all of them (Holm 1979): rejecting those below 5 % errs once in twenty families."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        # A corrected value is never below an earlier one: a claim cannot be surer than one with a smaller p value.
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return tuple(corrected)
