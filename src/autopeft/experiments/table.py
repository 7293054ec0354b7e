"""Kind ``table``: the tables that papers print, with our numbers beside theirs.

A table names the experiments in the same folder that its numbers come from. To run it is to run what they lack, in the
order given; its page is made of their results, whatever there is of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

from autopeft.errors import AutopeftError, InputError, SettingsError
from autopeft.experiments._experiment import Experiment, Origin, Page, Place, read, run
from autopeft.experiments._paper_tables import (
    QUANTITIES,
    Joined,
    Printed,
    is_average,
    joined,
    table_of,
    together,
    told,
)
from autopeft.experiments._results import Result
from autopeft.experiments._wrong import wrong_mapping
from autopeft.markup import escape
from autopeft.reports.markdown import markdown_table
from autopeft.rules import raise_if_any
from autopeft.settings import read_yaml

_REQUIRED = {"expected", "from", "rows", "columns"}
_SEED = re.compile(r"(.+)-seed\d+")
_WITHOUT_RUNS = ("compare", "payoff")
_KNOWN = {*_REQUIRED, "first", "beside", "tasks"}


@dataclass(frozen=True)
class PaperTable:
    """One table, and where its numbers come from.

    Args:
        name: in the file.
        printed: what the paper has.
        rows: printed row to the experiment and the cells, without their task, that are ours: one, or one a search seed.
        columns: printed column to a task, or to one of `QUANTITIES`.
        beside: columns that are not printed, each to one of `QUANTITIES`.
        asked: the tasks that quantities are means over, where no column holds the metric of one; empty for all.
        first: what has to be run before: cells ``TASK/CELL`` by experiment.
        experiments: by name, all that are needed.
    """

    name: str
    printed: Printed
    rows: Mapping[str, tuple[str, tuple[str, ...]]]
    columns: Mapping[str, str]
    beside: Mapping[str, str]
    asked: Sequence[str]
    first: Sequence[tuple[str, str]]
    experiments: Mapping[str, Experiment]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those that a column holds the metric of; where none does, those asked for, or all of the experiments."""
        named = [task for task in self.columns.values() if task not in QUANTITIES]
        return tuple(
            named or self.asked or dict.fromkeys(t for source in self.experiments.values() for t in source.parts)
        )

    def sources(self) -> list[tuple[str, str]]:
        """Experiment and cell of all that has to be run, in order."""
        own = [
            (experiment, self._key(experiment, task, cell))
            for task in self.tasks
            for experiment, cells in self.rows.values()
            for cell in cells
        ]
        known = {name: set(source.cells()) for name, source in self.experiments.items()}
        return list(dict.fromkeys([*self.first, *(pair for pair in own if pair[1] in known[pair[0]])]))

    def ours(self, results: Path) -> dict[tuple[str, str], Result]:
        """What is done, by printed row and task; of several search seeds those that are done."""
        done = {name: source.done(results) for name, source in self.experiments.items()}
        found = {}
        for row, (experiment, cells) in self.rows.items():
            for task in self.tasks:
                keys = [self._key(experiment, task, cell) for cell in cells]
                if own := [done[experiment][key] for key in keys if key in done[experiment]]:
                    found[row, task] = together(own)
        return found

    def joined(self, results: Path) -> list[Joined]:
        """Its cells, ours and theirs."""
        return joined(self.printed, self.columns, self.ours(results), self.tasks, self.beside)

    def _key(self, experiment: str, task: str, cell: str) -> str:
        return cell if "" in self.experiments[experiment].parts else f"{task}/{cell}"


@dataclass(frozen=True)
class PaperTables:
    """Tables of a paper; each is a cell.

    Args:
        origin: where this was read.
        tables: in the order of the file.
    """

    required: ClassVar[frozenset[str]] = frozenset({"title", "tables"})
    optional: ClassVar[frozenset[str]] = frozenset()
    is_derived: ClassVar[bool] = True

    origin: Origin
    tables: tuple[PaperTable, ...]

    @classmethod
    def read(cls, raw: Mapping[str, Any], origin: Origin) -> PaperTables:
        """The tables that `raw` describes.

        Raises:
            SettingsError: a value is wrong, or names a row, a column, an experiment or a cell that there is not.
        """
        raise_if_any(f"The experiment {origin.told} cannot be used", wrong_mapping(raw, "tables"))
        wrong = [mistake for name, asked in raw["tables"].items() for mistake in _wrong_entry(str(name), asked)]
        raise_if_any(f"The experiment {origin.told} cannot be used", wrong)
        # Tables share experiments, and a contest of many seeds and budgets is long to read.
        read_once = cache(partial(_source, origin))
        found = tuple(_table(str(name), asked, origin, read_once) for name, asked in raw["tables"].items())
        wrong = [mistake for table in found for mistake in _wrong_names(table)]
        raise_if_any(f"The experiment {origin.told} cannot be used", wrong)
        return cls(origin, found)

    def cells(self) -> tuple[PaperTable, ...]:
        """The tables."""
        return self.tables

    def check(self, cells: Sequence[PaperTable], place: Place) -> None:
        """Nothing: the experiments that are run check their own cells."""

    def run(self, cell: PaperTable, place: Place) -> Result:
        """Run what the table lacks.

        Raises:
            AutopeftError: cells failed; all others have been run.
        """
        failed = []
        for name, key in cell.sources():
            try:
                run(cell.experiments[name], place.results, place.root, place.announce, key)
            # A mistake in what was asked for stops the table, while a cell that failed lets the others still be run.
            except InputError:
                raise
            except AutopeftError as error:
                failed.append(str(error))
        if failed:
            raise AutopeftError("; ".join(failed))
        cells = cell.joined(place.results)
        return {"headline": told(cells), "title": cell.printed.name}

    def page(self, found: Mapping[str, Result], place: Place) -> Page:
        """Every table with what there is, complete or not."""
        lines = [
            "Metrics and shares are in percent. A number of ours may stand beside a printed one only with its model, "
            "data, splits and recipe: see the page of the experiment that it comes from.",
            "",
        ]
        for table in self.tables:
            cells = table.joined(place.results)
            lines += [f"## {escape(table.printed.name)}", "", told(cells), ""]
            lines += [markdown_table(table_of(table.printed, cells)), ""]
            names = ", ".join(f"`{name}`" for name in table.experiments)
            unmade = [row for row in table.printed.rows if row not in table.rows]
            lines += [f"From {names}." + (f" Not among them: {escape(', '.join(unmade))}." if unmade else ""), ""]
        return Page(lines)

    @classmethod
    def overview(cls, done: Mapping[str, tuple[PaperTables, Mapping[str, Result]]]) -> Sequence[str]:
        """Nothing: every table stands for itself."""
        return ()


def _wrong_entry(name: str, asked: Any) -> list[str]:
    if not isinstance(asked, Mapping) or set(asked) - _KNOWN or _REQUIRED - set(asked):
        return [f"`tables.{name}` has {sorted(_REQUIRED)} and perhaps `first`, `beside` and `tasks`, but got {asked!r}"]
    wrong = [
        f"`tables.{name}.{key}` is a mapping" for key in ("rows", "columns") if not isinstance(asked[key], Mapping)
    ]
    odd = [] if wrong else [row for row, own in asked["rows"].items() if not _is_cell(own)]
    wrong += [f"`tables.{name}.rows.{row}` is a cell, or {{from, cell}}" for row in odd]
    first = asked.get("first", {})
    if not isinstance(first, Mapping) or not all(isinstance(cells, list) for cells in first.values()):
        wrong.append(f"`tables.{name}.first` is a mapping from an experiment to a list of its cells, but got {first!r}")
    if not isinstance(tasks := asked.get("tasks", []), list):
        wrong.append(f"`tables.{name}.tasks` is a list of tasks, but got {tasks!r}")
    beside = asked.get("beside", {})
    if not isinstance(beside, Mapping) or not all(str(one) in QUANTITIES for one in beside.values()):
        wrong.append(
            f"`tables.{name}.beside` is a mapping from a column to one of {list(QUANTITIES)}, but got {beside!r}"
        )
    return wrong


def _is_cell(own: Any) -> bool:
    return isinstance(own, str) or (isinstance(own, Mapping) and set(own) == {"from", "cell"})


def _source(origin: Origin, name: str) -> Experiment:
    """The experiment of that name beside the file of the tables."""
    path = origin.path.parent / f"{name}.yaml"
    # Before it is read, which would read what it names in turn: it may name this file.
    if read_yaml(path).get("kind") in MEMBERS:
        raise SettingsError(f"The experiment {origin.told} takes numbers from {name!r}, which is of tables itself.")
    return read(path, origin.data, trust_remote_code=origin.trust_remote_code)


def _table(name: str, asked: Mapping[str, Any], origin: Origin, source_of: Callable[[str], Experiment]) -> PaperTable:
    usual, folder = str(asked["from"]), origin.path.parent
    rows = {}
    for row, own in asked["rows"].items():
        is_apart = isinstance(own, Mapping)
        rows[str(row)] = (str(own["from"]), str(own["cell"])) if is_apart else (usual, str(own))
    first = [(str(experiment), str(cell)) for experiment, cells in asked.get("first", {}).items() for cell in cells]
    names = dict.fromkeys([*(experiment for experiment, _ in rows.values()), *(experiment for experiment, _ in first)])
    sources = {source: source_of(source) for source in names}
    known = {source: {cell.rpartition("/")[2] for cell in found.cells()} for source, found in sources.items()}
    cells = {row: (source, _of_all_seeds(cell, known[source])) for row, (source, cell) in rows.items()}
    columns, beside = ({str(k): str(v) for k, v in asked.get(key, {}).items()} for key in ("columns", "beside"))
    printed, tasks = Printed.load(folder / str(asked["expected"])), tuple(map(str, asked.get("tasks", ())))
    return PaperTable(name, printed, cells, columns, beside, tasks, first, sources)


def _of_all_seeds(cell: str, known: Collection[str]) -> tuple[str, ...]:
    """The cell of that name, or those of all search seeds where that is left out."""
    seeds = [one for one in known if (found := _SEED.fullmatch(one)) and found[1] == cell]
    return (cell,) if cell in known or not seeds else tuple(sorted(seeds))


def _wrong_names(table: PaperTable) -> list[str]:
    """Rows, columns and cells that there are not."""
    where = f"`tables.{table.name}`"
    wrong = [
        f"{where} has the row {row!r}, which is not printed" for row in table.rows if row not in table.printed.rows
    ]
    columns = [c for c in table.columns if c not in table.printed.columns or is_average(c)]
    wrong += [f"{where} has the column {column!r}, which is not printed or an average" for column in columns]
    kinds = {of: table.experiments[of].kind for of, _ in table.rows.values()}
    wrong += [
        f"{where} takes rows from {of!r}, of kind {kind!r}, whose results are no runs of one architecture or search"
        for of, kind in kinds.items()
        if kind in _WITHOUT_RUNS
    ]
    known = {name: source.cells() for name, source in table.experiments.items()}
    wrong += [
        f"{where} needs {cell!r}, which is no cell of {of!r}" for of, cell in table.first if cell not in known[of]
    ]
    ends = {name: {cell.rpartition("/")[2] for cell in cells} for name, cells in known.items()}
    rows = [(row, of, cell) for row, (of, own) in table.rows.items() for cell in own if cell not in ends[of]]
    wrong += [f"{where} has {cell!r} for the row {row!r}, which is no cell of {of!r}" for row, of, cell in rows]
    tasks = {task for source in table.experiments.values() for task in source.parts}
    odd = [task for task in table.tasks if task not in tasks and "" not in tasks]
    return wrong + [f"{where} has the task {task!r}, which no experiment of it has" for task in odd]


MEMBERS = {"table": PaperTables}
