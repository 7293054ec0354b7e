"""Maximising a score over the lattice: an acquisition function has no gradient there.

AutoPEFT (arXiv 2301.12132, section 3.2) climbs from the Pareto-optimal configurations to better neighbours, but
does not say what a neighbour is. Two readings are offered: all points that differ in one choice, and what the
released code does, a random walk of as many single changes as there are choices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from autopeft.errors import SettingsError
from autopeft.spaces.lattice import Configuration, SearchSpace

Scores = NDArray[np.float64]
Score = Callable[[Sequence[Configuration]], Scores]

# A size is redrawn from a normal distribution of this width in the unit encoding (the released code).
_WALK_WIDTH = 0.2
_WALK_DRAWS = 64


@dataclass
class Ledger:
    """Scores of the configurations seen so far, each asked for once; taken architectures are never scored.

    Args:
        space: the lattice.
        score: what is maximised; called with many configurations at once.
        taken: identities that must not be proposed.
        chunk: most configurations in one call of `score`.
    """

    space: SearchSpace
    score: Score
    taken: frozenset[tuple[int, ...]]
    chunk: int = 512
    scores: dict[Configuration, float] = field(default_factory=dict)

    def is_free(self, configuration: Configuration) -> bool:
        """Whether a feasible configuration may be proposed: its architecture is not taken."""
        return configuration in self.scores or self.space.identity(configuration) not in self.taken

    def add(self, configurations: Sequence[Configuration]) -> None:
        """Score those that have no score yet; not-a-number counts as the worst."""
        fresh = list(dict.fromkeys(c for c in configurations if c not in self.scores))
        for start in range(0, len(fresh), self.chunk):
            part = fresh[start : start + self.chunk]
            # A model that cannot be evaluated somewhere must not end the search; such a point is merely never chosen.
            values = np.nan_to_num(self.score(part), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
            self.scores.update(zip(part, map(float, values), strict=True))

    def value(self, configuration: Configuration) -> float:
        """Its score; minus infinity when it is taken, so that any free neighbour is an improvement."""
        return self.scores.get(configuration, -np.inf)

    def best(self, rng: np.random.Generator) -> Configuration | None:
        """The best configuration scored; ties are broken at random, so that a flat score proposes at random."""
        if not self.scores:
            return None
        top = max(self.scores.values())
        tied = [configuration for configuration, value in self.scores.items() if value == top]
        return tied[int(rng.integers(len(tied)))]


@dataclass(frozen=True)
class Climber:
    """One start of a search: where it stands and what it has spent."""

    at: Configuration
    spent: int = 0
    is_done: bool = False


def climb(
    ledger: Ledger,
    starts: Sequence[Configuration],
    rng: np.random.Generator,
    *,
    moves: int,
    evaluations: int,
    most_neighbours: int,
) -> None:
    """From every start move to the best neighbour (one choice changed) until none is better.

    All starts move in step, so that their neighbours are scored in few large batches.

    Args:
        ledger: receives the score of everything looked at.
        starts: where to begin; taken configurations are allowed.
        rng: picks the neighbours that are looked at where there are too many.
        moves: most moves of a start.
        evaluations: most neighbours that a start may look at; it stops when they are spent.
        most_neighbours: a random subset of this size is looked at where a point has more free neighbours.
    """
    # Measured points are good places to begin and must not be proposed, so they are climbed from without a score.
    ledger.add([start for start in starts if ledger.is_free(start)])
    climbers = [Climber(start) for start in dict.fromkeys(starts)]
    for _ in range(moves):
        active = [climber for climber in climbers if not climber.is_done]
        if not active:
            return
        looks = [_subset(ledger, climber, rng, min(most_neighbours, evaluations - climber.spent)) for climber in active]
        ledger.add([configuration for look in looks for configuration in look])
        moved = [_moved(ledger, climber, look, evaluations) for climber, look in zip(active, looks, strict=True)]
        # Two climbers on one point would go the same way from there.
        standing = {climber.at: climber for climber in moved if not climber.is_done}
        climbers = list(standing.values())


def _subset(ledger: Ledger, climber: Climber, rng: np.random.Generator, most: int) -> list[Configuration]:
    free = [c for c in ledger.space.neighbours(climber.at) if ledger.is_free(c)]
    if len(free) <= most:
        return free
    return [free[i] for i in sorted(rng.choice(len(free), size=most, replace=False))]


def _moved(ledger: Ledger, climber: Climber, look: Sequence[Configuration], evaluations: int) -> Climber:
    spent = climber.spent + len(look)
    best = max(look, key=ledger.value, default=climber.at)
    # A step sideways could go round in circles on a flat score.
    if ledger.value(best) <= ledger.value(climber.at):
        return replace(climber, spent=spent, is_done=True)
    return Climber(best, spent, spent >= evaluations)


def walk(ledger: Ledger, starts: Sequence[Configuration], rng: np.random.Generator, *, evaluations: int) -> None:
    """The released code's search: from every start, walks of as many random single changes as there are choices.

    Each start is first changed once. It moves to the best point of a walk if that is better, and never stops
    before its evaluations are spent.
    """
    length = max(1, ledger.space.n_choices)
    for start in starts:
        at = mutate(ledger.space, start, rng)
        ledger.add([at] if ledger.is_free(at) else [])
        for _ in range(max(1, evaluations // length)):
            path, here = [], at
            for _ in range(length):
                here = mutate(ledger.space, here, rng)
                path.append(here)
            free = [c for c in path if ledger.is_free(c)]
            ledger.add(free)
            at = max([at, *free], key=ledger.value)


def mutate(space: SearchSpace, configuration: Configuration, rng: np.random.Generator) -> Configuration:
    """One random change of one choice: a switch flips, a size moves by a normal step of 0.2 of its range.

    The result is feasible unless 64 draws in a row were not, in which case `configuration` comes back.
    """
    counts = [len(choice.values) for choice in space.choices]
    open_positions = [position for position, count in enumerate(counts) if count > 1]
    for _ in range(_WALK_DRAWS if open_positions else 0):
        position = open_positions[int(rng.integers(len(open_positions)))]
        index = _redrawn(configuration.indices[position], counts[position], rng)
        indices = (*configuration.indices[:position], index, *configuration.indices[position + 1 :])
        if space.is_feasible(changed := Configuration(indices)):
            return changed
    return configuration


def _redrawn(index: int, count: int, rng: np.random.Generator) -> int:
    """Another index near `index`: by rejection, uniformly over the others when that fails."""
    # A switch has one other value, and rejection would only take longer to find it.
    if count == 2:
        return 1 - index
    for _ in range(_WALK_DRAWS):
        drawn = round(float(rng.normal(index / (count - 1), _WALK_WIDTH)) * (count - 1))
        if 0 <= drawn < count and drawn != index:
            return drawn
    return (index + 1 + int(rng.integers(count - 1))) % count


def spread(points: Sequence[Configuration], most: int) -> list[Configuration]:
    """At most `most` of `points`, evenly spaced along them, the first and the last among them.

    Raises:
        SettingsError: `most` is negative.
    """
    if most < 0:
        raise SettingsError(f"A number of starts must be at least 0, but got {most}.")
    if len(points) <= most:
        return list(points)
    picked = sorted({round(i * (len(points) - 1) / max(1, most - 1)) for i in range(most)})
    return [points[i] for i in picked]
