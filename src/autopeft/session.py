"""From settings to a running search: the one place where all parts meet.

A study lives in a folder: ``study.db`` (trials and facts), ``settings.yaml`` (every setting, resolved), and what
is made of them (pictures, report, logs of workers).
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from autopeft import methods, samplers, tasks, tracking
from autopeft import settings as settings_module
from autopeft.architecture import ParameterBudget
from autopeft.backbones import Backbone
from autopeft.backbones._identity import differences
from autopeft.errors import SettingsError, StudyMismatchError
from autopeft.masking import STORAGE_VARIABLE
from autopeft.samplers.random import initial_design
from autopeft.settings import FileSettings, Settings, SpaceSettings
from autopeft.spaces.lattice import Axis, Configuration, SearchSpace, stands_at
from autopeft.study.events import Event, Failed, Told
from autopeft.study.lease import LeaseRules
from autopeft.study.study import Study
from autopeft.tasks import Splits
from autopeft.tasks._files import Loader, from_files
from autopeft.tasks._protocols import some
from autopeft.tasks._task import Task
from autopeft.tracking import tracked
from autopeft.training.evaluator import Evaluator
from autopeft.training.rate_sweep import ProxySignal, middle, sweep
from autopeft.workers import check_devices, run_workers
from autopeft.writing import STUDY as STUDY_FOLDER
from autopeft.writing import check_folder

log = logging.getLogger(__name__)

STUDY = "search"
"""The name of the study in a file of its own."""

_PROXY = "proxy"

_MODEL = "model"
_LABELS = "labels"
"""The fact that keeps what the trials were trained on: see `autopeft.backbones.Backbone.identity`."""

_SEARCHES = "searches"
"""The folder inside a study's that keeps the interrupted searches of samplers that train."""

_LOOK_SECONDS = 2.0

_INITIAL = 20
"""Random configurations before a sampler that learns from what was measured is asked."""


@dataclass(frozen=True)
class Session:
    """Everything a search needs, built and checked; nothing has been written or trained.

    Attributes:
        settings: what it was built from, resolved.
        backbone, task, space, evaluator: the parts.
        initial: the initial design, the same for every sampler with these settings.
    """

    settings: Settings
    backbone: Backbone
    task: Task
    space: SearchSpace
    evaluator: Evaluator
    initial: tuple[Configuration, ...]

    @classmethod
    def build(cls, settings: Settings) -> Session:
        """Load the model and the data and build the space.

        Raises:
            InputError: something that the settings name does not exist or does not fit.
        """
        settings = resolved(settings)
        check_devices(settings.devices, os.environ)
        tracking.check(settings.trackers)
        task, splits = _data(settings)
        backbone = Backbone.from_pretrained(
            settings.model, device=settings.device, trust_remote_code=settings.trust_remote_code
        )
        space = build_space(backbone, settings.space)
        evaluator = Evaluator(
            backbone, task, splits, settings.recipe, data_seed=settings.data_seed, answer=settings.answer
        )
        initial = initial_design(space, settings.seed, min(settings.initial or 0, settings.trials))
        return cls(settings, backbone, task, space, evaluator, tuple(initial))

    def sampler(self, signal: ProxySignal | None = None, folder: str | Path | None = None) -> samplers.Sampler:
        """The sampler that the settings name; one that trains does so at the learning rate that the sweep chose.

        Args:
            folder: of the study, where an interrupted search of such a sampler is kept; None to keep nothing.

        Raises:
            SettingsError: it does not know one of its options.
        """
        settings = self.settings
        options = dict(settings.sampler_options)
        if answers_budgets(settings.sampler):
            kept = None if folder is None else Path(folder) / _SEARCHES
            options = {"checkpoint": kept, **options, "evaluator": self.tuned(signal)}
        return samplers.build(settings.sampler, self.space, settings.seed, options)

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
        identity = {**self.settings.identity(), "sampler_settings": samplers.settings_of(self.sampler())}
        if path.exists() and not path.is_dir():
            raise StudyMismatchError(f"{str(path)!r} is a file; a study needs a folder of its own.")
        check_folder("A study", path, STUDY_FOLDER)
        if storage is None:
            _make(path)
        where, name = (path / "study.db", STUDY) if storage is None else (storage, path.resolve().name)
        rules, seed = LeaseRules(max_retries=self.settings.max_retries), self.settings.seed
        return Study.create_or_resume(
            where, name, self.space, self.task.objective, identity, seed, rules=rules, folder=path
        )

    def begin(self, folder: str | Path, storage: str | None = None) -> Study:
        """`study`, and beside it the resolved settings and facts of data and weights, for workers and readers.

        Raises:
            StudyMismatchError: as `study`, or its trials were measured on other data or weights than these.
        """
        study = self.study(folder, storage)
        try:
            self.check_inputs(study)
            _make(Path(folder))
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
            _MODEL: self.backbone.identity(),
            "largest_percent": 100 * self.space.cost(self.space.largest()) / self.backbone.n_parameters,
        }
        wrong = []
        if self.task.answers.is_scaled:
            # A regression that began before labels were standardised goes on with their unit, as its first trials.
            if study.fact("data") is not None and study.fact(_LABELS) is None:
                self.evaluator.learner.keep_unit()
            else:
                here[_LABELS] = "standardised"
        if (stored := study.fact("data")) is not None:
            wrong = [
                f"the {part} part had {stored[part]['size']:,} examples (digest {stored[part]['digest']}), but has "
                f"{here['data'][part]['size']:,} ({here['data'][part]['digest']})"
                for part in ("train", "validation")
                if stored[part]["digest"] != here["data"][part]["digest"]
            ]
        if (model := study.fact(_MODEL)) is not None:
            wrong += [f"of the model {self.settings.model} {item}" for item in differences(model, here[_MODEL])]
        elif (weights := study.fact("weights")) not in (None, here["weights"]):  # of an earlier version
            wrong.append(f"the weights of {self.settings.model} had the digest {weights}, but have {here['weights']}")
        if wrong:
            raise StudyMismatchError(
                f"The study was measured on something else: {'; '.join(wrong)}. Give a new folder."
            )
        for name, value in here.items():
            if study.fact(name) is None:
                study.note(name, value)

    def proxy(self, study: Study, on_value: Callable[[float, float | None], None] | None = None) -> ProxySignal | None:
        """The proxy's learning-rate sweep: read from the study, or run and stored. None when none is wanted."""
        stored = study.fact(_PROXY)
        if stored is not None:
            return ProxySignal.from_dict(dict(stored))
        if not self.settings.learning_rates:
            return None
        signal = sweep(self.evaluator, middle(self.space), self.settings.learning_rates, self.settings.seed, on_value)
        study.note(_PROXY, signal.as_dict())
        return signal

    def tuned(self, signal: ProxySignal | None) -> Evaluator:
        """The evaluator at the learning rate that the sweep chose."""
        return self.evaluator if signal is None else self.evaluator.with_recipe(learning_rate=signal.chosen)

    def run(
        self,
        study: Study,
        signal: ProxySignal | None,
        on_event: Callable[[Event], None] | None = None,
        folder: str | Path | None = None,
    ) -> None:
        """Search in this process until the study has all its trials.

        Args:
            folder: see `sampler`.

        Raises:
            ProposalFailure: a sampler that trains ran into NaN or out of memory.
        """
        settings = self.settings
        with tracked(settings.trackers, folder or ".", settings.as_dict(), on_event) as tell:
            study.run(self.tuned(signal), self.sampler(signal, folder), self.total, self.initial, tell)


def answers_budgets(sampler: str) -> bool:
    """Whether the sampler of this name answers parameter budgets by a search of its own.

    Raises:
        UnknownNameError: there is no such sampler.
    """
    return not samplers.lookup(sampler).reads_trials


def resolved(settings: Settings) -> Settings:
    """`settings` with what depends on the sampler filled in: initial design, workers, the space where none is named.

    Of several devices each has a worker at least; what is done before there are workers is done on the first.

    Raises:
        UnknownNameError: there is no such sampler.
    """
    is_answering = answers_budgets(settings.sampler)
    initial = settings.initial
    if initial is None:
        initial = 0 if is_answering else _INITIAL
    space = settings.space
    if is_answering and replace(space, budget=None, count="nominal") == SpaceSettings():
        space = replace(space, name=samplers.lookup(settings.sampler).default_space)
    workers = max(settings.workers, len(settings.devices))
    if is_answering and workers > 1:
        log.warning("One process, not %d: each would repeat the search that %r does.", workers, settings.sampler)
        workers = 1
    device = settings.devices[0] if settings.devices else settings.device
    return settings.with_changes(initial=initial, space=space, workers=workers, device=device)


def search(settings: Settings, folder: str | Path, on_event: Callable[[Event], None] | None = None) -> Study:
    """Run (or continue) a search and return its study.

    Args:
        settings: what to search; `Settings.trials` is a total, so the same call continues.
        folder: where the study lives.
        on_event: told of every trial; with several workers of their ends only.

    Raises:
        InputError: the settings cannot be used; nothing has been written.
        ProposalFailure: a sampler that trains ran into NaN or out of memory; the study keeps what was measured.
    """
    session = Session.build(settings)
    study = session.begin(folder)
    signal = session.proxy(study)
    if signal is not None:
        log.info("%s", signal)
    carry_out(session, study, signal, folder, on_event)
    return study


def carry_out(
    session: Session,
    study: Study,
    signal: ProxySignal | None,
    folder: str | Path,
    on_event: Callable[[Event], None] | None = None,
    storage: str | None = None,
) -> None:
    """Do the trials that `study` lacks: in this process, or in as many as the settings say. See `search`."""
    if session.settings.workers == 1:
        session.run(study, signal, on_event, folder)
        return
    ends = _Ends(study, on_event or _ignore)
    run_workers(
        worker_command(folder, trust_remote_code=session.settings.trust_remote_code),
        session.settings.workers,
        Path(folder) / "logs",
        environment=worker_environment(storage, os.environ),
        devices=session.settings.devices,
        on_poll=ends.look_again,
    )
    ends.look()


class _Ends:
    """Tells of the trials that other processes have ended."""

    def __init__(self, study: Study, notify: Callable[[Event], None]) -> None:
        self._study, self._notify = study, notify
        self._known = {trial.number for trial in study.trials(with_history=False) if trial.finished is not None}
        self._last = time.monotonic()

    def look_again(self) -> None:
        """`look`, but not often."""
        if time.monotonic() > self._last + _LOOK_SECONDS:
            self.look()
            self._last = time.monotonic()

    def look(self) -> None:
        """Tell of what has ended since the last look."""
        for trial in self._study.trials(with_history=False):
            if trial.finished is not None and trial.number not in self._known:
                self._known.add(trial.number)
                self._notify(Told(trial) if trial.is_complete else Failed(trial))


def _ignore(event: Event) -> None:
    """The listener of those who want no progress."""


def worker_command(folder: str | Path, *, trust_remote_code: bool = False) -> list[str]:
    """The command line of one worker of the study in `folder`.

    Everybody on a machine can read command lines, so that the database is no part of it: see `worker_environment`.
    The folder of the call is not on the path of a worker (``-P``), where a ``queue.py`` of the user's would take the
    place of Python's; a dotted path finds what is there all the same, see `autopeft.kinds`.

    Args:
        trust_remote_code: handed on from whoever gave the flag; the study's folder cannot say so.
    """
    trust = ["--trust-remote-code"] if trust_remote_code else []
    return [sys.executable, "-P", "-m", "autopeft", "worker", str(folder), *trust]


def worker_environment(storage: str | None, base: Mapping[str, str]) -> dict[str, str]:
    """`base` with what tells a worker its database; without such a variable where the study is a file of its own."""
    kept = {name: value for name, value in base.items() if name != STORAGE_VARIABLE}
    return kept if storage is None else {**kept, STORAGE_VARIABLE: storage}


def join(
    folder: str | Path, *, storage: str | None = None, device: str | None = None, trust_remote_code: bool = False
) -> Study:
    """Work on a study that another process has begun, until it has all its trials.

    Args:
        trust_remote_code: as the search that began it was told; its folder cannot say so.

    Raises:
        SettingsError: the folder holds no settings.
    """
    settings = settings_module.load(Path(folder) / "settings.yaml", trust_remote_code=trust_remote_code)
    session = Session.build(settings.with_changes(device=device or settings.device, devices=()))
    study = session.study(folder, storage)
    try:
        session.check_inputs(study)
        session.run(study, session.proxy(study), folder=folder)
    except BaseException:
        study.close()
        raise
    return study


def build_space(backbone: Backbone, wanted: SpaceSettings) -> SearchSpace:
    """The search space of the settings on `backbone`.

    Raises:
        InputError: a method, layer or name does not exist, or nothing satisfies the budget.
    """
    budget = None
    if wanted.budget is not None:
        budget = ParameterBudget.parse(wanted.budget, backbone.n_parameters, wanted.count)
    if wanted.name is not None:
        from autopeft.spaces import papers as spaces  # named spaces build on the methods

        plain = SpaceSettings()
        given = [f"`{name}`" for name in ("layers", "sharing") if getattr(wanted, name) != getattr(plain, name)]
        if given:
            raise SettingsError(f"The space {wanted.name!r} has {' and '.join(given)} of its own: leave that out.")
        return spaces.named(wanted.name, backbone, budget=budget)
    if isinstance(wanted.layers, str) and wanted.layers not in ("search", "all"):
        raise SettingsError(f"`layers` is 'search', 'all' or a list of layers, but got {wanted.layers!r}.")
    axes = [Axis(methods.lookup(name), axis.sizes, axis.roles) for name, axis in wanted.methods.items()]
    _check_roles(backbone, axes)
    _check_prefixes(backbone, axes)
    layers: Any = wanted.layers
    return SearchSpace.build(backbone, axes, sharing=wanted.sharing, layers=layers, budget=budget)


def _check_roles(backbone: Backbone, axes: Sequence[Axis]) -> None:
    """A role that a person wrote and that nothing has is a slip, not a wish."""
    sites = list(backbone.sites.values())
    wrong = [
        f"`space.methods.{axis.method.name}.roles` has {role!r}"
        for axis in axes
        for role in axis.roles or ()
        if not any(stands_at(axis.method, site, [role]) for site in sites)
    ]
    if wrong:
        known = ", ".join(sorted({site.role for site in sites}))
        raise SettingsError(f"The space cannot be built: {'; '.join(wrong)}. The roles of {backbone.name} are {known}.")


def _check_prefixes(backbone: Backbone, axes: Sequence[Axis]) -> None:
    """A prefix at an attention that takes none would be searched for nothing."""
    wrong = [
        f"`space.methods` has {axis.method.name}, but the attention at {site.key} takes no prefix"
        for axis in axes
        for site in backbone.sites.values()
        if site.seam == "kv" and stands_at(axis.method, site, axis.roles) and site.key not in backbone.reached
    ]
    if wrong:
        raise SettingsError(f"The space cannot be built on {backbone.name}: {'; '.join(wrong)}.")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"The study's folder {str(folder)!r} cannot be made: {error.strerror}.") from error


def _data(settings: Settings) -> tuple[Task, Splits]:
    task, splits = _whole_data(settings)
    task = task.in_words() if settings.label_words else task
    limit, whole = settings.validation_limit, splits.validation
    if limit is None or limit >= len(whole):
        return task, splits
    return task, replace(splits, validation=some(whole, limit, np.random.default_rng(settings.data_seed)))


def _whole_data(settings: Settings) -> tuple[Task, Splits]:
    if settings.files is not None:
        task, loader = _own_files(settings.files)
        return task, loader(settings.protocol, settings.data_seed, settings.train_limit)
    assert settings.task is not None  # Settings allows nothing else
    task = tasks.lookup(settings.task).under(settings.protocol)
    data = None if settings.data is None else Path(settings.data)
    return task, tasks.load(
        task, data=data, protocol=settings.protocol, seed=settings.data_seed, train_limit=settings.train_limit
    )


def _own_files(files: FileSettings) -> tuple[Task, Loader]:
    return from_files(
        files.train,
        files.validation,
        files.test,
        text=files.text,
        label=files.label,
        kind=files.kind,
        choices=files.choices,
        delimiter=files.delimiter,
        encoding=files.encoding,
    )
