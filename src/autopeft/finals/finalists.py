"""Who is invited: in every band of cost the best few that were searched, and the uniform architectures of that cost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from autopeft.architecture import Architecture, Counts
from autopeft.backbones import Backbone
from autopeft.candidate import Candidate
from autopeft.errors import BudgetError
from autopeft.methods import lookup
from autopeft.network.build import count
from autopeft.objective import Objective
from autopeft.objectives.parameters import MEMBERS
from autopeft.training.retraining import BASELINES, Baseline
from autopeft.trial import Trial, with_cost

log = logging.getLogger(__name__)

USUAL = ("lora", "lora_all", "serial", "parallel", "prefix", "bitfit")
"""The baselines that are invited unless others are named: what a careful person would try."""

NOMINAL_COUNT = MEMBERS["nominal-count"]
"""The cost of bands unless they are told another: the number of nominal parameters."""

_MOST_UNITS = 1 << 14


@dataclass(frozen=True)
class Band:
    """Costs that are compared with one another: a name, and its ends in the unit of its cost, inclusive."""

    name: str
    least: float
    most: float
    cost: Objective = NOMINAL_COUNT

    def holds(self, cost: float | None) -> bool:
        """Whether a cost lies in the band; one that is not known does not."""
        return cost is not None and self.least <= cost <= self.most


@dataclass(frozen=True)
class Finalist:
    """Somebody who is invited.

    Args:
        name: "trial 12" or the baseline's name with its size, "serial:24".
        candidate: what is trained.
        band: the name of the band.
        nominal: its nominal parameters.
        found_by: who proposed it: "initial", the name of a sampler, "baseline", or "refined".
        cost: by the band's cost; None where only a measurement tells.
    """

    name: str
    candidate: Candidate
    band: str
    nominal: int
    found_by: str
    cost: float | None = None

    @property
    def is_baseline(self) -> bool:
        """Whether nothing was searched for it."""
        return self.found_by == "baseline"


def bands(budgets: Sequence[str], backbone: Backbone, cost: Objective = NOMINAL_COUNT) -> tuple[Band, ...]:
    """A band for each budget such as "0.5%" or "20 ms": half of it to all of it, or the range that the text names.

    Raises:
        BudgetError: a text is no limit on `cost`, or two are the same.
    """
    found, counts = [], Counts(0, 0, 0, backbone.n_parameters)
    for text in budgets:
        least, most = cost.limits(text, counts)
        # Half of a budget to all of it: a candidate that costs a tenth of the limit answers another question.
        found.append(Band(text.strip(), least or most / 2, most, cost))
    if len({(band.least, band.most) for band in found}) < len(found):
        raise BudgetError(f"Every budget is given once, but got {', '.join(budgets)}.")
    return tuple(found)


Price = Callable[[Architecture], float | None]
"""What an architecture costs before it is trained; None where it cannot be known."""


def invite(
    backbone: Backbone,
    trials: Sequence[Trial],
    scores: Mapping[int, float],
    band: Band,
    n: int,
    baselines: Sequence[str] = USUAL,
    price: Price | None = None,
) -> tuple[Finalist, ...]:
    """The finalists of one band: the best `n` that were searched, then the baselines of that cost.

    Baselines are trained with as many examples a step as the best that was searched, and with dropout or none as it is.

    Args:
        scores: by trial number, what the search makes of a trial, such as `smooth` gives it; larger is better.
        baselines: names from `autopeft.training.retraining.BASELINES`. One that does not fit the band at any size, or
            has no place on this backbone, is left out, and a line of the log says so.
        price: what architectures cost by the band's cost. None where only a measurement tells: then baselines have no
            more nominal parameters than the largest of the searched ones.

    Raises:
        BudgetError: no measured trial lies in the band.
    """
    chosen = _searched(trials, scores, band, n)
    if not chosen:
        costs, text = sorted(cost for _, _, cost in with_cost(trials, band.cost)), band.cost.text
        there = f"{text(costs[0])} to {text(costs[-1])}" if costs else "none"
        raise BudgetError(
            f"No measured trial has {text(band.least)} to {text(band.most)} ({band.name}); the trials have {there}."
        )

    def nominal(architecture: Architecture) -> float:
        return count(backbone, architecture, 0).nominal

    if price is None and band.cost.count != "nominal":
        # Costs of baselines are not known, so that those of the searched ones could be compared with nothing.
        chosen = tuple(replace(one, cost=None) for one in chosen)
        log.info("%s is known after training only: baselines are resized to nominal parameters.", band.cost.name)
        most = max(one.nominal for one in chosen)
        found = _uniform(backbone, band.name, most, nominal, baselines)
        return (*chosen, *(replace(_trained_as(chosen[0], one), cost=None) for one in found))
    found = _uniform(backbone, band.name, band.most, price or nominal, baselines)
    return (*chosen, *(_trained_as(chosen[0], one) for one in found))


def _trained_as(best: Finalist, baseline: Finalist) -> Finalist:
    """`baseline` with the batches and the dropout of `best`: finals compare architectures, not who had more steps."""
    own = best.candidate.changes
    changes = replace(baseline.candidate.changes, batch_factor=own.batch_factor, dropout_factor=own.dropout_factor)
    return replace(baseline, candidate=replace(baseline.candidate, changes=changes))


def _searched(trials: Sequence[Trial], scores: Mapping[int, float], band: Band, n: int) -> tuple[Finalist, ...]:
    fitting = [(trial, cost) for trial, _, cost in with_cost(trials, band.cost) if band.holds(cost)]
    found: dict[Candidate, Finalist] = {}
    for trial, cost in sorted(fitting, key=lambda pair: (-scores[pair[0].number], pair[0].number)):
        assert trial.measurement is not None
        candidate = _without_rate(trial.candidate)
        invited = Finalist(
            f"trial {trial.number}", candidate, band.name, trial.measurement.counts.nominal, trial.origin, cost
        )
        # One candidate may have been measured several times, or at several rates; it is invited once, by its best
        # trial.
        found.setdefault(candidate, invited)
    return tuple(found.values())[:n]


def _without_rate(candidate: Candidate) -> Candidate:
    """`candidate` at whichever rate it is given: finals try the same rates for all. Its factors by method stay."""
    return replace(candidate, changes=replace(candidate.changes, learning_rate=None, rate_factor=1.0))


def _uniform(backbone: Backbone, band: str, most: float, price: Price, names: Sequence[str]) -> tuple[Finalist, ...]:
    found: dict[Architecture, Finalist] = {}
    for name in names:
        fitted = resized(BASELINES[name], backbone, most, price)
        if fitted is None:
            log.info("The baseline %s has no form that costs at most %g here.", name, most)
            continue
        units, architecture = fitted
        label = f"{name}:{units}" if units else name
        nominal = count(backbone, architecture, 0).nominal
        # Two baselines may come to the same architecture at a small size, which is trained once.
        invited = Finalist(label, Candidate.of(architecture), band, nominal, "baseline", price(architecture))
        found.setdefault(architecture, invited)
    return tuple(found.values())


def resized(
    baseline: Baseline, backbone: Backbone, most: float, price: Price | None = None
) -> tuple[int | None, Architecture] | None:
    """The largest form of `baseline` that costs at most `most`, and the units of its first sized method.

    Sizes of several methods keep their ratio as far as whole numbers do. The units are None where nothing has a size.
    None when even the smallest form costs more, or when the baseline has no place on `backbone`.

    Args:
        price: nominal parameters when None.
    """
    sizes = {name: _units(size, backbone) for name, size in baseline.parts}
    sized = [name for name in sizes if lookup(name).is_sized]

    def at(units: int) -> Architecture:
        first = sizes[sized[0]] if sized else 1
        parts = tuple(
            (name, max(1, round(size * units / first)) if name in sized else 1) for name, size in sizes.items()
        )
        return replace(baseline, parts=parts).on(backbone)

    def fits(units: int) -> bool:
        cost = count(backbone, at(units), 0).nominal if price is None else price(at(units))
        return cost is not None and cost <= most

    smallest = at(1)
    if smallest.is_empty or not fits(1):
        return None
    if not sized:
        return None, smallest
    # The cost grows with the units, so the last size that fits is found by halving.
    low, high = 1, _MOST_UNITS
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low, at(low)


def _units(size: int | str, backbone: Backbone) -> int:
    return backbone.hidden_size // int(size[2:]) if isinstance(size, str) else size
