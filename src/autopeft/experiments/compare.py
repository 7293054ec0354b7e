"""Kind ``compare``: searches by several samplers and search seeds on the same initial designs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from autopeft import samplers
from autopeft.candidate import Candidate
from autopeft.errors import AutopeftError
from autopeft.experiments._compare_tables import page
from autopeft.experiments._comparison import compare
from autopeft.experiments._experiment import Origin, Page, Place, merged
from autopeft.experiments._provenance import provenance
from autopeft.experiments._results import Result
from autopeft.experiments._tuning import swept, tuned
from autopeft.experiments._wrong import wrong_samplers, wrong_seeds, wrong_settings
from autopeft.objective import Measurement, hypervolume_curve, reference_point, shares
from autopeft.objectives import largest_fact
from autopeft.reports.rows import search_seconds
from autopeft.rules import raise_if_any
from autopeft.session import Session, answers_budgets
from autopeft.settings import Settings
from autopeft.study.study import Study
from autopeft.trial import Trial, front_of, with_cost


@dataclass(frozen=True)
class SearchCell:
    """One search: who proposes, and the seed."""

    sampler: str
    seed: int

    @property
    def name(self) -> str:
        """``SAMPLER-seedN``."""
        return f"{self.sampler}-seed{self.seed}"


@dataclass(frozen=True)
class Compare:
    """Rival searches on one task.

    Args:
        origin: where this was read.
        settings: shared by all cells.
        samplers: name of a rival to changes of the settings.
        seeds: of the searches.
    """

    required: ClassVar[frozenset[str]] = frozenset({"title", "settings", "samplers", "seeds"})
    optional: ClassVar[frozenset[str]] = frozenset()
    is_derived: ClassVar[bool] = False

    origin: Origin
    settings: Settings
    samplers: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]

    @classmethod
    def read(cls, raw: Mapping[str, Any], origin: Origin) -> Compare:
        """The comparison that `raw` describes.

        Raises:
            SettingsError: a value is wrong.
        """
        wrong = [*wrong_settings(raw), *wrong_samplers(raw), *wrong_seeds(raw["seeds"])]
        raise_if_any(f"The experiment {origin.told} cannot be used", wrong)
        found = cls(origin, origin.settings(raw["settings"]), raw["samplers"], tuple(raw["seeds"]))
        for cell in found.cells():
            found.settings_of(cell)  # mistakes in a sampler's changes show now, not after hours
        return found

    def cells(self) -> tuple[SearchCell, ...]:
        """Seed by seed, so that rivals can be compared early."""
        return tuple(SearchCell(name, seed) for seed in self.seeds for name in self.samplers)

    def settings_of(self, cell: SearchCell, shared: Settings | None = None) -> Settings:
        """The settings of one search.

        Args:
            shared: what takes the place of the shared settings, with the learning rate that the sweep chose.
        """
        found = merged((shared or self.settings).as_dict(), {**self.samplers[cell.sampler], "seed": cell.seed})
        return self.origin.settings(found)

    def asks(self, cell: SearchCell) -> Mapping[str, Any]:
        """The settings of one search, as its result has them."""
        return {"settings": self.settings_of(cell).as_dict()}

    @property
    def against(self) -> str:
        """The rival that the others are compared with: random search, or else the first."""
        names = [name for name in self.samplers if self.settings_of(SearchCell(name, 0)).sampler == "random"]
        return (names or list(self.samplers))[0]

    def check(self, cells: Sequence[SearchCell], place: Place) -> None:
        """Sweep the learning rate that all share, unless that is done."""
        tuned(self.settings, place)

    def run(self, cell: SearchCell, place: Place) -> Result:
        """Search, or finish the search in the cell's folder.

        Raises:
            AutopeftError: no trial was measured.
        """
        session = Session.build(self.settings_of(cell, tuned(self.settings, place)))
        known = self._known(cell, place.work)

        def evaluate(candidate: Candidate, training_seed: int) -> Measurement:
            # The same candidate under the same seed gives the same numbers, so that training it again would only take
            # time.
            reused = known.get((candidate.fingerprint, training_seed))
            return session.evaluator(candidate, training_seed) if reused is None else reused

        folder = place.work / cell.name
        with session.begin(folder) as study:
            sampler = session.sampler(folder=folder, begun=study.settings)
            study.run(evaluate, sampler, session.total, session.initial)
            return search_result(self.origin.title, session, study)

    def page(self, found: Mapping[str, Result], place: Place) -> Page:
        """Verdicts, tables and pictures of the searches that are done."""
        keyed = {(cell.sampler, cell.seed): found[cell.name] for cell in self.cells() if cell.name in found}
        return page(compare(keyed, self.against), tuple(self.samplers), self.seeds, swept(place))

    @classmethod
    def overview(cls, done: Mapping[str, tuple[Compare, Mapping[str, Result]]]) -> Sequence[str]:
        """Nothing: hypervolumes of different tasks have no common scale."""
        return ()

    def _known(self, cell: SearchCell, work: Path) -> dict[tuple[str, int], Measurement]:
        """What rivals of the same seed that train alike have measured: the shared initial design is trained once."""
        found = {}
        for rival in (SearchCell(name, cell.seed) for name in self.samplers):
            path = work / rival.name / "study.db"
            if rival != cell and path.exists() and self._training(rival) == self._training(cell):
                with Study.open(path) as study:
                    for trial in study.trials():
                        if trial.measurement is not None:
                            found[trial.candidate.fingerprint, trial.seed] = trial.measurement
        return found

    def _training(self, cell: SearchCell) -> dict[str, Any]:
        """The settings that decide what a trial measures, whoever proposed it."""
        return {key: value for key, value in self.settings_of(cell).identity().items() if key not in _PROPOSING}


_PROPOSING = ("sampler", "sampler_options", "space", "initial")


def search_result(title: str, session: Session, study: Study) -> dict[str, Any]:
    """A finished search as JSON-ready data: every trial, the front, the hypervolume curve and its reference point.

    Raises:
        AutopeftError: no trial was measured.
    """
    trials = study.trials()
    if not any(trial.is_complete for trial in trials):
        raise AutopeftError(f"None of the {len(trials)} trials was measured, so there is no result.")
    cost = study.cost
    points = [(trial.origin, (spent, found.value)) for trial, found, spent in with_cost(trials, cost)]
    measured = [point for _, point in points]
    initial = [point for origin, point in points if origin == "initial"]
    # A cost that is known after training alone has no largest one beforehand.
    largest = study.fact(largest_fact(cost)) or max(spent for spent, _ in measured)
    reference = reference_point(initial or measured, largest)
    curve = hypervolume_curve(measured, reference)
    front = front_of(trials, cost)
    return {
        "title": title,
        "headline": f"hypervolume {curve[-1]:.4f}, {len(front)} points on the front",
        "sampler_settings": samplers.settings_of(session.sampler()),
        "objective": session.task.objective,
        "n_initial": len(session.initial),
        "reference": list(reference),
        "hypervolume": [float(value) for value in curve],
        "search_seconds": search_seconds(trials, is_answering=answers_budgets(session.settings.sampler)),
        "front": [[point.key, point.cost, point.value] for point in front.points],
        "trials": [_trial(trial) for trial in trials],
        "cardinality": session.space.cardinality,
        **provenance(session, open_test=False),
    }


def _trial(trial: Trial) -> dict[str, Any]:
    found = trial.measurement
    return {
        "number": trial.number,
        "origin": trial.origin,
        "indices": list(trial.configuration.indices),
        **trial.candidate.as_dict(),
        "described": str(trial.candidate),
        "failure": None if trial.failure is None else trial.failure.kind,
        "proposal_seconds": trial.proposal_seconds,
        **(
            {}
            if found is None
            else {
                "value": found.value,
                **shares(found.counts),
                "counts": found.counts.as_dict(),
                "costs": {name: dict(record) for name, record in found.costs.items()},
                "seconds": found.seconds,
                "latency": found.latency,
            }
        ),
    }


MEMBERS = {"compare": Compare}
