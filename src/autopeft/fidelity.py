"""How far a training run goes before it is measured: a fidelity, and the rungs of a run.

A rung is a point of the one schedule that the whole run has, not a shorter run with a schedule of its own: whoever
stands on it can go on, and nothing that was trained is trained again.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from autopeft.errors import SettingsError

Unit = Literal["epochs", "share"]


@dataclass(frozen=True)
class Fidelity:
    """A point of a training run.

    Args:
        amount: finite and above 0; a share is at most 1.
        unit: "epochs" counts passes over the training part, "share" is of all optimiser steps.

    Raises:
        SettingsError: there is no such point.
    """

    amount: float
    unit: Unit = "epochs"

    def __post_init__(self) -> None:
        is_number = isinstance(self.amount, int | float) and not isinstance(self.amount, bool)
        if not is_number or not 0 < self.amount < math.inf or (self.unit == "share" and self.amount > 1):
            raise SettingsError(
                f"A fidelity is a number of epochs above 0 or a share of at most 100%, but got {self.amount!r:.60} "
                f"({self.unit})."
            )

    @classmethod
    def parse(cls, given: Any) -> Fidelity:
        """``3`` or ``"3"`` epochs, ``"10%"`` of the steps, or a fidelity as it is; `to_json` is the inverse.

        Raises:
            SettingsError: it is none of these.
        """
        if isinstance(given, Fidelity):
            return given
        if isinstance(given, str) and (found := re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(%?)\s*", given)):
            amount = float(found[1])
            return cls(amount / 100, "share") if found[2] else cls(amount)
        if isinstance(given, int | float) and not isinstance(given, bool):
            return cls(float(given))
        raise SettingsError(f"A fidelity is a number of epochs such as 3, or a share such as '10%', but got {given!r}.")

    def to_json(self) -> float | str:
        """What `parse` reads: a number of epochs, or a share with its sign."""
        return f"{100 * self.amount:.12g}%" if self.unit == "share" else self.amount

    def n_steps(self, planned: int, per_epoch: int) -> int:
        """Optimiser steps until this point: at least one, and perhaps more than the run has.

        Args:
            planned: steps of the whole run.
            per_epoch: steps of one epoch.
        """
        return max(1, round(self.amount * (planned if self.unit == "share" else per_epoch)))

    def __str__(self) -> str:
        if self.unit == "share":
            return f"{100 * self.amount:.4g}%"
        return f"{self.amount:g} epoch{'' if self.amount == 1 else 's'}"


FULL = Fidelity(1.0, "share")
"""The end of the run."""


def rungs_of(given: Sequence[Any]) -> tuple[Fidelity, ...]:
    """The rungs that a setting names, the end of the run not among them.

    Raises:
        SettingsError: one cannot be read, or those of one unit do not increase.
    """
    # Every run is measured at its end anyhow.
    found = tuple(fidelity for fidelity in map(Fidelity.parse, given) if fidelity != FULL)
    # Epochs and shares can only be compared for a run of known length, which `rung_steps` does.
    for unit in ("epochs", "share"):
        amounts = [fidelity.amount for fidelity in found if fidelity.unit == unit]
        if any(second <= first for first, second in itertools.pairwise(amounts)):
            raise SettingsError(f"Rungs must increase, but got {', '.join(map(str, found))}.")
    return found


def rung_steps(rungs: Sequence[Fidelity], planned: int, per_epoch: int) -> tuple[int, ...]:
    """The step of each rung and, last, of the end of the run; a rung at the end is the end.

    Raises:
        SettingsError: the rungs do not increase, or lie beyond the end.
    """
    steps = [rung.n_steps(planned, per_epoch) for rung in rungs]
    if steps and steps[-1] == planned:
        steps.pop()
    told = ", ".join(f"{rung} (step {rung.n_steps(planned, per_epoch)})" for rung in rungs)
    if any(second <= first for first, second in itertools.pairwise([*steps, planned])):
        raise SettingsError(
            f"Rungs must increase and lie within the run, which has {planned} steps, {per_epoch} an epoch: {told}."
        )
    return (*steps, planned)


@dataclass(frozen=True)
class Reached:
    """What a run was worth at a rung.

    Args:
        fidelity: the rung; `FULL` for the end.
        step, epoch: where that is.
        value: of the objective, of the parameters that the run would have kept had it ended there.
        seconds: wall-clock time until then, over all processes that worked on the run.
    """

    fidelity: Fidelity
    step: int
    epoch: float
    value: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping; `from_dict` is its inverse."""
        return {**vars(self), "fidelity": self.fidelity.to_json()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Reached:
        """What `as_dict` wrote.

        Raises:
            KeyError, TypeError, SettingsError: it is something else.
        """
        return cls(**{**data, "fidelity": Fidelity.parse(data["fidelity"])})
