"""Printed tables with our numbers beside them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from autopeft.errors import AutopeftError, SettingsError
from autopeft.experiments import read, run, write_summary
from autopeft.experiments._paper_tables import QUANTITIES, Joined, Printed, joined, table_of, together, told, values_of
from autopeft.experiments._results import Results
from autopeft.experiments.compare import Compare
from autopeft.experiments.table import PaperTables
from small_case import Case, call

ROOT = Path(__file__).parents[2] / "experiments"
COUNTS = {"nominal": 20, "stored": 30, "trained": 40, "backbone": 1000}


def printed(folder: Path) -> Path:
    cells = [
        {"row": row, "column": column, "mean": mean, "std": None}
        for row, means in {"First": (2.1, 50.0, 70.0, 60.0), "Second": (2.0, 40.0, 60.0, 50.0)}.items()
        for column, mean in zip(("#Param (%)", "A", "B", "Avg."), means, strict=True)
    ]
    path = folder / "printed.json"
    path.write_text(json.dumps({"paper": "A paper", "table": "Table 7", "cells": [*cells]}))
    return path


def retrained(*values: float) -> dict[str, Any]:
    return {"values": list(values), "counts": COUNTS}


def test_our_number_theirs_the_difference_and_what_is_missing(tmp_path: Path) -> None:
    ours = {("First", "a"): retrained(0.5, 0.54), ("First", "b"): retrained(0.7), ("Second", "a"): retrained(0.1)}
    columns = {"#Param (%)": "percent", "A": "a", "B": "b"}
    table = Printed.load(printed(tmp_path))
    cells = joined(table, columns, ours, ("a", "b"))
    first, second = table_of(table, cells).rows
    assert first == ("First", "2.00 (2.1; -0.10)", "52.00 ± 2.83 (50; +2.00)", "70.00 (70; +0.00)", "61.00 (60; +1.00)")
    # An average of one of two tasks is not what they averaged.
    assert second == ("Second", "2.00 (2; +0.00)", "10.00 (40; -30.00)", "missing (60)", "missing (50)")
    assert told(cells) == "3 of 4 printed metrics have a number of ours; mean difference -9.33, largest -30.00."
    # Nor is an average without a column that none of our experiments has.
    part = joined(table, {"A": "a"}, ours, ("a",))
    assert [cell.ours for cell in part if cell.column == "Avg."] == [None, None]
    assert str(Joined("r", "c", None, None, None)) == ""
    assert told([]) == "0 of 0 printed metrics have a number of ours."


def test_a_contest_gives_runs_of_all_that_was_found_and_times(tmp_path: Path) -> None:
    one = {"values": [0.4, 0.6], "counts": COUNTS, "seconds": 30.0}
    contest = {"found": [one, {**one, "values": [0.8, 1.0], "seconds": 90.0}], "search": {"seconds": 120.0}}
    cells = [{"row": "R", "column": c, "mean": 1.0, "std": None} for c in ("X", "S (min)", "T (min)", "Ratio", "P")]
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"paper": "p", "table": "t", "cells": cells}))
    columns = {"X": "x", "S (min)": "search-minutes", "T (min)": "retraining-minutes", "Ratio": "search-ratio"}
    found = joined(Printed.load(path), columns | {"P": "per-ten-thousand"}, {("R", "x"): contest}, ("x",))
    assert [cell.ours for cell in found] == [pytest.approx(value) for value in (70.0, 2.0, 1.0, 2.0, 300.0)]


def write(case: Case, folder: Path, **changes: Any) -> Path:
    """A table of two architectures on two tasks, with the experiment that trains them."""
    printed(folder)
    tasks = {"a": {"settings": {"task": None}}, "b": {"settings": {"task": None, "data_seed": 3}}}
    data: dict[str, Any] = {"kind": "retrain", "title": "t", "settings": case.data(), "seeds": [1], "tasks": tasks}
    data |= {"architectures": {"one": "serial:2", "two": "lora:2"}, "learning_rates": []}
    (folder / "points.yaml").write_text(yaml.safe_dump(data))
    table = {"expected": "printed.json", "from": "points", "rows": {"First": "one", "Second": "two"}}
    table |= {"columns": {"#Param (%)": "percent", "A": "a", "B": "b"}, **changes}
    path = folder / "tables.yaml"
    path.write_text(yaml.safe_dump({"kind": "table", "title": "Ours and theirs", "tables": {"seven": table}}))
    return path


def test_one_command_runs_what_a_table_lacks_and_the_page_holds_what_there_is(case: Case, tmp_path: Path) -> None:
    path = write(case, tmp_path)
    found, results = read(path), tmp_path / "r"
    (table,) = found.parts[""].cells()
    assert table.sources() == [("points", key) for key in ("a/one", "a/two", "b/one", "b/two")]
    run(read(tmp_path / "points.yaml"), results, tmp_path / "w", lambda text: None, "a/one")
    page = write_summary(found, results).read_text()
    ours = Results(results / "points").read()["a/one"]
    mean = 100 * ours["values"][0]
    assert f"| First | 1.20 (2.1; -0.90) | {mean:.2f} (50; {mean - 50:+.2f}) | missing (70) |" in page
    assert "1 of 4 printed metrics have a number of ours" in page
    assert found.missing(results) == ("seven",)
    said = call("experiment", path, "--results", results, "--work", tmp_path / "w", "--cell", "seven")
    assert said.code == 0, said.err
    assert "points: a/one" not in said.out  # it was done
    assert set(Results(results / "points").read()) == {"a/one", "a/two", "b/one", "b/two"}
    assert found.missing(results) == ()
    assert "4 of 4 printed metrics" in (results / "tables" / "README.md").read_text()


def test_a_cell_that_fails_costs_no_other_its_place_in_the_table(case: Case, tmp_path: Path) -> None:
    path = write(case, tmp_path)
    wild = yaml.safe_load((tmp_path / "points.yaml").read_text())
    wild["architectures"]["one"] = {"baseline": "serial:2", "learning_rate": 1e30}
    (tmp_path / "points.yaml").write_text(yaml.safe_dump(wild))
    with pytest.raises(AutopeftError, match="the cell seven failed: the cell a/one failed"):
        run(read(path), tmp_path / "r", tmp_path / "w", lambda text: None)
    assert set(Results(tmp_path / "r" / "points").read()) == {"a/two", "b/two"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rows": {"Third": "one"}}, "has the row 'Third', which is not printed"),
        ({"rows": {"First": "three"}}, "has 'three' for the row 'First', which is no cell of 'points'"),
        ({"rows": {"First": 3}}, r"`tables\.seven\.rows\.First` is a cell, or \{from, cell\}"),
        ({"rows": ["First"]}, r"`tables\.seven\.rows` is a mapping"),
        ({"columns": {"C": "a"}}, "has the column 'C', which is not printed or an average"),
        ({"columns": {"Avg.": "a"}}, "which is not printed or an average"),
        ({"columns": {"A": "c"}}, "has the task 'c', which no experiment of it has"),
        ({"first": {"points": ["a/five"]}}, "needs 'a/five', which is no cell of 'points'"),
        ({"first": ["points"]}, "is a mapping from an experiment to a list of its cells"),
        ({"from": "nothing"}, "nothing.yaml"),
        ({"expected": "nothing.json"}, "nothing.json"),
        ({"expected": "tables.yaml"}, "The printed table .* cannot be read"),
        ({"from": "tables"}, "takes numbers from 'tables', which is of tables itself"),
        ({"form": "points"}, r"`tables\.seven` has \['columns', 'expected', 'from', 'rows'\]"),
    ],
)
def test_mistakes_in_a_table(case: Case, tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        read(write(case, tmp_path, **changes))


AUTOPEFT = ("table-1", "table-3", "table-4", "table-5", "table-6", "figure-5")
BIPEFT = (
    "table-1-glue",
    "table-1-superglue",
    "table-2",
    "table-3",
    *(f"table-{n}" for n in (4, 5, 6, 7, 8, 9, 10)),
    "figure-3",
)


@pytest.mark.parametrize(("file", "names"), [("autopeft/autopeft", AUTOPEFT), ("bipeft/bipeft", BIPEFT)])
def test_the_papers_tables_have_a_command_each(file: str, names: tuple[str, ...]) -> None:
    found = read(ROOT / f"{file}-tables.yaml")
    assert found.cells() == names
    part = found.parts[""]
    assert isinstance(part, PaperTables)
    assert all(table.sources() for table in part.tables)
    left_out = {(table.name, row) for table in part.tables for row in table.printed.rows if row not in table.rows}
    assert left_out == ({("table-6", "Z = (lost, below 50)")} if "bipeft" in file else set())


def test_table_4_searches_the_space_of_t5_and_the_adaptable_row_is_the_switches_own() -> None:
    search = read(ROOT / "autopeft" / "autopeft-search.yaml").parts
    parts = [search[task] for task in ("rte-t5-base", "rte-t5-base-s3pet", "rte-bert-large-adaptable")]
    t5, s3pet, adaptable = (
        part.settings_of(cell) for part in parts if isinstance(part, Compare) for cell in part.cells()
    )
    assert t5.space.name == "SA-PA-Layer"
    assert (s3pet.sampler, s3pet.space.name, s3pet.space.budget) == ("s3delta", "S2", "0.3%")
    assert s3pet.recipe.batch_size == 8
    assert (adaptable.sampler, adaptable.trials, adaptable.initial) == ("adaptable", 1, 0)


def test_a_printed_mean_is_a_number_and_stands_once(tmp_path: Path) -> None:
    data = json.loads(printed(tmp_path).read_text())
    data["cells"][0]["mean"] = "x"
    data["cells"].append(data["cells"][1])
    (tmp_path / "printed.json").write_text(json.dumps(data))
    with pytest.raises(SettingsError, match=r"is a number or null, but got 'x'; row 'First', column 'A' stands once"):
        Printed.load(tmp_path / "printed.json")


def test_what_a_pay_off_chose_is_no_row(case: Case, tmp_path: Path) -> None:
    path = write(case, tmp_path)
    grid = {"how": "grid", "baselines": ["lora:1"], "rates": [1e-2]}
    data = {"kind": "payoff", "title": "Three", "settings": case.data(), "rivals": {"a": grid}, "ours": "a", "cost": 2}
    data |= {"seeds": [0], "retraining": {"seeds": [0]}}
    (tmp_path / "points.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(SettingsError, match="takes rows from 'points', of kind 'payoff'"):
        read(path)


def test_retrainings_that_are_called_by_seeds_are_of_no_search() -> None:
    found = together([retrained(0.5), retrained(0.7)])
    assert values_of(found) == [0.5, 0.7]
    assert all(math.isnan(QUANTITIES[name](found)) for name in ("search-ratio", "retraining-examples"))
