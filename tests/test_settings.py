"""Settings: read strictly, written whole, compared on resumption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft import settings as module
from autopeft.errors import SettingsError
from autopeft.settings import AxisSettings, FileSettings, Settings, from_dict, load, read_yaml, save

rates = st.lists(st.floats(1e-6, 1e-1), max_size=3).map(tuple)


@given(
    trials=st.integers(1, 500),
    seed=st.integers(0, 2**31),
    rates=rates,
    sizes=st.none() | st.lists(st.integers(0, 64), min_size=1, max_size=4).map(tuple),
    budget=st.none() | st.sampled_from(["0.5%", "1.39‱", "837120"]),
    layers=st.sampled_from(["search", "all", (0, 2)]),
    fraction=st.floats(0.01, 1),
)
def test_as_dict_and_from_dict_are_inverse(
    trials: int, seed: int, rates: Any, sizes: Any, budget: Any, layers: Any, fraction: float
) -> None:
    found = Settings(
        task="mrpc",
        trials=trials,
        seed=seed,
        learning_rates=rates,
        space=module.SpaceSettings(methods={"lora": AxisSettings(sizes)}, budget=budget, layers=layers),
        recipe=module.Recipe(data_fraction=fraction),
        sampler_options={"preset": "paper"},
    )
    assert from_dict(found.as_dict()) == found


def test_a_saved_file_is_read_back_and_holds_every_setting(tmp_path: Path) -> None:
    found = Settings(files=FileSettings("a.csv", ("é", "b")), model="ü", trials=7)
    save(found, tmp_path / "s.yaml")
    assert load(tmp_path / "s.yaml") == found
    assert set(read_yaml(tmp_path / "s.yaml")) == set(Settings.__dataclass_fields__) - {"trust_remote_code"}


def test_yaml_is_taken_as_a_person_means_it() -> None:
    found = from_dict(
        {
            "task": "mrpc",
            "model": 5,
            "learning_rates": "1e-3",  # YAML reads 1e-3 as text, and one value for a list of one
            "recipe": {"learning_rate": "3e-4", "epochs": 2},
            "space": {"methods": ["serial", "lora"], "layers": [1, 2], "budget": 20000},
        }
    )
    assert (found.model, found.learning_rates) == ("5", (1e-3,))
    assert (found.recipe.learning_rate, found.recipe.epochs) == (3e-4, 2.0)
    assert found.space.methods == {"serial": AxisSettings(), "lora": AxisSettings()}
    assert (found.space.layers, found.space.budget) == ((1, 2), "20000")


def test_identity_is_everything_but_how_much_and_where() -> None:
    base = Settings(task="mrpc")
    assert base.with_changes(trials=9, workers=3, device="cuda").identity() == base.identity()
    for change in ({"seed": 1}, {"initial": 3}, {"model": "x"}, {"train_limit": 5}, {"sampler": "random"}):
        assert base.with_changes(**change).identity() != base.identity()


ENDS = {"truncation_side": "left"}


def test_a_study_from_before_a_setting_came_is_the_same_at_its_default() -> None:
    base = Settings(task="mrpc")
    assert "consistency" not in base.identity()["recipe"]
    consistent = base.with_changes(recipe=replace(base.recipe, consistency=0.5))
    assert consistent.identity()["recipe"] == {**base.identity()["recipe"], "consistency": 0.5}
    assert "truncation_side" not in {**base.identity()["recipe"], **base.recipe.identity()}
    ends = replace(base.recipe, truncation_side="left")
    assert base.with_changes(recipe=ends).identity()["recipe"] == {**base.identity()["recipe"], **ENDS}
    assert ends.identity() == {**base.recipe.identity(), **ENDS}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"task": "a", "trails": 3}, "unknown key `trails`, did you mean `trials`?"),
        ({"task": "a", "zzz": 3}, "known are answer, batch, cost, data, data_seed"),
        ({"task": "a", "recipe": {"epoch": 3}}, "unknown key `recipe.epoch`, did you mean `recipe.epochs`?"),
        ({"task": "a", "trials": 2.5}, "`trials` must be a whole number of at least 1, but got 2.5"),
        ({"task": "a", "trials": True}, "`trials` must be a whole number of at least 1, but got True"),
        ({"task": "a", "trust_remote_code": "yes"}, "`trust_remote_code` must be true or false, but got 'yes'"),
        ({"task": "a", "learning_rates": ["fast"]}, "`learning_rates` must be a finite number above 0, but got 'fast'"),
        ({"task": "a", "space": {"sharing": "all"}}, "one of shared, layer, placement, band, but got 'all'"),
        ({"task": "a", "space": {"methods": "serial"}}, "`space.methods` must be a mapping or a list of names"),
        ({"task": "a", "space": 3}, "`space` must be a mapping, but got 3"),
        ({"task": "a", "sampler_options": [1]}, "`sampler_options` must be a mapping, but got [1]"),
        ({"files": {"train": "a.csv"}}, "`files.text` is missing"),
        ({"files": {"text": "a"}}, "`files.train` is missing"),
        ({"task": "a", "recipe": {"warmup": 1.5}}, "`recipe.warmup` must be at least 0 and below 1, but got 1.5"),
        (
            {"task": "a", "trials": 0, "workers": -1},
            "`trials` must be a whole number of at least 1, but got 0; `workers` must be",
        ),
        ({}, "either `task` or `files` must be given"),
    ],
)
def test_mistakes_are_named_with_their_values(data: dict[str, Any], expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        from_dict(data)
    assert expected in str(caught.value)
    assert ".." not in str(caught.value)


def test_several_mistakes_are_listed_together() -> None:
    with pytest.raises(SettingsError) as caught:
        from_dict({"task": "a", "trails": 3, "seed": "x", "recipe": {"epoch": 1}})
    assert all(text in str(caught.value) for text in ("`trails`", "`seed`", "`recipe.epoch`"))


def test_an_unreadable_file_is_named_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    for content, expected in {
        "a: [1\nb:": "line 2, column 2",
        "a: 1\nb: {": "broken at its end",
        "3": "holds int",
    }.items():
        path.write_text(content)
        with pytest.raises(SettingsError, match=expected):
            read_yaml(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_yaml(path)


def test_the_initial_design_may_be_empty_or_left_open() -> None:
    assert from_dict({"task": "mrpc"}).initial is None
    assert from_dict({"task": "mrpc", "initial": 0}).initial == 0
    with pytest.raises(SettingsError, match="`initial` must be None or a whole number of at least 0, but got -1"):
        from_dict({"task": "mrpc", "initial": -1})


def test_numbers_that_yaml_reads_as_text_are_numbers_in_options_too() -> None:
    options = {"learning_rate": "1e-3", "budgets": ["1e4", "0.5%"], "preset": "paper", "inner": {"a": "-2.5E2"}}
    assert from_dict({"task": "mrpc", "sampler_options": options}).sampler_options == {
        "learning_rate": 1e-3,
        "budgets": [1e4, "0.5%"],
        "preset": "paper",
        "inner": {"a": -250.0},
    }
