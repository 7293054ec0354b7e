"""The rivals of a pay-off: what they are asked, what they propose, and how one of it is chosen with what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from pathlib import Path
from statistics import fmean
from typing import Protocol

from autopeft.candidate import Candidate, Changes
from autopeft.errors import SettingsError
from autopeft.experiments._experiment import Origin
from autopeft.experiments._payoff_purse import FAILED, Purse
from autopeft.network.build import count
from autopeft.paired import Paired
from autopeft.settings import Settings
from autopeft.training.evaluator import Evaluator
from autopeft.training.retraining import baseline

CONFIDENCE = 0.9
"""At which another must be better than the best incumbent to be chosen."""


@dataclass
class Entrant:
    """What a rival proposes.

    Args:
        name: in words.
        candidate: what is trained.
        evaluator: with the recipe that it is trained with.
        score: what it is ranked by before it has further seeds; larger is better.
        values: the metric on the validation part, one a seed.
        found_by: who proposed it.
        is_incumbent: whether it is what people use, which stays unless something is shown to be better.
        price: what twice the parameters must add to the metric to be worth it; 0 where size does not matter.
    """

    name: str
    candidate: Candidate
    evaluator: Evaluator
    score: float
    values: list[float]
    found_by: str
    is_incumbent: bool = False
    price: float = 0.0

    @property
    def mean(self) -> float:
        """Of the values."""
        return fmean(self.values)

    @property
    def toll(self) -> float:
        """What is taken off the metric for its size, see `price`; one parameter costs nothing."""
        return self.price * log2(max(1, self.nominal)) if self.price else 0.0

    @property
    def nominal(self) -> int:
        """Nominal parameters."""
        return count(self.evaluator.backbone, self.candidate.architecture, 0).nominal


@dataclass(frozen=True)
class Known:
    """A known architecture and how it is trained.

    Args:
        name: of a baseline, perhaps with a size, see `autopeft.training.retraining.baseline`.
        rate: its learning rate; None for the recipe's.
        batch_factor: what the examples a step are multiplied by.
        dropout_factor: 0 for none, 1 for that of the recipe.
    """

    name: str
    rate: float | None = None
    batch_factor: float = 1.0
    dropout_factor: float = 1.0

    def on(self, evaluator: Evaluator) -> Candidate:
        """What is trained.

        Raises:
            SettingsError: there is no such baseline.
        """
        changes = Changes(learning_rate=self.rate, batch_factor=self.batch_factor, dropout_factor=self.dropout_factor)
        return Candidate(baseline(self.name, evaluator.backbone), changes)

    def __str__(self) -> str:
        rate = "" if self.rate is None else f" at {self.rate:g}"
        batch = "" if self.batch_factor == 1 else f" batch×{self.batch_factor:.3g}"
        return self.name + rate + batch + ("" if self.dropout_factor == 1 else " without dropout")


@dataclass(frozen=True)
class Asked:
    """What a rival is asked.

    Args:
        origin: where the experiment was read.
        settings: shared by all rivals, with this search's seeds.
        folder: of the studies of this cell.
        share: of the purse that may be spent before the finals.
    """

    origin: Origin
    settings: Settings
    folder: Path
    share: float

    @property
    def seed(self) -> int:
        """Of the search, and of every training but those of the finals."""
        return self.settings.seed


class Rival(Protocol):
    """A way to spend a purse."""

    @property
    def finals(self) -> float:
        """The share of the purse that is kept for further seeds of the best."""
        ...

    def check_settings(self, asked: Asked) -> None:
        """Find what is wrong with its settings, without a model.

        Raises:
            SettingsError: there is something.
        """
        ...

    def check(self, asked: Asked) -> None:
        """Find what else would let it fail.

        Raises:
            InputError: there is something.
        """
        ...

    def propose(self, asked: Asked, purse: Purse) -> list[Entrant]:
        """Spend the share of the purse, and say what is worth further seeds."""
        ...


def settle(purse: Purse, entrants: Sequence[Entrant], seeds: Sequence[int]) -> Entrant:
    """The best by the mean on the validation part, once the rest of the purse has gone into further seeds of the best.

    Two thirds as many go on as trainings are left, then, seed by seed, the better half of them, and at least two: so
    that what is left is spent, whoever asks. Of equals the cheaper wins.

    Where there are incumbents the better half of those that go on are incumbents first, and the best of them is chosen
    unless another is better seed by seed, see `beats`: the best of many lucky runs is no reason to leave what is known.

    Where parameters have a price every value is taken less its toll, at every step.

    Args:
        seeds: in the order in which they are used.

    Raises:
        SettingsError: there is no entrant.
    """
    if not entrants:
        raise SettingsError("Nothing could be trained within the cost that is allowed, so there is nothing to choose.")
    # By one seed there are too many to go on: the value that ranks them is the best of many, and so too good for most.
    ranked = sorted(entrants, key=lambda one: (one.toll - one.score, one.nominal))
    left = purse.left(ranked[0].evaluator)
    going = _taken(ranked, max(2, 2 * left // 3) if left > 1 else 1)
    for seed in seeds:
        # A round that only some could pay for would favour those.
        if len(going) < 2 or purse.left(going[0].evaluator) < len(going):
            break
        for one in going:
            # A run that fails makes the mean minus infinity, for good.
            value = purse.value(one.evaluator, one.candidate, seed, "finals", one.name)
            one.values.append(FAILED if value is None else value)
        going = _taken(sorted(going, key=_by_worth), max(2, (len(going) + 1) // 2))
    ranked = sorted(going, key=_by_worth)
    champion = next((one for one in ranked if one.is_incumbent), None)
    return ranked[0] if champion is None else next(one for one in ranked if one is champion or beats(one, champion))


def _by_worth(one: Entrant) -> tuple[float, int]:
    return one.toll - one.mean, one.nominal


def _taken(ranked: Sequence[Entrant], n: int) -> list[Entrant]:
    """The first `n`, in their order; where there are incumbents half of them are such, as far as there are."""
    incumbents = [one for one in ranked if one.is_incumbent]
    others = [one for one in ranked if not one.is_incumbent]
    kept = incumbents[: max((n + 1) // 2, n - len(others))]
    chosen = {id(one) for one in (*kept, *others[: n - len(kept)])}
    return [one for one in ranked if id(one) in chosen]


def beats(challenger: Entrant, champion: Entrant) -> bool:
    """Whether `challenger` is worth more seed by seed at the level of `CONFIDENCE`, by Student's t on one side.

    Never where it failed with a seed, or where there are fewer than two seeds to compare.
    """
    n = min(len(challenger.values), len(champion.values))
    spared = champion.toll - challenger.toll
    differences = tuple(a - b + spared for a, b in zip(challenger.values[:n], champion.values[:n], strict=True))
    if FAILED in challenger.values or n < 2:
        return False
    if FAILED in champion.values:
        return True
    found = Paired(tuple(range(n)), differences)
    # Two sides at twice the level are one side at it.
    return found.mean > 0 and (found.p_value or 0.0) < 2 * (1 - CONFIDENCE)
