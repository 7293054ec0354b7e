"""Settings check themselves: every broken field is told, mappings are read strictly, and editors are told the same."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from annotated_types import Ge

from autopeft.errors import SettingsError
from autopeft.rules import (
    CLOSED,
    EXACT,
    BelowOne,
    Count,
    Flag,
    Many,
    Named,
    NotNegative,
    Number,
    Part,
    Positive,
    PositiveShare,
    Share,
    Text,
    described,
    in_words,
    misfit,
    raise_if_any,
    read,
    schema,
    violations,
)
from autopeft.settings import Settings, SpaceSettings
from autopeft.training.recipe import Recipe
from small_case import call


@dataclass(frozen=True)
class Inner:
    """What is inside."""

    share: Share = 0.5

    __pydantic_config__ = CLOSED


@dataclass(frozen=True)
class Outer:
    """What is outside.

    Args:
        rate, count: how fast; how
            many.
        inner: the part.
    """

    rate: Positive
    count: Count | None = None
    names: Many[Text] = ()
    mode: Literal["a", "b"] = "a"
    is_on: Flag = False
    inner: Part[Inner] = field(default_factory=Inner)
    many: Named[Inner] = field(default_factory=dict)
    by_name: dict[str, Positive] = field(default_factory=dict)
    either: Text | Many[Text] = "x"

    __pydantic_config__ = CLOSED

    def __post_init__(self) -> None:
        problems = violations(self)
        if not problems and self.rate > 5 and self.is_on:
            problems.append("`rate` is at most 5 when it is on")
        raise_if_any("The outer cannot be used", problems)


@pytest.mark.parametrize(
    ("hint", "right", "wrong"),
    [
        (Positive, [1, 0.5], ["1e-3", 0, -1, float("nan"), float("inf"), "a", None, True]),
        (NotNegative, [0, 2.0], [-1e-9, float("nan"), float("inf"), None]),
        (Share, [0, 1, 0.5], [-0.1, 1.1, float("nan")]),
        (PositiveShare, [1, 0.5], [0, 1.1]),
        (BelowOne, [0, 0.99], [1, -0.1]),
        (Number, [-3, 2.5], [float("inf"), float("nan"), "x"]),
        (Count, [1, 100], [0, 1.0, True, "1", None]),
        (Annotated[int, Ge(8), EXACT], [8], [7]),
        (Flag, [True, False], ["yes", 1, None]),
        (Text, ["a"], [5, None, True, ["a"]]),
        (Many[Count], [(1,), [1, 2]], [3, [0], None, {"a": 1}]),
        (Literal["a", "b"], ["a"], ["c", None]),
        (Count | None, [None, 1], [0]),
    ],
)
def test_a_type_knows_right_from_wrong(hint: Any, right: list[Any], wrong: list[Any]) -> None:
    assert not any(misfit("it", hint, value) for value in right)
    assert all(misfit("it", hint, value) for value in wrong)


@pytest.mark.parametrize(
    ("hint", "value", "words"),
    [
        (Positive, 0, "above 0"),
        (Positive, "fast", "a finite number above 0"),
        (BelowOne, 1, "at least 0 and below 1"),
        (Number, "x", "a finite number"),
        (Count | None, 0, "None or a whole number of at least 1"),
        (Literal["a", "b"], "c", "one of a, b"),
        (Many[Positive], None, "a list, each above 0"),
        (Named[Inner], 3, "a mapping or a list of names"),
        (Text | Many[Text], None, "text or a list, each text"),
    ],
)
def test_what_a_value_must_be_is_said_in_words(hint: Any, value: Any, words: str) -> None:
    assert in_words(hint, value) == words


def test_every_broken_field_is_told_with_its_value() -> None:
    with pytest.raises(SettingsError) as caught:
        Outer(0, count=0, mode="c", by_name={"lora": -1})  # type: ignore[arg-type]
    assert str(caught.value) == (
        "The outer cannot be used: rate must be above 0, but got 0; count must be None or a whole number of at least "
        "1, but got 0; mode must be one of a, b, but got 'c'; by_name.lora must be above 0, but got -1."
    )


def test_values_stay_as_they_were_given() -> None:
    """Studies compare and hash what they were told: 3 must not become 3.0, and text is no number but in a file."""
    with pytest.raises(SettingsError, match="rate must be a finite number above 0, but got '3'"):
        Outer("3")  # type: ignore[arg-type]
    found = Outer(3, by_name={"lora": 2})
    assert (type(found.rate), type(found.by_name["lora"])) == (int, int)


def test_mappings_are_read_as_a_person_means_them() -> None:
    found = read(Outer, {"rate": "2e-1", "names": "a", "inner": None, "many": ["x", "y"], "either": ["p", 1]})
    assert found == Outer(0.2, names=("a",), many={"x": Inner(), "y": Inner()}, either=("p", "1"))


def test_mistakes_in_a_mapping_have_their_path() -> None:
    wrong = {
        "rat": 1,
        "inner": {"share": 2, "shar": 1},
        "many": {"x": {"share": "a"}},
        "names": ["a", None],
        "is_on": 1,
    }
    assert read(Outer, wrong) == [
        "`rate` is missing",
        "`names` must be text, but got None",
        "`is_on` must be true or false, but got 1",
        "`inner.share` must be at least 0 and at most 1, but got 2",
        "unknown key `inner.shar`, did you mean `inner.share`?",
        "`many.x.share` must be a finite number of at least 0 and at most 1, but got 'a'",
        "unknown key `rat`, did you mean `rate`?",
    ]
    assert read(Outer, {"rate": 1, "zzz": 1}) == [f"unknown key `zzz`; known are {', '.join(sorted(NAMES))}"]
    assert read(Outer, {"rate": 1, "inner": 3, "many": 3}) == [
        "`inner` must be a mapping, but got 3",
        "`many` must be a mapping or a list of names, but got 3",
    ]


NAMES = [item.name for item in fields(Outer)]


def test_what_is_wrong_together_is_said_once() -> None:
    with pytest.raises(SettingsError, match=r"^The outer cannot be used: `rate` is at most 5 when it is on\.$"):
        read(Outer, {"rate": 9, "is_on": True})


def test_docstrings_describe_the_fields() -> None:
    assert described(Outer) == {"rate": "how fast; how many.", "count": "how fast; how many.", "inner": "the part."}
    found = schema(Outer)
    assert found["properties"]["inner"]["description"] == "the part."
    assert (found["required"], found["additionalProperties"]) == (["rate"], False)


DOCS = Path(__file__).parent.parent / "docs"
SCHEMA = json.loads((DOCS / "settings.schema.json").read_text())


def accepts(data: Any) -> bool:
    return jsonschema.Draft202012Validator(SCHEMA).is_valid(data)


@pytest.mark.parametrize(
    ("data", "is_right"),
    [
        ({"task": "mrpc", "learning_rates": 1e-3, "recipe": {"epochs": 2}}, True),
        ({"task": "mrpc", "recipe": None, "space": {"methods": ["serial"], "layers": [1], "budget": 20000}}, True),
        ({"files": {"train": ["a.csv", "b.csv"], "text": "a"}}, True),
        ({"task": "mrpc", "space": {"methods": {"lora": None, "serial": {"sizes": [0, 4]}}}}, True),
        ({"task": "mrpc", "trails": 3}, False),
        ({"task": "mrpc", "trials": 0}, False),
        ({"task": "mrpc", "recipe": {"warmup": 1}}, False),
        ({"task": "mrpc", "space": {"sharing": "all"}}, False),
        ({"files": {"text": "a"}}, False),
        ({"task": "mrpc", "learning_rates": ["fast"]}, False),
    ],
)
def test_editors_are_told_what_the_reader_takes(data: dict[str, Any], is_right: bool) -> None:
    assert accepts(data) is is_right
    assert isinstance(read(Settings, data), Settings) is is_right


def test_the_schema_of_the_settings_is_current() -> None:
    assert schema(Settings) == SCHEMA, "run: autopeft schema > docs/settings.schema.json"
    for name, kind in {"Recipe": Recipe, "SpaceSettings": SpaceSettings}.items():
        assert set(SCHEMA["$defs"][name]["properties"]) == {item.name for item in fields(kind)}


def test_every_key_is_described() -> None:
    parts = {"Settings": SCHEMA, **SCHEMA["$defs"]}
    assert not [
        f"{n}.{key}" for n, p in parts.items() for key, item in p["properties"].items() if not item.get("description")
    ]


def test_the_command_writes_what_is_committed(tmp_path: Path) -> None:
    shown = call("schema")
    assert (shown.code, json.loads(shown.out)) == (0, SCHEMA)
    assert call("schema", "--out", tmp_path / "s.json").code == 0
    assert (tmp_path / "s.json").read_text() == (DOCS / "settings.schema.json").read_text()
