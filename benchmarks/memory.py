"""Peak memory of a search: does it grow with the number of trials?

    python benchmarks/memory.py --data FOLDER

Runs two searches that differ in nothing but `--trials`, each in a process of its own, and gives the ratio of their
peak resident sizes as the system counted them. All architectures are serial adapters of nearly the same size in every
layer: where sizes differ widely, more trials also mean a larger largest one, which says nothing about what is kept.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import machine

SIZES = list(range(21, 51))


def peak_bytes(options: argparse.Namespace, trials: int) -> int:
    """Largest resident size of the process of one search."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "autopeft", "search", "--model", options.model, "--task", "mrpc"]
        words += ["--data", options.data, "--train-limit", 320, "--sampler", "random", "--trials", trials]
        words += ["--initial", min(5, trials), "--set", f"recipe.steps={options.steps}"]
        words += ["--set", f"space.methods={{serial: {{sizes: {SIZES}}}}}", "--set", "space.layers=all"]
        words += ["--set", "learning_rates=[]", "--set", "validation_limit=100", "--out", Path(folder) / "run"]
        with subprocess.Popen(list(map(str, words)), stdout=subprocess.DEVNULL) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"The search with {trials} trials failed with exit code {process.returncode}.")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Measure both and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with glue/mrpc")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--few", type=int, default=5)
    parser.add_argument("--many", type=int, default=20)
    parser.add_argument("--steps", type=int, default=10, help="training steps of every trial")
    parser.add_argument("--name", default="memory")
    options = parser.parse_args()
    before = machine.facts()
    peaks = {trials: peak_bytes(options, trials) for trials in (options.few, options.many)}
    ratio = peaks[options.many] / peaks[options.few]
    setting = {"model": options.model, "task": "mrpc", "steps": options.steps}
    result: dict[str, Any] = {"setting": setting, "peak_resident_bytes": peaks, "ratio": ratio}
    print(f"{options.few} trials {peaks[options.few] / 2**20:.0f} MiB, ", end="")
    print(f"{options.many} trials {peaks[options.many] / 2**20:.0f} MiB: {ratio:.3f} times as much")
    print(f"written: {machine.write(options.name, result, before)}")


if __name__ == "__main__":
    main()
