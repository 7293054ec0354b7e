"""Random search, and the initial design that every sampler of a comparison shares.

AutoPEFT (arXiv 2301.12132, section 3.2) starts from uniformly random configurations and compares its search with
going on at random. Uniform means: every index of every choice alike, invalid points rejected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autopeft.errors import SpaceExhaustedError
from autopeft.samplers import Sampler, SamplerSpec
from autopeft.samplers._propose import check_seed, generator, taken, with_options
from autopeft.spaces.lattice import Configuration, SearchSpace
from autopeft.trial import Trial

# Drawn at a time, whatever is asked for: so that the stream of random numbers does not depend on how many are.
_DRAWN = 64
_IDLE_DRAWS = 4
# A third word of the seed: numpy takes [7] and [7, 0] for the same seed, and [7, 0] belongs to the first proposal.
_INITIAL = (0, 1)


def initial_design(space: SearchSpace, seed: int, n: int) -> list[Configuration]:
    """`n` random feasible configurations whose architectures all differ.

    Depends on `space` and `seed` only, and the first k of n are the design of k: a study may ask for more
    later, and all samplers that share the seed share the design.

    Returns:
        As many as there are when the space holds fewer than `n`.

    Raises:
        SpaceExhaustedError: the space holds nothing feasible.
    """
    rng = np.random.default_rng([check_seed(seed), *_INITIAL])
    return random_unseen(space, (), rng, n) if n else []


def random_unseen(
    space: SearchSpace, seen: Iterable[tuple[int, ...]], rng: np.random.Generator, n: int
) -> list[Configuration]:
    """`n` random feasible configurations with identities that differ from each other and from `seen`.

    Raises:
        SpaceExhaustedError: there is not a single one; when there are some, but fewer than `n`, they come back.
    """
    found: list[Configuration] = []
    for configuration in _fresh(space, set(seen), rng):
        found.append(configuration)
        if len(found) == n:
            return found
    if not found:
        raise SpaceExhaustedError(
            "Every feasible architecture of this space has been measured, is being measured or failed: "
            "widen the space or the budget to go on."
        )
    return found


def _fresh(space: SearchSpace, known: set[tuple[int, ...]], rng: np.random.Generator) -> Iterator[Configuration]:
    """Unseen configurations in random order until none is left: by rejection, then by `SearchSpace.unseen`."""
    idle = 0
    # Rejection is quick while much is unseen. After a few rounds without anything new the space is searched in order.
    while idle < _IDLE_DRAWS:
        idle += 1
        for configuration in space.sample(rng, _DRAWN):
            identity = space.identity(configuration)
            if identity not in known:
                idle = 0
                known.add(identity)
                yield configuration
    while True:
        try:
            configuration = space.unseen(known, rng)
        except SpaceExhaustedError:
            return
        known.add(space.identity(configuration))
        yield configuration


@dataclass(frozen=True)
class RandomSettings:
    """Random search has no options."""


class RandomSampler:
    """Uniformly random feasible architectures, never the same one twice."""

    name = "random"

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self._space, self._seed = space, check_seed(seed)

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved options: none."""
        return {}

    def ask(self, trials: Sequence[Trial], n: int = 1) -> list[Configuration]:
        """`n` random configurations that are not taken. See `Sampler.ask`."""
        return random_unseen(self._space, taken(self._space, trials), generator(self._seed, trials), n)


def build(space: SearchSpace, seed: int, **options: Any) -> Sampler:
    """Random search over `space`; it takes no options."""
    # It has no options, and says so as every other sampler does: with the name of what was given.
    with_options(RandomSettings(), options, RandomSampler.name)
    return RandomSampler(space, seed)


MEMBERS = {
    "random": SamplerSpec(
        "random", build, "Uniformly random feasible architectures, never the same one twice", defaults=RandomSettings()
    )
}
