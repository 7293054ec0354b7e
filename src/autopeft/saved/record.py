"""``architecture.json`` of a saved folder: what it must hold, and the digests that bind it and the weights."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autopeft.architecture import Architecture
from autopeft.backbones._quantized import QUANTIZED
from autopeft.errors import ArchitectureError
from autopeft.reading import followed, read_json
from autopeft.tasks import _answers as answers

FORMAT = 2
"""Version of the folder's format. Since 2 a regression has the scale of its numbers; one of format 1 has none."""

RECORD = "architecture.json"
"""The file in a saved folder that says what it holds."""

_COUNTED = ("nominal", "stored", "trained", "backbone")
# What folders of the first versions lack.
_DEFAULTS: Mapping[str, Any] = {"inputs": [], "prompt": "", "verbalisers": [], "facts": {}, "digests": {}}


Rule = tuple[str, Callable[[Any], bool]]
"""What a value must be, in words, and whether it is; a value that cannot be compared is not."""


def one_of(*values: Any) -> Rule:
    """The value is one of these."""
    return f"one of {', '.join(map(str, values))}", lambda value: value in values


def whole_number(least: int) -> Rule:
    """The value is a whole number from `least` on; True and False are none."""
    what = f"a whole number of at least {least}"
    return what, lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


def _all(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(is_right, value))


_TEXT: Rule = ("a text", lambda value: isinstance(value, str))
_NAME: Rule = ("a name", lambda value: isinstance(value, str) and 0 < len(value) < 4096 and value.isprintable())
_TEXTS: Rule = ("a list of texts", _all(lambda value: isinstance(value, str)))
_MAPPING: Rule = ("an object", lambda value: isinstance(value, dict))


def _is_problem(value: Any) -> bool:
    """Whether it is a kind of answers. No file has a module imported: one at a dotted path must have been before."""
    return value in answers.names() or (
        isinstance(value, str) and ":" in value and value.partition(":")[0] in sys.modules
    )


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# By the path to it; what is in a mapping that may be missing is looked at where it is there.
_RULES: Mapping[tuple[str, ...], Rule] = {
    ("format",): whole_number(1),
    ("architecture",): _MAPPING,
    ("backbone",): _MAPPING,
    ("backbone", "name"): _NAME,
    ("backbone", "model_type"): _NAME,
    ("backbone", "dtype"): one_of("float32", "float64", "float16", "bfloat16"),
    ("problem",): (f"one of {', '.join(answers.names())}", _is_problem),
    ("label_names",): _TEXTS,
    ("n_outputs",): whole_number(0),
    ("inputs",): _TEXTS,
    ("prompt",): _TEXT,
    ("verbalisers",): _TEXTS,
    ("facts",): _MAPPING,
    ("digests",): _MAPPING,
}
_OPTIONAL: Mapping[tuple[str, ...], Rule] = {
    ("counts",): _MAPPING,
    **{("counts", name): whole_number(int(name == "backbone")) for name in _COUNTED},
    ("scale",): _MAPPING,
    ("threshold",): ("between 0 and 1", lambda value: _is_finite(value) and 0 < value < 1),
    ("scale", "mean"): ("a finite number", _is_finite),
    ("scale", "deviation"): ("a finite number above 0", lambda value: _is_finite(value) and value > 0),
    ("backbone", "quantize"): one_of(*QUANTIZED),
    ("backbone", "identity"): _MAPPING,
    ("backbone", "identity", "config"): _MAPPING,
    ("backbone", "folders"): _TEXTS,
    ("digests", "weights"): _NAME,
    ("digests", "record"): _NAME,
    ("facts", "task"): _TEXT,
    ("facts", "format"): _TEXT,
    ("facts", "answer"): one_of("score", "generate", "words", "words_per_token"),
    ("facts", "recipe"): _MAPPING,
    ("facts", "recipe", "max_length"): whole_number(1),
    ("facts", "recipe", "truncation_side"): one_of("right", "left"),
}
_NOTHING = object()


def read_record(folder: str | Path) -> dict[str, Any]:
    """What ``architecture.json`` of a saved folder holds, checked before anything is built from it.

    Raises:
        ArchitectureError: it is missing, unreadable, of a later format, holds what cannot be, or was changed since it
            was saved; folders of versions that wrote no digest are taken as they are.
    """
    what = f"{str(folder)!r} does not hold a saved model: {RECORD}"
    record = read_json(Path(folder) / RECORD, what, ArchitectureError)
    if not isinstance(record, dict):
        raise ArchitectureError(f"{what}: an object is wanted, but got {record!r:.60}.")
    # Looked at before anything else: what a later format holds cannot be judged by these rules.
    version = record.get("format")
    if isinstance(version, int) and not isinstance(version, bool) and version > FORMAT:
        raise ArchitectureError(f"{str(folder)!r} has format {version}; this version reads up to {FORMAT}.")
    given = {**{name: value for name, value in _DEFAULTS.items() if name not in record}, **record}
    wrong = [*_violations(given, _RULES, is_optional=False), *_violations(given, _OPTIONAL, is_optional=True)]
    # Only of what is right by itself can be said whether it goes together.
    wrong = wrong or _mismatches(given)
    if wrong:
        raise ArchitectureError(f"{what}: {'; '.join(wrong[:5])}.")
    Architecture.from_dict(given["architecture"])
    # The digest last: a mistake that can be named helps more than the news that something differs.
    if (own := given["digests"].get("record")) not in (None, record_digest(record)):
        raise ArchitectureError(
            f"{what} was changed since it was saved: its digest is {record_digest(record)[:16]}, not {own[:16]}. "
            "Where you changed it yourself, take `digests` out of it."
        )
    return given


def _violations(record: Mapping[str, Any], rules: Mapping[tuple[str, ...], Rule], *, is_optional: bool) -> list[str]:
    found = []
    for path, (what, is_right) in rules.items():
        value: Any = record
        for part in path:
            value = value.get(part, _NOTHING) if isinstance(value, dict) else _NOTHING
        name = ".".join(path)
        if value is _NOTHING:
            found += [] if is_optional else [f"it lacks {name}"]
        elif not _holds(is_right, value):
            found.append(f"{name} must be {what}, but got {value!r:.60}")
    return found


def _holds(is_right: Callable[[Any], bool], value: Any) -> bool:
    try:
        return is_right(value)
    except TypeError:
        return False


def _mismatches(record: Mapping[str, Any]) -> list[str]:
    """Facts that are right each for itself and do not go together."""
    lacking = [name for name in _COUNTED if name not in record.get("counts", _COUNTED)]
    if lacking:
        return [f"its counts lack {', '.join(lacking)}"]
    n_outputs, n_labels = record["n_outputs"], len(record["label_names"])
    kind = answers.lookup(record["problem"])
    wanted = kind.n_outputs(n_labels)
    if n_outputs in (0, wanted):  # what writes its answers has no head
        return []
    if kind.has_classes:
        return [f"{n_outputs:,} outputs have {n_labels:,} labels"]
    return [f"a {record['problem']} has {wanted or 'no'} output, but got {n_outputs:,}"]


def record_digest(record: Mapping[str, Any]) -> str:
    """SHA-256 of a record as JSON in one form, its own digest left out."""
    digests = {name: value for name, value in record.get("digests", {}).items() if name != "record"}
    # Of the values and not of the file's bytes, so that whoever formats the file anew has changed nothing.
    text = json.dumps({**record, "digests": digests}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(record: Mapping[str, Any], weights: str) -> dict[str, Any]:
    """`record` as JSON gives it back, with the digest `weights` of the weights' file and one of its own."""
    found = {**json.loads(json.dumps(_finite(record))), "digests": {"weights": weights}}
    found["digests"]["record"] = record_digest(found)
    return found


def _finite(value: Any) -> Any:
    """A measurement that is no number is written as null: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folders_of(name: str, folder: Path) -> list[str]:
    """Where a backbone called `name` is, if it is a folder: seen from the saved `folder`, and from the root."""
    place = Path(name)
    if not place.is_dir():
        return []
    # The relative place first: folders are moved and copied together, and a path from the root tells of one machine.
    return [Path(os.path.relpath(followed(place), followed(folder))).as_posix(), str(followed(place))]


def base_of(record: Mapping[str, Any], folder: Path) -> str:
    """Where to load the backbone of a saved folder from.

    A model that stood in a folder is looked for where it stood, seen from the saved folder (both may have been moved
    together) and then from the root; the name that it was given is the last to be tried, and the only one for a model
    that was none of a folder.
    """
    places = [folder / item for item in record["backbone"].get("folders", [])]
    return str(next((followed(place) for place in places if (place / "config.json").is_file()), None) or _named(record))


def _named(record: Mapping[str, Any]) -> str:
    name: str = record["backbone"]["name"]
    return name
