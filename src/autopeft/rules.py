"""What a field of settings must be: said beside it, checked by pydantic, told in this package's words.

A settings class is a frozen dataclass whose fields have the types below. pydantic checks what is made (`violations`),
makes one out of a mapping (`read`) and describes one to editors (`schema`). It is imported by the first of these and
not before, so that a command that only names a settings class does not wait for it.
"""

from __future__ import annotations

import difflib
import math
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from autopeft.errors import SettingsError

T = TypeVar("T")
KindT = TypeVar("KindT")

Json = Mapping[str, Any]

_IN_A_FILE = "as a person writes it"


@dataclass(frozen=True, eq=False)
class Written:
    """How a person may write a value, beside the type that it has.

    Args:
        read: what is written to what is checked; anything that it does not know it gives back as it is.
        also: out of the JSON Schema of the type, that of what may be written instead; None for nothing.
        words: what the value must be; empty where the type says it.
    """

    read: Callable[[Any], Any] = lambda value: value
    also: Callable[[Json], Json] | None = None
    words: str = ""

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        """The type's own check, in a file behind `read`.

        Nothing else is converted: 2.0 is no whole number, "yes" is not true; a list may stand for a tuple.
        """
        from pydantic_core import core_schema

        def as_written(value: Any, info: Any) -> Any:
            # A value that is given in Python stays what it is, so it must be what it should be already.
            return self.read(value) if info.context is _IN_A_FILE else value

        inner = handler(source)
        if inner["type"] in ("int", "float", "str", "bool", "tuple"):
            inner["strict"] = inner["type"] != "tuple"
        if inner["type"] == "float":
            # YAML can write an infinity, and every bound above would let it pass.
            inner["allow_inf_nan"] = False
        return core_schema.with_info_before_validator_function(as_written, inner)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Callable[[Any], Any]) -> Any:
        """The type's own schema, or `also`."""
        own = handler(schema)
        return own if self.also is None else {"anyOf": [own, self.also(own)]}


# -- how a person writes -----------------------------------------------------------------------------------


def _number(value: Any) -> Any:
    """YAML reads 1e-3 as text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _text(value: Any) -> Any:
    """A name that is a number, or a budget of 20000."""
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _many(value: Any) -> Any:
    """One value for a list of one."""
    if isinstance(value, (list, tuple)):
        return tuple(value)
    return value if isinstance(value, Mapping) or value is None else (value,)


def _named(value: Any) -> Any:
    """Names alone, each with what is usual."""
    return dict.fromkeys(map(str, value)) if isinstance(value, (list, tuple)) else value


def _part(value: Any) -> Any:
    """A key with nothing behind it leaves all below it as it is."""
    return {} if value is None else value


def _numbered(value: Any) -> Any:
    """Options without a type: what YAML reads as text but is a number, such as 1e-3, becomes one."""
    if isinstance(value, dict):
        return {key: _numbered(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbered(item) for item in value]
    is_number = isinstance(value, str) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+", value)
    return float(value) if is_number else value


_NAMES: Json = {"type": "array", "items": {"type": "string"}}

NUMBER = Written(_number)
EXACT = Written()

Flag = Annotated[bool, EXACT]
Text = Annotated[str, Written(_text, also=lambda _: {"type": "number"})]
Number = Annotated[float, NUMBER]
Positive = Annotated[float, Gt(0), NUMBER]
NotNegative = Annotated[float, Ge(0), NUMBER]
Share = Annotated[float, Ge(0), Le(1), NUMBER]
PositiveShare = Annotated[float, Gt(0), Le(1), NUMBER]
BelowOne = Annotated[float, Ge(0), Lt(1), NUMBER]
Probability = Annotated[float, Gt(0), Lt(1), NUMBER]
Natural = Annotated[int, Ge(0), EXACT]
Count = Annotated[int, Ge(1), EXACT]
Several = Annotated[int, Ge(2), EXACT]
Many = Annotated[tuple[T, ...], Written(_many, also=lambda own: own["items"])]
"""A list; one value stands for a list of one."""
Part = Annotated[T, Written(_part, also=lambda _: {"type": "null"})]
"""Settings inside of settings."""
Named = Annotated[
    dict[str, Part[T]],
    Written(_named, also=lambda _: _NAMES, words="a mapping or a list of names"),
]
"""Settings by name; a list of names takes the usual ones."""
Options = Annotated[dict[str, Any], Written(_numbered)]
"""Whatever somebody else checks."""

CLOSED = {"extra": "forbid"}
"""What a class that is read out of a mapping has as its ``__pydantic_config__``: unknown keys are mistakes."""


# -- what is asked of pydantic -----------------------------------------------------------------------------


def violations(settings: Any) -> list[str]:
    """Every field of `settings` that is not what its type says, with its value."""
    from pydantic import ValidationError

    kind: Any = type(settings)
    try:
        _flat(kind).model_validate(dict(vars(settings)))
    except ValidationError as error:
        return list(_problems(kind, error, quote=""))
    return []


def misfit(name: str, hint: Any, value: Any) -> list[str]:
    """What is wrong with one value that is no field of settings, if anything."""
    from pydantic import ValidationError

    try:
        _adapter(hint).validate_python(value)
    except ValidationError:
        return [f"{name} must be {in_words(hint, value)}, but got {value!r}"]
    return []


def read(kind: Callable[..., KindT], data: Any) -> KindT | list[str]:
    """A settings object out of a mapping as YAML gives it, or all mistakes: unknown keys, missing ones, wrong values.

    Raises:
        SettingsError: the fields are right each by itself, and not together.
    """
    from pydantic import ValidationError

    try:
        found: KindT = _adapter(kind).validate_python(data, context=_IN_A_FILE)
    except ValidationError as error:
        # What is wrong with several fields together is found when each is right, and has its own words already.
        last = error.errors()[-1]
        if not last["loc"] and last["type"] == "value_error":
            raise last["ctx"]["error"] from None
        return list(_problems(kind, error, quote="`"))
    return found


def schema(kind: Any) -> dict[str, Any]:
    """The JSON Schema of a settings class, each key with what its docstring says of it."""
    found: dict[str, Any] = _adapter(kind).json_schema()
    for name, part in {**found.get("$defs", {}), kind.__name__: found}.items():
        owner = next((item for item in _classes(kind) if item.__name__ == name), None)
        about = {} if owner is None else described(owner)
        for key, entry in part.get("properties", {}).items():
            # A title that repeats the key would only fill the editor's tooltip.
            entry.pop("title", None)
            if key in about:
                entry["description"] = about[key]
            if key in (usual := _usual(kind, owner)):
                entry["default"] = usual[key]
        part["description"] = "" if owner is None else (owner.__doc__ or "").split("\n")[0]
    return found


def _usual(kind: Any, part: Any) -> dict[str, Any]:
    """Defaults of a class inside of `kind` that differ there from those that it has by itself."""
    for item in fields(kind):
        if item.default_factory is not MISSING and type(found := item.default_factory()) is part:
            own = vars(part())
            return {name: value for name, value in vars(found).items() if value != own[name]}
    return {}


def described(kind: Any) -> dict[str, str]:
    """What the docstring of a settings class says of its fields, below ``Args:``; one entry may be of several."""
    found: dict[str, str] = {}
    for section in re.findall(r"^ *Args:\n((?: {8}.*\n|\n)*)", f"{kind.__doc__}\n", flags=re.MULTILINE):
        # The docstring is the one place where a field is described, so that editors, the reference and readers are told
        # the same.
        for entry in re.split(r"^ {8}(?=\w)", section, flags=re.MULTILINE)[1:]:
            names, _, text = entry.partition(": ")
            found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return found


def raise_if_any(what: str, problems: Sequence[str]) -> None:
    """Raise one error that lists every problem; none, nothing happens.

    Raises:
        SettingsError: there is at least one problem.
    """
    if problems:
        raise SettingsError(f"{what}: {'; '.join(problems)}.")


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


@cache
def _flat(kind: Any) -> Any:
    """The fields of `kind` alone: the class itself would be made again, and check itself again."""
    from pydantic import ConfigDict, create_model

    known: dict[str, Any] = {name: (hint, ...) for name, hint in _hints(kind).items()}
    return create_model(kind.__name__, __config__=ConfigDict(strict=True, allow_inf_nan=False), **known)


def _classes(kind: Any) -> Iterator[Any]:
    """`kind` and every settings class inside of it."""
    yield kind
    for hint in _hints(kind).values():
        for part in _inside(hint):
            yield from _classes(part)


def _inside(hint: Any) -> Iterator[Any]:
    if isinstance(hint, type) and is_dataclass(hint):
        yield hint
    for part in get_args(hint):
        yield from _inside(part)


# -- in words ----------------------------------------------------------------------------------------------


def _problems(kind: Any, error: Any, quote: str) -> Iterator[str]:
    seen = set()
    for item in error.errors(include_url=False):
        path, hint, owner = _place(kind, [str(part) for part in item["loc"]])
        name = f"{quote}{path}{quote}"
        if name in seen:  # what may be one of several things fails once for each
            continue
        seen.add(name)
        # An inner class has checked itself and told it in this package's words already.
        if item["type"] == "value_error":
            yield f"{name}: {str(item['ctx']['error']).removesuffix('.')}"
        elif item["type"] == "missing":
            yield f"{name} is missing"
        elif hint is MISSING:
            yield f"unknown key {name}{_nearest(path, owner, quote)}"
        else:
            yield f"{name} must be {in_words(hint, item['input'])}, but got {item['input']!r}"


def _place(kind: Any, loc: Sequence[str]) -> tuple[str, Any, Any]:
    """The path with dots, the type that is wanted there (MISSING: the key is unknown), and the class with the key."""
    path, hint = "", kind
    owner: Any = kind
    for part in loc:
        base: Any = _bare(hint)
        if is_dataclass(base):
            path, owner = f"{path}.{part}".lstrip("."), base
            hint = _hints(owner).get(part, MISSING)
        # pydantic names the key itself as the place where a key is wrong.
        elif get_origin(base) is dict and part != "[key]":
            path, hint = f"{path}.{part}", get_args(base)[1]
        elif get_origin(base) is tuple:
            hint = get_args(base)[0]
        else:
            break
    return path, hint, owner


def _bare(hint: Any) -> Any:
    """The type without what is said of it; of one that may be None, the other."""
    if get_origin(hint) is Annotated:
        return _bare(get_args(hint)[0])
    others = [part for part in get_args(hint) if part is not type(None)]
    is_optional = get_origin(hint) in (Union, types.UnionType) and len(others) == 1
    return _bare(others[0]) if is_optional else hint


def _nearest(path: str, owner: Any, quote: str) -> str:
    before, _, key = path.rpartition(".")
    known = [item.name for item in fields(owner)]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if near:
        return f", did you mean {quote}{before}{'.' if before else ''}{near[0]}{quote}?"
    return f"; known are {', '.join(sorted(known))}"


def in_words(hint: Any, value: Any = 0) -> str:
    """What a value of the type `hint` must be; `value` is what it is instead."""
    inside = get_args(hint)
    if get_origin(hint) is Annotated:
        own = next((item.words for item in inside[1:] if isinstance(item, Written) and item.words), "")
        return own or _with_limits(inside[0], inside[1:], value)
    if get_origin(hint) in (Union, types.UnionType):
        named = [in_words(part, value) for part in inside if part is not type(None)]
        return " or ".join([*(["None"] if type(None) in inside else []), *named])
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, inside))}"
    if get_origin(hint) is tuple:
        return f"a list, each {in_words(inside[0])}"
    return _with_limits(hint, (), value)


def _with_limits(base: Any, limits: Sequence[Any], value: Any) -> str:
    said = [text for limit in limits if (text := _limit(limit))]
    # A number that is out of range is told the range; whatever is no number is told that one is wanted.
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if base is int:
        return "a whole number" + (f" of {' and '.join(said)}" if said else "")
    if base is float and said:
        wanted = "" if is_number else "a finite number " + ("of " if said[0].startswith("at ") else "")
        return wanted + " and ".join(said)
    names = {float: "a finite number", str: "text", bool: "true or false"}
    if base in names:
        return names[base]
    return "a mapping" if is_dataclass(base) or get_origin(base) is dict else in_words(base, value)


def _limit(limit: Any) -> str:
    """A bound in words; nothing for what is no bound."""
    match limit:
        case Gt(gt=bound):
            return f"above {bound}"
        case Ge(ge=bound):
            return f"at least {bound}"
        case Lt(lt=bound):
            return f"below {bound}"
        case Le(le=bound):
            return f"at most {bound}"
    return ""
