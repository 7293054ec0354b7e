"""Settings of a search: what a person writes, in YAML or as keywords, checked strictly.

Nothing below this layer sees a settings object: `autopeft.session` turns it into plain objects.
"""

from __future__ import annotations

import difflib
import math
import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from autopeft import yaml_files
from autopeft.errors import SettingsError
from autopeft.training.recipe import CAME_LATER, Recipe
from autopeft.writing import write_whole


@dataclass(frozen=True)
class FileSettings:
    """A user's own files: each part a file, a folder of files, a pattern with ``*``, or a list of these.

    `text` names one or two columns; `choices` the columns of a multiple choice; `encoding` is that of text files, None
    for UTF-8 or what a byte-order mark says.
    """

    train: str | tuple[str, ...]
    text: tuple[str, ...]
    label: str = "label"
    validation: str | tuple[str, ...] | None = None
    test: str | tuple[str, ...] | None = None
    kind: str = "auto"
    choices: tuple[str, ...] = ()
    delimiter: str | None = None
    encoding: str | None = None

    def parts(self) -> dict[str, tuple[str, ...]]:
        """What is named for each part that is given."""
        given = {part: getattr(self, part) for part in _PARTS}
        return {part: (said,) if isinstance(said, str) else said for part, said in given.items() if said is not None}


@dataclass(frozen=True)
class AxisSettings:
    """One method of a space; sizes and roles default to the method's own, 0 among the sizes means absent."""

    sizes: tuple[int, ...] | None = None
    roles: tuple[str, ...] | None = None


@dataclass(frozen=True)
class SpaceSettings:
    """The search space.

    Args:
        name: a space of the papers (`autopeft.spaces.papers.NAMES`), or None to use `methods`.
        methods: method name to sizes and roles.
        sharing: "shared", "layer" or "placement".
        layers: "search", "all", or the 0-based layers that are on.
        budget: "0.5%", "1.39‱", a count, or a range; None for no limit.
        count: which count the budget limits.
    """

    name: str | None = None
    methods: dict[str, AxisSettings] = field(
        default_factory=lambda: {"serial": AxisSettings(), "parallel": AxisSettings(), "prefix": AxisSettings()}
    )
    sharing: Literal["shared", "layer", "placement"] = "shared"
    layers: str | tuple[int, ...] = "search"
    budget: str | None = None
    count: Literal["nominal", "stored"] = "nominal"


@dataclass(frozen=True)
class Settings:
    """A whole search. A resumed one may have other `trials`, `max_retries`, `workers`, `trackers`, `device`, `devices`.

    Args:
        model: a folder, a name on the Hub, or "minilm" (packaged weights).
        task: a task's name; None when `files` are given.
        data: a folder with the task's files in the Hub's field names; None for the task's own source.
        files: the user's own files.
        protocol: how the data is split.
        data_seed: seed of the splits.
        train_limit: keep at most that many training examples.
        validation_limit: keep at most that many validation examples, a random subset drawn from `data_seed`.
        answer: how a text-to-text model's answer is read: "score" compares the likelihoods of the labels, "generate"
            decodes greedily, and what is no label is wrong.
        label_words: whether a text-to-text model says the names of the classes instead of their numbers.
        recipe: how every architecture is trained during the search (the fidelity).
        learning_rates: what the proxy sweep tries; empty keeps the recipe's learning rate.
        sampler, sampler_options: who proposes.
        trials: total number of trials; samplers that answer budgets need no more than they have answers.
        initial: how many of them form the random initial design; None takes 20, or none where the sampler does not
            read what was measured but answers budgets.
        seed: of the search and of every training run in it.
        max_retries: how often a trial whose worker was lost is tried again.
        workers: processes on this machine.
        devices: one for each worker in turn, such as "cuda:0" and "cuda:1"; empty lets all use `device`.
        trackers: experiment trackers that are told of every trial, such as "tensorboard" or "wandb".
        trust_remote_code: whether code that the model brings is run. No file can say so, and none is written that does:
            whoever runs the program does, with ``--trust-remote-code``.
    """

    model: str = "minilm"
    task: str | None = None
    data: str | None = None
    files: FileSettings | None = None
    protocol: str = "holdout"
    data_seed: int = 0
    train_limit: int | None = None
    validation_limit: int | None = None
    space: SpaceSettings = field(default_factory=SpaceSettings)
    answer: Literal["score", "generate"] = "score"
    label_words: bool = False
    recipe: Recipe = field(default_factory=Recipe)
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    sampler: str = "saas-nehvi"
    sampler_options: dict[str, Any] = field(default_factory=dict)
    trials: int = 60
    initial: int | None = None
    seed: int = 42
    max_retries: int = 3
    workers: int = 1
    trackers: tuple[str, ...] = ()
    device: str = "cpu"
    devices: tuple[str, ...] = ()
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        wrong = []
        if (self.task is None) == (self.files is None):
            wrong.append("either `task` or `files` must be given, and not both")
        for name in ("trials", "workers", "train_limit", "validation_limit"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                wrong.append(f"`{name}` must be at least 1, but got {getattr(self, name)}")
        for name in ("initial", "seed", "data_seed", "max_retries"):
            if getattr(self, name) is not None and getattr(self, name) < 0:
                wrong.append(f"`{name}` must be at least 0, but got {getattr(self, name)}")
        if any(not 0 < rate < math.inf for rate in self.learning_rates):
            wrong.append(f"`learning_rates` must be finite and above 0, but got {self.learning_rates}")
        if wrong:
            raise SettingsError(f"The settings cannot be used: {'; '.join(wrong)}.")

    def as_dict(self) -> dict[str, Any]:
        """A mapping ready for YAML and JSON; `from_dict` is its inverse."""
        found: dict[str, Any] = _to_json(asdict(self))
        return found

    def identity(self) -> dict[str, Any]:
        """What must not differ when a study is resumed."""
        found = self.as_dict()
        for name in ("trials", "max_retries", "workers", "trackers", "device", "devices"):
            del found[name]
        found["recipe"] = _without_later(found["recipe"])
        found["files"] = None if self.files is None else _without_later(found["files"])
        return _without_later(found)

    def with_changes(self, **changes: Any) -> Settings:
        """A copy with some settings replaced."""
        return replace(self, **changes)

    def inputs(self) -> dict[str, str | None]:
        """The files and folders that are read, by what a message calls them; the model may be a name of the Hub."""
        own = {} if self.files is None else self.files.parts()
        named = {
            f"the {part} file" + (f" {number}" if len(paths) > 1 else ""): path
            for part, paths in own.items()
            for number, path in enumerate(paths, start=1)
        }
        return {"the base model": self.model, "the data": self.data, **named}


_PARTS = ("train", "validation", "test")

_CAME_LATER: Mapping[str, Any] = MappingProxyType(
    {**CAME_LATER, "consistency": 0.0, "rate_factors": {}, "label_words": False, "encoding": None}
)
"""Settings that studies written before them lack, with the value that they then had."""


def _without_later(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if (name, value) not in _CAME_LATER.items()}


def from_dict(data: Mapping[str, Any], *, trust_remote_code: bool = False) -> Settings:
    """Settings from a mapping as YAML gives it.

    Args:
        trust_remote_code: whether whoever runs the program lets a model bring code; the mapping cannot allow that.

    Raises:
        SettingsError: unknown keys (with the nearest right one) and values of the wrong type, all together.
    """
    mistakes: list[str] = []
    arguments = _arguments(Settings, data, "", mistakes)
    if arguments.pop("trust_remote_code", False) and not trust_remote_code:
        mistakes.append(
            "`trust_remote_code` cannot be allowed by settings, because it runs the code of others on your machine: "
            "leave it out, and if you trust the model, give --trust-remote-code at the command line"
        )
    if mistakes:
        raise SettingsError(f"The settings cannot be used: {'; '.join(mistakes)}.")
    return Settings(**arguments, trust_remote_code=trust_remote_code)


def load(path: str | Path, *, trust_remote_code: bool = False) -> Settings:
    """Settings from a YAML file; see `from_dict`.

    Raises:
        SettingsError: the file cannot be read, is not a mapping, or see `from_dict`.
    """
    return from_dict(read_yaml(path), trust_remote_code=trust_remote_code)


def save(settings: Settings, path: str | Path) -> None:
    """Write the resolved settings as YAML; whether a model may bring code is asked anew of whoever reads them."""
    told = {name: value for name, value in settings.as_dict().items() if name != "trust_remote_code"}
    with write_whole(path) as part:
        part.write_text(yaml.safe_dump(told, sort_keys=False, allow_unicode=True))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        SettingsError: it cannot be read, or holds something else; see `autopeft.yaml_files`.
    """
    data = yaml_files.read(path)
    if not isinstance(data, dict):
        raise SettingsError(f"The settings file {str(path)!r} must hold a mapping, but holds {type(data).__name__}.")
    return data


def _arguments(kind: Any, data: Any, path: str, mistakes: list[str]) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        mistakes.append(f"`{path.removesuffix('.')}` must be a mapping, but got {data!r}")
        return {}
    hints, known = get_type_hints(kind), {item.name for item in fields(kind)}
    arguments = {}
    for key, value in data.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f", did you mean `{path}{near[0]}`?" if near else f"; known are {', '.join(sorted(known))}"
            mistakes.append(f"unknown key `{path}{key}`{hint}")
            continue
        arguments[str(key)] = _value(hints[str(key)], value, f"{path}{key}", mistakes)
    needed = [item.name for item in fields(kind) if item.default is MISSING and item.default_factory is MISSING]
    mistakes.extend(f"`{path}{name}` is missing" for name in needed if name not in data)
    return arguments


def _value(hint: Any, value: Any, path: str, mistakes: list[str]) -> Any:
    """`value` as the type `hint` wants it; a mistake is noted where that cannot be."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _any_of(get_args(hint), value, path, mistakes)
    if is_dataclass(hint):
        before = len(mistakes)
        arguments = _arguments(hint, value or {}, f"{path}.", mistakes)
        return _made(hint, arguments, path, mistakes) if len(mistakes) == before else None
    if origin is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_value(get_args(hint)[0], item, path, mistakes) for item in items)
    if origin is dict and is_dataclass(get_args(hint)[1]):
        named = dict.fromkeys(value) if isinstance(value, (list, tuple)) else value
        if not isinstance(named, Mapping):
            mistakes.append(f"`{path}` must be a mapping or a list of names, but got {value!r}")
            return {}
        return {str(k): _value(get_args(hint)[1], v, f"{path}.{k}", mistakes) for k, v in named.items()}
    if origin is dict:
        return _numbered(value) if isinstance(value, dict) else _wrong("a mapping", value, path, mistakes)
    if origin is Literal:
        choices = get_args(hint)
        return value if value in choices else _wrong(f"one of {', '.join(choices)}", value, path, mistakes)
    return _scalar(hint, value, path, mistakes)


def _any_of(hints: tuple[Any, ...], value: Any, path: str, mistakes: list[str]) -> Any:
    if value is None and type(None) in hints:
        return None
    found: list[str] = []
    for hint in hints:
        if hint is type(None):
            continue
        attempt: list[str] = []
        result = _value(hint, value, path, attempt)
        if not attempt:
            return result
        found = found or attempt
    mistakes.extend(found)
    return None


def _scalar(hint: Any, value: Any, path: str, mistakes: list[str]) -> Any:
    if hint is float and isinstance(value, str):  # YAML reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            return _wrong("a number", value, path, mistakes)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if hint is Any or (isinstance(value, hint) and not (hint is int and isinstance(value, bool))):
        return value
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return _wrong(names.get(hint, str(hint)), value, path, mistakes)


def _numbered(value: Any) -> Any:
    """Options without a type: what YAML reads as text but is a number, such as 1e-3, becomes one."""
    if isinstance(value, dict):
        return {key: _numbered(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbered(item) for item in value]
    is_number = isinstance(value, str) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+", value)
    return float(value) if is_number else value


def _made(kind: Any, arguments: dict[str, Any], path: str, mistakes: list[str]) -> Any:
    try:
        return kind(**arguments)
    except (SettingsError, TypeError) as error:
        mistakes.append(f"`{path}`: {str(error).removesuffix('.')}")
        return None


def _wrong(wanted: str, value: Any, path: str, mistakes: list[str]) -> None:
    mistakes.append(f"`{path}` must be {wanted}, but got {value!r}")


def _to_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    return [_to_json(item) for item in value] if isinstance(value, (list, tuple)) else value
