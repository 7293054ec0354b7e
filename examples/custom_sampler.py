"""A sampler of your own: the cheapest architectures that have not been tried, of a random handful.

    python custom_sampler.py [FOLDER]

The command line takes it too, when the file is importable:

    PYTHONPATH=examples autopeft search --task reviews/movies --sampler custom_sampler:build
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import autopeft
from autopeft.samplers._propose import taken
from autopeft.samplers.random import random_unseen


class Cheapest:
    """Draws `handful` new architectures and proposes those with the fewest parameters."""

    name = "cheapest"

    def __init__(self, space: autopeft.SearchSpace, seed: int, handful: int) -> None:
        self.space, self.seed, self.handful = space, seed, handful

    @property
    def settings(self) -> dict[str, int]:
        """What is stored with the study; the study refuses to go on with another value."""
        return {"handful": self.handful}

    def ask(self, trials: Sequence[autopeft.Trial], n: int = 1) -> list[autopeft.Configuration]:
        """A pure function of the trials: the generator is made anew of the seed and their number."""
        rng = np.random.default_rng([self.seed, len(trials)])
        drawn = random_unseen(self.space, taken(self.space, trials), rng, max(n, self.handful))
        return sorted(drawn, key=self.space.cost)[:n]


def build(space: autopeft.SearchSpace, seed: int, *, handful: int = 16) -> Cheapest:
    """The factory: its keyword arguments are the options that `sampler_options` may hold."""
    return Cheapest(space, seed, handful)


def main(folder: Path) -> None:
    settings = autopeft.Settings(
        task="reviews/movies",
        train_limit=200,
        validation_limit=200,
        recipe=autopeft.Recipe(learning_rate=3e-3, epochs=1, batch_size=16, max_length=48),
        learning_rates=(),
        sampler="custom_sampler:build",
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
