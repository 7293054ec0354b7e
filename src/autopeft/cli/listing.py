"""Everything that can be named in settings, with a few words about each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from autopeft import backbones, methods, samplers, tasks
from autopeft.errors import UnknownNameError
from autopeft.kinds import members
from autopeft.spaces import papers as spaces
from autopeft.tasks._protocols import PROTOCOLS
from autopeft.training.retraining import BASELINES

Rows = Mapping[str, str]


def catalogue(what: str = "") -> dict[str, dict[str, str]]:
    """Kind to name to description, for one kind or (empty) for all.

    Raises:
        UnknownNameError: there is no such kind.
    """
    known: dict[str, Callable[[], Rows]] = {
        "methods": _methods,
        "backbones": _backbones,
        "tasks": _tasks,
        "samplers": lambda: {name: samplers.lookup(name).about for name in samplers.names()},
        "protocols": lambda: {name: _first_line(protocol) for name, protocol in PROTOCOLS.items()},
        "baselines": lambda: {name: ", ".join(f"{m} {s}" for m, s in b.parts) for name, b in BASELINES.items()},
        "spaces": lambda: {name: spaces.about(name) for name in spaces.NAMES},
    }
    if what and what not in known:
        raise UnknownNameError("kind", what, known)
    return {kind: dict(rows()) for kind, rows in known.items() if what in ("", kind)}


def _methods() -> Rows:
    found = {name: methods.lookup(name) for name in methods.names()}
    return {name: f"{_about(m)}; at {', '.join(m.roles)}" for name, m in found.items()}


def _backbones() -> Rows:
    return {name: ", ".join(family.model_types) for name, family in backbones.families().items()}


def _tasks() -> Rows:
    found = members(tasks.PACKAGE)
    return {name: f"{task.kind}; {', '.join(task.metrics)}" for name, task in found.items()}


def _about(member: object) -> str:
    """What a member says of itself: as its attribute ``about``, or in the docstring of itself or its class."""
    own: str = getattr(member, "about", "") or _first_line(member).rstrip(".")
    return own[:1].upper() + own[1:]


def _first_line(thing: object) -> str:
    """The first line of a docstring, without the marks of reStructuredText."""
    return (thing.__doc__ or "").strip().split("\n")[0].replace("`", "")
