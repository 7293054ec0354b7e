"""Does the cheap evaluation tell anything? A search begins by making sure.

A low-fidelity run (one epoch, say) at an unlucky learning rate stays at the majority class, and then every
architecture scores alike and a search is blind. So a few learning rates are tried on one architecture of middle
size; the best is used for all trials, and the outcome is stored with the study.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from autopeft.architecture import Architecture
from autopeft.candidate import Candidate
from autopeft.errors import AutopeftError, OutOfMemoryFailure, SettingsError, TrialFailure
from autopeft.paired import metric_error
from autopeft.spaces.lattice import Configuration, SearchSpace

if TYPE_CHECKING:
    from autopeft.training.evaluator import Evaluator

log = logging.getLogger(__name__)

# A stricter test would forbid searches on small validation parts, of which two standard errors are several points
# already.
_STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class ProxySignal:
    """The outcome of the sweep.

    Args:
        objective: the metric.
        values: pairs of learning rate and metric; the metric is None where training failed.
        chosen: the learning rate with the best metric; of several such, the smallest.
        baseline: the metric of always giving the same answer.
        threshold: `baseline` and two standard errors of the metric on this many validation examples.
        n_validation: validation examples.
        architecture: fingerprint of the architecture that was trained.
    """

    objective: str
    values: tuple[tuple[float, float | None], ...]
    chosen: float
    baseline: float
    threshold: float
    n_validation: int
    architecture: str

    @property
    def best(self) -> float:
        """The best metric of the sweep."""
        return max(value for _, value in self.values if value is not None)

    @property
    def has_signal(self) -> bool:
        """Whether the best learning rate is better than saying always the same, beyond two standard errors."""
        return self.best > self.threshold

    def __str__(self) -> str:
        tried = ", ".join(f"{rate:g}: {'failed' if value is None else f'{value:.4f}'}" for rate, value in self.values)
        verdict = "the proxy has signal" if self.has_signal else "THE PROXY HAS NO SIGNAL: the search would be blind"
        return (
            f"{self.objective} by learning rate: {tried}; constant answer {self.baseline:.4f}, "
            f"needed {self.threshold:.4f}: {verdict}. Learning rate {self.chosen:g}."
        )

    @property
    def cost(self) -> int:
        """Full trainings, see `autopeft.rungs.search_cost`."""
        return len(self.values)

    def rows(self) -> list[dict[str, Any]]:
        """What was tried, a row a rate, for a table."""
        return [{"learning rate": rate, self.objective: value} for rate, value in self.values]

    def recipe_changes(self) -> dict[str, Any]:
        """What a recipe takes from it."""
        return {"learning_rate": self.chosen}

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping; `from_dict` is its inverse."""
        return {**asdict(self), "has_signal": self.has_signal}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ProxySignal:
        """The outcome written by `as_dict`."""
        fields = {key: value for key, value in data.items() if key != "has_signal"}
        return cls(**{**fields, "values": tuple((rate, value) for rate, value in data["values"])})


def middle(space: SearchSpace) -> Architecture:
    """An architecture of middle size: all layers on and middle sizes, or the median of random ones under a budget.

    Dials rest: the rates that are tried are those that a factor of 1 stands for.
    """
    indices = []
    for position, choice in enumerate(space.choices):
        # A switch has no middle, and an architecture with layers off would tell the rate of a smaller model.
        is_switch = choice.values == (0, 1)
        middle = len(choice.values) - 1 if is_switch else len(choice.values) // 2
        indices.append(space.resting.get(position, middle))
    configuration = Configuration(tuple(indices))
    if not space.is_feasible(configuration):
        # A fixed generator, so that every search of a space tries its rates on one architecture; an odd number has a
        # median.
        drawn = sorted(space.sample(np.random.default_rng(0), 101), key=space.cost)
        configuration = drawn[len(drawn) // 2]
    return space.decode(configuration)


def sweep(
    evaluator: Evaluator,
    given: Candidate | Architecture,
    learning_rates: Sequence[float],
    seed: int,
    on_value: Callable[[float, float | None], None] | None = None,
    widen: int = 0,
    known: Mapping[float, float] = MappingProxyType({}),
) -> ProxySignal:
    """Train an architecture, or a candidate with its other changes, once at each learning rate of the recipe.

    Args:
        given: what is trained. A factor on the rate that a candidate brings applies to each of them.
        widen: how many further rates may be tried, one after the other, while the best is the smallest or the largest
            so far: as far beyond it as the next one is on its other side.
        known: the metric at rates that were trained before with the same seed; these are not trained again.

    Raises:
        SettingsError: there is no learning rate.
        OutOfMemoryFailure: at all of them there was too little memory.
        AutopeftError: training failed at all of them.
    """
    if not learning_rates:
        raise SettingsError("A sweep needs at least one learning rate.")
    candidate, failures = Candidate.of(given), list[TrialFailure]()

    def value_of(rate: float) -> float | None:
        if rate in known:
            return known[rate]
        return _value(evaluator, candidate, rate, seed, failures)

    values = try_rates(learning_rates, widen, value_of, on_value)
    chosen = best_rate(values)
    if chosen is None:
        tried = ", ".join(f"{rate:g}" for rate in learning_rates)
        # Smaller architectures may have room; what diverges will do so again.
        is_memory = bool(failures) and all(isinstance(one, OutOfMemoryFailure) for one in failures)
        failed = OutOfMemoryFailure if is_memory else AutopeftError
        raise failed(f"Training failed at every learning rate of the sweep: {tried}.")
    baseline, threshold = needed(evaluator)
    return ProxySignal(
        objective=evaluator.task.objective,
        values=tuple(values),
        chosen=chosen,
        baseline=baseline,
        threshold=threshold,
        n_validation=len(evaluator.splits.validation),
        architecture=candidate.fingerprint,
    )


def smallest(space: SearchSpace) -> Architecture:
    """The cheapest of a hundred random architectures: for a rate where one of middle size has too little memory."""
    drawn = space.sample(np.random.default_rng(0), 101)
    return space.decode(min(drawn, key=space.cost))


def needed(evaluator: Evaluator) -> tuple[float, float]:
    """What a model that has learnt nothing measures on the validation part, and what is taken for more than that.

    The first is the metric of always giving the same answer; the second is two standard errors above it.
    """
    from autopeft.tasks._metrics import is_likelihood  # brings torch, and a front that tells of a sweep needs none

    objective, validation = evaluator.task.objective, evaluator.splits.validation
    if is_likelihood(objective):
        # A constant answer has no likelihood; the model without anything attached has one, on the same examples.
        bare: float = evaluator.score(evaluator.validation_part, validation)[objective]
        return bare, bare
    baseline = evaluator.task.baseline(validation)[objective]
    return baseline, baseline + _STANDARD_ERRORS * metric_error(objective, baseline, len(validation))


Tried = list[tuple[float, float | None]]
"""Pairs of a learning rate and the metric, None where training failed, in the order in which they were tried."""


def try_rates(
    rates: Sequence[float],
    widen: int,
    value_of: Callable[[float], float | None],
    on_value: Callable[[float, float | None], None] | None = None,
) -> Tried:
    """What each rate gives, and up to `widen` further ones beyond the end where the best lies, see `sweep`."""
    tried, pending = Tried(), list(rates)
    while pending:
        rate = pending.pop(0)
        value = value_of(rate)
        tried.append((rate, value))
        if on_value is not None:
            on_value(rate, value)
        # Only when all given rates have been tried is it known on which end the best of them lies.
        beyond = None if pending or len(tried) >= len(rates) + widen else beyond_edge(tried)
        pending += [] if beyond is None else [beyond]
    return tried


def beyond_edge(values: Sequence[tuple[float, float | None]]) -> float | None:
    """The rate to try next, to two digits, when the best is the smallest or the largest of at least two; else None."""
    rates, best = sorted({rate for rate, _ in values}), best_rate(values)
    if len(rates) < 2 or best not in (rates[0], rates[-1]):
        return None
    inner = rates[1] if best == rates[0] else rates[-2]
    # The same ratio beyond the best as between it and its neighbour, for rates are told apart by factors.
    return float(f"{best * best / inner:.2g}")


def best_rate(values: Sequence[tuple[float, float | None]]) -> float | None:
    """The rate with the best metric, of several such the smallest; None where all failed."""
    # On a tie the smaller rate: what works as well with smaller steps is farther from where training diverges.
    measured = [(value, -rate) for rate, value in values if value is not None]
    return -max(measured)[1] if measured else None


def _value(
    evaluator: Evaluator, candidate: Candidate, rate: float, seed: int, failures: list[TrialFailure]
) -> float | None:
    changed = replace(candidate, changes=replace(candidate.changes, learning_rate=rate))
    try:
        return evaluator(changed, seed).value
    except TrialFailure as failure:
        log.warning("The sweep failed at learning rate %g: %s", rate, failure)
        failures.append(failure)
        return None
