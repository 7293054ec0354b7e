"""Samplers: they read the trials so far and propose the next configurations.

A sampler is a pure function of the trials and its seed: it keeps no state between calls, so a resumed study
proposes what the uninterrupted one would have. To add one, add a file here that exports
``MEMBERS = {"its-name": build}``, where ``build`` is a `SamplerFactory`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from autopeft.kinds import lookup as _lookup
from autopeft.kinds import members
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


SamplerFactory = Callable[..., Sampler]
"""``build(space, seed, **options) -> Sampler``; unknown options raise `SettingsError`.

A factory whose samplers search on their own, for parameter budgets and not from what was measured, has two attributes:
`needs_evaluator`, true, for it is passed the `Evaluator` of the search as the option `evaluator`, and as `checkpoint` a
folder (or None) where it may keep an interrupted search; and `space`, the named space that is searched when none is
asked for. Its samplers have `n_answers`, the most configurations that they will propose, and `earlier_seconds`, what
processes before this one spent on the search behind the last proposal.
"""


def lookup(name: str) -> SamplerFactory:
    """The factory of the sampler called `name`, or at a dotted path.

    Raises:
        UnknownNameError: there is no such sampler.
    """
    factory: SamplerFactory = _lookup("sampler", name, *PACKAGES)
    return factory


def names() -> tuple[str, ...]:
    """Every sampler that can be named."""
    return tuple(members(*PACKAGES))


def build(name: str, space: SearchSpace, seed: int, options: Mapping[str, Any] | None = None) -> Sampler:
    """The sampler called `name`, ready to be asked."""
    return lookup(name)(space, seed, **dict(options or {}))
