"""Experiments: comparisons described in YAML that resume cell by cell.

An experiment is of one kind, a class a file in this folder: what a cell is, how it is run, and what the page says of
those that are done. ``tasks`` repeats all of it for several tasks: each entry is a part of the experiment, the same
file with that entry's changes. A cell's result is a line of one file, see `autopeft.experiments._results`; a cell
that has one is not run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from autopeft import kinds
from autopeft import settings as settings_module
from autopeft.errors import AutopeftError, InputError, SettingsError, UnknownNameError
from autopeft.experiments._results import Result, Results
from autopeft.experiments._unlike import Asking, differences, other_data
from autopeft.pictures.points import Picture
from autopeft.rules import raise_if_any
from autopeft.settings import Settings, read_yaml

Announce = Callable[[str], None]

_PACKAGE = "autopeft.experiments"
_TASKS = "tasks"


class Cell(Protocol):
    """The unit that is run, or not, as a whole."""

    @property
    def name(self) -> str:
        """It, among the cells of its part."""
        ...


@dataclass(frozen=True)
class Origin:
    """Where a part of an experiment was read.

    Args:
        path: the file.
        title: one sentence for people.
        task: the entry of `tasks`; empty where the file has none.
        data: folder of the task's data, in place of that of the settings; None to keep it.
        trust_remote_code: see `autopeft.settings.from_dict`.
    """

    path: Path
    title: str
    task: str = ""
    data: str | None = None
    trust_remote_code: bool = False

    @property
    def told(self) -> str:
        """The place, as a message names it."""
        return f"{str(self.path)!r}" + (f", task {self.task!r}," if self.task else "")

    def settings(self, raw: Mapping[str, Any]) -> Settings:
        """The settings in a mapping, with the folder of the data.

        Raises:
            SettingsError: they are none.
        """
        # An experiment trains as it is written, so that its figures are those of every machine: nothing is left to a
        # measurement, and what says nothing is float32 as ever. Anything that is no mapping is refused with all else.
        recipe = raw.get("recipe") or {}
        recipe = {"precision": "float32", **recipe} if isinstance(recipe, Mapping) else recipe
        found = {**raw, "recipe": recipe, **({"data": self.data} if self.data is not None else {})}
        return settings_module.from_dict(found, trust_remote_code=self.trust_remote_code)


@dataclass(frozen=True)
class Place:
    """Where a part of an experiment finds and leaves things.

    Args:
        results: the folder of the results of all experiments.
        name: of the experiment.
        task: of the part; empty when there is one part only.
        root: folder of the studies of all experiments.
        announce: told what begins and ends.
    """

    results: Path
    name: str
    task: str = ""
    root: Path = Path("runs")
    announce: Announce = field(default=lambda text: None)

    @property
    def work(self) -> Path:
        """Folder of the studies of the part."""
        return self.root / self.name / self.task

    def key(self, cell: str) -> str:
        """The name of a cell among those of all parts."""
        return f"{self.task}/{cell}" if self.task else cell

    def read(self) -> dict[str, Result]:
        """What is done in this part, by name."""
        return results_of(self.results, self.name, self.task)

    def append(self, cell: str, data: Result) -> None:
        """Keep a result."""
        Results(self.results / self.name).append(self.key(cell), data)


def results_of(results: Path, name: str, task: str = "") -> dict[str, Result]:
    """The finished cells of one part of an experiment, by the name that they have in it."""
    start = f"{task}/" if task else ""
    found = Results(results / name).read()
    return {cell.removeprefix(start): data for cell, data in found.items() if cell.startswith(start)}


@dataclass(frozen=True)
class Page:
    """What a part of a page holds: lines of Markdown, and pictures by the name of their file."""

    lines: Sequence[str]
    pictures: Mapping[str, Picture] = field(default_factory=dict)


class Part(Protocol):
    """An experiment on one task. Each kind of experiment is one class of these.

    Attributes:
        required, optional: keys of the file beside ``kind`` and ``tasks``.
        is_derived: whether its page is made of other experiments' results, with or without its own.
        origin: where it was read.
    """

    required: ClassVar[frozenset[str]]
    optional: ClassVar[frozenset[str]]
    is_derived: ClassVar[bool]

    @property
    def origin(self) -> Origin:
        """Where it was read."""
        ...

    @classmethod
    def read(cls, raw: Mapping[str, Any], origin: Origin) -> Self:
        """The part that `raw` describes; its keys are the right ones.

        Raises:
            SettingsError: a value is wrong; mistakes are told together.
        """
        ...

    def cells(self) -> tuple[Any, ...]:
        """All cells (`Cell`), the most telling first."""
        ...

    def check(self, cells: Sequence[Any], place: Place) -> None:
        """Find, before the first of `cells` is run, what would let any of them fail.

        Raises:
            InputError: there is something.
        """
        ...

    def run(self, cell: Any, place: Place) -> Result:
        """Run one cell, from where an interrupted run left off.

        Raises:
            AutopeftError: it failed.
        """
        ...

    def page(self, found: Mapping[str, Result], place: Place) -> Page:
        """What the cells that are done say.

        Args:
            found: by name, in the order of the cells.
        """
        ...

    @classmethod
    def overview(cls, done: Mapping[str, tuple[Any, Mapping[str, Result]]]) -> Sequence[str]:
        """What stands before the parts of a page, of all tasks at once: lines of Markdown, perhaps none.

        Args:
            done: by task: the part (of this class) and its results by name of the cell.
        """
        ...


@dataclass(frozen=True)
class Experiment:
    """An experiment file, read and checked.

    Args:
        path: the file.
        kind: which class its parts are of.
        title: one sentence for people.
        parts: by task; the only key of an experiment without ``tasks`` is the empty text.
    """

    path: Path
    kind: str
    title: str
    parts: Mapping[str, Part]

    @property
    def name(self) -> str:
        """The file's name without ending; also the name of its folder of results."""
        return self.path.stem

    def cells(self) -> tuple[str, ...]:
        """Names of all cells, task by task; ``TASK/CELL`` where the file has ``tasks``."""
        return tuple(name for name, _ in self._places())

    def missing(self, results: Path) -> tuple[str, ...]:
        """Cells that have no result yet, or one that is `unlike`."""
        done = self.done(results)
        return tuple(cell for cell in self.cells() if cell not in done)

    def done(self, results: Path) -> dict[str, Result]:
        """The cells that have a result of what the file asks, by name, in the experiment's order."""
        return self._sorted(results)[0]

    def unlike(self, results: Path) -> dict[str, list[str]]:
        """The cells whose result was made by other settings than the file has, or on other data than those before it:
        what differs, by name."""
        return self._sorted(results)[1]

    def _sorted(self, results: Path) -> tuple[dict[str, Result], dict[str, list[str]]]:
        read = Results(results / self.name).read()
        found = {name: read[name] for name in self.cells() if name in read}
        unlike: dict[str, list[str]] = {}
        for task, part in self.parts.items():
            own = {name: cell for name, (of, cell) in self._places() if of == task and name in found}
            told = {
                name: differences(part.asks(own[name]), found[name]) if isinstance(part, Asking) else [] for name in own
            }
            unlike |= {name: phrases for name, phrases in told.items() if phrases}
            unlike |= other_data((name, found[name]) for name in own if not told[name])
        return {name: cell for name, cell in found.items() if name not in unlike}, unlike

    def has_page(self, results: Path) -> bool:
        """Whether there is anything to write a page of."""
        return bool(self.done(results)) or any(part.is_derived for part in self.parts.values())

    def place(self, task: str, results: Path, work: Path = Path("runs"), announce: Announce | None = None) -> Place:
        """Where the part `task` finds and leaves things."""
        return Place(results, self.name, task, work, announce or (lambda text: None))

    def _places(self) -> list[tuple[str, tuple[str, Any]]]:
        return [
            (f"{task}/{cell.name}" if task else cell.name, (task, cell))
            for task, part in self.parts.items()
            for cell in part.cells()
        ]

    def find(self, cell: str) -> tuple[str, Any]:
        """Task and cell of that name.

        Raises:
            UnknownNameError: there is none.
        """
        known = dict(self._places())
        if cell not in known:
            raise UnknownNameError("cell", cell, known)
        return known[cell]


def read(path: str | Path, data: str | None = None, *, trust_remote_code: bool = False) -> Experiment:
    """The experiment in a YAML file.

    Args:
        data: replaces the data folder of the settings, so that files need not name one.
        trust_remote_code: see `autopeft.settings.from_dict`.

    Raises:
        SettingsError: the file is not an experiment.
    """
    raw = read_yaml(path)
    known: Mapping[str, type[Part]] = kinds.members(_PACKAGE)
    name = str(raw.get("kind"))
    if name not in known:
        raise SettingsError(f"{path}: `kind` is one of {', '.join(known)}, but got {name!r}.")
    parts = {}
    for task, own in _by_task(raw, path).items():
        origin = Origin(Path(path), str(own.get("title", "")), task, data, trust_remote_code)
        _check_keys(own, name, known[name], origin)
        parts[task] = known[name].read(own, origin)
    return Experiment(Path(path), name, str(raw.get("title", "")), parts)


def _check_keys(raw: Mapping[str, Any], name: str, kind: type[Part], origin: Origin) -> None:
    # The symmetric difference holds both what is missing and what nobody asked for, such as a misspelt key.
    wrong = sorted((set(raw) ^ kind.required) - kind.optional)
    if wrong:
        raise SettingsError(
            f"{origin.path}: an experiment of kind {name!r} has exactly {sorted(kind.required)}; see {wrong}."
        )


def _by_task(raw: Mapping[str, Any], path: str | Path) -> dict[str, dict[str, Any]]:
    """What the file says for each of its tasks; for all at once where it has no ``tasks``."""
    base = {key: value for key, value in raw.items() if key not in ("kind", _TASKS)}
    if _TASKS not in raw:
        return {"": base}
    tasks = raw[_TASKS]
    entries = dict.fromkeys(tasks) if isinstance(tasks, list) and all(isinstance(t, str) for t in tasks) else tasks
    wrong = []
    if not isinstance(entries, Mapping) or not entries:
        wrong.append(f"`tasks` is a list of tasks, or a mapping from a name to what differs, but got {tasks!r}")
        entries = {}
    odd = [name for name, change in entries.items() if not (change is None or isinstance(change, Mapping))]
    wrong += [f"`tasks.{name}` is a mapping of what differs, but got {entries[name]!r}" for name in odd]
    wrong += [f"a name in `tasks` has no slash, but got {name!r}" for name in entries if "/" in str(name) or not name]
    raise_if_any(f"The experiment {str(path)!r} cannot be used", wrong)
    return {str(name): _overlaid(base, str(name), change or {}) for name, change in entries.items()}


def _overlaid(base: Mapping[str, Any], task: str, change: Mapping[str, Any]) -> dict[str, Any]:
    """`change` over `base`: settings key by key, named things one by one (none in place of one drops it)."""
    found = {**base, **change}
    settings, own = base.get("settings"), change.get("settings", {})
    if isinstance(settings, Mapping) and isinstance(own, Mapping):
        # The name of an entry is its task unless it says another, so that a plain list of tasks is enough.
        found["settings"] = {**merged(settings, own), "task": own.get("task", task)}
    for named in ("samplers", "architectures", "rivals"):
        first, second = base.get(named), change.get(named)
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            found[named] = {name: value for name, value in {**first, **second}.items() if value is not None}
    return found


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`changes` over `base`; the recipe entry by entry, anything else as a whole."""
    found = {**base, **changes}
    if isinstance(changes.get("recipe"), Mapping):
        found["recipe"] = {**base.get("recipe", {}), **changes["recipe"]}
    return found


def run(experiment: Experiment, results: Path, work: Path, announce: Announce, only: str | None = None) -> None:
    """Run the cells that are missing and keep each when it is done.

    Args:
        results: folder of results; the experiment's own folder is made in it.
        work: folder of the studies, so that an interrupted search continues within its cell.
        announce: told what begins and ends.
        only: run just this cell.

    Raises:
        InputError: there is no such cell, one to be run names an architecture or a method that there is not, or some
            that have a result were made by other settings than the file has.
        AutopeftError: cells failed; all others have been run, and what each failed at is told. Or what cells share
            failed, and none of them was run.
    """
    if only is not None:
        experiment.find(only)
    _refuse(experiment.unlike(results), results / experiment.name)
    names = [name for name in experiment.missing(results) if only in (None, name)]
    wanted = {name: experiment.find(name) for name in names}
    for task, part in experiment.parts.items():
        own = [cell for of, cell in wanted.values() if of == task]
        # Of each part before the first cell of any: what one lacks must not be found out after days with another.
        if own:
            part.check(own, experiment.place(task, results, work, announce))
    failed: dict[str, str] = {}
    for number, (name, (task, cell)) in enumerate(wanted.items(), start=1):
        announce(f"{experiment.name}: {name} ({number} of {len(wanted)})")
        place = experiment.place(task, results, work, announce)
        try:
            data = experiment.parts[task].run(cell, place)
        # A mistake in the file would meet every other cell as well.
        except InputError:
            raise
        except AutopeftError as error:
            # A cell that fails on its own costs no other its turn; the command runs it again.
            failed[name] = str(error)
            announce(f"{experiment.name}: {name} failed: {error}")
            continue
        place.append(cell.name, data)
        announce(f"{experiment.name}: {name} done: {data['headline']}")
    if failed:
        raise AutopeftError("; ".join(f"the cell {cell} failed: {message}" for cell, message in failed.items()))


def _refuse(unlike: Mapping[str, Sequence[str]], folder: Path) -> None:
    # A table of runs of both kinds would compare what differs in more than the rival.
    raise_if_any(
        f"Results in {str(folder)!r} are of another experiment than the file describes now; put the file back as it "
        "was, or give it another name",
        [f"{cell!r}: {', '.join(phrases)}" for cell, phrases in unlike.items()],
    )
