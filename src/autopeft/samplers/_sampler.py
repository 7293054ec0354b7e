"""Samplers: they read the trials so far and propose the next configurations.

A sampler is a pure function of the trials and its seed: what it keeps between calls changes no proposal, so a resumed
study proposes what the uninterrupted one would have. To add one, add a file here that exports
``MEMBERS = {"its-name": SamplerSpec(...)}``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from autopeft.errors import SettingsError
from autopeft.kinds import lookup as _lookup
from autopeft.kinds import members
from autopeft.objective import Objective
from autopeft.objectives import Costing
from autopeft.spaces.lattice import Configuration, SearchSpace
from autopeft.trial import Trial

PACKAGES = ("autopeft.samplers", "autopeft.searches")
"""Where the members are: what reads trials, and what answers a budget by a search of its own."""


class Sampler(Protocol):
    """Proposes configurations."""

    name: str

    def ask(self, trials: Sequence[Trial], n: int = 1) -> list[Configuration]:
        """`n` distinct feasible configurations whose architectures are neither measured nor pending.

        Args:
            trials: every trial so far, in order of number: measured, running (pending) and failed.
            n: how many to propose; fewer come back when fewer are left.

        Raises:
            SpaceExhaustedError: nothing is left to propose.
        """
        ...


@runtime_checkable
class HasSettings(Protocol):
    """A sampler that says which options it resolved; a study stores them and compares them when it goes on."""

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved options, JSON-ready."""
        ...


@runtime_checkable
class AnswersBudgets(Protocol):
    """A sampler that proposes what searches of its own end at.

    Attributes:
        n_answers: the most configurations that it will propose.
        earlier_seconds: what processes before this one spent on the searches behind the last proposal.
    """

    @property
    def n_answers(self) -> int: ...
    @property
    def earlier_seconds(self) -> float: ...


@runtime_checkable
class TellsMore(Protocol):
    """A sampler that tells how its own searches went.

    Attributes:
        told: by budget, facts of its search, JSON-ready; only of budgets that were answered.
    """

    @property
    def told(self) -> Mapping[str, Mapping[str, Any]]: ...


@dataclass(frozen=True)
class SamplerSpec:
    """A sampler as a member of its kind: how it is built, and what is known of it before it is.

    Args:
        name: what settings call it.
        build: ``build(space, seed, **options)``; unknown options raise `SettingsError`. Where `reads_trials` is False
            it is also passed `evaluator`, the `Evaluator` of the search, and `checkpoint`, a folder (or None) where it
            may keep an interrupted search; what it builds then is also an `AnswersBudgets`.
        about: one sentence for lists.
        presets: settings by name; empty where there are no presets.
        defaults: the settings where no option is named, a frozen dataclass, of a sampler without presets; None of one
            that does not say.
        default_space: the named space that is searched when none is asked for; None for the settings' own.
        reads_cost: whether it compares trials by their cost; `build` is then also passed `cost`, a `Costing`.
        reads_trials: False for a search of its own, which answers parameter budgets and not what was measured.
        instead: where `name` is a former name, under which studies of before go on: what it is called today.
    """

    name: str
    build: Callable[..., Sampler]
    about: str = ""
    presets: Mapping[str, Any] = field(default_factory=dict)
    defaults: Any = None
    default_space: str | None = None
    reads_trials: bool = True
    reads_cost: bool = False
    instead: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "presets", MappingProxyType(dict(self.presets)))


def lookup(name: str) -> SamplerSpec:
    """The sampler called `name`, or at a dotted path: a `SamplerSpec`, or a bare function that builds one.

    Raises:
        UnknownNameError: there is no such sampler.
        SettingsError: what stands at the dotted path cannot build a sampler.
    """
    found = _lookup("sampler", name, *PACKAGES)
    if isinstance(found, SamplerSpec):
        return found
    if not callable(found):
        raise SettingsError(f"A sampler is a `SamplerSpec` or a function that builds one, but {name!r} is {found!r}.")
    return SamplerSpec(name, found, (found.__doc__ or "").strip().partition("\n")[0])


def names() -> tuple[str, ...]:
    """Every sampler that can be named, without the former names of any."""
    return tuple(name for name, member in members(*PACKAGES).items() if not member.instead)


def build(
    name: str, space: SearchSpace, seed: int, options: Mapping[str, Any] | None = None, cost: Costing | None = None
) -> Sampler:
    """The sampler called `name`, ready to be asked.

    Args:
        cost: what is minimised, and what is known of it before training; None for nominal parameters.

    Raises:
        SettingsError: it does not know one of the options, or answers budgets of parameters and `cost` is no count.
    """
    spec = lookup(name)
    if cost is not None:
        check_cost(name, cost.objective)
    more = {"cost": cost or Costing()} if spec.reads_cost else {}
    return spec.build(space, seed, **dict(options or {}), **more)


def check_cost(name: str, cost: Objective) -> None:
    """Refuse a cost that the sampler called `name` cannot heed.

    Raises:
        SettingsError: it answers budgets of parameters by a search of its own, and `cost` is no parameter count.
    """
    if cost.count is None and not lookup(name).reads_trials:
        raise SettingsError(
            f"The sampler {name!r} answers budgets of parameters and of nothing else, but the cost is {cost.name!r}. "
            "Leave `cost` out, or choose a sampler that reads trials; `autopeft front --cost` shows what any search "
            "found by another cost."
        )


def as_begun(name: str, options: Mapping[str, Any], resolved: Mapping[str, Any]) -> dict[str, Any]:
    """`options` completed by what they meant when a study began, whatever the presets of `name` say today.

    Only for samplers with presets, which are frozen dataclasses of plain values.

    Args:
        resolved: the sampler's settings as that study stored them; an option that came later has its default.
    """
    found = lookup(name)
    if not found.presets or not resolved:
        return dict(options)
    # A field's default never changes, as the values of a preset may: it is what there was before the field.
    known = {
        item.name: item.default for item in fields(next(iter(found.presets.values()))) if item.default is not MISSING
    }
    return {**known, **{key: value for key, value in resolved.items() if key in known}, **options}


def settings_of(sampler: Sampler) -> dict[str, Any]:
    """The options that `sampler` resolved; empty for one that does not say."""
    return sampler.settings if isinstance(sampler, HasSettings) else {}
