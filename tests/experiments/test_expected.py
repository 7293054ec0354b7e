"""The printed numbers under experiments/expected: complete, free of repeats, and consistent with themselves."""

from __future__ import annotations

import json
import math
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "expected"
INDEX = json.loads((ROOT / "tests" / "reference" / "paper_tables.json").read_text())
ONE_DIGIT = ("autopeft-table-4.json", "autopeft-table-5.json")  # these tables print one decimal

NOT_AVERAGED = ("#Param (%)", "Ratio (per ten thousand)", "AVG time (min)")


def table(name: str) -> dict[str, Any]:
    """The table in the file `name`."""
    loaded: dict[str, Any] = json.loads((FOLDER / name).read_text())
    return loaded


def by_row(name: str) -> dict[str, dict[str, float | None]]:
    """Means of a table: row, then column."""
    rows: dict[str, dict[str, float | None]] = {}
    for cell in table(name)["cells"]:
        rows.setdefault(cell["row"], {})[cell["column"]] = cell["mean"]
    return rows


def averages() -> list[tuple[str, str, float, list[float]]]:
    """Every printed average with the cells it is taken over: file, row, average, cells."""
    found = []
    for name in INDEX["tables"]:
        for row, cells in by_row(name).items():
            printed = next((v for c, v in cells.items() if c.lower().rstrip(".") == "avg"), None)
            parts = [v for c, v in cells.items() if c not in NOT_AVERAGED and c.lower().rstrip(".") != "avg"]
            if printed is not None:
                assert None not in parts, f"{name}, {row}: an average is printed, but a cell is missing."
                found.append((name, row, printed, [v for v in parts if v is not None]))
    return found


def test_no_file_is_missing_or_unlisted() -> None:
    assert {path.name for path in FOLDER.glob("*.json")} == set(INDEX["tables"])


@pytest.mark.parametrize("name", sorted(INDEX["tables"]))
def test_each_table_holds_what_the_index_says(name: str) -> None:
    loaded = table(name)
    about = {"paper": loaded["paper"], "table": loaded["table"], "cells": len(loaded["cells"])}
    assert about == INDEX["tables"][name]


def test_there_are_633_cells() -> None:
    assert sum(len(table(name)["cells"]) for name in INDEX["tables"]) == INDEX["cells"] == 633


@pytest.mark.parametrize("name", sorted(INDEX["tables"]))
def test_cells_are_numbers_and_stand_once(name: str) -> None:
    cells = table(name)["cells"]
    repeats = [key for key, n in Counter((c["row"], c["column"]) for c in cells).items() if n > 1]
    assert repeats == []
    for cell in cells:
        assert set(cell) - {"note"} == {"row", "column", "mean", "std"}
        assert cell["mean"] is None or math.isfinite(cell["mean"])
        assert cell["std"] is None or 0 <= cell["std"] < 30


def test_a_missing_mean_is_explained() -> None:
    missing = [cell for name in INDEX["tables"] for cell in table(name)["cells"] if cell["mean"] is None]
    # Five that the text lacks, and all of a figure that table 1 does not print.
    assert len(missing) == 5 + 12
    assert all(cell["note"] for cell in missing)


def test_printed_averages_follow_from_their_cells() -> None:
    """Rounding the cells moves a mean by at most half a unit, rounding the average by another half."""
    found = averages()
    assert len(found) == 71
    for name, row, printed, parts in found:
        unit = Decimal("0.1") if name in ONE_DIGIT else Decimal("0.01")
        mean = sum((Decimal(str(part)) for part in parts), Decimal(0)) / len(parts)
        assert abs(mean - Decimal(str(printed))) <= unit, f"{name}, {row}: prints {printed}, cells give {mean}."


@pytest.mark.parametrize(
    ("name", "row", "column", "parameters"),
    [
        # 12 layers of BERT-base, hidden size 768, 109,482,240 parameters; weights only (nominal)
        ("autopeft-table-1.json", "Serial", "#Param (%)", 2 * 768 * 48 * 12),
        ("autopeft-table-1.json", "Parallel", "#Param (%)", 2 * 768 * 384 * 12),
        ("autopeft-table-1.json", "Prefix", "#Param (%)", 2 * 768 * 10 * 12),
        ("autopeft-table-1.json", "LoRA", "#Param (%)", 4 * 768 * 8 * 12),
        ("autopeft-table-1.json", "MAM", "#Param (%)", 2 * 768 * (384 + 30) * 12),
    ],
)
def test_printed_parameter_shares_follow_the_nominal_rule(name: str, row: str, column: str, parameters: int) -> None:
    printed = by_row(name)[row][column]
    assert printed == pytest.approx(100 * parameters / 109_482_240, abs=0.0051)
