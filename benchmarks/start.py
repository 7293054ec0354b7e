"""Processor seconds from the command `autopeft search` to its first training step, on MRPC and MiniLM.

    python benchmarks/start.py --data FOLDER --rounds 5

Every run is a process of its own with a study of its own, stopped when the first batch is about to go through the
model. The first one of a row is not counted: it reads from a cold disk and, where tokens are kept, makes them. In a
second row what can be turned off is: tokens are made anew, and garbage is looked for during imports.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.abc import MetaPathFinder
from typing import Any

MARK = "first step after"
_LEARNERS = "autopeft.training.learners.encoder"


class StopsAtFirstStep(MetaPathFinder):
    """Lets the first forward pass of training end the process, without importing anything before its time."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """The module's own spec, whose loader changes one method after it has run."""
        if name != _LEARNERS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.loader is not None
        real = spec.loader.exec_module

        def run(module: Any) -> None:
            real(module)
            module.EncoderLearner.forward = _stop

        spec.loader.exec_module = run  # type: ignore[method-assign]
        return spec


def _stop(*_: Any) -> None:
    print(MARK, time.process_time(), file=sys.stderr, flush=True)
    # At once: the end of a search would be counted too.
    os._exit(0)


def child(words: list[str], *, keeps_collecting: bool) -> None:
    """One command in this process."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    sys.meta_path.insert(0, StopsAtFirstStep())
    if keeps_collecting:
        from autopeft import collecting

        collecting.import_for_good = lambda *_: None
    from autopeft.cli.app import main

    sys.argv = ["autopeft", *words]
    main()


def measure(arguments: argparse.Namespace, *, is_off: bool) -> list[float]:
    """Processor seconds of each counted run."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds + 1):
            words = ["search", "--task", arguments.task, "--data", arguments.data, "--model", arguments.model]
            words += ["--out", f"{folder}/{number}"]
            environment = {
                **os.environ,
                "XDG_CACHE_HOME": f"{folder}/cache",
                **({"AUTOPEFT_TOKENS": "off"} if is_off else {}),
            }
            done = subprocess.run(
                [sys.executable, __file__, "--child", "collecting" if is_off else "plain", *words],
                capture_output=True, text=True, env=environment,
            )  # fmt: skip
            assert MARK in done.stderr, done.stderr
            found.append(float(done.stderr.split(MARK)[1].split()[0]))
    return found[1:]


def main() -> None:
    """Measure and write."""
    import machine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--task", default="mrpc")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--name", default="start")
    arguments = parser.parse_args()
    before, loops, rows = machine.facts(), [], {}
    for name, is_off in {"as it is": False, "tokens made anew, garbage looked for": True}.items():
        loops.append(machine.loop_seconds())
        seconds = measure(arguments, is_off=is_off)
        rows[name] = {"median": statistics.median(seconds), "all": seconds}
        print(name, rows[name], flush=True)
    loops.append(machine.loop_seconds())
    result = {"task": arguments.task, "processor_seconds": rows, "loop_seconds": loops}
    print(f"written: {machine.write(arguments.name, result, before)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[3:], keeps_collecting=sys.argv[2] == "collecting")
    else:
        main()
