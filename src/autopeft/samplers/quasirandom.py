"""Quasi-random search: points that fill the space more evenly than random ones do.

A scrambled Sobol or Halton sequence in the unit cube, cut into the cells of the lattice. Where few of the choices
matter it tries more different values of these than random search does with as many trials (Bergstra and Bengio 2012,
section 5), which makes it the fairer control.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from autopeft.rules import raise_if_any, violations
from autopeft.samplers import Sampler, SamplerSpec
from autopeft.samplers._propose import check_seed, generator, taken, with_options
from autopeft.samplers.random import random_unseen
from autopeft.spaces.lattice import Configuration, SearchSpace
from autopeft.trial import Trial

_BLOCK = 64  # Sobol points are balanced in powers of two
_MOST_BLOCKS = 64


@dataclass(frozen=True)
class QuasirandomSettings:
    """Options of `quasirandom`.

    Args:
        sequence: "sobol", or "halton", whose first points are less even in many dimensions.
    """

    sequence: Literal["sobol", "halton"] = "sobol"

    def __post_init__(self) -> None:
        raise_if_any("Quasi-random search cannot use these options", violations(self))


class QuasirandomSampler:
    """The next point of one sequence that is feasible and not taken."""

    name = "quasirandom"

    def __init__(self, space: SearchSpace, seed: int, settings: QuasirandomSettings) -> None:
        self._space, self._seed, self._settings = space, check_seed(seed), settings

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved options, JSON-ready."""
        return asdict(self._settings)

    def ask(self, trials: Sequence[Trial], n: int = 1) -> list[Configuration]:
        """`n` points, random ones where the sequence has no more within a tight budget. See `Sampler.ask`."""
        seen, found = taken(self._space, trials), []
        for configuration in self._points():
            identity = self._space.identity(configuration)
            if identity not in seen:
                seen.add(identity)
                found.append(configuration)
                if len(found) == n:
                    return found
        # The sequence is gone through from its beginning each time, so that no state is kept between calls; where its
        # beginning holds nothing new, as in a small space or under a tight budget, chance goes on.
        rest = random_unseen(self._space, seen, generator(self._seed, trials), n - len(found)) if not found else []
        return found + rest

    def _points(self) -> Iterator[Configuration]:
        """Feasible points of the sequence, in its order."""
        from scipy.stats import qmc  # a second, which only who asks for this sampler waits

        counts = np.array([len(choice.values) for choice in self._space.choices])
        engines = {"sobol": qmc.Sobol, "halton": qmc.Halton}
        engine = engines[self._settings.sequence](len(counts), scramble=True, seed=np.random.default_rng(self._seed))
        for _ in range(_MOST_BLOCKS):
            rows = (engine.random(_BLOCK) * counts).astype(np.int64).clip(max=counts - 1)
            for row in rows[self._space.feasible(rows)]:
                yield Configuration(tuple(map(int, row)))


def build(space: SearchSpace, seed: int, **options: Any) -> Sampler:
    """Quasi-random search over `space`; for the options see `QuasirandomSettings`."""
    return QuasirandomSampler(space, seed, with_options(QuasirandomSettings(), options, QuasirandomSampler.name))


MEMBERS = {
    "quasirandom": SamplerSpec(
        "quasirandom",
        build,
        "Points of a scrambled Sobol or Halton sequence: more even than random ones",
        defaults=QuasirandomSettings(),
    )
}
