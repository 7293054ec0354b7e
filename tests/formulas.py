"""Studies on formulas, for tests of storage and search.

Also a worker process: ``python formulas.py STORAGE N SECONDS [PROMOTION]``, where the storage is a file or a URL.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autopeft import promotions
from autopeft.architecture import Architecture, Cost, Counts, Line
from autopeft.candidate import Candidate
from autopeft.errors import InputError
from autopeft.fidelity import FULL, Fidelity, Reached
from autopeft.interruption import signals_interrupt
from autopeft.objective import Epoch, Measurement
from autopeft.spaces.lattice import Choice, Configuration, SearchSpace, Slot
from autopeft.study.ladder import Ladder
from autopeft.study.lease import LeaseRules
from autopeft.study.study import Study
from autopeft.trial import Trial, TrialState

QUICK = LeaseRules(beat_seconds=0.2, stale_seconds=2.0, poll_seconds=0.02, patience_seconds=20.0)
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


def formula(given: Candidate | Architecture, seed: int) -> Measurement:
    """Accuracy grows with the total size u as u / (u + 10); 10 parameters a unit, backbone of 10,000."""
    architecture = Candidate.of(given).architecture
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


RUNGS = (Fidelity(1.0), Fidelity(3.0), FULL)
SHARES = (1 / 9, 1 / 3, 1.0)


def up_to(given: Candidate | Architecture, seed: int, rung: int) -> Measurement:
    """The formula at a rung, where it is lower, and noisy in a way that depends on the candidate alone."""
    whole, candidate = formula(given, seed), Candidate.of(given)
    # A digest of the candidate, not Python's own hash, which differs from process to process.
    rng = np.random.default_rng(int(candidate.fingerprint[:12], 16))
    noise = rng.normal(0, 0.05, len(RUNGS))
    values = [share**0.25 * whole.value + (noise[place] if share < 1 else 0) for place, share in enumerate(SHARES)]
    reached = [
        Reached(fidelity, round(9 * share), 9 * share, float(value), share).as_dict()
        for fidelity, share, value in zip(RUNGS, SHARES, values, strict=True)
    ][: rung + 1]
    steps = {"steps": round(9 * SHARES[rung]), "planned_steps": 9, "n_processed": round(900 * SHARES[rung])}
    metrics = {**whole.metrics, "accuracy": float(values[rung])}
    return replace(whole, metrics=metrics, extra={"seed": seed, "rungs": reached, **steps})


def ladder(trainings: float = math.inf, name: str = "pareto", **options: Any) -> Ladder:
    """Rungs of the formula, with a promotion."""
    return Ladder(SHARES, promotions.build(name, options), up_to, trainings)


def made(where: str | Path, space: SearchSpace = SPACE, rules: LeaseRules = QUICK, **changes: Any) -> Study:
    """The study "search" on `space`, made or resumed; `changes` replace its objective, settings or seed."""
    facts: dict[str, Any] = {"objective": "accuracy", "settings": SETTINGS, "seed": 7} | changes
    return Study.create_or_resume(where, "search", space, **facts, rules=rules)


def work(where: str, n_trials: int, seconds: float, promotion: str = "all") -> None:
    """Be one worker of a study whose trials, or the parts between two of their rungs, take `seconds` each."""

    def slow_up_to(candidate: Candidate, seed: int, rung: int) -> Measurement:
        time.sleep(seconds)
        return up_to(candidate, seed, rung)

    def slow(candidate: Candidate, seed: int) -> Measurement:
        time.sleep(seconds)
        return formula(candidate, seed)

    with made(where if "://" in where else Path(where)) as study:
        steps = replace(ladder(name=promotion), measure=slow_up_to)
        study.run(slow, Blind(SPACE), n_trials, ladder=steps)


# -- worker processes ------------------------------------------------------------------------------------------


def start(where: str | Path, n_trials: int, seconds: float, promotion: str = "all") -> subprocess.Popen[bytes]:
    script = Path(__file__)
    command = [sys.executable, "-W", "error", str(script), str(where), str(n_trials), str(seconds), promotion]
    paths = os.pathsep.join(filter(None, [str(script.parents[1] / "src"), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def finish(worker: subprocess.Popen[bytes]) -> None:
    _, errors = worker.communicate(timeout=100)
    assert worker.returncode == 0, errors.decode()


def check_finished(where: str | Path, n_trials: int) -> tuple[Trial, ...]:
    with Study.open(where) as study:
        trials = study.trials()
    finished = [trial.architecture for trial in trials if trial.counts_as_finished]
    assert len(finished) == len(set(finished)) == n_trials
    assert not [trial for trial in trials if trial.state is TrialState.RUNNING]
    return trials


def kill_while_holding(where: str | Path, victim: subprocess.Popen[bytes]) -> list[int]:
    """Stop the victim; kill it for good when it holds a trial after three are finished."""
    if isinstance(where, Path) and not where.exists():
        return []
    try:
        study = Study.open(where)
    except InputError:
        return []  # the workers are still making it
    with study:
        victim.send_signal(signal.SIGSTOP)
        study._ledger.refresh()
        taken = Counter(record.fingerprint for record in study._ledger.records.values() if record.is_taken)
        held = [
            record.trial.number
            for record in study._ledger.records.values()
            # One that somebody else claimed as well, and was about to be withdrawn, would not be repeated.
            if record.is_running and record.lease.pid == victim.pid and taken[record.fingerprint] == 1
        ]
        if not held or study.n_finished() < 3:
            victim.send_signal(signal.SIGCONT)
            return []
        victim.kill()
        return held


def lose_worker(study: Study, trial: Trial) -> None:
    """Make the lease of a running trial that of a process which has ended."""
    study._holder.let_go(trial.number)
    record = study._ledger.records[trial.number]
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    gone = replace(record.lease, pid=child.pid, started=0.0)
    study._store.backend.set_trial_user_attr(record.key, "lease", gone.as_dict())


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with signals_interrupt():
        work(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:])
