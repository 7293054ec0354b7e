"""Processor time of `front` and `report`, and the size of the page, for studies of up to 5,000 trials.

    OMP_NUM_THREADS=1 python benchmarks/study_size.py [--sizes 1250 2500 5000] [--repeats 3] [--name study_size]

The trials are those of a formula with a learning curve of ten points each, stored as a search stores them: only their
reading is timed. Processor time is that of a process of its own, imports included; the least of the repeats is kept
beside all, since other work on the machine can only add to it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as StoredState

import machine
from autopeft.architecture import Cost, Counts, Line
from autopeft.objective import Epoch, Measurement
from autopeft.samplers.random import initial_design
from autopeft.settings import Settings, save
from autopeft.spaces.lattice import Choice, Configuration, SearchSpace, Slot
from autopeft.study.lease import Lease
from autopeft.study.record import Proposal, to_json
from autopeft.study.stored import write_trial
from autopeft.study.study import Study

BACKBONE = 109_482_240
N_EPOCHS = 10


def space() -> SearchSpace:
    """Twelve layers that are switched, and three shared sizes of ten values: as AutoPEFT's on BERT-base."""
    switches = tuple(Choice(f"layer.{index}", (0, 1)) for index in range(12))
    sizes = tuple(Choice(name, (0, 1, 3, 6, 12, 24, 48, 96, 192, 384)) for name in ("lora", "serial", "parallel"))
    cost = Cost(nominal=Line(0, 1536), stored=Line(768, 1536))
    slots = tuple(
        Slot(method.name, f"encoder.{layer}.ffn", cost, 12 + column, layer)
        for layer in range(12)
        for column, method in enumerate(sizes)
    )
    return SearchSpace((*switches, *sizes), slots)


def measured(number: int, configuration: Configuration, lattice: SearchSpace) -> Measurement:
    """What the formula gives: a metric that saturates with the size, and a curve that rises to it."""
    counts = Counts(
        lattice.cost(configuration),
        lattice.cost(configuration, "stored"),
        lattice.cost(configuration, "stored") + 1538,
        BACKBONE,
    )
    noise = np.random.default_rng(number).normal(scale=0.02)
    value = float(0.7 + 0.03 * np.log10(1 + counts.nominal / 1000) + noise)
    curve = tuple(
        Epoch(
            epoch,
            115 * epoch,
            float(np.exp(-epoch / 4)),
            {"accuracy": value * (1 - 0.4 * float(np.exp(-epoch / 2))), "f1": value},
            12.5 * epoch,
        )
        for epoch in range(1, N_EPOCHS + 1)
    )
    extra = {"n_train": 3668, "n_scored": 408, "steps": 1150, "planned_steps": 1150, "n_processed": 36680}
    costs = {"latency": {"unit": "ms", "value": 7.99, "batch": 16}, "bytes": {"unit": "kB", "value": 4e-3}}
    metrics = {"accuracy": value, "f1": value}
    return Measurement(metrics, "accuracy", counts, 130.0, 2**30, 0.02, "validation", curve, extra, costs)


def stored(number: int, configuration: Configuration, lattice: SearchSpace) -> FrozenTrial:
    """A finished trial as a search leaves it in the storage."""
    proposal = Proposal(configuration, lattice.candidate(configuration), "initial" if number < 100 else "random", 0.5)
    result = measured(number, configuration, lattice)
    trial = write_trial(proposal, lattice.choices, 0, Lease.mine(0.0))
    trial.set_user_attr("measurement", to_json(result.as_dict()))
    trial.state, trial.datetime_complete = StoredState.COMPLETE, datetime.now()
    trial.values = [result.value, result.percent]
    return trial


def build(folder: Path, sizes: list[int]) -> dict[int, Path]:
    """A study's folder for every size; the smaller ones are copied on the way to the largest."""
    lattice, growing = space(), folder / "growing"
    settings = Settings(model="bert-base-uncased", task="glue/mrpc", sampler="random", trials=max(sizes))
    folders: dict[int, Path] = {}
    with Study.create_or_resume(growing / "study.db", "growing", lattice, "accuracy", settings.as_dict(), 0) as study:
        save(settings, growing / "settings.yaml")
        for number, configuration in enumerate(initial_design(lattice, 0, max(sizes))):
            study._store.backend.create_new_trial(study._key, stored(number, configuration, lattice))
            if number + 1 in sizes:
                folders[number + 1] = copied(growing, folder / f"of_{number + 1}")
    return folders


def copied(growing: Path, target: Path) -> Path:
    """A copy of a study that is still written to."""
    target.mkdir()
    shutil.copy(growing / "settings.yaml", target)
    with (
        closing(sqlite3.connect(growing / "study.db")) as source,
        closing(sqlite3.connect(target / "study.db")) as copy,
    ):
        source.backup(copy)
    return target


def found(folder: Path, sizes: list[int]) -> dict[int, Path]:
    """The studies that `folder` holds, built where they are missing."""
    folders = {size: folder / f"of_{size}" for size in sizes}
    return folders if all(each.is_dir() for each in folders.values()) else build(folder, sizes)


def seconds(command: list[str | Path]) -> float:
    """Processor time, of user and system, of one command in a process of its own."""
    words = [sys.executable, "-m", "autopeft", *map(str, command)]
    # An installed package has been compiled: with this variable set, a tree of sources is compiled anew each time.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, env=environment) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} failed with exit code {process.returncode}.")
    return usage.ru_utime + usage.ru_stime


def figures(folder: Path, repeats: int) -> dict[str, Any]:
    """Times of the commands on one study, and the sizes of what they read and write."""
    commands: dict[str, list[str | Path]] = {
        "front": ["front", folder],
        "front_json": ["front", folder, "--json"],
        "report": ["report", folder],
        "report_json": ["report", folder, "--to", folder / "report.json"],
    }
    found = {name: [round(seconds(command), 3) for _ in range(repeats)] for name, command in commands.items()}
    return {
        "seconds": {name: min(each) for name, each in found.items()},
        "all_seconds": found,
        "page_bytes": (folder / "report.html").stat().st_size,
        "study_bytes": (folder / "study.db").stat().st_size,
    }


def main() -> None:
    """Build the studies, time the commands on each, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1250, 2500, 5000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--studies", type=Path, help="folder of studies that an earlier run has built there")
    parser.add_argument("--name", default="study_size")
    options = parser.parse_args()
    before = {**machine.facts(), "loop_seconds": round(machine.loop_seconds(), 3)}
    with tempfile.TemporaryDirectory() as folder:
        folders = found(options.studies, options.sizes) if options.studies else build(Path(folder), options.sizes)
        result = {str(n): figures(folders[n], options.repeats) for n in sorted(folders)}
    for n, one in result.items():
        told = ", ".join(f"{name} {value:.2f} s" for name, value in one["seconds"].items())
        print(f"{n} trials: {told}, page {one['page_bytes'] / 1e6:.3f} MB")
    print(f"written: {machine.write(options.name, {'epochs': N_EPOCHS, 'trials': result}, before)}")


if __name__ == "__main__":
    main()
