"""A learning rate for every method of a space: each is trained alone, at a few rates, before the search.

One rate for all is the rate of the most fragile method, and every other one is then judged by how it fares at a rate
that is not its own. So each method is put alone in all layers, at a middle size, and trained by the search's recipe at
a few rates. After a share of the steps the slower half stops; what is best in the end must lie between two rates that
were trained to the end as well, or rates beyond it are tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from autopeft.architecture import Architecture, Placement
from autopeft.errors import AutopeftError, OutOfMemoryFailure, SettingsError, TrialFailure
from autopeft.fidelity import Fidelity
from autopeft.rungs import SearchCost
from autopeft.spaces.lattice import SearchSpace
from autopeft.training.rate_sweep import ProxySignal, beyond_edge, needed

if TYPE_CHECKING:
    from autopeft.objective import Measurement
    from autopeft.training.evaluator import Evaluator

_FIRST_RUNG = Fidelity(1 / 3, "share")

_FEWEST_RATES = 3
"""Of fewer rates none is stopped at the rung."""


@dataclass(frozen=True)
class CardRun:
    """One method at one rate, until a rung or the end.

    Args:
        method: what was trained alone.
        learning_rate: of its modules and the head.
        is_full: whether the run came to its end.
        value: the metric on the validation part; None where training failed.
        loss: training loss at that point, which tells apart what the metric does not; None where training failed.
        trainings: what this piece of the run took, in trainings from beginning to end.
        examples: training examples that went through the model in this piece.
        seconds: of training and evaluation in this piece.
        failure: the kind of the failure, such as "oom"; empty where there was none, or nobody noted it.
    """

    method: str
    learning_rate: float
    is_full: bool
    value: float | None
    loss: float | None
    trainings: float
    examples: int
    seconds: float
    failure: str = ""

    @property
    def merit(self) -> tuple[float, float]:
        """What runs are compared by, larger is better: the metric, of equals the smaller loss."""
        if self.value is None:
            return -math.inf, -math.inf
        return self.value, -math.inf if self.loss is None else -self.loss

    def __str__(self) -> str:
        value = "failed" if self.value is None else f"{self.value:.4f}"
        rung = "" if self.is_full else f" after {_FIRST_RUNG} of the steps"
        return f"{self.method}, learning rate {self.learning_rate:g}: {value}{rung}"


@dataclass(frozen=True)
class RateCard:
    """The learning rate of each method, and what was tried for it.

    Args:
        objective: the metric.
        runs: in the order in which they were done.
        architectures: by method, what was trained, in words.
        baseline: the metric of always giving the same answer.
        threshold: `baseline` and two standard errors of the metric on this many validation examples.
        n_validation: validation examples.
    """

    objective: str
    runs: tuple[CardRun, ...]
    architectures: Mapping[str, str]
    baseline: float
    threshold: float
    n_validation: int

    def best(self, method: str) -> CardRun:
        """The best of a method's runs that came to their end."""
        return max((run for run in self.runs if run.method == method and run.is_full), key=lambda run: run.merit)

    @property
    def silent(self) -> tuple[str, ...]:
        """Methods that were at no rate better than the constant answer beyond two standard errors."""
        return tuple(name for name in self.architectures if not self._is_heard(name))

    @property
    def has_signal(self) -> bool:
        """Whether some method was better than that."""
        return len(self.silent) < len(self.architectures)

    @property
    def rates(self) -> dict[str, float]:
        """The rate of each method. One that is `silent` takes the geometric mean of the others', if there are any."""
        own = {name: self.best(name).learning_rate for name in self.architectures}
        heard = [rate for name, rate in own.items() if self._is_heard(name)]
        # The best of values that are all chance is chance, too: what suits the others is the better guess.
        usual = geometric_mean(heard or own.values())
        return {name: rate if not heard or self._is_heard(name) else usual for name, rate in own.items()}

    @property
    def reference(self) -> float:
        """The geometric mean of all rates: what a factor of 1 stands for."""
        return geometric_mean(self.rates.values())

    @property
    def cost(self) -> SearchCost:
        """What making it cost, as part of the cost of the search."""
        return SearchCost(
            math.fsum(run.trainings for run in self.runs),
            sum(run.examples for run in self.runs),
            math.fsum(run.seconds for run in self.runs),
        )

    def rows(self) -> list[dict[str, Any]]:
        """What was tried, a row a method and rate, for a table; the chosen rate of each method says so."""
        found, rates = [], self.rates
        for name in self.architectures:
            for run in sorted(self.last_of(name), key=lambda run: run.learning_rate):
                is_chosen = run.is_full and run.learning_rate == rates[name]
                trained = "to the end" if run.is_full else f"{_FIRST_RUNG} of the steps"
                row = {"method": name, "learning rate": run.learning_rate, "trained": trained}
                found.append({**row, self.objective: run.value, "chosen": is_chosen})
        return found

    def last_of(self, method: str) -> tuple[CardRun, ...]:
        """A method's runs, one a rate: where each came to."""
        return tuple({run.learning_rate: run for run in self.runs if run.method == method}.values())

    def around(self) -> tuple[float, ...]:
        """Learning rates to choose from in a longer training: a third of all rates of the card, these, three times."""
        return tuple(float(f"{self.reference * factor:.3g}") for factor in (1 / 3, 1, 3))

    def recipe_changes(self) -> dict[str, Any]:
        """What a recipe takes from it: the rates by method, and for the head the mean of those beside it."""
        reference = self.reference
        factors = {name: rate / reference for name, rate in self.rates.items()}
        return {"learning_rate": reference, "rate_factors": factors, "head_rate": "mean"}

    def _is_heard(self, method: str) -> bool:
        value = self.best(method).value
        return value is not None and value > self.threshold

    def __str__(self) -> str:
        told = ", ".join(f"{name} {rate:.2g} ({self._told(name)})" for name, rate in self.rates.items())
        verdict = "" if self.has_signal else " NO METHOD HAS A SIGNAL: the search would be blind."
        return (
            f"Learning rates by method, with the {self.objective} that each alone had: {told}; constant answer "
            f"{self.baseline:.4f}, needed {self.threshold:.4f}. The card cost {self.cost.trainings:.3g} full "
            f"trainings.{verdict}"
        )

    def _told(self, method: str) -> str:
        value = self.best(method).value
        found = "failed" if value is None else f"{value:.4f}"
        return found if self._is_heard(method) else f"{found}, no signal"

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping; `from_dict` is its inverse."""
        return {
            **asdict(self),
            "architectures": dict(self.architectures),
            "rates": self.rates,
            "reference": self.reference,
            "silent": list(self.silent),
            "has_signal": self.has_signal,
            "cost": asdict(self.cost),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RateCard:
        """The card written by `as_dict`."""
        names = ("objective", "architectures", "baseline", "threshold", "n_validation")
        return cls(runs=runs_of(data["runs"]), **{name: data[name] for name in names})


def runs_of(rows: Iterable[Mapping[str, Any]]) -> tuple[CardRun, ...]:
    """Runs as they were stored."""
    return tuple(CardRun(**row) for row in rows)


def geometric_mean(rates: Iterable[float]) -> float:
    """The geometric mean to three digits, which is exact enough for a rate and reads better."""
    return float(f"{math.exp(fmean(map(math.log, rates))):.3g}")


def alone(space: SearchSpace, *, is_smallest: bool = False) -> dict[str, Architecture]:
    """By method of the space: it alone, wherever it may stand, at the middle one of its sizes, or at the smallest.

    Where the budget does not allow that size, the largest that it allows; where it allows none, the smallest: what is
    looked for is a rate, which a method in all layers tells whatever a budget leaves of it.
    """
    return {name: _alone(space, name, is_smallest) for name in dict.fromkeys(slot.method for slot in space.slots)}


def _alone(space: SearchSpace, method: str, is_smallest: bool) -> Architecture:
    slots = [slot for slot in space.slots if slot.method == method]
    sizes = sorted({size for slot in slots for size in space.choices[slot.size].sizes if size})
    for size in reversed(sizes[: 1 if is_smallest else len(sizes) // 2 + 1]):
        # Sizes may differ from place to place; where this one is not among them the nearest below it is taken.
        held = [max((s for s in space.choices[slot.size].sizes if 0 < s <= size), default=0) for slot in slots]
        cost = sum(slot.cost.nominal.at(n) for slot, n in zip(slots, held, strict=True) if n)
        if space.budget is None or cost <= space.budget.most or size == sizes[0]:
            break
    return Architecture(tuple(Placement(s.site, method, n) for s, n in zip(slots, held, strict=True) if n))


WIDEN = 2
"""How many rates beyond those that it begins with a method of a card may try."""


def trainings_of_card(n_methods: int, n_rates: int) -> tuple[float, float]:
    """The fewest and the most full trainings that a card of so many methods takes, from so many rates on.

    The fewest where the best of the first rates lies between two that came to their end, the most where every rate does
    and is widened.
    """
    halved = n_rates / 3 + math.ceil(n_rates / 2) * 2 / 3 if n_rates >= _FEWEST_RATES else n_rates
    return n_methods * halved, n_methods * (n_rates + WIDEN) if n_rates > 1 else float(n_methods)


OnCardRun = Callable[[CardRun, Sequence[CardRun]], None]
"""Told of a run that was just done, and of all that there are by now."""


@dataclass
class CardMaker:
    """Makes a card.

    Args:
        evaluator: with the search's recipe. With checkpoints that are held, no run is trained twice.
        architectures: by method, what is trained alone; see `alone`.
        rates: to begin with.
        seed: of every run.
        widen: how many rates beyond these a method may try while its best is the smallest or the largest.
        on_run: told of every run that is done now.
        runs: what was done before; it is not done again.
    """

    evaluator: Evaluator
    architectures: Mapping[str, Architecture]
    rates: Sequence[float]
    seed: int
    widen: int = WIDEN
    on_run: OnCardRun | None = None
    runs: list[CardRun] = field(default_factory=list)

    def make(self) -> RateCard:
        """The card.

        Raises:
            SettingsError: there is no learning rate.
            OutOfMemoryFailure: at all rates of all methods there was too little memory.
            AutopeftError: training failed at all of them.
        """
        if not self.rates:
            raise SettingsError("A card of rates needs at least one learning rate to begin with.")
        for name in self.architectures:
            self._method(name)
        if all(run.value is None for run in self.runs if run.is_full):
            is_memory = all(run.failure == OutOfMemoryFailure.kind for run in self.runs)
            failed = OutOfMemoryFailure if is_memory else AutopeftError
            raise failed("Training failed at every learning rate of every method of the space.")
        objective, n_validation = self.evaluator.task.objective, len(self.evaluator.splits.validation)
        baseline, threshold = needed(self.evaluator)
        told = {name: str(architecture) for name, architecture in self.architectures.items()}
        return RateCard(objective, tuple(self.runs), told, baseline, threshold, n_validation)

    def _method(self, name: str) -> None:
        """All runs of one method."""
        rates = sorted(set(self.rates))
        for rate in self._promoted(name, rates):
            self._run(name, rate, is_full=True)
        # Of a card that was interrupted some rates beyond the first are done.
        rates = sorted({*rates, *(run.learning_rate for run in self.runs if run.method == name)})
        while missing := self._beside_the_best(name, rates):
            rates = sorted({*rates, missing})
            self._run(name, missing, is_full=True)

    def _promoted(self, name: str, rates: Sequence[float]) -> list[float]:
        """The rates that go on to the end: the better half of those that were trained to the first rung."""
        if len(rates) < _FEWEST_RATES or not self._has_rung:
            return list(rates)
        at_rung = [self._run(name, rate, is_full=False) for rate in rates]
        # Of equals the faster: what has not moved from the constant answer yet is too slow rather than too fast.
        ranked = sorted(at_rung, key=lambda run: (run.merit, run.learning_rate), reverse=True)
        return sorted(run.learning_rate for run in ranked[: math.ceil(len(ranked) / 2)])

    def _beside_the_best(self, name: str, rates: Sequence[float]) -> float | None:
        """A neighbour of the best rate that has not come to its end: one that was stopped, or one beyond the edge."""
        full = {run.learning_rate: run for run in self.runs if run.method == name and run.is_full}
        best = max(full, key=lambda rate: full[rate].merit)
        if full[best].value is None:
            # Nothing could be trained: what diverges at every rate needs a smaller one.
            best = min(full)
        place = rates.index(best)
        stopped = [rate for rate in rates[max(0, place - 1) : place + 2] if rate not in full]
        if stopped:
            return stopped[0]
        if len(rates) >= len(set(self.rates)) + self.widen:
            return None
        return beyond_edge([(rate, 1.0 if rate == best else 0.0) for rate in rates])

    @property
    def _has_rung(self) -> bool:
        return len(self._stepped.rung_steps()) > 1

    @property
    def _stepped(self) -> Evaluator:
        """The evaluator with the first rung; without any where a run is too short for one."""
        planned = self.evaluator.recipe.n_steps(self.evaluator.n_train)
        return self.evaluator.with_rungs([_FIRST_RUNG] if planned > 1 else [])

    def _run(self, name: str, rate: float, *, is_full: bool) -> CardRun:
        """A run to the first rung or to the end; one that was done before is not done again."""
        before = [run for run in self.runs if (run.method, run.learning_rate) == (name, rate)]
        done = next((run for run in before if run.is_full == is_full), None)
        if done is not None:
            return done
        evaluator = self._stepped.with_recipe(learning_rate=rate)
        rung = len(evaluator.rung_steps()) - 1 if is_full else 0
        try:
            found = self._piece(name, rate, is_full, evaluator.up_to(self.architectures[name], self.seed, rung))
        except TrialFailure as failure:
            # How far it came is not known here: it is charged in full.
            examples = evaluator.recipe.n_processed(evaluator.n_train)
            found = CardRun(name, rate, is_full, None, None, 1.0, examples, 0.0, failure.kind)
        if before and evaluator.checkpoints is not None:
            # The run went on from the rung, which has been counted.
            earlier = before[0]
            found = replace(
                found,
                trainings=found.trainings - earlier.trainings,
                examples=max(0, found.examples - earlier.examples),
                seconds=max(0.0, found.seconds - earlier.seconds),
            )
        self.runs.append(found)
        if self.on_run is not None:
            self.on_run(found, self.runs)
        return found

    @staticmethod
    def _piece(name: str, rate: float, is_full: bool, found: Measurement) -> CardRun:
        extra = found.extra
        share = 1.0 if is_full else extra["steps"] / extra["planned_steps"]
        loss = found.history[-1].loss if found.history else None
        return CardRun(name, rate, is_full, found.value, loss, share, extra["n_processed"], found.seconds)


Signal = ProxySignal | RateCard
"""What was found out of learning rates before a search."""

PROXY, CARD = "proxy", "rate_card"
"""The facts of a study that keep a sweep and a card."""


def signal_from(fact: Callable[[str], Any]) -> Signal | None:
    """What a study knows of learning rates, by its facts; None where nothing was tried, or not all of it yet."""
    card, swept = fact(CARD), fact(PROXY)
    if card is not None:
        return RateCard.from_dict(dict(card))
    return None if swept is None else ProxySignal.from_dict(dict(swept))
