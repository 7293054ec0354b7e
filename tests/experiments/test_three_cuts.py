"""BIPEFT's protocol at a tiny size: seeds with cuts of their own, transfer, tables of all seeds, and examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from test_table import printed

from autopeft.architecture import Architecture
from autopeft.errors import SettingsError
from autopeft.experiments import read, run
from autopeft.experiments._contest_tables import Row, examples_table
from autopeft.experiments._paper_tables import Printed, joined, table_of, together
from autopeft.experiments._results import Results
from autopeft.experiments.table import PaperTables
from small_case import Case

COUNTS = {"nominal": 20, "stored": 30, "trained": 40, "backbone": 1000}


@pytest.fixture(scope="module")
def folder(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A contest of two search seeds, what it found trained on another cut, and a table of both."""
    found = tmp_path_factory.mktemp("cuts")
    settings = case.data(space={"name": "S2"}, sampler="apet", trials=1, initial=0)
    contest = {
        "kind": "contest", "title": "c", "settings": settings, "seeds": [4, 5], "budgets": ["4%"],
        "samplers": {"apet": {}, "bipeft": {"sampler": "bipeft", "sampler_options": {"steps": 2, "batch_size": 8}}},
        "retraining": {"seeds": "search"},
    }  # fmt: skip
    transfer = {
        "kind": "retrain", "title": "t", "settings": case.data(), "seeds": [4, 5], "learning_rates": ["1e-3"],
        "is_cut_by_seed": True, "architectures": {"moved": {"experiment": "found", "cells": ["bipeft-at4-seed4"]}},
    }  # fmt: skip
    printed(found)
    table = {
        "expected": "printed.json", "from": "found", "columns": {"#Param (%)": "percent"}, "first": {},
        "rows": {"First": "bipeft-at4", "Second": {"from": "moved", "cell": "moved"}},
        "beside": {"Examples": "search-examples", "Ratio of examples": "examples-ratio"}, "tasks": [""],
    }  # fmt: skip
    for name, data in (("found", contest), ("moved", transfer)):
        (found / f"{name}.yaml").write_text(yaml.safe_dump(data))
    (found / "tables.yaml").write_text(yaml.safe_dump({"kind": "table", "title": "t", "tables": {"seven": table}}))
    for name in ("found", "moved"):
        run(read(found / f"{name}.yaml"), found / "results", found / "work", lambda text: None)
    return found


def results(folder: Path, name: str) -> dict[str, Any]:
    return dict(Results(folder / "results" / name).read())


@pytest.mark.slow
def test_each_search_is_trained_again_with_its_own_seed_on_its_own_cut(folder: Path) -> None:
    for seed in (4, 5):
        cell = results(folder, "found")[f"bipeft-at4-seed{seed}"]
        assert cell["settings"]["data_seed"] == seed
        assert [one["seeds"] for one in cell["found"]] == [[seed]]
        assert cell["retraining"]["seeds"] == [seed]


def test_a_search_in_a_supernet_counts_every_example_of_its_passes(folder: Path) -> None:
    """Two steps of a batch of eight for the weights and one for the gates."""
    cells = results(folder, "found")
    assert cells["bipeft-at4-seed4"]["search"]["examples"] == 2 * (8 + 8)
    assert cells["apet-at4-seed4"]["search"]["examples"] == 0
    assert cells["apet-at4-seed4"]["found"][0]["examples"] == 2 * 8
    rows = [Row(name, "4%", [cells[f"{name}-at4-seed4"]]) for name in ("apet", "bipeft")]
    assert examples_table(rows).rows == (("apet", "4%", "0", "16", "0.00"), ("bipeft", "4%", "32", "16", "2.00"))
    older = {**cells["bipeft-at4-seed4"], "search": {"seconds": 1.0}}
    rows[1] = Row("bipeft", "4%", [older])
    assert [row[0] for row in examples_table(rows).rows] == ["apet"]


def test_what_a_contest_found_is_trained_on_cuts_by_seed(folder: Path) -> None:
    source, moved = results(folder, "found")["bipeft-at4-seed4"], results(folder, "moved")["moved"]
    assert Architecture.from_dict(moved["architecture"]) == Architecture.from_dict(source["found"][0]["architecture"])
    assert (moved["seeds"], len(moved["values"]), moved["is_cut_by_seed"]) == ([4, 5], 2, True)
    assert moved["found_by"]["cell"] == "bipeft-at4-seed4"
    # The contest trained the first again with the same seed on the same cut, at the one rate that there is.
    assert moved["values"][0] == pytest.approx(source["found"][0]["values"][0])


def test_a_row_without_a_seed_is_all_of_them(folder: Path) -> None:
    (table,) = (part for part in read(folder / "tables.yaml").parts.values() if isinstance(part, PaperTables))
    (one,) = table.cells()
    assert one.rows["First"] == ("found", ("bipeft-at4-seed4", "bipeft-at4-seed5"))
    assert one.sources() == [("found", "bipeft-at4-seed4"), ("found", "bipeft-at4-seed5"), ("moved", "moved")]
    cells = {(cell.row, cell.column): cell.ours for cell in one.joined(folder / "results")}
    assert cells["First", "Examples"] == 2 * (8 + 8)
    assert cells["First", "Ratio of examples"] == pytest.approx(2.0)


def test_the_mean_over_seeds_of_what_was_spent_and_none_where_one_was_not_counted(tmp_path: Path) -> None:
    def searched(value: float, examples: int | None) -> dict[str, Any]:
        own = {"values": [value], "counts": COUNTS, "seconds": 1.0, "examples": 100}
        return {"found": [own], "search": {"seconds": 100 * value, "examples": examples}}

    table, beside = Printed.load(printed(tmp_path)), {"E": "examples-ratio"}
    both = together([searched(0.4, 100), searched(0.6, 200)])
    assert both["search"]["seconds"] == pytest.approx(50)
    cells = joined(table, {"A": "a"}, {("First", "a"): both}, ("a",), beside)
    assert table_of(table, cells).header == ("", "#Param (%)", "A", "B", "Avg.", "E")
    found = {cell.column: cell.ours for cell in cells if cell.row == "First"}
    assert (found["A"], found["E"]) == (pytest.approx(50), 1.5)
    both = together([searched(0.4, 100), searched(0.6, None)])
    cells = joined(table, {}, {("First", "a"): both}, ("a",), beside)
    assert [cell.ours for cell in cells if cell.column == "E"] == [None, None]


@pytest.mark.parametrize(
    ("file", "changes", "expected"),
    [
        ("found", {"retraining": {"seeds": "own"}}, "a list, or `search` for that of the search"),
        ("moved", {"is_cut_by_seed": "yes"}, "`is_cut_by_seed` is true or false, but got 'yes'"),
        ("tables", {"beside": {"E": "hours"}}, "`tables.seven.beside` is a mapping from a column to one of"),
        ("tables", {"tasks": "a"}, "`tables.seven.tasks` is a list of tasks, but got 'a'"),
    ],
)
def test_mistakes_are_told(folder: Path, tmp_path: Path, file: str, changes: dict[str, Any], expected: str) -> None:
    data = yaml.safe_load((folder / f"{file}.yaml").read_text())
    (data["tables"]["seven"] if file == "tables" else data).update(changes)
    (tmp_path / f"{file}.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(SettingsError, match=expected):
        read(tmp_path / f"{file}.yaml")
