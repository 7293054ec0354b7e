"""Several fronts in one picture: rival samplers, seed by seed. `autopeft.pictures.draw` puts it on paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autopeft.objective import ParetoFront
from autopeft.pictures.labels import metric_label
from autopeft.trial import Trial, front_of


@dataclass(frozen=True)
class FrontsSeries:
    """The fronts of one sampler.

    Args:
        fronts: one a seed, by increasing cost in percent.
        joint: the non-dominated points of all of them.
    """

    name: str
    fronts: tuple[ParetoFront, ...]
    joint: ParetoFront


@dataclass(frozen=True)
class FrontsData:
    """Fronts of several samplers on one task."""

    title: str
    metric: str
    series: tuple[FrontsSeries, ...]
    size: tuple[float, float] = (9.6, 4.8)

    @property
    def alt(self) -> str:
        """Length and ends of each joint front, in words."""
        parts = []
        for series in self.series:
            points = series.joint.points
            if points:
                first, last = points[0], points[-1]
                parts.append(
                    f"{series.name}, {_many(len(series.fronts), 'seed')}, {_many(len(points), 'point')} "
                    f"from {first.value:.4g} at "
                    f"{first.cost:.3g} % to {last.value:.4g} at {last.cost:.3g} %"
                )
        return f"Pareto fronts, {self.metric}. {'; '.join(parts) or 'Nothing has been measured yet'}."


def _many(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def fronts_data(runs: Mapping[str, Sequence[Sequence[Trial]]], *, title: str = "Fronts by sampler") -> FrontsData:
    """The fronts of each sampler's seeds, and their joint front.

    Args:
        runs: sampler name to the trials of each of its seeds.
    """
    series = []
    for name, seeds in runs.items():
        fronts = tuple(front_of(trials) for trials in seeds)
        joint = ParetoFront.of(point for front in fronts for point in front.points)
        series.append(FrontsSeries(name, fronts, joint))
    everything = [trial for seeds in runs.values() for trials in seeds for trial in trials]
    return FrontsData(title, metric_label(everything), tuple(series))
