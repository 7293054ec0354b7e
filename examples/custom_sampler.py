"""A sampler of your own: the cheapest architectures that have not been tried, of a random handful.

    python custom_sampler.py [FOLDER]

The command line takes it too, when the file is importable:

    PYTHONPATH=examples autopeft search --task reviews/movies --sampler custom_sampler:CHEAPEST \\
        --set sampler_options.handful=8

Whether it keeps what a sampler promises:

    PYTHONPATH=examples python -c "from autopeft.testing import check_sampler; check_sampler('custom_sampler:CHEAPEST')"
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import autopeft
from autopeft.rules import Count, Flag, raise_if_any, violations
from autopeft.samplers import SamplerSpec
from autopeft.samplers._propose import check_seed, taken, with_options
from autopeft.samplers.random import random_unseen


@dataclass(frozen=True)
class CheapestSettings:
    """Options of `cheapest`; what each must be stands beside it.

    Args:
        handful: how many new architectures are drawn.
        is_dear: propose those with the most parameters instead.
    """

    handful: Count = 16
    is_dear: Flag = False

    def __post_init__(self) -> None:
        raise_if_any("The sampler 'cheapest' cannot use these options", violations(self))


class Cheapest:
    """Draws a handful of new architectures and proposes those with the fewest parameters."""

    name = "cheapest"

    def __init__(self, space: autopeft.SearchSpace, seed: int, options: CheapestSettings) -> None:
        self.space, self.seed, self.options = space, check_seed(seed), options

    @property
    def settings(self) -> dict[str, Any]:
        """What is stored with the study; the study refuses to go on with another value."""
        return asdict(self.options)

    def ask(self, trials: Sequence[autopeft.Trial], n: int = 1) -> list[autopeft.Configuration]:
        """A pure function of the trials: the generator is made anew of the seed and their number."""
        rng = np.random.default_rng([self.seed, len(trials)])
        drawn = random_unseen(self.space, taken(self.space, trials), rng, max(n, self.options.handful))
        return sorted(drawn, key=self.space.cost, reverse=self.options.is_dear)[:n]


def build(space: autopeft.SearchSpace, seed: int, **options: Any) -> Cheapest:
    """What `sampler_options` hold comes as keywords; one that there is not is named with the nearest."""
    return Cheapest(space, seed, with_options(CheapestSettings(), options, "cheapest"))


CHEAPEST = SamplerSpec("cheapest", build, "the cheapest of a random handful", {"recommended": CheapestSettings()})


def main(folder: Path) -> None:
    settings = autopeft.Settings(
        task="reviews/movies",
        train_limit=200,
        validation_limit=200,
        recipe=autopeft.Recipe(learning_rate=3e-3, epochs=1, batch_size=16, max_length=48),
        learning_rates=(),
        sampler="custom_sampler:CHEAPEST",
        sampler_options={"handful": 8},
        trials=5,
        initial=2,
    )
    study = autopeft.search(settings, folder)
    for trial in study.trials():
        if trial.measurement is not None:
            print(f"{trial.origin}: {trial.measurement.value:.3f} at {trial.measurement.percent:.4f} %")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/custom-sampler"))
