"""What may be said of the winner: against each baseline of its cost a paired difference, and what to use.

The answer may be that the search found nothing better than a uniform adapter. That two are equal within a margin and
that the runs cannot tell them apart are two answers: the first needs an interval that lies inside the margin. Whichever
it is, the cheapest of what is not shown to be worse is what to use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from autopeft.errors import AutopeftError
from autopeft.finals.heats import Entry
from autopeft.paired import ERRORS, Paired, grain_of, holm, paired

_ALPHA = 0.05

MARGIN = 0.01
"""Differences up to this count as none unless another margin is given: one point of a share of right answers.

Of an error in the unit of the labels it is a share of the other side's error, as the unit may be anything."""

Finding = Literal["better", "worse", "equal", "cannot tell"]


@dataclass(frozen=True)
class Comparison:
    """One finalist less another, on the test part, over the seeds that both have.

    Args:
        baseline: the name of the other.
        corrected: the p value after Holm's correction for all others; None where there is none.
        margin: differences up to this count as none.
        share: what share of the other's error the margin is; None where it does not come from one.
    """

    baseline: str
    difference: Paired
    corrected: float | None
    margin: float = MARGIN
    share: float | None = None

    @property
    def finding(self) -> Finding:
        """ "better" or "worse" where the corrected p value allows it, "equal" where the interval is in the margin.

        Else "cannot tell": a difference that matters is neither shown nor ruled out.
        """
        if self.corrected is not None and self.corrected < _ALPHA:
            return "better" if self.difference.mean > 0 else "worse"
        interval = self.difference.interval
        is_inside = interval is not None and -self.margin <= interval[0] and interval[1] <= self.margin
        return "equal" if is_inside else "cannot tell"

    @property
    def is_acceptable(self) -> bool:
        """Whether the first is not shown to be worse, and no worse by its mean than what counts as no difference."""
        return self.finding != "worse" and self.difference.mean >= -self.margin

    @property
    def told_margin(self) -> str:
        """The margin in words."""
        of = "" if self.share is None else f" ({self.share:.2g} of the error of {self.baseline})"
        return f"{self.margin:.4g}{of}"

    def __str__(self) -> str:
        said = {"equal": f"equal within {self.told_margin}", "cannot tell": "these runs cannot tell them apart"}
        return said.get(self.finding, self.finding)

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        return {
            "baseline": self.baseline,
            "seeds": list(self.difference.seeds),
            "mean": self.difference.mean,
            "interval": None if self.difference.interval is None else list(self.difference.interval),
            "p": self.difference.p_value,
            "p_holm": self.corrected,
            "detectable": self.difference.detectable,
            "margin": self.margin,
            "finding": self.finding,
        }


@dataclass(frozen=True)
class Verdict:
    """What the finals of one band say.

    Args:
        band: its name.
        metric: the objective.
        winner: the searched finalist with the best mean on the validation part.
        rival: the baseline with the best mean there; None when no baseline was invited.
        comparisons: the winner against every baseline.
        choice: what to use.
        instead: why it is not the one of the two that is better or simpler: the choice less that one; None when it is.
    """

    band: str
    metric: str
    winner: Entry
    rival: Entry | None
    comparisons: tuple[Comparison, ...]
    choice: Entry
    instead: Comparison | None = None

    @property
    def is_searched_better(self) -> bool:
        """Whether the winner is better than the best baseline beyond noise, and worse than none."""
        return self.rival is not None and _is_better(self.rival, self.comparisons)

    @property
    def against(self) -> Comparison | None:
        """The winner against the best baseline."""
        return None if self.rival is None else _against(self.rival, self.comparisons)

    @property
    def _better_ones(self) -> list[str]:
        """The baselines that are shown to be better than the winner."""
        return [item.baseline for item in self.comparisons if item.finding == "worse"]

    def __str__(self) -> str:
        winner = self.winner.finalist
        if self.rival is None or self.against is None:
            return f"{self.band}: {winner.name} ({winner.candidate}); no baseline was trained beside it."
        numbers = _in_numbers(self.metric, self.against)
        return f"{self.band}: {self._said(winner.name, self.rival.finalist.name, self.against)} {numbers}{self._use()}"

    def _said(self, winner: str, rival: str, against: Comparison) -> str:
        if self.is_searched_better:
            return f"{winner} is better than {rival}, the best of the baselines."
        known: dict[str, str] = {
            "better": f"{winner} is better than {rival}, but worse than {', '.join(self._better_ones)}.",
            "worse": f"{rival} is better than {winner}, the best that was found.",
            "equal": f"no better than {rival} here: {winner} is equal to it within {against.told_margin}.",
        }
        return known.get(against.finding) or (
            f"no better than {rival} here, so far as {winner} shows: these runs cannot tell the two apart"
            f"{_more_seeds(against)}."
        )

    def _use(self) -> str:
        used = self.choice.finalist
        # A baseline is trained with as many examples a step as the best that was searched, which its name does not say.
        changed = "" if used.candidate.changes.is_empty else f", {used.candidate.changes}"
        if self.instead is None:
            return f" Use {used.name} ({used.nominal:,} parameters{changed})."
        return (
            f" Use {used.name} ({used.nominal:,} parameters{changed}): it costs less than {self.instead.baseline} and "
            f"is not shown to be worse ({_interval(self.instead.difference)})."
        )

    def lines(self) -> list[str]:
        """The winner against each baseline, a line each, and what to use."""
        name = self.winner.finalist.name
        against = [
            f"{self.band}: {name} against {item.baseline}: {item}. {_in_numbers(self.metric, item)}"
            for item in self.comparisons
        ]
        return [*against, str(self)]

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        return {
            "band": self.band,
            "metric": self.metric,
            "winner": self.winner.finalist.name,
            "rival": None if self.rival is None else self.rival.finalist.name,
            "choice": self.choice.finalist.name,
            "is_searched_better": self.is_searched_better,
            "comparisons": [item.as_dict() for item in self.comparisons],
            "instead": None if self.instead is None else self.instead.as_dict(),
            "said": str(self),
        }


def _more_seeds(against: Comparison) -> str:
    n = against.difference.seeds_to_tell(against.margin)
    return "" if n is None else f" (about {n} seeds would tell a difference of {against.told_margin})"


def _interval(found: Paired) -> str:
    if found.interval is None:
        return f"{found.mean:+.4f}"
    return f"{found.mean:+.4f}, {found.interval[0]:+.4f} to {found.interval[1]:+.4f}"


def _in_numbers(metric: str, against: Comparison) -> str:
    found = against.difference
    if found.interval is None or found.detectable is None:
        return f"Too few seeds for an interval of {metric}."
    low, high = found.interval
    # Four decimals of a share; an error may be of any size.
    spec = ".4g" if metric in ERRORS else ".4f"
    return (
        f"Difference of {metric} on the test part {found.mean:+{spec}} (95 % interval {low:+{spec}} to {high:+{spec}}, "
        f"{len(found.values)} seeds, Holm's p {against.corrected:.2g}; {found.detectable:{spec}} would have been seen "
        "in four of five cases)."
    )


def judge(entries: Sequence[Entry], metric: str, n_test: int, margin: float = MARGIN) -> Verdict:
    """The verdict on the finals of one band.

    Args:
        metric: the objective.
        n_test: examples of the test part: metrics but errors and likelihoods are taken to move in steps of one of them.
        margin: differences up to this count as none; of an error in the unit of the labels a share of the other's.

    Raises:
        AutopeftError: every run of those who were searched failed.
    """
    searched = [entry for entry in entries if not entry.finalist.is_baseline and entry.test]
    baselines = [entry for entry in entries if entry.finalist.is_baseline and entry.test]
    if not searched:
        raise AutopeftError(f"In the finals of {entries[0].finalist.band} no searched candidate could be trained.")
    # By the validation part alone: chosen on the test part, the winner's lead there would be part luck.
    winner, rival = _best(searched), _best(baselines) if baselines else None
    comparisons = _compared([winner] * len(baselines), baselines, metric, n_test, margin)
    # The baseline is the simpler answer, so the winner has to be shown to be better; one that is shown to be better
    # than the winner goes before one that only had more luck on the validation part.
    shown = [entry for entry, item in zip(baselines, comparisons, strict=True) if item.finding == "worse"]
    lead = winner if rival is None or _is_better(rival, comparisons) else _best(shown or baselines)
    choice, instead = _cheapest(entries, lead, metric, n_test, margin)
    return Verdict(winner.finalist.band, metric, winner, rival, comparisons, choice, instead)


def _compared(
    first: Sequence[Entry], second: Sequence[Entry], metric: str, n_test: int, margin: float
) -> tuple[Comparison, ...]:
    """Each of `first` less its partner of `second`, with Holm's correction for all of them."""
    grain, is_share = grain_of(metric, n_test), metric in ERRORS
    pairs = [paired(one.test, other.test, grain) for one, other in zip(first, second, strict=True)]
    corrected = iter(holm([pair.p_value for pair in pairs if pair.p_value is not None]))
    return tuple(
        Comparison(
            other.finalist.name,
            pair,
            None if pair.p_value is None else next(corrected),
            margin * abs(fmean(other.test.values())) if is_share else margin,
            margin if is_share else None,
        )
        for other, pair in zip(second, pairs, strict=True)
    )


def _cheapest(
    entries: Sequence[Entry], lead: Entry, metric: str, n_test: int, margin: float
) -> tuple[Entry, Comparison | None]:
    """What costs least of `lead` and of those of the last round that are not shown to be worse, and why not `lead`."""
    known = all(entry.finalist.cost is not None for entry in entries)

    def price(entry: Entry) -> tuple[float, bool]:
        # Of equal costs the baseline, which is the simpler answer.
        finalist = entry.finalist
        return (finalist.cost if known and finalist.cost is not None else finalist.nominal), not finalist.is_baseline

    cheaper = [entry for entry in entries if entry.is_last and not entry.has_failed and price(entry) < price(lead)]
    found = _compared(cheaper, [lead] * len(cheaper), metric, n_test, margin)
    fit = [(entry, item) for entry, item in zip(cheaper, found, strict=True) if item.is_acceptable]
    return min(fit, key=lambda pair: price(pair[0]), default=(lead, None))


def _against(rival: Entry, comparisons: Sequence[Comparison]) -> Comparison:
    return next(item for item in comparisons if item.baseline == rival.finalist.name)


def _is_better(rival: Entry, comparisons: Sequence[Comparison]) -> bool:
    # The best baseline on the validation part need not be the best on the test part, so none may be shown to be better.
    return _against(rival, comparisons).finding == "better" and all(item.finding != "worse" for item in comparisons)


def _best(entries: Sequence[Entry]) -> Entry:
    """By the mean on the validation part, those of the last round before others; of equals the cheaper."""
    return min(entries, key=lambda entry: (not entry.is_last, -entry.validation, entry.finalist.nominal))
