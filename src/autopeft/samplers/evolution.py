"""Regularised evolution (Real, Aggarwal, Huang and Le 2019, arXiv 1802.01548, algorithm 1) for two objectives.

A population of the last measured architectures; the best of a random sample of it is mutated once; the oldest
dies. Ageing, rather than killing the worst, keeps a lucky measurement from staying for ever. With one objective
"best" is the highest value; with two it is the lowest non-dominated rank, and of equals the least crowded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.errors import SpaceExhaustedError
from autopeft.objectives import Costing
from autopeft.rules import Count, raise_if_any, violations
from autopeft.samplers import Sampler, SamplerSpec
from autopeft.samplers._propose import check_seed, generator, taken, with_options
from autopeft.samplers.random import random_unseen
from autopeft.spaces.lattice import Configuration, SearchSpace
from autopeft.trial import Trial, with_cost

# Single changes in a row that are tried when all neighbours of a parent have been measured.
_MOST_STEPS = 8


@dataclass(frozen=True)
class EvolutionSettings:
    """Options of `evolution`.

    Args:
        population: measured architectures that are alive: the last ones. Until there are as many, proposals are
            random.
        tournament: how many of them are drawn, without replacement, to find a parent.
    """

    population: Count = 20
    tournament: Count = 5

    def __post_init__(self) -> None:
        problems = violations(self)
        if not problems and self.tournament > self.population:
            problems.append(f"tournament is at most population, but got {self.tournament} > {self.population}")
        raise_if_any("The sampler 'evolution' cannot use these options", problems)


class Evolution:
    """One mutation of the winner of a tournament among the youngest measured architectures."""

    name = "evolution"

    def __init__(self, space: SearchSpace, seed: int, settings: EvolutionSettings, cost: Costing | None = None) -> None:
        self._space, self._seed, self._settings = space, check_seed(seed), settings
        self._cost = (cost or Costing()).objective

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved options, JSON-ready."""
        return asdict(self._settings)

    def ask(self, trials: Sequence[Trial], n: int = 1) -> list[Configuration]:
        """`n` children, each of a tournament of its own. See `Sampler.ask`."""
        rng, seen = generator(self._seed, trials), taken(self._space, trials)
        # The youngest, not the best: ageing is what keeps a lucky measurement from having children for ever (Real et
        # al.).
        alive = with_cost(trials, self._cost)[-self._settings.population :]
        if len(alive) < self._settings.population:
            return random_unseen(self._space, seen, rng, n)
        fitness = fitness_order([(found.value, self._cost.maximised(cost)) for _, found, cost in alive])
        found: list[Configuration] = []
        while len(found) < n:
            drawn = rng.choice(len(alive), size=self._settings.tournament, replace=False)
            # Small tournaments choose mildly: with noise of the size of the differences, the best on paper is often
            # not.
            parent, _, _ = alive[min((int(i) for i in drawn), key=lambda i: fitness[i])]
            try:
                found.append(self._child(parent.configuration, seen, rng))
            # Some are better than none; only where there is nothing at all the search is over.
            except SpaceExhaustedError:
                if found:
                    return found
                raise
            seen.add(self._space.identity(found[-1]))
        return found

    def _child(self, parent: Configuration, seen: set[tuple[int, ...]], rng: np.random.Generator) -> Configuration:
        """A free neighbour of `parent`; when there is none, of a neighbour, and so on; at last a random one."""
        here = parent
        for _ in range(_MOST_STEPS):
            around = self._space.neighbours(here)
            free = [c for c in around if self._space.identity(c) not in seen]
            if free:
                return one_change(here, free, rng)
            if not around:
                break
            here = one_change(here, around, rng)
        return random_unseen(self._space, seen, rng, 1)[0]


def one_change(here: Configuration, around: Sequence[Configuration], rng: np.random.Generator) -> Configuration:
    """One of the neighbours `around`: first which choice changes, uniformly, then its value."""
    changes: dict[int, list[Configuration]] = {}
    for neighbour in around:
        position = next(i for i, (a, b) in enumerate(zip(here.indices, neighbour.indices, strict=True)) if a != b)
        changes.setdefault(position, []).append(neighbour)
    # A size has many values and a switch two: drawn among neighbours, nearly every change would be one of a size.
    positions = sorted(changes)
    options = changes[positions[int(rng.integers(len(positions)))]]
    return options[int(rng.integers(len(options)))]


def fitness_order(points: Sequence[tuple[float, float]]) -> list[tuple[int, float]]:
    """A sort key for each point, smaller is fitter: non-dominated rank from 0, then minus the crowding distance.

    Args:
        points: pairs of values that are both to be maximised.
    """
    values = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    ranks = non_dominated_ranks(values)
    crowding = np.zeros(len(values))
    for rank in np.unique(ranks):
        members = np.flatnonzero(ranks == rank)
        crowding[members] = _crowding(values[members])
    return [(int(rank), -float(room)) for rank, room in zip(ranks, crowding, strict=True)]


def non_dominated_ranks(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """0 for points that none beats, 1 for those that only points of rank 0 beat, and so on.

    Args:
        values: ``(n, m)``, larger is better.

    Returns:
        ``(n,)``.
    """
    # All pairs at once: a population has some twenty members, and a sort would be longer to read than to save.
    at_least = (values[:, None, :] >= values[None, :, :]).all(-1)
    beats = at_least & ~at_least.T  # beats[i, j]: i dominates j
    ranks = np.full(len(values), -1, dtype=np.int64)
    rank = 0
    while (left := ranks < 0).any():
        ranks[left & ~(beats & left[:, None]).any(0)] = rank
        rank += 1
    return ranks


def _crowding(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Crowding distance (Deb et al. 2002, NSGA-II): room between neighbours, infinite at the ends. ``(n,)``."""
    room = np.zeros(len(values))
    for column in values.T:
        # Stable, so that equal values have the same order on every platform, and a resumed search the same children.
        order = np.argsort(column, kind="stable")
        ordered = column[order]
        width = ordered[-1] - ordered[0]
        room[order[[0, -1]]] = np.inf
        # Where all values are equal nobody is crowded more than another, and a division by nothing would say otherwise.
        if width > 0:
            room[order[1:-1]] += (ordered[2:] - ordered[:-2]) / width
    return room


def build(space: SearchSpace, seed: int, *, cost: Costing | None = None, **options: Any) -> Sampler:
    """Regularised evolution with `options` (fields of `EvolutionSettings`).

    Raises:
        SettingsError: an option does not exist, or its value cannot be used.
    """
    return Evolution(space, seed, with_options(EvolutionSettings(), options, Evolution.name), cost)


MEMBERS = {
    "evolution": SamplerSpec(
        "evolution",
        build,
        "Regularised evolution with non-dominated ranks (Real et al. 2019)",
        reads_cost=True,
        defaults=EvolutionSettings(),
    )
}
