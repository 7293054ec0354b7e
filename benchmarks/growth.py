"""How time and memory of a training step grow, and what that says of models that cannot be run here.

    OMP_NUM_THREADS=1 python benchmarks/growth.py

BERTs with random weights and LoRA of rank 8 on queries and values of every layer, one axis changed at a time: layers,
width, length in tokens, candidates in a pass. Time is that of the processor, memory what a step keeps for its backward
pass, counted tensor by tensor, so that neither depends on what else the machine does. Each axis gets the slope of the
logarithms and its standard error. A model larger than all of them is measured in a process of its own and compared with
what the curves said, its resident memory too; several such processes at once are the workers. Growth with the number of
stored trials is fitted to ``proposals.json`` and ``study_size.json``.

The forecast is arithmetic: weights of the configuration, what is trained with its gradient and two moments, and the
curve of what is kept; operations of a step over a rate that is given.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from transformers import BertConfig, LlamaConfig, T5Config

import machine
from autopeft.architecture import Architecture, Placement
from autopeft.backbones import Backbone
from autopeft.tasks._examples import Examples
from autopeft.testing import tiny
from autopeft.training.evaluator import Evaluator
from autopeft.training.forecast import Kept
from autopeft.training.memory import Memory
from autopeft.training.recipe import Recipe
from autopeft.training.together import Together

ROWS, RANK, HEAD = 16, 8, 32
"""Examples a step of one candidate, the rank of LoRA, and the width of an attention head."""
BASE = {"layers": 4, "width": 128, "length": 32, "k": 1}
AXES = {
    "layers": (2, 3, 4, 6, 8),
    "width": (64, 96, 128, 192, 256),
    "length": (16, 24, 32, 48, 64),
    "k": (1, 2, 3, 4, 6),
}
CHECK = {"layers": 8, "width": 192, "length": 64, "k": 2}
LARGE: dict[str, Any] = {
    "BERT-large": BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
    "T5-large": T5Config(
        d_model=1024, num_layers=24, num_decoder_layers=24, num_heads=16, d_ff=4096, d_kv=64, vocab_size=32128
    ),
    "a 7B decoder (Llama 2)": LlamaConfig(),
}
"""Configurations without weights."""


# -- arithmetic ------------------------------------------------------------------------------------------------


def exponent(sizes: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """The slope of ``log(values)`` over ``log(sizes)`` by least squares and its standard error, from three pairs on."""
    x, y = np.log(np.array(sizes, dtype=float)), np.log(np.array(values, dtype=float))
    off = x - x.mean()
    slope = float(off @ y / (off @ off))
    left = y - y.mean() - slope * off
    return slope, math.sqrt(float(left @ left) / (len(x) - 2) / float(off @ off))


def along(curve: Mapping[str, float], base: float, at: Mapping[str, float]) -> float:
    """What power laws of all axes make of the value `base` at `BASE`."""
    return base * float(math.prod((at[axis] / BASE[axis]) ** slope for axis, slope in curve.items()))


def held_bytes(n_weights: int, n_trained: int, kept: float, weight_bytes: int = 4) -> float:
    """Weights, what is trained beside them with its gradient and two moments in float32, and what a step keeps."""
    return n_weights * weight_bytes + n_trained * 4 * 4 + kept


def operations(n_weights: int, tokens: int) -> float:
    """Of the products with the weights in one step: two a weight and token forward, two back to what is trained."""
    return 4.0 * n_weights * tokens


# -- one point -------------------------------------------------------------------------------------------------


def evaluator_at(point: Mapping[str, int], steps: int) -> Evaluator:
    """A BERT of that size, and examples that all have the length."""
    backbone = tiny.backbone(
        "bert", with_tokenizer=True, hidden_size=point["width"], num_hidden_layers=point["layers"],
        num_attention_heads=point["width"] // HEAD, intermediate_size=4 * point["width"], max_position_embeddings=64,
    )  # fmt: skip
    labels = np.arange(ROWS * steps, dtype=np.int64) % 2
    texts = [(" ".join([tiny.WORDS[label], *["w3"] * (point["length"] - 3)]),) for label in labels]
    recipe = Recipe(steps=steps, batch_size=ROWS, max_length=64, precision="float32")
    examples = Examples(labels, texts=texts)
    return Evaluator(backbone, tiny.SENTIMENT, tiny.splits(examples, examples.subset(range(2))), recipe)


def lora(backbone: Backbone) -> Architecture:
    """LoRA on the queries and values of every layer."""
    sites = [key for key, site in backbone.sites.items() if site.role in ("q", "v")]
    return Architecture(tuple(Placement(key, "lora", RANK) for key in sites))


def measured(point: Mapping[str, int], steps: int) -> dict[str, float]:
    """The least processor seconds of a step, and what it keeps."""
    evaluator, marks = evaluator_at(point, steps), list[float]()
    kept, counts = Kept(evaluator.backbone.model), list[int]()

    def nothing(self: Together) -> None:
        for member in self._active:
            member.metrics = {"accuracy": 0.0}
            member.run.evaluate_now()

    def noted(done: int, planned: int) -> None:
        marks.append(time.process_time())
        counts.append(kept.taken())

    hooks = torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor)
    with Together([evaluator] * point["k"], [lora(evaluator.backbone)] * point["k"], 1) as together:
        with mock.patch.object(Together, "_evaluate", nothing), hooks:
            together.train(noted)
    return {"processor_seconds": min(np.diff(marks)), "kept_bytes": float(counts[-1])}


def alone(point: Mapping[str, int], steps: int) -> dict[str, float]:
    """`measured`, and by how much the resident memory of this process grew at the most."""
    found = re.search(r"^VmRSS:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    memory = Memory(torch.device("cpu"))
    told = measured(point, steps)
    return {**told, "resident_bytes": memory.peak() - (int(found[1]) * 1024 if found else 0)}


def beside(n: int, steps: int) -> list[dict[str, float]]:
    """What `n` processes tell that work at `CHECK` at once."""
    words = [sys.executable, __file__, "--alone", "--steps", str(steps)]
    running = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(n)]
    return [json.loads(one.communicate()[0].splitlines()[-1]) for one in running]


# -- what it says ----------------------------------------------------------------------------------------------


def curves(points: Mapping[str, Mapping[int, Mapping[str, float]]], name: str) -> dict[str, tuple[float, float]]:
    """By axis the exponent of `name` and its standard error."""
    return {axis: exponent(list(found), [value[name] for value in found.values()]) for axis, found in points.items()}


def stored_growth() -> dict[str, Any]:
    """Exponents in the number of stored trials, from the results of two other benchmarks."""
    proposals = json.loads((machine.RESULTS / "proposals.json").read_text())["processor_seconds"]
    study = json.loads((machine.RESULTS / "study_size.json").read_text())["trials"]
    name, rows = next(iter(proposals.items()))
    sizes = [int(n) for n in rows]
    found = {
        f"{name}, {key}": exponent(sizes, [row[key] for row in rows.values()]) for key in ("first", "mean_of_next")
    }
    many = [int(n) for n in study]
    for command in ("front", "report"):
        found[command] = exponent(many, [row["seconds"][command] for row in study.values()])
    return {name: {"exponent": slope, "standard_error": error} for name, (slope, error) in found.items()}


def forecast(config: Any, slopes: Mapping[str, float], kept: float, options: argparse.Namespace) -> dict[str, float]:
    """Bytes on one card with weights of two bytes and what is kept in two as well, and the least seconds of a step."""
    backbone = Backbone.from_config(config, device="meta")
    n_trained = backbone_trained(backbone)
    layers = sum(len(list(backbone.module(stack.layers).children())) for stack in backbone.family.stacks.values())
    width, tokens = int(config.hidden_size), options.rows * options.length
    at = {"layers": layers, "width": width, "length": options.length, "k": 1}
    activations = along(slopes, kept, at) * options.rows / ROWS / 2
    done = operations(backbone.n_parameters, tokens)
    return {
        "weights": backbone.n_parameters,
        "trained": n_trained,
        "kept_bytes": activations,
        "held_bytes": held_bytes(backbone.n_parameters, n_trained, activations, 2),
        "operations": done,
        "seconds_at_rate": done / options.rate,
    }


def backbone_trained(backbone: Backbone) -> int:
    """Parameters of LoRA on queries and values: of a map from i to o, the rank times their sum."""
    maps = [site for site in backbone.sites.values() if site.role in ("q", "v")]
    return sum(RANK * (site.d_in + site.d_out) for site in maps)


def told(name: str, found: Mapping[str, tuple[float, float]]) -> None:
    """A line for each axis."""
    for axis, (slope, error) in found.items():
        print(f"{name} against {axis}: exponent {slope:.2f}, standard error {error:.2f}", flush=True)


def main() -> None:
    """Measure, fit, compare, forecast and store."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", type=int, default=32, help="examples a step of the forecast")
    parser.add_argument("--length", type=int, default=128, help="tokens of them")
    parser.add_argument("--rate", type=float, default=1e14, help="operations a second of the forecast's card")
    parser.add_argument("--alone", action="store_true", help="measure the largest point alone and print it")
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(alone(CHECK, options.steps)))
        return
    before, began = machine.facts(), time.process_time()
    base = measured(BASE, options.steps)
    points = {
        axis: {size: base if BASE[axis] == size else measured({**BASE, axis: size}, options.steps) for size in sizes}
        for axis, sizes in AXES.items()
    }
    fitted = {name: curves(points, name) for name in base}
    for name, found in fitted.items():
        told(name, found)
    result = {"setting": {"base": BASE, "rows": ROWS, "rank": RANK}, "points": points, "exponents": fitted}
    result |= {"trials": stored_growth(), "check": checked(fitted, base, options)}
    slopes = {axis: slope for axis, (slope, _) in fitted["kept_bytes"].items()}
    result["forecast"] = {
        "setting": {"rows": options.rows, "length": options.length, "rate": options.rate, "weight_bytes": 2},
        **{name: forecast(config, slopes, base["kept_bytes"], options) for name, config in LARGE.items()},
    }
    print(json.dumps({name: result[name] for name in ("trials", "check", "forecast")}, indent=1))
    result["processor_seconds"] = time.process_time() - began
    print(f"written: {machine.write('growth', result, before)}")


def checked(
    fitted: Mapping[str, Mapping[str, tuple[float, float]]], base: Mapping[str, float], options: argparse.Namespace
) -> dict[str, Any]:
    """The model that the curves have not seen: what they say of it, and what one and several processes measured."""
    says = {
        name: along({axis: slope for axis, (slope, _) in fitted[name].items()}, base[name], CHECK) for name in fitted
    }
    backbone = evaluator_at(CHECK, 1).backbone
    trained = CHECK["k"] * backbone_trained(backbone)
    says["resident_bytes"] = held_bytes(backbone.n_parameters, trained, says["kept_bytes"])
    workers = {n: beside(n, options.steps) for n in options.workers}
    first = workers[options.workers[0]][0]
    ratios = {name: says[name] / first[name] for name in says}
    return {"at": CHECK, "predicted": says, "measured": first, "predicted_over_measured": ratios, "workers": workers}


if __name__ == "__main__":
    main()
