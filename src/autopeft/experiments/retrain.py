"""Kind ``retrain``: points of fronts and baselines, trained on several seeds with the same care."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from autopeft import methods
from autopeft.architecture import Architecture
from autopeft.backbones import Backbone
from autopeft.candidate import Candidate
from autopeft.errors import InputError, SettingsError
from autopeft.experiments._experiment import Origin, Page, Place, merged, results_of
from autopeft.experiments._points import FoundPoint, best_point, who_found
from autopeft.experiments._provenance import provenance
from autopeft.experiments._results import Result
from autopeft.experiments._retrain_tables import page
from autopeft.experiments._wrong import wrong_mapping, wrong_seeds, wrong_settings
from autopeft.network.build import count
from autopeft.rules import Count, misfit, raise_if_any
from autopeft.session import Session
from autopeft.settings import Settings
from autopeft.training.retraining import Retrained, baseline, retrain


@dataclass(frozen=True)
class ArchitectureCell:
    """One architecture, by the name that the file gives it."""

    name: str


@dataclass(frozen=True)
class Retrain:
    """Architectures that are trained on one task.

    Args:
        origin: where this was read.
        settings: shared by all.
        architectures: name to a baseline's name, or to a mapping that says where the architecture is found:
            ``{baseline}``, ``{file}`` (JSON, beside the experiment), or ``{experiment, task, cells, at, trials}``, the
            best point of finished searches within a limit on its cost, among the first so many measured trials of
            each. Beside it may stand what takes the place of the recipe's: ``recipe``, ``learning_rate``, which spares
            the choice among `learning_rates`, and ``rate_factors``.
        seeds: of training.
        learning_rates: what every architecture chooses from.
        tuning: changes of the recipe while the learning rate is chosen.
        widen: how many rates beyond them may be tried while the best is at their edge.
        is_cut_by_seed: whether every seed trains on a cut of the data of its own, as BIPEFT's tables do; else all train
            on that of the settings. The rate is chosen on the first seed's.
    """

    required: ClassVar[frozenset[str]] = frozenset({"title", "settings", "architectures", "seeds", "learning_rates"})
    optional: ClassVar[frozenset[str]] = frozenset({"tuning", "widen", "is_cut_by_seed"})
    is_derived: ClassVar[bool] = False

    origin: Origin
    settings: Settings
    architectures: Mapping[str, Any]
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]
    tuning: Mapping[str, Any] = field(default_factory=dict)
    widen: int = 0
    is_cut_by_seed: bool = False

    @classmethod
    def read(cls, raw: Mapping[str, Any], origin: Origin) -> Retrain:
        """The retraining that `raw` describes.

        Raises:
            SettingsError: a value is wrong.
        """
        wrong = [*wrong_settings(raw), *_wrong_architectures(raw), *wrong_seeds(raw["seeds"]), *_wrong_rates(raw)]
        raise_if_any(f"The experiment {origin.told} cannot be used", wrong)
        settings, tuning = origin.settings(raw["settings"]), raw.get("tuning") or {}
        for recipe in (tuning, *map(_own_recipe, raw["architectures"].values())):
            origin.settings(merged(settings.as_dict(), {"recipe": recipe}))  # mistakes show now, not after hours
        return cls(
            origin=origin,
            settings=settings,
            architectures=raw["architectures"],
            seeds=tuple(raw["seeds"]),
            learning_rates=tuple(float(rate) for rate in raw["learning_rates"]),
            tuning=tuning,
            widen=raw.get("widen", 0),
            is_cut_by_seed=raw.get("is_cut_by_seed", False),
        )

    def cells(self) -> tuple[ArchitectureCell, ...]:
        """As listed."""
        return tuple(ArchitectureCell(name) for name in self.architectures)

    def asks(self, cell: ArchitectureCell) -> Mapping[str, Any]:
        """The shared settings, the seeds and what takes the place of the recipe's, as a result has them."""
        return {
            "settings": self._settings(self.seeds[0]).as_dict(),
            "seeds": list(self.seeds),
            "tuning": dict(self.tuning),
            "own_recipe": _own_recipe(self.architectures[cell.name]),
        }

    def check(self, cells: Sequence[ArchitectureCell], place: Place) -> None:
        """Every cell's architecture is found and fits, and its methods exist.

        Raises:
            SettingsError: that is not so; all that is wrong is told.
        """
        backbone = Session.build(self.settings).backbone
        wrong = []
        for cell in cells:
            wanted = self.architectures[cell.name]
            try:
                count(backbone, self.architecture(cell.name, backbone, place))
                # The recipe takes any name for a factor, since strangers' methods have factors too, so a slip is found
                # only here.
                for name in wanted.get("rate_factors", {}) if isinstance(wanted, Mapping) else ():
                    methods.lookup(name)
            except InputError as error:
                wrong.append(f"`architectures.{cell.name}`: {str(error).removesuffix('.')}")
        raise_if_any(f"The experiment {self.origin.told} cannot be run", wrong)

    def run(self, cell: ArchitectureCell, place: Place) -> Result:
        """Choose a learning rate, and train once a seed."""
        session = self._session(self.seeds[0])
        candidate = self.candidate(cell.name, session.backbone, place)
        own = _own_recipe(self.architectures[cell.name])
        # An architecture with a rate of its own has had it tuned elsewhere, and a sweep would overrule what was asked
        # for.
        rates = () if "learning_rate" in own else self.learning_rates
        more: dict[str, Any] = {"learning_rates": rates, "tuning": self.tuning, "widen": self.widen}
        evaluator = session.evaluator.with_recipe(**own)
        together = self.seeds[:1] if self.is_cut_by_seed else self.seeds
        found = retrain(evaluator, cell.name, candidate, together, **more)
        for seed in self.seeds[len(together) :]:
            found = _joined(found, self._again(cell.name, candidate, own, found, seed))
        summary = found.summary()
        spread = "single seed" if summary["std"] is None else f"± {summary['std']:.4f}"
        by = self.found_by(cell.name, place)
        return {
            **found.as_dict(),
            "title": self.origin.title,
            "headline": f"{found.test[0].objective} {summary['mean']:.4f} {spread} on test",
            "tuning": dict(self.tuning),
            "rate_factors": evaluator.recipe.rate_factors,
            "own_recipe": own,
            **({"is_cut_by_seed": True} if self.is_cut_by_seed else {}),
            **({} if by is None else {"found_by": by.as_dict()}),
            **provenance(session, open_test=True),
        }

    def _session(self, seed: int) -> Session:
        return Session.build(self._settings(seed))

    def _settings(self, seed: int) -> Settings:
        return self.settings.with_changes(data_seed=seed) if self.is_cut_by_seed else self.settings

    def _again(self, name: str, candidate: Candidate, own: Mapping[str, Any], first: Retrained, seed: int) -> Retrained:
        """One further seed on a cut of its own, at the rate that the first has chosen."""
        rate = {} if first.sweep is None else {"learning_rate": first.sweep.chosen}
        return retrain(self._session(seed).evaluator.with_recipe(**{**own, **rate}), name, candidate, (seed,))

    def architecture(self, name: str, backbone: Backbone, place: Place) -> Architecture:
        """The architecture of what one cell trains; see `candidate`."""
        return self.candidate(name, backbone, place).architecture

    def candidate(self, name: str, backbone: Backbone, place: Place) -> Candidate:
        """What one cell trains: a baseline, what a file holds, or a point of finished searches with its changes.

        Raises:
            SettingsError: the searches have not been run, or there is no such baseline.
            ArchitectureError: the file cannot be read.
        """
        wanted = self.architectures[name]
        if isinstance(wanted, str):
            return Candidate(baseline(wanted, backbone))
        if "baseline" in wanted:
            return Candidate(baseline(str(wanted["baseline"]), backbone))
        if "file" in wanted:
            return Candidate.load(self.origin.path.parent / str(wanted["file"]))
        point = self.found_by(name, place)
        if point is None:
            where = f"{wanted['experiment']!r}" + (f", task {wanted['task']!r}," if "task" in wanted else "")
            raise SettingsError(f"No finished search of {where} has a point of at most {_limit(wanted):g}%.")
        return point.candidate

    def is_baseline(self, name: str) -> bool:
        """Whether the architecture called `name` is one of the literature."""
        return isinstance(self.architectures[name], str) or "baseline" in self.architectures[name]

    def found_by(self, name: str, place: Place) -> FoundPoint | None:
        """The point of finished searches that the architecture called `name` is; None where it is of another kind, or
        its searches are not there."""
        wanted = self.architectures[name]
        if not isinstance(wanted, Mapping) or "experiment" not in wanted:
            return None
        source, task = str(wanted["experiment"]), str(wanted.get("task", ""))
        found = results_of(place.results, source, task)
        return best_point(source, task, found, wanted.get("cells"), wanted.get("trials"), _limit(wanted))

    def page(self, found: Mapping[str, Result], place: Place) -> Page:
        """Tables and the picture of the architectures that are trained."""
        points = {name: self.found_by(name, place) for name in found}
        searched = [name for name in found if not self.is_baseline(name)]
        return page(found, searched, who_found(found, points), self.origin.title)

    @classmethod
    def overview(cls, done: Mapping[str, tuple[Retrain, Mapping[str, Result]]]) -> Sequence[str]:
        """Nothing: tasks may have different architectures."""
        return ()


def _joined(first: Retrained, second: Retrained) -> Retrained:
    """The runs of both, which trained one architecture."""
    return replace(
        first,
        seeds=first.seeds + second.seeds,
        test=first.test + second.test,
        validation=first.validation + second.validation,
    )


def _wrong_architectures(raw: Mapping[str, Any]) -> list[str]:
    wrong = wrong_mapping(raw, "architectures")
    mistakes = {} if wrong else {name: _mistake(wanted) for name, wanted in raw["architectures"].items()}
    return wrong + [f"`architectures.{name}` {mistake}" for name, mistake in mistakes.items() if mistake]


def _wrong_rates(raw: Mapping[str, Any]) -> list[str]:
    wrong, rates, widen = [], raw["learning_rates"], raw.get("widen", 0)
    if not isinstance(rates, list) or not all(map(_is_rate, rates)):
        wrong.append(f"`learning_rates` is a list of numbers above 0, but got {rates!r}")
    if type(widen) is not int or widen < 0:
        wrong.append(f"`widen` is a whole number of at least 0, but got {widen!r}")
    if not isinstance(cut := raw.get("is_cut_by_seed", False), bool):
        wrong.append(f"`is_cut_by_seed` is true or false, but got {cut!r}")
    return wrong


def _is_rate(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and 0 < float(value) < math.inf  # YAML reads 1e-3 as text
    except (TypeError, ValueError):
        return False


_SOURCES = {"baseline": set[str](), "file": set[str](), "experiment": {"task", "cells", "at", "trials"}}


_BESIDE = ("learning_rate", "rate_factors", "recipe")


def _own_recipe(wanted: Any) -> dict[str, Any]:
    """What an architecture has in place of entries of the recipe."""
    if not isinstance(wanted, Mapping):
        return {}
    found = dict(wanted.get("recipe", {}))
    if "learning_rate" in wanted:
        found["learning_rate"] = wanted["learning_rate"]
    if "learning_rate" in found:
        found["learning_rate"] = float(found["learning_rate"])  # YAML reads 1e-3 as text
    if "rate_factors" in wanted:
        found["rate_factors"] = {name: float(factor) for name, factor in wanted["rate_factors"].items()}
    return found


def _mistake(wanted: Any) -> str | None:
    """What is wrong with the description of an architecture; None when nothing is."""
    if isinstance(wanted, str):
        return None
    # Two sources would contradict each other, and the first in the code would silently win.
    sources = [name for name in _SOURCES if isinstance(wanted, Mapping) and name in wanted]
    if len(sources) != 1 or set(wanted) - _SOURCES[sources[0]] - {sources[0], *_BESIDE}:
        known = "{baseline}, {file} or {experiment, task, cells, at, trials}"
        return f"is a baseline's name, {known}, but got {wanted!r}"
    try:
        factors = [float(factor) for factor in dict(wanted.get("rate_factors", {})).values()]
        ok = isinstance(wanted.get("recipe", {}), Mapping)
        ok = ok and min(_limit(wanted), float(wanted.get("learning_rate", 1)), *factors) > 0
        ok = ok and not misfit("trials", Count, wanted.get("trials", 1))
    except (TypeError, ValueError):
        ok = False
    if ok:
        return None
    return (
        "has numbers above 0 for `at` (such as 0.5%), `trials` (whole), `learning_rate` and each of `rate_factors`, "
        f"but got {wanted!r}"
    )


def _limit(wanted: Mapping[str, Any]) -> float:
    # The limit may be written with its unit or without, as text or as YAML's number.
    return float(str(wanted.get("at", "inf")).rstrip("% "))


MEMBERS = {"retrain": Retrain}
