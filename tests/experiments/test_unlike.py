"""Results of another experiment than the file describes now are told, left out and never added to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from autopeft.errors import SettingsError
from autopeft.experiments import Experiment, read, run, summary
from autopeft.experiments._page import _missing, _unlike
from autopeft.experiments._results import Results
from autopeft.experiments._unlike import differences, other_data
from small_case import Case

KINDS: dict[str, dict[str, Any]] = {
    "compare": {"samplers": {"a": {"sampler": "random"}, "b": {"sampler": "evolution"}}, "seeds": [0]},
    "contest": {
        "samplers": {"a": {"sampler": "random"}, "b": {"sampler": "evolution"}},
        "seeds": [0],
        "budgets": ["2%"],
        "retraining": {"seeds": [0, 1]},
    },
    "payoff": {
        "rivals": {name: {"how": "grid", "baselines": ["lora:1"], "rates": [1e-2]} for name in ("a", "b")},
        "ours": "a",
        "cost": 2,
        "seeds": [0],
        "retraining": {"seeds": [0, 1]},
    },
    "retrain": {"architectures": {"a": "lora:1", "b": "serial:1"}, "seeds": [0, 1], "learning_rates": [1e-3]},
}


def asked(case: Case, folder: Path, kind: str, changes: dict[str, Any] | None = None, **settings: Any) -> Experiment:
    data = {"kind": kind, "title": "Two", "settings": case.data(**settings), **KINDS[kind], **(changes or {})}
    (folder / "two.yaml").write_text(yaml.safe_dump(data))
    return read(folder / "two.yaml")


def keep(found: Experiment, folder: Path, cells: slice = slice(None)) -> None:
    """Results that are no more than what was asked for."""
    for name in found.cells()[cells]:
        part: Any = found.parts[""]
        Results(folder / "two").append(name, {"headline": "done", **part.asks(found.find(name)[1])})


@pytest.mark.parametrize("kind", KINDS)
def test_results_of_a_file_that_has_changed_are_refused(case: Case, tmp_path: Path, kind: str) -> None:
    keep(found := asked(case, tmp_path, kind), tmp_path, slice(1))
    assert (found.unlike(tmp_path), len(found.done(tmp_path))) == ({}, 1)
    now = asked(case, tmp_path, kind, recipe={"steps": 5, "batch_size": 8, "max_length": 16})
    told = "`settings.recipe.steps` is 2 there and 5 in the file"
    assert now.unlike(tmp_path) == {found.cells()[0]: [told]}
    assert (now.missing(tmp_path), now.done(tmp_path)) == (now.cells(), {})
    with pytest.raises(SettingsError, match="are of another experiment than the file describes now") as caught:
        run(now, tmp_path, tmp_path / "work", print)
    assert told in str(caught.value)
    with pytest.raises(SettingsError, match="steps` is 2 there"):
        summary(now, tmp_path)


@pytest.mark.parametrize(
    ("kind", "changes", "key"),
    [("payoff", {"cost": 3}, "settings.trials"), ("payoff", {"retraining": {"seeds": [7]}}, "tested.seeds"),
     ("contest", {"retraining": {"seeds": [7]}}, "retraining.seeds"), ("retrain", {"seeds": [7]}, "seeds")],
)  # fmt: skip
def test_what_stands_beside_the_settings_is_compared(
    case: Case, tmp_path: Path, kind: str, changes: dict[str, Any], key: str
) -> None:
    keep(asked(case, tmp_path, kind), tmp_path)
    told = asked(case, tmp_path, kind, changes).unlike(tmp_path)
    assert len(told) == 2
    assert all(any(f"`{key}` is " in phrase for phrase in phrases) for phrases in told.values())


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [("payoff", {"rates": [1e-2]}, {"rates": [1e-2, 3e-2]}), ("payoff", {"rates": ["1e-2"]}, {"rates": [0.01]}),
     ("contest", {}, {"sampler_options": {"preset": "paper"}})],
)  # fmt: skip
def test_a_rival_that_is_asked_otherwise_is_another(
    case: Case, tmp_path: Path, kind: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    """However a number is written, and whether something is changed or added."""
    key = "rivals" if kind == "payoff" else "samplers"
    sampler = {"sampler": "saas-nehvi"} if kind == "contest" else {}
    mine = [{key: {**KINDS[kind][key], "b": {**KINDS[kind][key]["b"], **sampler, **one}}} for one in (before, after)]
    keep(asked(case, tmp_path, kind, mine[0]), tmp_path)
    told = asked(case, tmp_path, kind, mine[1]).unlike(tmp_path)
    is_same = before.get("rates") == ["1e-2"]
    assert [name.partition("-")[0] for name in told] == ([] if is_same else ["b"])


def test_folders_devices_what_came_later_and_what_is_found_out_are_not_compared() -> None:
    here = {"model": "m/bert", "device": "cpu", "initial": None, "recipe": {"steps": 2, "learning_rate": 1e-3}}
    there = {"model": "/home/x/bert", "device": "cuda", "initial": 20, "recipe": {"steps": 2.0, "learning_rate": 3e-3}}
    asks = {"settings": {**here, "learning_rates": [1e-3, 3e-3], "new": 1}, "tuning": {}}
    assert differences(asks, {"settings": {**there, "learning_rates": []}}) == []
    assert len(differences({"settings": here}, {"settings": there})) == 1  # without a sweep the rate is the file's
    methods = [
        {"settings": {"space": {"methods": {key: {} for key in names}}}} for names in (["lora"], ["lora", "prefix"])
    ]
    assert differences(*methods) == ["`settings.space.methods` is ['lora', 'prefix'] there and ['lora'] in the file"]


def test_cells_of_one_seed_have_the_same_examples() -> None:
    def cell(seed: int, digest: str) -> dict[str, Any]:
        return {"settings": {"data_seed": seed}, "splits": {"train": {"digest": digest}, "validation": {"digest": "v"}}}

    cells = {"a": cell(0, "one"), "b": cell(0, "one"), "c": cell(1, "two"), "d": cell(0, "two")}
    assert other_data(cells.items()) == {"d": ["the train part has other examples than that of 'a'"]}


def test_the_page_names_what_is_left_out_and_does_not_say_that_all_is_done(case: Case, tmp_path: Path) -> None:
    keep(asked(case, tmp_path, "payoff"), tmp_path, slice(1))
    now = asked(case, tmp_path, "payoff", {"cost": 3})
    keep(now, tmp_path, slice(1, 2))
    assert list(now.done(tmp_path)) == ["b-seed0"]
    text = "\n".join([*_missing(now, tmp_path), *_unlike(now.unlike(tmp_path))])
    assert "are done" not in text
    assert "**The results of 1 cells are of another experiment than the file describes now**" in text
    assert "* `a-seed0`: `settings.trials` is 2 there and 3 in the file" in text
