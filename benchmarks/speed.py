"""The table of speeds in one run: training against named peers, with one candidate and with several in a pass.

    python benchmarks/speed.py --data FOLDER --peer-python .venv-peer/bin/python

Every side trains one epoch of the same first pairs of MRPC in a process of its own, in float32 with as many threads,
and the sides of a work take turns, round after round. (`adapters` takes as many steps of all pairs, each padded to the
same length, so that any are as long.) A ratio is the peer's seconds a candidate and step over ours,
each the median over the rounds. Beside it stands what the arithmetic allows: the operations of our step, counted by
PyTorch, at the speed of a matrix product of these shapes, measured in the same process before and after the steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import machine
import sides
from throughput import PREFIX, WIDTH
from together import MAX_LENGTH, lora_everywhere, nothing, upper_three

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Side:
    """One way to do a work: `k` candidates of ours in a pass, or a peer's words."""

    k: int = 1
    keeps_trunk: bool = False
    precision: Literal["float32", "bf16"] = "float32"
    peer: Callable[[argparse.Namespace], list[Any]] | None = None


def _adapters(options: argparse.Namespace) -> list[Any]:
    steps = options.examples // options.batch - options.warmup
    return [options.peer_python, HERE / "peer_adapters.py", "--steps", steps]


def _peft(targets: str, *more: str) -> Callable[[argparse.Namespace], list[Any]]:
    def words(options: argparse.Namespace) -> list[Any]:
        return [
            sys.executable, HERE / "peer_peft.py", "--targets", targets, "--examples", options.examples, *more,
        ]  # fmt: skip

    return words


_ALL = "query,key,value,attention.output.dense,intermediate.dense,output.dense"
WORKS: dict[str, dict[str, Side]] = {
    "upper": {
        "adapters": Side(peer=_adapters), "k=1": Side(), "k=1, trunk kept": Side(keeps_trunk=True),
        "k=8, trunk kept": Side(8, keeps_trunk=True),
    },
    "lora-qv": {"peft": Side(peer=_peft("query,value")), "k=1": Side(), "k=8": Side(8)},
    "lora-all": {"peft": Side(peer=_peft(_ALL)), "k=1": Side(), "k=8": Side(8)},
    "mpnet-lora-all": {"k=1": Side(), "k=8": Side(8)},
}  # fmt: skip
TOLD = {
    "upper": f"parallel {WIDTH} + prefix {PREFIX}, upper three layers, MiniLM",
    "lora-qv": "LoRA of rank 8 on queries and values, MiniLM",
    "lora-all": "LoRA of rank 8 on every linear map, MiniLM",
    "mpnet-lora-all": "LoRA of rank 8 on every linear map, MPNet-base",
}


def architecture(work: str, backbone: Any) -> Any:
    """What a work trains, of ours."""
    from autopeft.training.retraining import baseline

    if work == "upper":
        return upper_three(backbone)
    if work == "lora-qv":
        return lora_everywhere(backbone)
    return baseline("lora_all:8", backbone)


def matrix_rate(rows: int, width: int) -> float:
    """Operations a second of one product of the feed-forward, on the threads at hand."""
    import torch

    left, right = torch.randn(rows, width), torch.randn(4 * width, width)
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        torch.nn.functional.linear(left, right)
        seconds.append(time.perf_counter() - started)
    return 2 * rows * width * 4 * width / statistics.median(seconds)


def ours(options: argparse.Namespace, work: str, side: Side) -> dict[str, Any]:
    """Train in this process and time every step, loading of its batch included."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from autopeft import tasks
    from autopeft.backbones import Backbone
    from autopeft.training.evaluator import Evaluator
    from autopeft.training.recipe import Recipe
    from autopeft.training.together import Together

    torch.set_num_threads(options.threads)
    task, backbone = tasks.lookup("mrpc"), Backbone.from_pretrained(options.model)
    recipe = Recipe(
        learning_rate=1e-3, epochs=1, batch_size=options.batch, max_length=MAX_LENGTH, evaluate_every=1e6,
        precision=side.precision, trunk_dropout=not side.keeps_trunk,
    )  # fmt: skip
    splits = tasks.load(task, data=options.data)
    evaluator = Evaluator(backbone, task, replace(splits, train=splits.train.subset(range(options.examples))), recipe)
    made = architecture(work, backbone)
    width, rows = backbone.model.config.hidden_size, options.batch * side.k * 54  # the mean pair of MRPC has 54 tokens
    marks = list[float]()

    def trained(k: int) -> tuple[Any, dict[str, int]]:
        with Together([evaluator] * k, [made] * k, options.seed) as together:
            modules = sum(p.numel() for p in together.shares.members[0].parameters())
            modules_and_head = modules + evaluator.learner.n_head
            with mock.patch.object(Together, "_evaluate", nothing):
                found = together.train(lambda done, planned: marks.append(time.perf_counter()))
        return found, {"parameters_of_modules": modules, "trained_parameters": modules_and_head}

    rates = [matrix_rate(rows, width)]
    found, modules = trained(side.k)
    rates.append(matrix_rate(rows, width))
    steps, seconds = len(marks), (marks[-1] - marks[options.warmup - 1]) / (len(marks) - options.warmup)
    # Those of one candidate by itself, where nothing is shared but a trunk that is kept: what is computed once for all
    # where it is not kept is counted for each.
    with FlopCounterMode(display=False) as counter:
        trained(1)
    operations = side.k * counter.get_total_flops() / steps
    rate = statistics.fmean(rates)
    return {
        "seconds_per_step": seconds / side.k,
        "steps": steps - options.warmup,
        **modules,
        "train_loss": statistics.fmean(entry.loss for entry in found[0].history),
        "operations_per_step": operations / side.k,
        "matrix_operations_per_second": rate,
        "share_of_matrix_rate": operations / rate / seconds,
    }


def run_side(work: str, name: str, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One process of one side; its last line is JSON."""
    side = WORKS[work][name]
    model = options.mpnet if work.startswith("mpnet") else sides.model_folder(options.model)
    shared = ["--batch", options.batch, "--warmup", options.warmup, "--threads", options.threads, "--seed", seed]
    shared += ["--model", model]
    if side.peer is not None:
        words = [*side.peer(options), *shared, "--data", sides.mrpc_folder(options.data)]
    else:
        words = [sys.executable, __file__, "--one", work, name, *shared, "--data", options.data]
        words += ["--examples", options.examples]
    return sides.run(f"{work}: {name}", words, options.threads, is_elsewhere=name == "adapters")


def check(work: str, rounds_of: dict[str, list[dict[str, Any]]]) -> None:
    """Refuse to compare sides that train different numbers of parameters; a peer tells those with or without a head."""
    for key in ("parameters_of_modules", "trained_parameters"):
        told = {name: rounds[0][key] for name, rounds in rounds_of.items() if key in rounds[0]}
        if len(set(told.values())) > 1:
            raise SystemExit(f"{work}: the sides trained different numbers of parameters: {told}.")


def summary(rounds_of: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians over the rounds, ratios to the first side, and what the arithmetic allows."""
    seconds = {name: statistics.median(r["seconds_per_step"] for r in rounds) for name, rounds in rounds_of.items()}
    first = next(iter(rounds_of))
    told = dict[str, Any]()
    for name, rounds in rounds_of.items():
        told[name] = {"seconds": seconds[name], f"times_as_fast_as {first}": seconds[first] / seconds[name]}
        told[name]["by_round"] = [
            one["seconds_per_step"] / other["seconds_per_step"]
            for one, other in zip(rounds_of[first], rounds, strict=True)
        ]
        if "operations_per_step" in rounds[0]:
            least = statistics.median(r["operations_per_step"] / r["matrix_operations_per_second"] for r in rounds)
            told[name]["at_most"] = seconds[first] / least
            told[name]["share_of_matrix_rate"] = statistics.median(r["share_of_matrix_rate"] for r in rounds)
    return told


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer-python", help="interpreter of the environment with adapters 1.3; left out without it")
    parser.add_argument("--model", default="minilm", help="folder of a BERT with six layers, or minilm")
    parser.add_argument("--mpnet", type=Path, help="folder with MPNet-base; left out without it")
    parser.add_argument("--data", type=Path, required=True, help="folder with glue/mrpc/train.jsonl.gz")
    parser.add_argument("--works", nargs="+", choices=list(WORKS), default=list(WORKS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=1024, help="pairs of the epoch")
    parser.add_argument("--warmup", type=int, default=2, help="steps before timing, at least 1")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--name", default="speed", help="name of the result")
    parser.add_argument("--one", nargs=2, metavar=("WORK", "SIDE"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run all sides in turn, and write the result after every work."""
    options = parse()
    if options.one:
        work, name = options.one
        print(json.dumps(ours(options, work, WORKS[work][name])))
        return
    before, works = machine.facts(), dict[str, Any]()
    for work in options.works:
        if work.startswith("mpnet") and options.mpnet is None:
            continue
        rounds_of: dict[str, list[dict[str, Any]]] = {
            name: [] for name in WORKS[work] if name != "adapters" or options.peer_python
        }
        for number in range(options.rounds):
            for name, rounds in rounds_of.items():
                rounds.append(run_side(work, name, options, options.seed + number))
                seconds = rounds[-1]["seconds_per_step"]
                print(f"{work}: round {number + 1}: {name}: {seconds:.4f} s a candidate and step", flush=True)
            check(work, rounds_of)
        works[work] = {"work": TOLD[work], **summary(rounds_of), "rounds": rounds_of}
        setting = {name: getattr(options, name) for name in ("rounds", "examples", "warmup", "batch", "threads")}
        path = machine.write(options.name, {"setting": {"task": "mrpc", **setting}, "works": works}, before)
        print(json.dumps({name: told for name, told in works[work].items() if name != "rounds"}, indent=1), flush=True)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
