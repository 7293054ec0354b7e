"""What makes two studies the same.

A study may only be resumed with the space, objective, seed and settings that it was made with: its trials could not be
compared otherwise.
"""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import autopeft
from autopeft.errors import InputError, SettingsError, StudyMismatchError
from autopeft.objective import Objective
from autopeft.objectives import NOMINAL, lookup
from autopeft.study.record import to_json

if TYPE_CHECKING:
    from autopeft.spaces.lattice import SearchSpace

_logger = logging.getLogger(__name__)

FORMAT = 2
"""The newest version of what is written; readers refuse a newer one. In 2 a trial may be several rows, see
`autopeft.study.climbs`; a study in which none can be is written in 1, which earlier versions read."""

_IN_ROWS = "promotion"  # the setting by which trials become several rows

KEY = "identity"
"""The attribute of a study that holds it."""


@dataclass(frozen=True)
class Identity:
    """What makes two studies the same: written once, when the study is made.

    Args:
        space: `SearchSpace.as_dict`.
        fingerprint: of the space.
        objective: name of the metric that is maximised.
        settings: resolved settings that must not change when the study is resumed.
        seed: of the study.
        versions: of Python and the packages that decide the numbers; not compared.
    """

    space: Mapping[str, Any]
    fingerprint: str
    objective: str
    settings: Mapping[str, Any]
    seed: int
    versions: Mapping[str, str]
    format: int = 1

    @classmethod
    def of(cls, space: SearchSpace, objective: str, settings: Mapping[str, Any], seed: int) -> Identity:
        """The identity of a study that is asked for.

        Raises:
            SettingsError: a setting cannot be written as JSON.
        """
        wrong = [key for key, value in flat(settings) if not _is_json(value)]
        if wrong:
            raise SettingsError(f"Settings of a study are written as JSON, but these cannot be: {', '.join(wrong)}.")
        format_ = FORMAT if _IN_ROWS in settings else 1
        facts = to_json(space.as_dict()), space.fingerprint, objective, to_json(settings), seed, versions()
        return cls(*facts, format=format_)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], name: str) -> Identity:
        """The identity written by `as_dict`.

        Args:
            name: of its study, for messages.

        Raises:
            InputError: a newer version of this package wrote it.
        """
        # A newer format may mean other things by the same words, and whoever wrote on would spoil it for its maker.
        if data["format"] > FORMAT:
            raise InputError(f"The study {name!r} was written by a newer autopeft: {data['versions'].get('autopeft')}.")
        return cls(**data)

    @property
    def cost(self) -> Objective:
        """What is minimised beside the metric: studies that say nothing of it minimise nominal parameters.

        Raises:
            InputError: it is one of the user's own, and cannot be found.
        """
        return lookup(str(self.settings.get("cost", NOMINAL.name)))

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        return asdict(self)


class Identified:
    """What a study tells of its identity, which whoever derives from this keeps as `_identity`."""

    _identity: Identity

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that the study was made with."""
        return self._identity.settings

    @property
    def objective(self) -> str:
        """The name of the metric that is maximised."""
        return self._identity.objective

    @property
    def cost(self) -> Objective:
        """What is minimised beside the metric; `InputError` where it is one of the user's own and cannot be found."""
        return self._identity.cost

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of Python and the packages at the time the study was made."""
        return self._identity.versions


def versions() -> dict[str, str]:
    """Versions of Python, this package and the packages that decide the numbers, without importing them."""
    found = {"python": platform.python_version(), "autopeft": autopeft.__version__}
    for name in ("torch", "transformers", "optuna", "botorch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def differences(stored: Identity, asked: Identity) -> list[str]:
    """What keeps the study that is asked for from being the stored one, a phrase each; empty when they agree."""
    # The fingerprint only says that spaces differ; a person has to know in which choice.
    found = [*_space_differences(stored.space, asked.space)]
    if not found and stored.fingerprint != asked.fingerprint:
        found.append(f"the search space's fingerprint is {stored.fingerprint} there, {asked.fingerprint} here")
    for name in ("objective", "seed"):
        there, here = getattr(stored, name), getattr(asked, name)
        if there != here:
            found.append(f"the {name} is {there!r} there, {here!r} here")
    return found + list(_mapping_differences("the setting", dict(flat(stored.settings)), dict(flat(asked.settings))))


def flat(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Entries of nested mappings with dotted keys; an empty mapping stands for itself."""
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _space_differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    there, here = dict(stored["choices"]), dict(asked["choices"])
    yield from _mapping_differences("the choice", there, here)
    if set(there) == set(here) and list(there) != list(here):
        yield f"the order of the choices is {', '.join(there)} there, {', '.join(here)} here"
    places = [{f"{method}@{site}": rest for method, site, *rest in space["slots"]} for space in (stored, asked)]
    if list(there) == list(here):  # otherwise the indices into the choices differ anyhow
        yield from _mapping_differences("the place", *places)
    turned = [[list(dial) for dial in space.get("dials", [])] for space in (stored, asked)]
    if list(there) == list(here) and turned[0] != turned[1]:
        yield f"the choices turn {turned[0]} there, {turned[1]} here"
    if stored["budget"] != asked["budget"]:
        yield f"the budget is {stored['budget']} there, {asked['budget']} here"


def _mapping_differences(what: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    for key in [*there, *(key for key in here if key not in there)]:
        if key not in here:
            yield f"{what} {key} is only there ({there[key]!r})"
        elif key not in there:
            yield f"{what} {key} is only here ({here[key]!r})"
        elif there[key] != here[key]:
            yield f"{what} {key} is {there[key]!r} there, {here[key]!r} here"


def _is_json(value: Any) -> bool:
    if isinstance(value, PurePath):
        return True
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def check(stored: Identity, asked: Identity, name: str, label: str) -> None:
    """Compare two identities; other versions of packages are worth a warning only.

    Raises:
        StudyMismatchError: they differ; the message lists how.
    """
    found = differences(stored, asked)
    if found:
        listed = "\n".join(f"  - {item}" for item in found)
        raise StudyMismatchError(
            f"The study {name!r} in {label} differs from the one asked for:\n{listed}\n"
            f"Give another name or storage for a new study, or ask for the stored one."
        )
    now = asked.versions
    changed = [f"{key} {then}, now {now[key]}" for key, then in stored.versions.items() if now.get(key, then) != then]
    if changed:
        _logger.warning("The study %r was begun with other versions: %s.", name, "; ".join(changed))
