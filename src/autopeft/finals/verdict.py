"""What may be said of the winner: against each baseline of its cost a paired difference, and what to use.

The answer may be that the search found nothing better than a uniform adapter; then that is what to use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autopeft.errors import AutopeftError
from autopeft.finals.heats import Entry
from autopeft.paired import Paired, holm, paired

_ALPHA = 0.05


@dataclass(frozen=True)
class Comparison:
    """The winner of the searched ones less one baseline, on the test part, over the seeds that both have.

    Args:
        corrected: the p value after Holm's correction for all baselines of the band; None where there is none.
    """

    baseline: str
    difference: Paired
    corrected: float | None

    @property
    def finding(self) -> str:
        """ "better" or "worse" where the corrected p value allows it, else "no difference shown"."""
        if self.corrected is None or self.corrected >= _ALPHA:
            return "no difference shown"
        return "better" if self.difference.mean > 0 else "worse"

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
    """

    band: str
    metric: str
    winner: Entry
    rival: Entry | None
    comparisons: tuple[Comparison, ...]

    @property
    def is_searched_better(self) -> bool:
        """Whether the winner is better than the best baseline beyond noise, and worse than none."""
        if self.rival is None:
            return False
        findings = {item.baseline: item.finding for item in self.comparisons}
        # The best baseline on the validation part need not be the best on the test part, so none may be shown to be
        # better.
        return findings[self.rival.finalist.name] == "better" and "worse" not in findings.values()

    @property
    def choice(self) -> Entry:
        """What to use: the winner where it is better, else the baseline, which is the simpler answer."""
        return self.winner if self.is_searched_better or self.rival is None else self.rival

    def __str__(self) -> str:
        winner = self.winner.finalist
        if self.rival is None:
            return f"{self.band}: {winner.name} ({winner.candidate}); no baseline was trained beside it."
        rival = self.rival.finalist
        against = next(item for item in self.comparisons if item.baseline == rival.name)
        if self.is_searched_better:
            said = f"use {winner.name}, which is better than {rival.name}"
        elif against.difference.mean < 0 and against.finding == "worse":
            said = f"use {rival.name}, which is better than what was found ({winner.name})"
        else:
            said = f"no better than {rival.name} here, so far as {winner.name} shows: use {rival.name}"
        return f"{self.band}: {said}. {_in_numbers(self.metric, against)}"

    def lines(self) -> list[str]:
        """The winner against each baseline, a line each, and what to use."""
        name = self.winner.finalist.name
        against = [
            f"{self.band}: {name} against {item.baseline}: {item.finding}. {_in_numbers(self.metric, item)}"
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
            "said": str(self),
        }


def _in_numbers(metric: str, against: Comparison) -> str:
    found = against.difference
    if found.interval is None or found.detectable is None:
        return f"Too few seeds for an interval of {metric}."
    low, high = found.interval
    return (
        f"Difference of {metric} on the test part {found.mean:+.4f} (95 % interval {low:+.4f} to {high:+.4f}, "
        f"{len(found.values)} seeds, Holm's p {against.corrected:.2g}; {found.detectable:.4f} would have been seen in "
        "four of five cases)."
    )


def judge(entries: Sequence[Entry], metric: str, n_test: int) -> Verdict:
    """The verdict on the finals of one band.

    Args:
        metric: the objective.
        n_test: examples of the test part: the metric is taken to move in steps of one of them.

    Raises:
        AutopeftError: every run of those who were searched failed.
    """
    searched = [entry for entry in entries if not entry.finalist.is_baseline and entry.test]
    baselines = [entry for entry in entries if entry.finalist.is_baseline and entry.test]
    if not searched:
        raise AutopeftError(f"In the finals of {entries[0].finalist.band} no searched candidate could be trained.")
    # By the validation part alone: chosen on the test part, the winner's lead there would be part luck.
    winner, rival = _best(searched), _best(baselines) if baselines else None
    pairs = [paired(winner.test, entry.test, 1 / n_test) for entry in baselines]
    known = [pair.p_value for pair in pairs if pair.p_value is not None]
    corrected = iter(holm(known))
    comparisons = tuple(
        Comparison(entry.finalist.name, pair, None if pair.p_value is None else next(corrected))
        for entry, pair in zip(baselines, pairs, strict=True)
    )
    return Verdict(winner.finalist.band, metric, winner, rival, comparisons)


def _best(entries: Sequence[Entry]) -> Entry:
    """By the mean on the validation part, those of the last round before others; of equals the cheaper."""
    return min(entries, key=lambda entry: (not entry.is_last, -entry.validation, entry.finalist.nominal))
