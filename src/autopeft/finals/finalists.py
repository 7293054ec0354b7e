"""Who is invited: in every band of cost the best few that were searched, and the uniform architectures of that cost."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from autopeft.architecture import Architecture, ParameterBudget
from autopeft.backbones import Backbone
from autopeft.candidate import Candidate
from autopeft.errors import BudgetError
from autopeft.methods import lookup
from autopeft.network.build import count
from autopeft.training.retraining import BASELINES, Baseline
from autopeft.trial import Trial

log = logging.getLogger(__name__)

USUAL = ("lora", "lora_all", "serial", "parallel", "prefix", "bitfit")
"""The baselines that are invited unless others are named: what a careful person would try."""

_MOST_UNITS = 1 << 14


@dataclass(frozen=True)
class Band:
    """Costs that are compared with one another: a name, and the nominal parameters of its ends, inclusive."""

    name: str
    least: int
    most: int

    def holds(self, parameters: int) -> bool:
        """Whether a nominal count lies in the band."""
        return self.least <= parameters <= self.most


@dataclass(frozen=True)
class Finalist:
    """Somebody who is invited.

    Args:
        name: "trial 12" or the baseline's name with its size, "serial:24".
        candidate: what is trained.
        band: the name of the band.
        nominal: its nominal parameters.
        found_by: who proposed it: "initial", the name of a sampler, or "baseline".
    """

    name: str
    candidate: Candidate
    band: str
    nominal: int
    found_by: str

    @property
    def is_baseline(self) -> bool:
        """Whether nothing was searched for it."""
        return self.found_by == "baseline"


def bands(budgets: Sequence[str], backbone: Backbone) -> tuple[Band, ...]:
    """A band for each budget such as "0.5%": half of it to all of it, or the range that the text names.

    Raises:
        BudgetError: a text is no budget, or two are the same.
    """
    found = []
    for text in budgets:
        budget = ParameterBudget.parse(text, backbone.n_parameters)
        # Half of a budget to all of it: a candidate that costs a tenth of the limit answers another question.
        found.append(Band(text.strip(), budget.least or budget.most // 2, budget.most))
    if len({(band.least, band.most) for band in found}) < len(found):
        raise BudgetError(f"Every budget is given once, but got {', '.join(budgets)}.")
    return tuple(found)


def invite(
    backbone: Backbone,
    trials: Sequence[Trial],
    scores: Mapping[int, float],
    band: Band,
    n: int,
    baselines: Sequence[str] = USUAL,
) -> tuple[Finalist, ...]:
    """The finalists of one band: the best `n` that were searched, then the baselines of that cost.

    Args:
        scores: by trial number, what the search makes of a trial, such as `smooth` gives it; larger is better.
        baselines: names from `autopeft.training.retraining.BASELINES`. One that does not fit the band at any size, or
            has no place on this backbone, is left out, and a line of the log says so.

    Raises:
        BudgetError: no measured trial lies in the band.
    """
    chosen = _searched(trials, scores, band, n)
    if not chosen:
        costs = sorted(t.measurement.counts.nominal for t in trials if t.measurement is not None)
        there = f"{costs[0]:,} to {costs[-1]:,}" if costs else "none"
        raise BudgetError(
            f"No measured trial has {band.least:,} to {band.most:,} nominal parameters ({band.name}); "
            f"the trials have {there}."
        )
    return (*chosen, *_uniform(backbone, band, baselines))


def _searched(trials: Sequence[Trial], scores: Mapping[int, float], band: Band, n: int) -> tuple[Finalist, ...]:
    fitting = [t for t in trials if t.measurement is not None and band.holds(t.measurement.counts.nominal)]
    found: dict[Candidate, Finalist] = {}
    for trial in sorted(fitting, key=lambda trial: (-scores[trial.number], trial.number)):
        assert trial.measurement is not None
        candidate = trial.candidate
        invited = Finalist(
            f"trial {trial.number}", candidate, band.name, trial.measurement.counts.nominal, trial.origin
        )
        # One candidate may have been measured several times; it is invited once, by its best trial.
        found.setdefault(candidate, invited)
    return tuple(found.values())[:n]


def _uniform(backbone: Backbone, band: Band, names: Sequence[str]) -> tuple[Finalist, ...]:
    found: dict[Architecture, Finalist] = {}
    for name in names:
        fitted = resized(BASELINES[name], backbone, band.most)
        if fitted is None:
            log.info("The baseline %s has no form of at most %d parameters here.", name, band.most)
            continue
        units, architecture = fitted
        label = f"{name}:{units}" if units else name
        nominal = count(backbone, architecture, 0).nominal
        # Two baselines may come to the same architecture at a small size, which is trained once.
        found.setdefault(architecture, Finalist(label, Candidate.of(architecture), band.name, nominal, "baseline"))
    return tuple(found.values())


def resized(baseline: Baseline, backbone: Backbone, most: int) -> tuple[int | None, Architecture] | None:
    """The largest form of `baseline` with at most `most` nominal parameters, and the units of its first sized method.

    Sizes of several methods keep their ratio as far as whole numbers do. The units are None where nothing has a size.
    None when even the smallest form is larger, or when the baseline has no place on `backbone`.
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
        return count(backbone, at(units), 0).nominal <= most

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
