"""The page and the pictures of an experiment."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from autopeft.errors import SettingsError
from autopeft.experiments import read, run, write_summary
from autopeft.experiments._results import Results
from autopeft.experiments._retrain_tables import rates_tried, retrained_table, untuned
from autopeft.training.rate_sweep import ProxySignal
from small_case import Case, call


def row(text: str, start: str) -> list[str]:
    """The cells of the table row that begins with `start`."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return [part.strip() for part in line.strip("|").split("|")]


@pytest.fixture(scope="module")
def folder(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished searches of one seed, and the same two of another of which one is missing."""
    folder = tmp_path_factory.mktemp("experiment")
    data: dict[str, Any] = {"kind": "compare", "title": "Two ways", "settings": case.data(learning_rates=[1e-3])}
    data |= {"samplers": {"evolution": {"sampler": "evolution"}, "chance": {"sampler": "random"}}, "seeds": [0, 1]}
    (folder / "two.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    found = read(folder / "two.yaml")
    for cell in ("evolution-seed0", "chance-seed0", "chance-seed1"):
        run(found, folder / "results", folder / "work", lambda text: None, cell)
    return folder


def test_the_page_tells_the_numbers_and_what_is_missing(folder: Path) -> None:
    page = write_summary(read(folder / "two.yaml"), folder / "results")
    text = page.read_text()
    assert page == folder / "results" / "two" / "README.md"
    assert text.startswith("# Two ways\n")
    assert "**1 of 4 cells are missing**" in text
    assert f"autopeft experiment {folder / 'two.yaml'} --data FOLDER --cell evolution-seed1" in text
    cells = Results(page.parent).read()
    cost = max(cells[name]["reference"][0] for name in ("chance-seed0", "chance-seed1"))
    assert f"Reference point of every hypervolume: {cost:.4g} %" in text
    chance, evolution = row(text, "chance"), row(text, "evolution")
    assert evolution[2] == "missing"
    assert float(chance[3]) == pytest.approx((float(chance[1]) + float(chance[2])) / 2, abs=1e-4)
    assert float(evolution[5]) == pytest.approx(float(evolution[1]) - float(chance[1]), abs=2e-4)
    # Random search is what the others are compared with, although it is not the first.
    for scale in ("linear", "log"):
        assert f"**evolution against chance, {scale} cost: one seed allows no statement.** Paired seeds: 1" in text
    assert "Learning rate, shared by all cells: accuracy by learning rate: 0.001" in text
    for name in ("hypervolume", "fronts", "cloud"):
        assert (page.parent / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"* `{name}.png`: " in text


def test_the_page_is_the_same_when_written_again(folder: Path) -> None:
    found = read(folder / "two.yaml")
    first = write_summary(found, folder / "results").read_bytes()
    assert write_summary(found, folder / "results").read_bytes() == first


def test_an_experiment_without_a_cell_has_no_page(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No cell of 'two' is done"):
        write_summary(read(folder / "two.yaml"), tmp_path)
    assert not list(tmp_path.iterdir())
    assert call("experiment", folder / "two.yaml", "--results", tmp_path, "--summary").code == 2


def test_the_command_writes_the_page_alone_or_after_running(folder: Path) -> None:
    places = ("--results", folder / "results", "--work", folder / "work")
    page = folder / "results" / "two" / "README.md"
    page.unlink(missing_ok=True)
    found = call("experiment", folder / "two.yaml", *places, "--summary")
    assert (found.code, page.exists()) == (0, True)
    assert "running" not in found.out
    assert "evolution-seed1" in call("experiment", folder / "two.yaml", *places, "--missing").out


def test_retrained_points_beside_baselines(folder: Path, case: Case) -> None:
    data: dict[str, Any] = {"kind": "retrain", "title": "Points", "settings": case.data(), "learning_rates": [1e-3]}
    data |= {"architectures": {"best": {"experiment": "two"}, "serial": "serial:2"}, "seeds": [40, 41, 42]}
    (folder / "points.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    found = read(folder / "points.yaml")
    run(found, folder / "results", folder / "work", lambda text: None)
    text = write_summary(found, folder / "results").read_text()
    assert "All 2 cells" in text
    cells = found.done(folder / "results")
    best, serial = row(text, "best"), row(text, "serial")
    assert serial[1:3] == [f"{100 * 384 / 32_032:.4g}", "384"]  # three layers, 2 D b = 2 * 32 * 2
    assert [float(best[8]), float(best[10])] == pytest.approx(
        [cells["best"]["summary"][name] for name in ("mean", "median")], abs=1e-4
    )
    assert (best[5], best[6], best[11]) == ("0.001", "test", "3")
    mean = sum(a - b for a, b in zip(cells["best"]["values"], cells["serial"]["values"], strict=True)) / 3
    assert f"| best | {mean:+.4f} (" in text
    assert (folder / "results" / "points" / "results.png").exists()
    costs = [int(cells[line[0]]["counts"]["nominal"]) for line in retrained_table(cells).rows]
    assert costs == sorted(costs)


def test_a_page_is_written_though_the_first_trial_failed(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "results", tmp_path / "results")
    results = Results(tmp_path / "results" / "two")
    data = results.read()["chance-seed0"]
    for name in ("value", "percent", "counts", "seconds", "latency"):
        del data["trials"][0][name]
    results.path.unlink()
    results.append("chance-seed0", {**data, "trials": [{**data["trials"][0], "failure": "oom"}, *data["trials"][1:]]})
    assert "(32,032 parameters)" in write_summary(read(folder / "two.yaml"), tmp_path / "results").read_text()


def test_small_numbers_are_numbers_and_a_broken_cell_is_named(folder: Path, case: Case, tmp_path: Path) -> None:
    data: dict[str, Any] = {"kind": "retrain", "title": "Points", "settings": case.data(), "learning_rates": [1e-3]}
    data |= {"architectures": {"one": {"baseline": "lora:2", "learning_rate": 2e-5}}, "seeds": [40]}
    (tmp_path / "points.yaml").write_text(yaml.safe_dump(data))
    found = read(tmp_path / "points.yaml")
    run(found, tmp_path / "r", tmp_path / "w", lambda text: None)
    assert "| 2e-05 |" in write_summary(found, tmp_path / "r").read_text()
    (tmp_path / "r" / "points" / "cells.jsonl").write_text('{"half": \n')
    with pytest.raises(SettingsError, match=r"Line 1 of the results '.*cells\.jsonl' cannot be read: Expecting value"):
        write_summary(found, tmp_path / "r")


def test_architectures_that_were_not_tuned_are_named() -> None:
    def cell(*values: tuple[float, float | None]) -> dict[str, Any]:
        return {"sweep": ProxySignal("accuracy", values, 1e-3, 0.5, 0.6, 100, "a").as_dict()}

    cells: dict[str, Any] = {
        "good": cell((1e-4, 0.7), (1e-3, 0.8), (1e-2, 0.5)),
        "given": {"sweep": None},
        "low": cell((1e-4, 0.9), (1e-3, 0.8)),
        "blind": cell((1e-4, 0.5), (1e-3, 0.5)),
    }
    edges, _, blind, _ = untuned(cells)
    assert edges.startswith("**At the edge:** low. The best")
    assert blind.startswith("**Not tuned:** blind. At none")
    assert untuned({name: cells[name] for name in ("good", "given")}) == []


def test_the_rates_that_were_tried_and_how_are_named() -> None:
    def cell(tuning: dict[str, Any] | None, *rates: float) -> dict[str, Any]:
        values = tuple((rate, 0.7) for rate in rates)
        return {"tuning": tuning, "sweep": ProxySignal("accuracy", values, 1e-3, 0.5, 0.6, 100, "a").as_dict()}

    short = {"epochs": 1, "warmup": 0.0}
    cells: dict[str, Any] = {
        "one": cell(short, 1e-3, 1e-4),
        "two": cell({}, 1e-3, 1e-4),
        "three": cell(short, 1e-3, 1e-4),
        "given": {"tuning": {}, "sweep": None},
    }
    assert rates_tried(cells) == [
        "Learning rates tried, in this order: 0.001, 0.0001 with epochs 1, warmup 0.0: one, three; "
        "0.001, 0.0001 with the whole recipe: two.",
        "",
    ]
    assert rates_tried({"given": cells["given"]}) == []
