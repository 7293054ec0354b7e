"""A whole search, before and after: the wall time of the command, by what the package shares, keeps and leaves out.

    python benchmarks/whole_search.py --data FOLDER --earlier FOLDER/src

Sixty random architectures of AutoPEFT's space on MRPC, the same ones for every side, each side a command of its own.
`earlier` is the source of an earlier commit, with the settings of `now`: one at a time, with all threads, every layer
computed at every step. `trunk kept` keeps what the layers below the lowest module give (no dropout there), with
`workers` in a process a core, with `passes` several in one pass. Proposals, evaluation, the study's database and what a
command takes to start are all in these seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine

SIDES: dict[str, tuple[str, ...]] = {
    "earlier": (),
    "now": (),
    "trunk kept": ("--set", "recipe.trunk_dropout=false"),
    "trunk kept, workers": ("--set", "recipe.trunk_dropout=false", "--workers", "2"),
    "trunk kept, passes of 4": ("--set", "recipe.trunk_dropout=false", "--batch", "4"),
}


def run(side: str, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One search; the seconds of the whole command, and what it found."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = [
            sys.executable, "-m", "autopeft", "search", "--model", options.model, "--task", "mrpc",
            "--data", options.data,
            "--space", "SA-PA-PT-Layer", "--sampler", "random", "--trials", options.trials,
            "--seed", seed, "--out", out,
            "--train-limit", options.examples, "--set", f"validation_limit={options.validation}",
            "--set", "recipe.epochs=1", "--set", "recipe.precision=float32", "--set", "learning_rates=[]", *SIDES[side],
        ]  # fmt: skip
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": folder}
        # A process a core has a thread each; one process has them all.
        environment["OMP_NUM_THREADS"] = "1" if "--workers" in words else str(options.threads)
        if side == "earlier":
            environment["PYTHONPATH"] = str(options.earlier.absolute())
        started = time.perf_counter()
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True, env=environment)
        seconds = time.perf_counter() - started
        if done.returncode:
            raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
        front = json.loads(
            subprocess.run(
                [sys.executable, "-m", "autopeft", "front", str(out), "--json"],
                capture_output=True, text=True, check=True, env=environment,
            ).stdout
        )  # fmt: skip
    return {"seconds": seconds, "front": front}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with glue/mrpc")
    parser.add_argument("--earlier", type=Path, help="the folder src of an earlier commit; left out without it")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--examples", type=int, default=320)
    parser.add_argument("--validation", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--name", default="whole_search")
    return parser.parse_args()


def main() -> None:
    """Run the sides in turn; the result is written after every one."""
    options = parse()
    if options.earlier is None:
        options.sides = [side for side in options.sides if side != "earlier"]
    before, found = machine.facts(), dict[str, list[dict[str, Any]]]()
    keys = ("trials", "examples", "validation", "rounds", "threads")
    setting = {"task": "mrpc", "space": "SA-PA-PT-Layer", **{key: getattr(options, key) for key in keys}}
    for number in range(options.rounds):
        for side in options.sides:
            found.setdefault(side, []).append(run(side, options, 1 + number))
            medians = {name: statistics.median(r["seconds"] for r in rounds) for name, rounds in found.items()}
            first = medians[options.sides[0]]
            told = {
                name: {"seconds": seconds, "times_as_fast": first / seconds, "rounds": found[name]}
                for name, seconds in medians.items()
            }
            path = machine.write(options.name, {"setting": setting, "sides": told}, before)
            print(f"{side}: {found[side][-1]['seconds']:.1f} s, {told[side]['times_as_fast']:.2f} times", flush=True)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
