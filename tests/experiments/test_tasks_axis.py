"""One file for several tasks: each entry of ``tasks`` is the file with that entry's changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from autopeft.errors import SettingsError
from autopeft.experiments import read, run, write_summary
from autopeft.experiments._results import Results
from autopeft.experiments.compare import Compare, SearchCell
from autopeft.experiments.retrain import Retrain
from small_case import Case


def write(path: Path, **entries: Any) -> Path:
    data = {"kind": "compare", "title": "All", "settings": {}, "samplers": {"a": {}, "b": {"trials": 3}}, "seeds": [0]}
    path.write_text(yaml.safe_dump({**data, **entries}, sort_keys=False))
    return path


def test_a_name_alone_is_a_task_and_an_entry_changes_what_it_names(tmp_path: Path) -> None:
    tasks: dict[str, Any] = {
        "mrpc": None,
        "short": {
            "settings": {"task": "rte", "recipe": {"epochs": 2}},
            "samplers": {"a": None, "c": {"sampler": "random"}},
            "seeds": [7],
            "title": "RTE in short",
        },
    }
    settings = {"recipe": {"epochs": 5, "batch_size": 8}, "trials": 9}
    found = read(write(tmp_path / "all.yaml", settings=settings, tasks=tasks))
    assert found.cells() == ("mrpc/a-seed0", "mrpc/b-seed0", "short/b-seed7", "short/c-seed7")
    mrpc, short = found.parts.values()
    assert isinstance(mrpc, Compare)
    assert isinstance(short, Compare)
    assert (mrpc.settings.task, mrpc.settings.recipe.epochs, mrpc.origin.title) == ("mrpc", 5, "All")
    assert (short.settings.task, short.settings.recipe.epochs, short.settings.recipe.batch_size) == ("rte", 2, 8)
    assert (short.origin.title, short.settings.trials) == ("RTE in short", 9)
    assert short.settings_of(SearchCell("b", 7)).trials == 3
    plain = read(write(tmp_path / "list.yaml", tasks=["mrpc", "rte"]))
    assert [part.settings.task for part in plain.parts.values() if isinstance(part, Compare)] == ["mrpc", "rte"]


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        (3, "`tasks` is a list of tasks, or a mapping"),
        ([], "`tasks` is a list of tasks, or a mapping"),
        ([1], "`tasks` is a list of tasks, or a mapping"),
        ({"rte": 3}, "`tasks.rte` is a mapping of what differs, but got 3"),
        (["superglue/cb"], "a name in `tasks` has no slash, but got 'superglue/cb'"),
        ({"rte": {"setings": {}}}, r"exactly \[.*\]; see \['setings'\]"),
        ({"rte": {"seeds": []}}, "task 'rte', cannot be used: `seeds` is a list of whole numbers"),
        ({"rte": {"settings": {"trails": 1}}}, "unknown key `trails`"),
    ],
)
def test_mistakes_in_the_tasks(tmp_path: Path, tasks: Any, expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        read(write(tmp_path / "all.yaml", tasks=tasks))


@pytest.mark.slow
def test_tasks_share_a_file_of_results_and_a_page_and_a_retraining_names_its_task(case: Case, tmp_path: Path) -> None:
    searches: dict[str, Any] = {"one": {"settings": {"task": None, "trials": 2}}}
    searches["two"] = {"settings": {"task": None, "seed": 5}, "title": "The second"}
    path = write(
        tmp_path / "all.yaml", settings=case.data(trials=3), samplers={"random": {"sampler": "random"}}, tasks=searches
    )
    found = read(path)
    places = (tmp_path / "r", tmp_path / "w", lambda text: None)
    run(found, *places, "two/random-seed0")
    assert found.missing(tmp_path / "r") == ("one/random-seed0",)
    page = write_summary(found, tmp_path / "r").read_text()
    assert "**1 of 2 cells are missing**" in page
    assert "--cell one/random-seed0" in page
    assert "## two\n\nThe second\n" in page
    assert "## one" not in page
    assert "### Verdict" in page
    run(found, *places)
    assert [len(data["trials"]) for data in Results(tmp_path / "r" / "all").read().values()] == [3, 2]
    assert (tmp_path / "w" / "all" / "two" / "random-seed0" / "study.db").exists()
    assert "## one\n\nModel " in write_summary(found, tmp_path / "r").read_text()
    assert {path.name for path in (tmp_path / "r" / "all").glob("*fronts.png")} == {"one-fronts.png", "two-fronts.png"}

    wanted = {"best": {"experiment": "all", "task": "two"}, "serial": "serial:2"}
    data: dict[str, Any] = {"kind": "retrain", "title": "Points", "settings": case.data(), "architectures": wanted}
    (tmp_path / "points.yaml").write_text(yaml.safe_dump({**data, "seeds": [1], "learning_rates": []}))
    points = read(tmp_path / "points.yaml")
    run(points, *places)
    best = Results(tmp_path / "r" / "points").read()["best"]
    trials = Results(tmp_path / "r" / "all").read()["two/random-seed0"]["trials"]
    top = max((t for t in trials if "value" in t), key=lambda trial: (trial["value"], -trial["percent"]))
    assert best["architecture"] == top["architecture"]
    assert best["found_by"]["task"] == "two"
    assert (best["found_by"]["trial"], best["found_by"]["origin"]) == (top["number"], top["origin"])
    who = "the initial design" if top["origin"] == "initial" else "random"
    line = f"* best: {who} (all/two, random-seed0, trial {top['number']}; {top['value']:.4f} on validation)"
    assert line in write_summary(points, tmp_path / "r").read_text()


def test_an_architecture_can_have_a_recipe_of_its_own(case: Case, tmp_path: Path) -> None:
    wanted = {"own": {"baseline": "lora:2", "recipe": {"weight_decay": 0.1, "learning_rate": "2e-3"}}}
    data: dict[str, Any] = {"kind": "retrain", "title": "t", "settings": case.data(), "architectures": wanted}
    path = tmp_path / "points.yaml"
    path.write_text(yaml.safe_dump({**data, "seeds": [1], "learning_rates": [1e-3, 3e-3]}))
    run(read(path), tmp_path / "r", tmp_path / "w", lambda text: None)
    result = Results(tmp_path / "r" / "points").read()["own"]
    assert (result["learning_rate"], result["sweep"], result["own_recipe"]) == (
        2e-3,
        None,
        {"weight_decay": 0.1, "learning_rate": 2e-3},
    )
    path.write_text(path.read_text().replace("weight_decay", "weight_deacy"))
    with pytest.raises(SettingsError, match=r"did you mean `recipe\.weight_decay`"):
        read(path)
    assert isinstance(Retrain.required, frozenset)
