"""What a study came to, as plain rows: the front, retrained architectures, failures, time.

Every row names the split that its metric was computed on, and how many seeds are behind it. Metrics are fractions
in their natural orientation, times are seconds, memory is bytes, counts are parameters.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from autopeft.architecture import Counts
from autopeft.candidate import Candidate
from autopeft.errors import DataError
from autopeft.objective import Objective, shares
from autopeft.objectives import NOMINAL
from autopeft.pictures.labels import brief
from autopeft.pictures.points import NamedPoint
from autopeft.reading import read_json
from autopeft.trial import Trial, front_of, lacking

_RETRAINED = "retrained"
_MOST_NAMED = 30


@dataclass(frozen=True)
class FrontRow:
    """One point of the front: a single training run with a single seed.

    Args:
        number: the trial's number.
        cost: what `objective` says of it.
        nominal: parameters by the papers' rule; `stored` and `trained` likewise, see `autopeft.architecture`.
        seconds: of training and evaluation.
        proposal_seconds: that the sampler took to propose it.
        search_seconds: of the search that it came from, see `search_seconds`.
        latency: median seconds of one evaluation batch.
        peak_memory: bytes.
    """

    number: int
    objective: Objective
    cost: float
    counts: Counts
    nominal: int
    stored: int
    trained: int
    metric: str
    value: float
    split: str
    seed: int
    seconds: float
    proposal_seconds: float
    search_seconds: float
    latency: float
    peak_memory: int
    origin: str
    label: str
    candidate: Candidate

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        left_out = ("candidate", "objective", "counts")
        rest = {name: value for name, value in vars(self).items() if name not in left_out}
        told = {**shares(self.counts), **rest, "cost_name": self.objective.name, "cost_unit": self.objective.unit}
        return {**told, **self.candidate.as_dict(), "fingerprint": self.candidate.fingerprint}


def front_rows(
    trials: Sequence[Trial], *, cost: Objective = NOMINAL, is_answering: bool = False
) -> tuple[FrontRow, ...]:
    """The rows of the front by increasing cost; none when nothing has been measured.

    Args:
        is_answering: see `search_seconds`.
    """
    by_number = {trial.number: trial for trial in trials}
    keys = [point.key for point in front_of(trials, cost).points]
    if not is_answering:  # one figure for all, computed once
        whole_search = search_seconds(trials)
        return tuple(_front_row(by_number[key], cost, whole_search) for key in keys)
    return tuple(_front_row(by_number[key], cost, search_seconds(trials, key, is_answering=True)) for key in keys)


def lacking_note(trials: Sequence[Trial], cost: Objective) -> tuple[str, ...]:
    """Which measured trials have not stored this cost and so are left out; empty when all have."""
    numbers = lacking(trials, cost)
    if not numbers:
        return ()
    listed = ", ".join(f"#{number}" for number in numbers[:_MOST_NAMED])
    more = f" and {len(numbers) - _MOST_NAMED} more" if len(numbers) > _MOST_NAMED else ""
    measured = sum(trial.measurement is not None for trial in trials)
    return (f"{len(numbers)} of {measured} measured trials have not stored the cost {cost.name!r}: {listed}{more}.",)


def search_seconds(trials: Sequence[Trial], number: int | None = None, *, is_answering: bool = False) -> float:
    """What a search took: the numerator of BIPEFT's table 3, whose denominator is one retraining run.

    A sampler that learns from trials needs all of them for each of its points: all proposals, trainings and
    evaluations, failed ones too, count. One that answers budgets by a search of its own has its answer before it is
    measured: its proposals count, and for one trial that trial's alone (a run that serves several budgets counts for
    the first that it was needed for). A trial that was repeated brings the proposal of the one that it repeats.

    Args:
        number: of the trial in question, or None for the whole study.
        is_answering: whether the sampler answers budgets.
    """
    if not is_answering:
        spent = timing(trials)
        return spent.proposing + spent.measuring + spent.failing
    if number is None:
        return math.fsum(trial.proposal_seconds for trial in trials)
    by_number = {trial.number: trial for trial in trials}
    one, found = by_number.get(number), 0.0
    # The proposal is charged to the trial that lost its worker: its retry was proposed in no time.
    while one is not None:
        found += one.proposal_seconds
        one = None if one.retry_of is None else by_number.get(one.retry_of)
    return found


def _front_row(trial: Trial, cost: Objective, search: float) -> FrontRow:
    measurement = trial.measurement
    assert measurement is not None  # a front holds measured trials only
    counts = measurement.counts
    return FrontRow(
        number=trial.number,
        objective=cost,
        cost=cost.told(measurement),
        counts=counts,
        nominal=counts.nominal,
        stored=counts.stored,
        trained=counts.trained,
        metric=measurement.objective,
        value=measurement.value,
        split=measurement.split,
        seed=trial.seed,
        seconds=measurement.seconds,
        proposal_seconds=trial.proposal_seconds,
        search_seconds=search,
        latency=measurement.latency,
        peak_memory=measurement.peak_memory,
        origin=trial.origin,
        label=brief(trial.candidate),
        candidate=trial.candidate,
    )


@dataclass(frozen=True)
class RetrainSummary:
    """One architecture, trained again on several seeds, as the page about its study shows it.

    Args:
        mean: over seeds. The median stands beside it because a single diverged seed moves a mean far.
        std: sample standard deviation (n - 1), or None from a single seed.
        seeds: one a run; `values` in the same order.
        seconds: mean of the runs.
        is_baseline: whether it is one of the literature, not of the search.
        costs: what objectives said of its first run, see `autopeft.objective.Measurement`.
    """

    name: str
    metric: str
    split: str
    mean: float
    std: float | None
    median: float
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    counts: Counts
    seconds: float = 0.0
    is_baseline: bool = False
    costs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, name: str, found: Mapping[str, Any]) -> RetrainSummary:
        """Read what `autopeft.training.retraining.Retrained.as_dict` wrote."""
        told = found["summary"]
        return cls(
            name=name,
            metric=found["objective"],
            split=found["split"],
            mean=told["mean"],
            std=told["std"],
            median=told["median"],
            seeds=tuple(found["seeds"]),
            values=tuple(found["values"]),
            counts=Counts(**found["counts"]),
            seconds=statistics.fmean(found["seconds"]),
            # Files that were written before baselines and costs were kept lack these two, and are still shown.
            is_baseline=bool(found.get("is_baseline", False)),
            costs=found.get("costs", {}),
        )

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.seeds)

    def cost(self, cost: Objective) -> float | None:
        """What the cost is said to be, None where the runs have not stored it."""
        record = self.costs.get(cost.name)
        return float(record["value"]) if record else cost.counted(self.counts) if cost.counted is not None else None

    def point(self, cost: Objective = NOMINAL) -> NamedPoint | None:
        """The summary as a point of a picture; None where the runs have not stored the cost."""
        value = self.cost(cost)
        return None if value is None else NamedPoint(self.name, value, self.mean, self.std, self.n, self.split)

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        return {**asdict(self), "n": self.n, **shares(self.counts)}


def retraining_file(folder: Path, name: str) -> Path:
    """A new file in the study's `folder` for the retraining of what is called `name`; older ones are kept."""
    place = folder / _RETRAINED
    # One architecture may be retrained in several ways, and none is thrown away for another.
    names = (name if n == 1 else f"{name}-{n}" for n in itertools.count(1))
    return next(path for path in (place / f"{one}.json" for one in names) if not path.exists())


def retrained_in(folder: Path) -> tuple[RetrainSummary, ...]:
    """The retrainings that the study's `folder` holds, by increasing cost.

    A summary has its file's name: of one architecture there may be several, trained in several ways.

    Raises:
        DataError: a file holds something else.
    """
    found = []
    for path in sorted((folder / _RETRAINED).glob("*.json")):
        try:
            found.append(RetrainSummary.from_dict(path.stem, read_json(path, "The retraining", DataError)))
        except DataError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{str(path)!r} is not what `autopeft train` writes: {error!r}.") from error
    return tuple(sorted(found, key=lambda one: (one.counts.nominal, one.name)))


@dataclass(frozen=True)
class FailureRow:
    """Trials that failed in one way: how many, their numbers, and the message of the last."""

    kind: str
    count: int
    numbers: tuple[int, ...]
    message: str


def failure_rows(trials: Sequence[Trial]) -> tuple[FailureRow, ...]:
    """Failures by kind, the most frequent first."""
    groups: dict[str, dict[int, str]] = {}
    for trial in trials:
        if trial.failure is not None:
            groups.setdefault(trial.failure.kind, {})[trial.number] = trial.failure.message
    rows = [FailureRow(kind, len(found), tuple(found), list(found.values())[-1]) for kind, found in groups.items()]
    return tuple(sorted(rows, key=lambda row: (-row.count, row.kind)))


@dataclass(frozen=True)
class Timing:
    """Where the time of a study went, in seconds.

    Args:
        wall: from the first start to the last end, pauses between them among it.
        measuring: training and evaluation, summed over the measured trials.
        failing: from start to end, summed over the failed trials.
        proposing: spent by samplers, summed.
        per_trial: median of training and evaluation; 0 when nothing has been measured.
    """

    wall: float
    measuring: float
    failing: float
    proposing: float
    per_trial: float


def timing(trials: Sequence[Trial]) -> Timing:
    """The times of `trials`; all 0 without any."""
    seconds = [t.latest.seconds for t in trials if t.latest is not None]
    ended = [t.finished for t in trials if t.finished is not None]
    failed = [t.finished - t.started for t in trials if t.failure is not None and t.finished is not None]
    return Timing(
        # The trials of several workers overlap, so the sum of their times would exceed what a clock on the wall has
        # seen.
        wall=max(ended) - min(t.started for t in trials) if ended else 0.0,
        measuring=math.fsum(seconds),
        failing=math.fsum(failed),
        proposing=math.fsum(t.proposal_seconds for t in trials),
        per_trial=statistics.median(seconds) if seconds else 0.0,
    )
