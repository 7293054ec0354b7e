"""A search, built and checked from its settings: its parts, the study that it begins or goes on with, and its run."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from autopeft import objectives, promotions, samplers, tracking
from autopeft import settings as settings_module
from autopeft.backbones import Backbone
from autopeft.backbones._quantized import check_quantize
from autopeft.errors import InputError, SettingsError, StudyMismatchError
from autopeft.fidelity import rungs_of
from autopeft.reading import followed
from autopeft.rungs import rung_correlations
from autopeft.session.inputs import DATA, MODEL, other_data, other_model
from autopeft.session.parts import (
    answers_budgets,
    build_space,
    check_promotion,
    check_warm_start,
    in_float32,
    initial_design,
    load_backbone,
    load_data,
    resolved,
    ruled,
    with_steps,
)
from autopeft.session.rates import find_rates
from autopeft.session.warm_start import warm_starts
from autopeft.settings import Settings
from autopeft.spaces.lattice import Configuration, SearchSpace
from autopeft.study.events import Event
from autopeft.study.ladder import Ladder
from autopeft.study.lease import LeaseRules
from autopeft.study.location import OWN_STUDY
from autopeft.study.study import Study
from autopeft.tasks._protocols import Splits
from autopeft.tasks._task import Task
from autopeft.tracking import tracked
from autopeft.training.bench import EvaluatorBench
from autopeft.training.checkpoint import Checkpoints
from autopeft.training.evaluator import Evaluator
from autopeft.training.precision_choice import PRECISION, PrecisionChoice
from autopeft.training.rate_card import Signal
from autopeft.training.tokens import check_known
from autopeft.workers import check_devices
from autopeft.writing import STUDY as STUDY_FOLDER
from autopeft.writing import check_folder

STUDY = OWN_STUDY
"""The name of the study in a file of its own."""

_LABELS = "labels"
"""The fact that says that the labels of a regression were standardised."""

_CHECKPOINTS = "checkpoints"
"""The folder inside a study's that keeps the trainings that may go on."""

_RUNGS = "rungs"
"""The fact that keeps how well the order at each rung agrees with that at the later ones."""

_RESOLVED = "sampler_settings"
"""The setting of a study that holds every option of its sampler, those too that nobody named."""

_TOLD = "told by searches"
"""The fact that keeps, by budget, how a sampler's own search went, in its own words."""

_WARM = "warm start"
"""The fact that keeps the indices of the points that came from other studies, which may change or go."""

_WEIGHTS = ("model", "quantize", "device", "trust_remote_code")
"""The settings that the backbone depends on."""

_SEARCHES = "searches"
"""The folder inside a study's that keeps the interrupted searches of samplers that train."""


def place_of_study(folder: Path, storage: str | None) -> tuple[str | Path, str]:
    """Where the study of `folder` is kept, and its name there."""
    # A database holds many studies, so that there the folder's name tells them apart.
    return (folder / "study.db", STUDY) if storage is None else (storage, followed(folder).name)


def has_begun(folder: str | Path) -> bool:
    """Whether a search has begun in `folder`, which is told from the settings that it keeps there."""
    return (Path(folder) / "settings.yaml").is_file()


@dataclass(frozen=True)
class Session:
    """Everything a search needs, built and checked; nothing has been written or trained.

    Attributes:
        settings: what it was built from, resolved.
        backbone, task, space, evaluator: the parts.
        initial: the initial design, the same for every sampler with these settings.
        warm: the part of it that other studies gave, when the search begins; a study that has begun keeps its own.
        is_precision_open: whether the settings leave the precision to a measurement; until `autopeft.session.precision`
            has made it, all is in float32.
        precision: what was measured; None where nothing was.
    """

    settings: Settings
    backbone: Backbone
    task: Task
    space: SearchSpace
    evaluator: Evaluator
    initial: tuple[Configuration, ...]
    warm: tuple[Configuration, ...] = ()
    is_precision_open: bool = False
    precision: PrecisionChoice | None = None

    @classmethod
    def build(cls, settings: Settings, *, is_begun: bool = False, like: Session | None = None) -> Session:
        """Load the model and the data and build the space.

        Args:
            is_begun: whether its study has begun, see `has_begun`: what looks like a slip is then taken as it is.
            like: a session whose model and data are shared as far as the settings ask for the same.

        Raises:
            InputError: something that the settings name does not exist or does not fit.
        """
        settings = resolved(settings)
        # What is quick to check comes first, so that a slip is told before a model is loaded.
        check_devices(settings.devices, os.environ)
        check_quantize(settings.quantize)
        tracking.check(settings.trackers)
        cost = objectives.lookup(settings.cost)
        samplers.check_cost(settings.sampler, cost)
        check_promotion(settings)
        check_warm_start(settings)
        shared = _shared(settings, like)
        task, splits = load_data(settings, is_begun) if shared.data is None else shared.data
        backbone = shared.backbone or load_backbone(settings)
        settings = ruled(settings, backbone)
        is_open = settings.recipe.precision == "auto"
        settings = settings.with_changes(recipe=in_float32(settings.recipe))
        space = build_space(backbone, settings.space)
        more: dict[str, Any] = {"data_seed": settings.data_seed, "answer": settings.answer, "cost": cost}
        evaluator = Evaluator(backbone, task, splits, settings.recipe, **more).with_rungs(rungs_of(settings.rungs))
        evaluator = evaluator.with_memory(settings.most_memory)
        check_known(evaluator)
        space = with_steps(space, settings, evaluator.n_train)
        # From the seed and the space alone, and so the same for every sampler: comparisons of samplers are paired.
        warm = () if is_begun else warm_starts(settings.warm_start, backbone, space)
        initial = initial_design(space, settings, warm)
        return cls(settings, backbone, task, space, evaluator, tuple(initial), warm, is_open)

    def sampler(
        self,
        signal: Signal | None = None,
        folder: str | Path | None = None,
        begun: Mapping[str, Any] | None = None,
    ) -> samplers.Sampler:
        """The sampler that the settings name; one that trains does so at the learning rate that the sweep chose.

        Args:
            folder: of the study, where an interrupted search of such a sampler is kept; None to keep nothing.
            begun: the settings of a study that has begun: what they do not name is as it was then.

        Raises:
            SettingsError: it does not know one of its options.
        """
        settings = self.settings
        options = dict(settings.sampler_options)
        if begun is not None:
            options = samplers.as_begun(settings.sampler, options, begun.get(_RESOLVED, {}))
        if answers_budgets(settings.sampler):
            kept = None if folder is None else Path(folder) / _SEARCHES
            options = {"checkpoint": kept, **options, "evaluator": self.tuned(signal)}
        return samplers.build(settings.sampler, self.space, settings.seed, options, self.costing)

    def told(self, study: Study) -> Mapping[str, Mapping[str, Any]]:
        """What searches had to tell of their answers, by budget; empty where they tell nothing, or trials are all."""
        return study.fact(_TOLD) or {}

    def ladder(self, evaluator: Evaluator) -> Ladder:
        """How far trials are trained at once, who goes on, and how much may be trained; by `evaluator`."""
        promotion = promotions.build(self.settings.promotion, self.settings.promotion_options)
        steps, most = evaluator.rung_steps(), self.settings.trainings
        shares = tuple(step / steps[-1] for step in steps)
        return Ladder(shares, promotion, evaluator.up_to, math.inf if most is None else most)

    @cached_property
    def costing(self) -> objectives.Costing:
        """What is minimised, and what is known of it before training."""
        cost, bench = self.evaluator.cost, EvaluatorBench(self.evaluator)
        is_known = cost.known == "before training"
        return objectives.Costing(cost, partial(cost.priced, bench) if is_known else None)

    @property
    def total(self) -> int:
        """How many trials the search will have at the most."""
        sampler, most = self.sampler(), self.settings.trials
        if isinstance(sampler, samplers.AnswersBudgets):
            return min(most, len(self.initial) + sampler.n_answers)
        return most

    def study(self, folder: str | Path, storage: str | None = None) -> Study:
        """The study in `folder`, made when there is none.

        Args:
            storage: a database URL instead of the folder's own file; the study is called after the folder there.

        Raises:
            StudyMismatchError: it has other settings or another space than these; nothing has been written.
            SettingsError: the folder cannot be made, or holds something else than a study.
        """
        path = Path(folder)
        where, name = place_of_study(path, storage)
        sampler = self.sampler(begun=self._begun(where, name))
        # Resolved, so that a default that a later version changes does not change a study that has begun.
        identity = {**self.settings.identity(), _RESOLVED: samplers.settings_of(sampler)}
        if (promotion := self.ladder(self.evaluator).promotion) is not None:
            identity["promotion_options"] = promotion.settings
        if path.exists() and not path.is_dir():
            raise StudyMismatchError(f"{str(path)!r} is a file; a study needs a folder of its own.")
        check_folder("A study", path, STUDY_FOLDER)
        if storage is None:
            _make(path)
        rules, seed = LeaseRules(max_retries=self.settings.max_retries), self.settings.seed
        return Study.create_or_resume(
            where, name, self.space, self.task.objective, identity, seed, rules=rules, folder=path
        )

    def _begun(self, storage: str | Path, name: str) -> Mapping[str, Any] | None:
        """The settings that a study of this name was made with; None where there is no such study."""
        if not samplers.lookup(self.settings.sampler).presets:
            return None
        try:
            with Study.open(storage, name) as study:
                return study.settings
        except InputError:
            # Whatever is wrong with the storage is told by who makes the study there.
            return None

    def begin(self, folder: str | Path, storage: str | None = None) -> Study:
        """`study`, and beside it the resolved settings and facts of data and weights, for workers and readers.

        Raises:
            StudyMismatchError: as `study`, or its trials were measured on other data or weights than these.
        """
        study = self.study(folder, storage)
        try:
            self.check_inputs(study)
            _make(Path(folder))
            # Only when the inputs are right: workers take a folder with settings for a search that they may join.
            settings_module.save(self.settings, Path(folder) / "settings.yaml")
        except BaseException:
            study.close()
            raise
        return study

    def check_inputs(self, study: Study) -> None:
        """Note in a new study what it is measured on; one that has begun must be measured on the same.

        The settings name files and folders, whose contents may change; a front of both would compare nothing.

        Raises:
            StudyMismatchError: data or weights differ.
        """
        here: dict[str, Any] = {
            "data": self.evaluator.splits.describe(),
            "weights": self.backbone.digest(),
            MODEL: self.backbone.identity(),
        }
        if self.task.answers.is_scaled:
            # A regression that began before labels were standardised goes on with their unit, as its first trials.
            if study.fact("data") is not None and study.fact(_LABELS) is None:
                self.evaluator.learner.keep_unit()
            else:
                here[_LABELS] = "standardised"
        wrong = other_data(study, here["data"]) + other_model(study, self.backbone, self.settings.model)
        if wrong:
            raise StudyMismatchError(
                f"The study was measured on something else: {'; '.join(wrong)}. Give a new folder."
            )
        # Noted when all has been compared, and never again, so that what the first trials saw stands.
        for name, value in here.items():
            if study.fact(name) is None:
                study.note(name, value)
        if self.precision is not None and study.fact(PRECISION) is None:
            study.note(PRECISION, self.precision.as_dict())
        if self.warm and study.fact(_WARM) is None:
            study.note(_WARM, [list(one.indices) for one in self.warm])
        # The cost of the largest architecture is the reference point of hypervolumes, and readers have no model to ask.
        price, largest = self.costing.price, objectives.largest_fact(self.evaluator.cost)
        if price is not None and study.fact(largest) is None:
            study.note(largest, price(self.space.decode(self.space.largest())))

    def initial_of(self, study: Study) -> Sequence[Configuration]:
        """The initial design of `study`, with what it took over from others when it began."""
        warm = [Configuration(tuple(indices)) for indices in study.fact(_WARM) or ()]
        return initial_design(self.space, self.settings, warm) if warm else self.initial

    def proxy(
        self,
        study: Study,
        on_line: Callable[[str], None] | None = None,
        folder: str | Path | None = None,
    ) -> Signal | None:
        """The learning rates: read from the study, or found and stored. None when none are wanted.

        A sweep finds one for all (`rates: sweep`), a card one a method (`rates: card`).

        Args:
            on_line: told of every run in a line.
            folder: of the study, where the trainings of what is interrupted are kept; None to keep nothing.
        """
        return find_rates(self, study, on_line, folder)

    def tuned(self, signal: Signal | None) -> Evaluator:
        """The evaluator at the learning rate, or the rates by method, that were found."""
        return self.evaluator if signal is None else self.evaluator.with_recipe(**signal.recipe_changes())

    def run(
        self,
        study: Study,
        signal: Signal | None,
        on_event: Callable[[Event], None] | None = None,
        folder: str | Path | None = None,
    ) -> None:
        """Search in this process until the study has all its trials.

        Args:
            folder: of the study, where interrupted trainings and searches of samplers are kept; None to keep nothing.

        Raises:
            ProposalFailure: a sampler that trains ran into NaN or out of memory.
        """
        settings = self.settings
        kept = None if folder is None else Checkpoints(Path(folder) / _CHECKPOINTS)
        evaluator = self.tuned(signal).with_checkpoints(kept)
        ladder = self.ladder(evaluator)
        with tracked(settings.trackers, folder or ".", settings.as_dict(), on_event) as tell:
            together = partial(evaluator.measure_all, batch=settings.batch)
            sampler = self.sampler(signal, folder, study.settings)
            more: dict[str, Any] = {"evaluate_all": together, "batch": settings.batch, "ladder": ladder}
            study.run(evaluator, sampler, self.total, self.initial_of(study), tell, **more)
        if isinstance(sampler, samplers.TellsMore) and sampler.told:
            study.note(_TOLD, {**(study.fact(_TOLD) or {}), **sampler.told})
        # All trials have ended: what workers that were lost have left is of no use any more. Those that are paused may
        # go on when the search is given more trials, and their files are bounded.
        if kept is not None and ladder.promotion is None:
            kept.clear()
        if settings.rungs:
            study.note(_RUNGS, [one.as_dict() for one in rung_correlations(study.trials(with_history=False))])


@dataclass(frozen=True)
class _Shared:
    """What a session takes over from another one; None where it loads its own."""

    data: tuple[Task, Splits] | None = None
    backbone: Backbone | None = None


def _shared(settings: Settings, like: Session | None) -> _Shared:
    if like is None:
        return _Shared()

    here, there = vars(settings), vars(like.settings)

    def is_same(names: tuple[str, ...]) -> bool:
        return all(here[name] == there[name] for name in names)

    data = (like.task, like.evaluator.splits) if is_same(DATA) else None
    return _Shared(data, like.backbone if is_same(_WEIGHTS) else None)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"The study's folder {str(folder)!r} cannot be made: {error.strerror}.") from error
