"""Studies on formulas, for tests of storage and search.

Also a worker process: ``python formulas.py FILE N SECONDS``.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autopeft.architecture import Architecture, Cost, Counts, Line
from autopeft.objective import Epoch, Measurement
from autopeft.space import Choice, Configuration, SearchSpace, Slot
from autopeft.store.lease import LeaseRules
from autopeft.study import Study
from autopeft.trial import Trial

QUICK = LeaseRules(beat_seconds=0.2, stale_seconds=2.0, poll_seconds=0.02)
"""Leases for tests, in which trials take milliseconds."""


def two_methods(n_layers: int = 3, sizes: tuple[int, ...] = (0, 1, 2, 4, 8)) -> SearchSpace:
    """A switch a layer and two shared sizes: (2^3 - 1) * (5^2 - 1) = 168 distinct architectures by default."""
    switches = tuple(Choice(f"layer.{index}", (0, 1)) for index in range(n_layers))
    methods = tuple(Choice(name, sizes) for name in ("lora", "serial"))
    cost = Cost(nominal=Line(0, 10), stored=Line(1, 10))
    slots = tuple(
        Slot(method.name, f"encoder.{layer}.ffn", cost, n_layers + column, layer)
        for layer in range(n_layers)
        for column, method in enumerate(methods)
    )
    return SearchSpace((*switches, *methods), slots)


SPACE = two_methods()
SETTINGS = {"task": {"name": "formula", "split": "validation"}, "epochs": 3}


class Blind:
    """A random sampler that depends on nothing but the trials it is shown, as samplers must."""

    name = "blind"

    def __init__(self, space: SearchSpace) -> None:
        self.space = space

    def ask(self, trials: Sequence[Trial], n: int = 1) -> list[Configuration]:
        """One configuration that is not taken."""
        seen = {self.space.identity(trial.configuration) for trial in trials if trial.is_taken}
        return [self.space.unseen(seen, np.random.default_rng([1, len(trials)]))]


def formula(architecture: Architecture, seed: int) -> Measurement:
    """Accuracy grows with the total size u as u / (u + 10); 10 parameters a unit, backbone of 10,000."""
    units = sum(item.size for item in architecture)
    counts = Counts(nominal=10 * units, stored=10 * units + len(architecture), trained=10 * units + 9, backbone=10_000)
    history = (Epoch(1.0, 10, 0.5, {"accuracy": 0.5}, 0.1), Epoch(2.0, 20, 0.25, {"accuracy": 0.6}, 0.2))
    return Measurement(
        metrics={"accuracy": units / (units + 10), "f1": 0.1},
        objective="accuracy",
        counts=counts,
        seconds=0.25,
        peak_memory=1024,
        latency=0.001,
        split="validation",
        history=history,
        extra={"seed": seed},
    )


def made(path: Path, space: SearchSpace = SPACE, rules: LeaseRules = QUICK, **changes: Any) -> Study:
    """The study "search" on `space`, made or resumed; `changes` replace its objective, settings or seed."""
    facts: dict[str, Any] = {"objective": "accuracy", "settings": SETTINGS, "seed": 7} | changes
    return Study.create_or_resume(path, "search", space, **facts, rules=rules)


def work(path: str, n_trials: int, seconds: float) -> None:
    """Be one worker of a study whose trials take `seconds` each."""

    def slow(architecture: Architecture, seed: int) -> Measurement:
        time.sleep(seconds)
        return formula(architecture, seed)

    with made(Path(path)) as study:
        study.run(slow, Blind(SPACE), n_trials)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    work(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
