"""Everything that can be named in settings, with a few words about each.

To ask the members of a kind means to import them, and with them torch and transformers: seconds, for a page of text.
So what they said is kept in the user's cache, under a digest of the files that said it; a file that is added, changed
or taken away makes it be asked again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import autopeft
from autopeft.errors import InputError, UnknownNameError
from autopeft.reading import read_json
from autopeft.writing import write_whole

KINDS = ("methods", "backbones", "tasks", "samplers", "promotions", "costs", "protocols", "baselines", "spaces")
"""What is listed, in this order."""

Rows = Mapping[str, str]
Listing = dict[str, dict[str, str]]


def listing(what: str = "") -> Listing:
    """Kind to name to description, for one kind or (empty) for all.

    Raises:
        UnknownNameError: there is no such kind.
    """
    if what and what not in KINDS:
        raise UnknownNameError("kind", what, KINDS)
    known = _kept_or_asked()
    return {kind: known[kind] for kind in KINDS if what in ("", kind)}


def ask() -> Listing:
    """What the members of every kind say of themselves now; imports them all."""
    from autopeft import backbones, methods, objectives, promotions, samplers, tasks
    from autopeft.kinds import members
    from autopeft.objective import Objective
    from autopeft.spaces import named as spaces
    from autopeft.tasks import PROTOCOLS
    from autopeft.training.retraining import BASELINES

    def about_methods() -> Rows:
        found = {name: methods.lookup(name) for name in methods.names()}
        return {name: f"{_capital(method.about)}; at {', '.join(method.roles)}" for name, method in found.items()}

    def about_tasks() -> Rows:
        return {name: f"{task.kind}; {', '.join(task.metrics)}" for name, task in members(tasks.PACKAGE).items()}

    def about_cost(one: Objective) -> str:
        return f"{_capital(one.about)}; known {one.known}"

    rows: dict[str, Callable[[], Rows]] = {
        "methods": about_methods,
        "backbones": lambda: {name: ", ".join(family.model_types) for name, family in backbones.families().items()},
        "tasks": about_tasks,
        "samplers": lambda: {name: samplers.lookup(name).about for name in samplers.names()},
        "promotions": lambda: {name: promotions.lookup(name).about for name in promotions.names()},
        "costs": lambda: {name: about_cost(objectives.lookup(name)) for name in objectives.names()},
        "protocols": lambda: {name: _first_line(protocol) for name, protocol in PROTOCOLS.items()},
        "baselines": lambda: {name: ", ".join(f"{m} {s}" for m, s in b.parts) for name, b in BASELINES.items()},
        "spaces": lambda: {name: spaces.about(name) for name in spaces.NAMES},
    }
    return {kind: dict(rows[kind]()) for kind in KINDS}


def _kept_or_asked() -> Listing:
    path = _cache() / f"listing-{_digest()}.json"
    try:
        kept: Listing = read_json(path, "The kept list", InputError)
        if set(kept) == set(KINDS):
            return kept
    except (OSError, ValueError):
        pass  # there is none yet, or none that can be read: it is made anew
    found = ask()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # One list a version is enough: the digest of a source that has changed is never asked for again.
        for old in path.parent.glob("listing-*.json"):
            old.unlink(missing_ok=True)
        with write_whole(path) as part:
            part.write_text(json.dumps(found))
    except OSError:
        pass  # a home that cannot be written to makes the next call slow, not wrong
    return found


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autopeft"


def _digest() -> str:
    """Of the version, and of the path and the content of every source file."""
    root = Path(autopeft.__file__).parent
    found = hashlib.sha256(autopeft.__version__.encode())
    # Of the contents and not of times, which an installation or a checkout sets as it likes.
    for path in sorted(root.rglob("*.py")):
        found.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _first_line(thing: object) -> str:
    """The first line of a docstring, without the marks of reStructuredText."""
    return (thing.__doc__ or "").strip().split("\n")[0].replace("`", "")
