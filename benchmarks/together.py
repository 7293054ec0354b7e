"""Several candidates in one pass against one by one: time a candidate and step, and what each part of it gains.

    python benchmarks/together.py --data FOLDER

Every row trains the same number of steps of the same candidates on MRPC in this process, and the rows take turns,
round after round, so that the machine and its load cancel. Two times are kept: wall-clock seconds, of which a row's is
the least over the rounds, for what others do on the machine only adds to it, and seconds of the processor that this
process was given, which a busy machine changes less. Ratios are to one candidate by itself (k = 1).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import machine
from autopeft import tasks
from autopeft.architecture import Architecture, Placement
from autopeft.backbones import Backbone
from autopeft.network import shares
from autopeft.training import together as together_
from autopeft.training.evaluator import Evaluator
from autopeft.training.recipe import Recipe
from autopeft.training.together import Together
from autopeft.training.trunks import Trunks

UPPER = (3, 4, 5)
MAX_LENGTH = 128
KINDS = ("wall", "processor")


def upper_three(backbone: Backbone) -> Architecture:
    """A parallel adapter of 48 and a prefix of 3 in the upper three layers."""
    sizes = {"parallel": ("ffn", 48), "prefix": ("kv", 3)}
    return Architecture(
        tuple(Placement(f"encoder.{n}.{role}", name, size) for name, (role, size) in sizes.items() for n in UPPER)
    )


def lora_everywhere(backbone: Backbone) -> Architecture:
    """LoRA of rank 8 on the queries and values of every layer."""
    layers = backbone.model.config.num_hidden_layers
    return Architecture(tuple(Placement(f"encoder.{n}.{role}", "lora", 8) for n in range(layers) for role in "qv"))


WORKS: dict[str, Callable[[Backbone], Architecture]] = {
    "parallel 48 + prefix 3, layers 3-5": upper_three,
    "lora 8 on q and v": lora_everywhere,
}


class Ends:
    """When every step of a run ended: wall-clock seconds, and seconds of the processor."""

    def __init__(self, warmup: int) -> None:
        self.warmup, self.marks = warmup, list[tuple[float, float]]()

    def __call__(self, done: int, planned: int) -> None:
        """Note the end of a step."""
        self.marks.append((time.perf_counter(), time.process_time()))

    def means(self) -> dict[str, float]:
        """Mean time of a step after the first ones, of both kinds."""
        first, last = self.marks[self.warmup - 1], self.marks[-1]
        n = len(self.marks) - self.warmup
        return {name: (last[place] - first[place]) / n for place, name in enumerate(KINDS)}


def train(evaluator: Evaluator, architecture: Architecture, k: int, row: dict[str, Any], warmup: int) -> Ends:
    """Train `k` candidates of one architecture and time the steps."""
    timer, evaluator = Ends(warmup), evaluator.with_recipe(**row.get("recipe", {}))
    if row.get("computes"):  # nothing is kept of the trunk
        evaluator.trunks = Trunks(0, 0)
    with ExitStack() as stack:
        if row.get("gives_back"):  # every large block goes back to the system as soon as it is free
            stack.enter_context(mock.patch.object(together_, "memory_kept", nullcontext))
        if row.get("draws_each"):  # every share draws dropout of its own
            stack.enter_context(mock.patch.object(shares.Shares, "share_rows", return_value=None))
        together = stack.enter_context(
            Together([evaluator] * k, [architecture] * k, 1, has_trunk=row.get("has_trunk", True))
        )
        stack.enter_context(mock.patch.object(Together, "_evaluate", nothing))
        together.train(timer)
    return timer


def nothing(self: Together) -> None:
    """In place of an evaluation, which is not what is timed."""
    for member in self._active:
        member.metrics = {"accuracy": 0.0, "f1": 0.0}
        member.run.evaluate_now()


def rows_of(ks: list[int]) -> dict[str, dict[str, Any]]:
    """The rows by name: how many at once, with what switched off."""
    quiet = {"recipe": {"trunk_dropout": False}}
    rows: dict[str, dict[str, Any]] = {
        "k=1": {"k": 1},
        "k=1, no dropout in the trunk": {"k": 1, **quiet, "computes": True},
        "k=1, trunk kept": {"k": 1, **quiet},
    }
    for k in ks:
        rows |= {
            f"k={k}": {"k": k},
            f"k={k}, trunk kept": {"k": k, **quiet},
            f"k={k}, memory given back at once": {"k": k, "gives_back": True},
            f"k={k}, no trunk": {"k": k, "has_trunk": False},
            f"k={k}, no trunk, dropout drawn for each": {"k": k, "has_trunk": False, "draws_each": True},
        }
    return rows


def ratios(times: dict[str, list[dict[str, float]]], kind: str) -> dict[str, float]:
    """How many times as fast every row is as one candidate by itself, by the least of its times."""
    least = {name: min(item[kind] for item in rounds) for name, rounds in times.items()}
    return {name: least["k=1"] / seconds for name, seconds in least.items()}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--data", type=Path, required=True, help="folder with glue/mrpc/train.jsonl.gz")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12, help="timed steps of every row")
    parser.add_argument("--warmup", type=int, default=2, help="steps before timing, at least 1")
    parser.add_argument("--batch", type=int, default=32, help="examples a step")
    parser.add_argument("--k", type=int, nargs="+", default=[8], help="candidates at once")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dropout", type=float, default=None, help="in place of the model's own rates")
    parser.add_argument("--work", default="", help="only works whose name contains this")
    parser.add_argument("--name", default="together", help="name of the result")
    return parser.parse_args()


def main() -> None:
    """Run all rows in turn and write the result."""
    options = parse()
    torch.set_num_threads(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    before = machine.facts()
    task = tasks.lookup("mrpc")
    backbone = Backbone.from_pretrained(options.model)
    steps = options.warmup + options.steps
    recipe = Recipe(
        steps=steps, batch_size=options.batch, max_length=MAX_LENGTH, evaluate_every=1e6, dropout=options.dropout
    )
    splits = tasks.load(task, data=options.data)
    # As many as are trained on: the trunk is kept where a run sees every example.
    splits = replace(splits, train=splits.train.subset(range(steps * options.batch)))
    evaluator = Evaluator(backbone, task, splits, recipe)
    rows, found = rows_of(options.k), dict[str, Any]()
    for work, architecture in WORKS.items():
        if options.work not in work:
            continue
        times: dict[str, list[dict[str, float]]] = {name: [] for name in rows}
        for number in range(options.rounds):
            for name, row in rows.items():
                means = train(evaluator, architecture(backbone), row["k"], row, options.warmup).means()
                times[name].append({kind: seconds / row["k"] for kind, seconds in means.items()})
                shown = ", ".join(f"{seconds:.3f} s {kind}" for kind, seconds in times[name][-1].items())
                print(f"{work}: round {number + 1}: {name}: {shown} a candidate and step", flush=True)
        found[work] = {"seconds": times, **{f"times_as_fast_by_{kind}": ratios(times, kind) for kind in KINDS}}
    setting = {key: value for key, value in vars(options).items() if key not in ("data", "name")}
    told = {work: {name: value for name, value in item.items() if name != "seconds"} for work, item in found.items()}
    print(json.dumps(told, indent=1))
    print(f"written: {machine.write(options.name, {'setting': setting, 'works': found}, before)}")


if __name__ == "__main__":
    main()
