"""Everything that can be named in settings, with a few words about each.

To ask the members of a kind means to import them, and with them torch and transformers: seconds, for a page of text.
So the package brings what its members say, `listing.json`, under a digest of the files that say it. Where these are
other ones, in a checkout that somebody works in, the members of that kind are asked, once: the answer is kept in the
user's cache.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import autopeft
from autopeft.caches import cache_folder
from autopeft.errors import InputError, UnknownNameError
from autopeft.reading import read_json
from autopeft.writing import write_whole

KINDS = ("methods", "backbones", "tasks", "samplers", "promotions", "costs", "protocols", "baselines", "spaces")
"""What is listed, in this order."""

Rows = Mapping[str, str]
Listing = dict[str, dict[str, str]]

SHIPPED = Path(__file__).with_name("listing.json")
"""What the package brings; `write_shipped` writes it."""

# The files that say what is listed.
_SOURCES = {
    "methods": ("methods", "backbones/_sites.py"),  # where the roles are that several of them have
    "backbones": ("backbones",),
    "tasks": ("tasks",),
    "samplers": ("samplers", "searches"),
    "promotions": ("promotions",),
    "costs": ("objectives", "objective.py"),
    "protocols": ("tasks/_protocols.py",),
    "baselines": ("training/retraining.py",),
    "spaces": ("spaces",),
}


def listing(what: str = "") -> Listing:
    """Kind to name to description, for one kind or (empty) for all.

    Raises:
        UnknownNameError: there is no such kind.
    """
    if what and what not in KINDS:
        raise UnknownNameError("kind", what, KINDS)
    wanted = [kind for kind in KINDS if what in ("", kind)]
    digests = {kind: digest(kind) for kind in wanted}
    known = _kept(SHIPPED, digests)
    if unknown := {kind: text for kind, text in digests.items() if kind not in known}:
        known |= _kept_or_asked(unknown)
    return {kind: known[kind] for kind in wanted}


def write_shipped(path: Path = SHIPPED) -> None:
    """Write what the members say now, for the next release."""
    _write(path, {kind: {"digest": digest(kind), "rows": ask(kind)} for kind in _SOURCES})


def digest(kind: str) -> str:
    """Of the version, and of the name and the content of every file that says what a kind has."""
    root = Path(autopeft.__file__).parent
    found = hashlib.sha256(autopeft.__version__.encode())
    # Of the contents and not of times, which an installation or a checkout sets as it likes.
    for source in _SOURCES[kind]:
        place = root / source
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            found.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def ask(kind: str) -> dict[str, str]:
    """What the members of a kind say of themselves now; imports them."""
    return dict(_ASKED[kind]())


def _kept(path: Path, digests: Mapping[str, str]) -> Listing:
    """What a file of lists says of the kinds whose digests are these."""
    try:
        found: Mapping[str, Any] = read_json(path, "The kept list", InputError)
        return {kind: found[kind]["rows"] for kind, text in digests.items() if found[kind]["digest"] == text}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # there is none yet, or none that can be read: it is made anew


def _kept_or_asked(digests: Mapping[str, str]) -> Listing:
    path = cache_folder() / "listing.json"
    kept = _kept(path, digests)
    if len(kept) < len(digests):
        kept = {kind: kept[kind] if kind in kept else ask(kind) for kind in digests}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, {kind: {"digest": digests[kind], "rows": rows} for kind, rows in kept.items()})
        except OSError:
            pass  # a home that cannot be written to makes the next call slow, not wrong
    return kept


def _write(path: Path, lists: Mapping[str, Any]) -> None:
    with write_whole(path) as part:
        part.write_text(json.dumps(lists, indent=2) + "\n")


# -- the kinds -------------------------------------------------------------------------------------------------------


def _methods() -> Rows:
    from autopeft import methods

    found = {name: methods.lookup(name) for name in methods.names()}
    return {name: f"{_capital(method.about)}; at {', '.join(method.roles)}" for name, method in found.items()}


def _backbones() -> Rows:
    from autopeft import backbones

    return {name: ", ".join(family.model_types) for name, family in backbones.families().items()}


def _tasks() -> Rows:
    from autopeft import tasks
    from autopeft.kinds import members

    return {name: f"{task.kind}; {', '.join(task.metrics)}" for name, task in members(tasks.PACKAGE).items()}


def _samplers() -> Rows:
    from autopeft import samplers

    return {name: samplers.lookup(name).about for name in samplers.names()}


def _promotions() -> Rows:
    from autopeft import promotions

    return {name: promotions.lookup(name).about for name in promotions.names()}


def _costs() -> Rows:
    from autopeft import objectives

    found = {name: objectives.lookup(name) for name in objectives.names()}
    return {name: f"{_capital(one.about)}; known {one.known}" for name, one in found.items()}


def _protocols() -> Rows:
    from autopeft.tasks import PROTOCOLS

    return {name: _first_line(protocol) for name, protocol in PROTOCOLS.items()}


def _baselines() -> Rows:
    from autopeft.training.retraining import BASELINES

    return {name: ", ".join(f"{method} {size}" for method, size in one.parts) for name, one in BASELINES.items()}


def _spaces() -> Rows:
    from autopeft.spaces import named

    return {name: one.about for name, one in named.SPACES.items()}


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _first_line(thing: object) -> str:
    """The first line of a docstring, without the marks of reStructuredText."""
    return (thing.__doc__ or "").strip().split("\n")[0].replace("`", "")


_ASKED: Mapping[str, Callable[[], Rows]] = {
    "methods": _methods,
    "backbones": _backbones,
    "tasks": _tasks,
    "samplers": _samplers,
    "promotions": _promotions,
    "costs": _costs,
    "protocols": _protocols,
    "baselines": _baselines,
    "spaces": _spaces,
}
