"""How the best learning rate of LoRA moves with its rank, under three rules for its scale.

    python benchmarks/rate_by_size.py run --task sst2 --data FOLDER --out benchmarks/results/rate_by_size.jsonl
    python benchmarks/rate_by_size.py tell benchmarks/results/rate_by_size.jsonl

LoRA at every linear map of MiniLM in the setting of ``experiments/payoff-minilm.yaml`` (600 training examples, two
epochs, 400 validation examples). What LoRA adds is multiplied by its scale: ``one`` leaves it at 1 for every rank, that
is alpha = r; ``root`` has it fall with the root of the rank, as rsLoRA (arXiv 2312.03732) does; ``alpha`` has it fall
with the rank, that is a fixed alpha. All are 1 at rank 8. A run that is written down is not done again.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

import machine
from autopeft.architecture import Architecture
from autopeft.backbones import Backbone
from autopeft.candidate import Candidate, Changes
from autopeft.errors import TrialFailure
from autopeft.paired import Paired
from autopeft.session import Session
from autopeft.settings import from_dict
from autopeft.training.rate_sweep import try_rates
from autopeft.training.retraining import baseline

RULES: Mapping[str, float] = {"one": 0.0, "root": 0.5, "alpha": 1.0}
"""The power of the rank by which the scale falls."""

ANCHOR = 8
RANKS = (8, 2, 32)
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
WIDEN = 2


def settings(task: str, data: Path, seed: int) -> dict[str, Any]:
    """Those of the pay-off's search seed `seed`, which cuts the data, too."""
    return {
        "model": "minilm",
        "task": task,
        "data": str(data),
        "data_seed": seed,
        "train_limit": 600,
        "validation_limit": 400,
        "recipe": {"epochs": 2, "batch_size": 32, "learning_rate": 1e-3, "warmup": 0.06, "evaluate_every": 2},
        "learning_rates": [],
        "sampler": "random",
        "trials": 1,
    }


def lora(backbone: Backbone, rank: int, power: float) -> Architecture:
    """LoRA of `rank` at every linear map, its scale 1 at `ANCHOR`."""
    scale = (ANCHOR / rank) ** power
    return Architecture(tuple(replace(item, scale=scale) for item in baseline(f"lora_all:{rank}", backbone)))


def run(task: str, data: Path, seed: int, out: Path) -> None:
    """Train what is missing and write a line a run."""
    evaluator = Session.build(from_dict(settings(task, data, seed))).evaluator
    known = {tuple(line[key] for key in ("task", "seed", "rule", "rank", "rate")): line for line in machine.lines(out)}

    def value(rule: str, rank: int, rate: float) -> float | None:
        key = (task, seed, rule, rank, rate)
        if key not in known:
            candidate = Candidate(lora(evaluator.backbone, rank, RULES[rule]), Changes(learning_rate=rate))
            try:
                found = evaluator(candidate, seed)
                got: float | None = found.metrics[evaluator.task.objective]
                seconds = found.seconds
            except TrialFailure:
                got, seconds = None, 0.0
            names = ("task", "seed", "rule", "rank", "rate")
            known[key] = {**dict(zip(names, key, strict=True)), "value": got, "seconds": round(seconds, 1)}
            with out.open("a") as file:
                file.write(json.dumps(known[key]) + "\n")
            print(known[key], flush=True)
        given: float | None = known[key]["value"]
        return given

    for rule, rank in pairs():
        try_rates(RATES, WIDEN, partial(value, rule, rank))


def pairs() -> Iterator[tuple[str, int]]:
    """Rules and ranks; at the anchor all rules are one."""
    yield "one", ANCHOR
    yield from ((rule, rank) for rule in RULES for rank in RANKS if rank != ANCHOR)


def best(values: Mapping[float, float | None]) -> tuple[float, float]:
    """The rate at the top of the parabola through the best rate and its neighbours, in logarithms, and the best value.

    A rate that diverged counts as the worst of the others.
    """
    rates = sorted(values)
    worst = min(value for value in values.values() if value is not None)
    heights = [worst if (value := values[rate]) is None else value for rate in rates]
    top = min(max(1, int(np.argmax(heights))), len(rates) - 2)
    x, y = np.log(rates[top - 1 : top + 2]), heights[top - 1 : top + 2]
    a, b, _ = np.polyfit(x, y, 2)
    peak = float(np.clip(-b / (2 * a), x[0], x[-1])) if a < 0 else float(x[int(np.argmax(y))])
    return math.exp(peak), max(heights)


def slope(rates: Mapping[int, float]) -> float:
    """The power of the rank by which the best rate grows."""
    ranks = sorted(rates)
    return float(np.polyfit(np.log(ranks), np.log([rates[rank] for rank in ranks]), 1)[0])


def tell(lines: Sequence[dict[str, Any]]) -> None:
    """A row a rule and task: the best rate at each rank, its power of the rank, and the best values."""
    cells: dict[tuple[str, int], dict[tuple[str, int], dict[float, float | None]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for line in lines:
        for rule in RULES if line["rank"] == ANCHOR else (line["rule"],):
            cells[line["task"], line["seed"]][rule, line["rank"]][line["rate"]] = line["value"]
    powers: dict[str, list[float]] = defaultdict(list)
    for (task, seed), cell in sorted(cells.items()):
        for rule in RULES:
            tops = {rank: best(cell[rule, rank]) for rank in sorted(RANKS) if len(cell[rule, rank]) >= len(RATES)}
            if len(tops) < len(RANKS):
                continue
            powers[rule].append(slope({rank: rate for rank, (rate, _) in tops.items()}))
            shown = "  ".join(f"r {rank}: {rate:.1e} ({value:.3f})" for rank, (rate, value) in tops.items())
            print(f"{task} seed {seed}, scale {rule:5}: {shown}; rate grows with rank to the {powers[rule][-1]:+.2f}")
    for rule, found in powers.items():
        # The pairs are independent cuts and seeds; Student's t gives the interval of their mean.
        interval = Paired(tuple(range(len(found))), tuple(found)).interval
        told = "one pair" if interval is None else f"95 % interval {interval[0]:+.2f} to {interval[1]:+.2f}"
        print(f"{rule}: power {fmean(found):+.2f} over {len(found)} pairs of task and seed, {told}")


def main() -> None:
    """Run, or tell what was run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("--task", required=True)
    running.add_argument("--data", type=Path, required=True)
    running.add_argument("--out", type=Path, required=True)
    running.add_argument("--seed", type=int, default=0)
    telling = commands.add_parser("tell")
    telling.add_argument("file", type=Path)
    options = parser.parse_args()
    if options.command == "run":
        run(options.task, options.data, options.seed, options.out)
    else:
        tell(machine.lines(options.file))


if __name__ == "__main__":
    main()
