"""Training throughput against the package `adapters`: the same modules, data, batch size and threads, in one run.

    python benchmarks/throughput.py --peer-python .venv-peer/bin/python --data FOLDER

The sides take turns, round after round, each in a process of its own: the peer (pads to 128 tokens, as its own
example does), ours in default use (pads to the longest of the batch, buckets by length), ours padded to 128 as well,
and both again in bf16. The ratios compare medians over rounds of each process's median and mean seconds per step, all
to the peer in its default use, and those in bf16 to the peer in bf16 as well.

Once, without timing, the arithmetic of ours in default use is counted, and the speed of one matrix product of the
feed-forward is measured: together they say how fast a step could be if it were nothing but its matrix products.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import sides

PEERS = ("peer", "peer-bf16")
SIDES = (*PEERS, "ours", "ours-bf16", "ours-padded")
PRODUCTS = "products"
HERE = Path(__file__).parent
WIDTH, PREFIX, LAYERS, MAX_LENGTH = 48, 3, (3, 4, 5), 128


@dataclass
class PaddedLearner:
    """A learner whose training batches are padded to 128 tokens, as the peer's are."""

    inner: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def forward(self, batch: Any) -> Any:
        """The pass over the batch, with more padding."""
        from dataclasses import replace

        from torch.nn.functional import pad

        fills = {"input_ids": self.inner.pad, "attention_mask": 0, "token_type_ids": 0}
        inputs = {
            name: pad(rows, (0, MAX_LENGTH - rows.shape[1]), value=fills[name]) for name, rows in batch.inputs.items()
        }
        return self.inner.forward(replace(batch, inputs=inputs))


def ours(options: argparse.Namespace) -> dict[str, Any]:
    """Train in this process and time every step, loading of its batch included."""
    import torch

    from autopeft import tasks
    from autopeft.architecture import Architecture, Placement
    from autopeft.backbones import Backbone
    from autopeft.network.attach import attach
    from autopeft.training.evaluator import Evaluator
    from autopeft.training.loop import fit
    from autopeft.training.recipe import Recipe

    torch.set_num_threads(options.threads)
    task = tasks.lookup("mrpc")
    backbone = Backbone.from_pretrained(options.model)
    total = options.warmup + options.steps
    recipe = Recipe(
        learning_rate=1e-3, steps=total, batch_size=options.batch, max_length=MAX_LENGTH, evaluate_every=1e6,
        precision="bf16" if options.side.endswith("bf16") else "float32",
    )  # fmt: skip
    evaluator = Evaluator(backbone, task, tasks.load(task, data=options.data), recipe)
    learner = PaddedLearner(evaluator.learner) if options.side == "ours-padded" else evaluator.learner
    sizes = {"parallel": ("ffn", WIDTH), "prefix": ("kv", PREFIX)}
    places = [Placement(f"encoder.{n}.{role}", name, size) for name, (role, size) in sizes.items() for n in LAYERS]
    marks: list[float] = []
    with attach(backbone, Architecture(tuple(places)), seed=options.seed) as attached:
        parameters = [*attached.parameters(), *learner.reset(options.seed)]
        found = fit(
            learner, parameters, evaluator.train_part, recipe, lambda: {"accuracy": 0.0},
            objective="accuracy", seed=options.seed, on_step=lambda done, planned: marks.append(time.perf_counter()),
        )  # fmt: skip
    timed = marks[options.warmup - 1 :]
    seconds = [later - earlier for earlier, later in itertools.pairwise(timed)]
    return {
        "seconds_per_step": statistics.fmean(seconds),
        "median_seconds_per_step": statistics.median(seconds),
        "slowest_seconds_per_step": max(seconds),
        "steps": len(seconds),
        "trained_parameters": sum(parameter.numel() for parameter in parameters),
        "train_loss": found.history[-1].loss,
    }


def products(options: argparse.Namespace) -> dict[str, Any]:
    """The matrix products of ours in default use: operations a step, and how long they take at this machine's speed."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        done = ours(options)
    a_step = counter.get_total_flops() / (options.warmup + options.steps)
    rows, rates = options.batch * 54, {}  # the mean pair of MRPC has 54 tokens
    for name, dtype in {"float32": torch.float32, "bf16": torch.bfloat16}.items():
        left, right = torch.randn(rows, 384, dtype=dtype), torch.randn(1536, 384, dtype=dtype)
        seconds = []
        for _ in range(60):
            started = time.perf_counter()
            torch.nn.functional.linear(left, right)
            seconds.append(time.perf_counter() - started)
        rates[name] = 2 * rows * 384 * 1536 / statistics.median(seconds)
    return {
        "operations_per_step": a_step,
        "trained_parameters": done["trained_parameters"],
        "operations_per_second": rates,
        "seconds_per_step": {name: a_step / rate for name, rate in rates.items()},
    }


def run_side(side: str, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One process of one side; its last line is JSON."""
    model = sides.model_folder(options.model)
    shared = ["--steps", options.steps, "--warmup", options.warmup, "--batch", options.batch]
    shared += ["--threads", options.threads, "--seed", seed, "--model", model]
    if side in PEERS:
        words = [options.peer_python, HERE / "peer_adapters.py", *shared, "--data", sides.mrpc_folder(options.data)]
        words += ["--bf16"] if side.endswith("bf16") else []
    else:
        words = [sys.executable, __file__, "--side", side, *shared, "--data", options.data]
    return sides.run(side, words, options.threads, is_elsewhere=side in PEERS)


def summary(rounds: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Medians over rounds, and how many times as fast ours is."""
    keys = ("median_seconds_per_step", "seconds_per_step")
    medians = {side: {key: statistics.median(r[side][key] for r in rounds) for key in keys} for side in SIDES}
    pairs = {f"{side} to {PEERS[0]}": (side, PEERS[0]) for side in SIDES if side != PEERS[0]}
    pairs[f"ours-bf16 to {PEERS[1]}"] = ("ours-bf16", PEERS[1])
    ratios = {
        name: {key: medians[peer][key] / medians[side][key] for key in keys} for name, (side, peer) in pairs.items()
    }
    by_round = {name: [r[peer][keys[1]] / r[side][keys[1]] for r in rounds] for name, (side, peer) in pairs.items()}
    return {"seconds": medians, "times_as_fast": ratios, "times_as_fast_by_round": by_round}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer-python", help="interpreter of the environment with adapters 1.3")
    parser.add_argument("--model", default="minilm", help="folder of a BERT with six layers, or minilm")
    parser.add_argument("--data", type=Path, required=True, help="folder with glue/mrpc/train.jsonl.gz")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30, help="timed steps of every process")
    parser.add_argument("--warmup", type=int, default=3, help="steps before timing, at least 1")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--name", default="throughput", help="name of the result")
    parser.add_argument("--side", choices=[*SIDES[len(PEERS) :], PRODUCTS], help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run all sides in turn and write the result."""
    options = parse()
    if options.side:
        print(json.dumps(products(options) if options.side == PRODUCTS else ours(options)))
        return
    if not options.peer_python:
        raise SystemExit("--peer-python is needed; see benchmarks/README.md for how to make its environment.")
    before, rounds = machine.facts(), []
    for number in range(options.rounds):
        found = {}
        for side in SIDES:
            found[side] = run_side(side, options, options.seed + number)
            seconds = found[side]["seconds_per_step"]
            print(
                f"round {number + 1}: {side} {seconds:.3f} s a step, {options.batch / seconds:.1f} examples/s",
                flush=True,
            )
        rounds.append(found)
    trained = {side: rounds[0][side]["trained_parameters"] for side in SIDES}
    if len(set(trained.values())) > 1:
        raise SystemExit(f"The sides trained different numbers of parameters: {trained}.")
    work = {"task": "mrpc", "model": options.model, "parallel": WIDTH, "prefix": PREFIX, "layers": LAYERS}
    setting = {**work, "batch": options.batch, "threads": options.threads, "warmup": options.warmup}
    arithmetic = run_side(PRODUCTS, options, options.seed)
    result = {"setting": setting, **summary(rounds), "products": arithmetic, "rounds": rounds}
    peer = result["seconds"][PEERS[0]]["seconds_per_step"]
    result["times_as_fast_at_most"] = {name: peer / seconds for name, seconds in arithmetic["seconds_per_step"].items()}
    print(json.dumps({key: result[key] for key in ("times_as_fast", "times_as_fast_at_most")}, indent=1))
    print(f"written: {machine.write(options.name, result, before)}")


if __name__ == "__main__":
    main()
