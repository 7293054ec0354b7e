"""Points of finished searches: the best within a budget, and who found it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from autopeft import objectives
from autopeft.architecture import Counts
from autopeft.candidate import Candidate
from autopeft.errors import SettingsError
from autopeft.experiments._results import Result


@dataclass(frozen=True)
class FoundPoint:
    """A measured trial of a finished search.

    Args:
        experiment: whose search it was.
        task: of the part of it; may be empty.
        cell: the search.
        trial: its number.
        origin: who proposed it: "initial" for the design that all searches of a seed share.
        cost: in the unit of the search.
        value: metric on validation.
        architecture: as `Architecture.from_dict` reads it.
        changes: as `Changes.from_dict` reads them.
    """

    experiment: str
    task: str
    cell: str
    trial: int
    origin: str
    cost: float
    value: float
    architecture: Mapping[str, Any]
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def candidate(self) -> Candidate:
        """What was trained there."""
        return Candidate.from_dict({"architecture": self.architecture, "changes": self.changes})

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping, without the architecture and the changes, which stand beside it."""
        return {key: value for key, value in asdict(self).items() if key not in ("architecture", "changes")}

    def __str__(self) -> str:
        where = "/".join(part for part in (self.experiment, self.task) if part)
        who = "the initial design" if self.origin == "initial" else self.origin
        return f"{who} ({where}, {self.cell}, trial {self.trial}; {self.value:.4f} on validation)"


def best_point(
    experiment: str,
    task: str,
    found: Mapping[str, Result],
    cells: Collection[str] | None = None,
    first: int | None = None,
    at: float = float("inf"),
) -> FoundPoint | None:
    """The point with the best metric, of several such the cheapest; None when none fits.

    Args:
        experiment, task: what `found` is of.
        found: results by cell; those that are no searches are passed over.
        cells: the searches that count; None for all.
        first: how many measured trials of each search count; None for all.
        at: cost at most.
    """
    # Sorted by name, so that of equal points the same one is chosen in whichever order cells were done.
    own = {name: data for name, data in sorted(found.items()) if cells is None or name in cells}
    points = [
        point
        for name, data in own.items()
        for point in (_points if "trials" in data else _ends)(experiment, task, name, data, first)
    ]
    fitting = [point for point in points if point.cost <= at]
    return max(fitting, key=lambda point: (point.value, -point.cost), default=None)


def _points(experiment: str, task: str, cell: str, data: Result, first: int | None) -> Iterator[FoundPoint]:
    measured = [trial for trial in data["trials"] if "value" in trial]
    for trial in measured[:first]:
        yield FoundPoint(
            experiment=experiment,
            task=task,
            cell=cell,
            trial=int(trial["number"]),
            origin=str(trial["origin"]),
            cost=_cost(trial, data),
            value=float(trial["value"]),
            architecture=trial["architecture"],
            changes=trial.get("changes", {}),
        )


def _ends(experiment: str, task: str, cell: str, data: Result, first: int | None) -> Iterator[FoundPoint]:
    """What the search of a contest's cell ended at; nothing where the cell is none, or has no search."""
    searched = [one for one in data.get("found", ()) if one.get("trial") is not None]
    for one in searched[:first]:
        yield FoundPoint(
            experiment=experiment,
            task=task,
            cell=cell,
            trial=int(one["trial"]),
            origin=str(one.get("origin", "")),
            cost=_cost(one, data),
            value=fmean(one["validation"]),
            architecture=one["architecture"],
            changes=one.get("changes", {}),
        )


def _cost(trial: Mapping[str, Any], data: Result) -> float:
    """What a trial costs by what its search minimised: a record of it, or what its counts say."""
    cost = objectives.lookup(str(data["settings"].get("cost", objectives.NOMINAL.name)))
    if (record := trial.get("costs", {}).get(cost.name)) is not None:
        return float(record["value"])
    if cost.counted is None:
        raise SettingsError(
            f"The trial {trial.get('number', trial.get('trial'))} has not stored the cost {cost.name!r}."
        )
    return cost.counted(Counts(**trial["counts"]))


def _read(told: Mapping[str, Any]) -> FoundPoint:
    """What `FoundPoint.as_dict` wrote; earlier versions called the cost by the one name that it had."""
    rest = {key: value for key, value in told.items() if key not in ("cost", objectives.NOMINAL.key)}
    return FoundPoint(**rest, cost=told.get("cost", told.get(objectives.NOMINAL.key, 0.0)), architecture={})


def who_found(found: Mapping[str, Result], points: Mapping[str, FoundPoint | None]) -> dict[str, str]:
    """Who found each architecture that was searched, in words, by its name.

    What a result itself says counts; older ones say nothing, and are asked only whether the point that their search
    names today is what they trained.
    """
    told = {}
    for name, data in found.items():
        point = points.get(name)
        if "found_by" in data:
            told[name] = str(_read(data["found_by"]))
        elif point is not None:
            is_same = point.candidate == Candidate.from_dict(data)
            told[name] = str(point) if is_same else "not known: the searches name another architecture today"
    return told
