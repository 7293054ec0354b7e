"""What every promotion is, how one is found by name, and what all of them stand on.

A promotion is a pure function of the trials, as samplers are: it keeps no state between calls, so a resumed study
pauses and continues what the uninterrupted one would have. To add one, add a file here that exports
``MEMBERS = {"its-name": PromotionSpec(...)}``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from autopeft.errors import SettingsError
from autopeft.kinds import lookup as _lookup
from autopeft.kinds import members
from autopeft.objective import Objective
from autopeft.trial import Trial, TrialState

PACKAGE = "autopeft.promotions"


class Promotion(Protocol):
    """Decides which paused trials go on."""

    name: str

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved options, JSON-ready; a study stores them and compares them when it goes on."""
        ...

    def order(self, trials: Sequence[Trial], cost: Objective) -> list[int]:
        """Numbers of the paused trials that may go on, the first one first.

        Args:
            trials: every trial so far, in order of number; `Trial.reached` says what each was worth at its rungs.
            cost: what is minimised beside the metric.
        """
        ...

    def view(self, trials: Sequence[Trial]) -> list[Trial]:
        """The same trials as a sampler is shown them, none of them paused."""
        ...


@dataclass(frozen=True)
class PromotionSpec:
    """A promotion as a member of its kind.

    Args:
        name: what settings call it.
        build: ``build(**options)``; unknown options raise `SettingsError`. None for the one that pauses nothing.
        about: one sentence for lists.
    """

    name: str
    build: Callable[..., Promotion] | None
    about: str = ""


def lookup(name: str) -> PromotionSpec:
    """The promotion called `name`, or the `PromotionSpec` at a dotted path.

    Raises:
        UnknownNameError: there is none.
        SettingsError: what stands at the dotted path is none.
    """
    # A dotted path may lead to anything, and a mistake in it is to be told before a study is opened.
    found = _lookup("promotion", name, PACKAGE)
    if not isinstance(found, PromotionSpec):
        raise SettingsError(f"A promotion is a `PromotionSpec`, but {name!r} is {found!r}.")
    return found


def names() -> tuple[str, ...]:
    """Every promotion that can be named."""
    return tuple(members(PACKAGE))


def build(name: str, options: Mapping[str, Any] | None = None) -> Promotion | None:
    """The promotion called `name`; None for the one that pauses nothing.

    Raises:
        UnknownNameError: there is none.
        SettingsError: it does not know one of the options.
    """
    spec, given = lookup(name), dict(options or {})
    if spec.build is not None:
        return spec.build(**given)
    # An option that nobody reads would be stored with the study as if it had done something.
    if given:
        raise SettingsError(f"The promotion {name!r} has no options, but got {', '.join(sorted(given))}.")
    return None


# -- what stands at a rung -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Standing:
    """A trial at a rung that it reached.

    Args:
        number: of the trial.
        value: the metric there.
        cost: what was minimised.
        waits: whether it is paused there and may go on.
    """

    number: int
    value: float
    cost: float
    waits: bool


def standings(trials: Sequence[Trial], cost: Objective) -> list[list[Standing]]:
    """For every rung from the lowest one, what reached it, in order of number; the end is one of them.

    Trials whose training has diverged wait for nothing. They are compared with all the same: whoever is better than
    they are is better than something.
    """
    found: list[list[Standing]] = []
    for trial in trials:
        latest, reached = trial.latest, trial.reached
        # Trials of earlier versions may lack a cost that is asked for now; without one they cannot be compared.
        spent = None if latest is None else cost.of(latest)
        if spent is None:
            continue
        # The rungs are those that somebody has reached, so that no promotion needs to be told the schedule.
        found += [[] for _ in range(len(reached) - len(found))]
        may_wait = trial.state is TrialState.PAUSED and not has_diverged(trial)
        for rung, point in enumerate(reached):
            # A trial is compared with others at every rung below its own too, but it waits at the last one alone.
            is_here = rung == len(reached) - 1
            found[rung].append(Standing(trial.number, point.value, spent, may_wait and is_here))
    return found


def has_diverged(trial: Trial) -> bool:
    """Whether the loss of a training stood far above that of its first step when it was measured last.

    Far is twice as high, and at least 1 more: a run that has learned nothing stays at the loss of its first step, and
    single batches vary. A loss that is not finite has ended the training before.
    """
    extra = {} if trial.latest is None else trial.latest.extra
    first, last = float(extra.get("first_loss", 0.0)), float(extra.get("last_loss", 0.0))
    # Measurements of earlier versions say neither.
    return first > 0 and last > max(_DIVERGED_FACTOR * first, first + _DIVERGED_BY)


_DIVERGED_FACTOR, _DIVERGED_BY = 2.0, 1.0
