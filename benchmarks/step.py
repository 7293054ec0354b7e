"""One training step in several ways: what the layout of narrow products gains, and what `torch.compile` would.

    python benchmarks/step.py

One process, MiniLM; a step is the forward and the backward pass of one architecture, always of the same batch (so that
nothing is compiled twice), and the ways take turns step by step, so that the machine and its load cancel. `written out`
adds what a module adds in three steps, with its weight as PyTorch lays it out; before that the gradient of such a
weight is timed alone, by its number of units. Of `compiled` the seconds that compiling took are told, too, which are
due again for every architecture and every new shape, and after how many steps they are earned.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional

import machine
from autopeft.architecture import Architecture
from autopeft.backbones import Backbone
from autopeft.methods import adapter, lora
from autopeft.network.attach import attach
from autopeft.training.retraining import baseline


def add_in_steps(y: Tensor, units: Tensor, weight: Tensor, bias: Tensor | None = None, scale: float = 1.0) -> Tensor:
    """What `autopeft.methods._products.add_up` gives, written out."""
    return y + scale * functional.linear(units, weight, bias)


@contextmanager
def written_out() -> Iterator[None]:
    """Within it nothing is laid out otherwise or added in one pass."""
    with ExitStack() as stack:
        for module in (lora, adapter):
            stack.enter_context(mock.patch.object(module, "add_up", add_in_steps))
        yield


def step_of(model: Any, batch: dict[str, Tensor], parameters: list[Tensor]) -> Callable[[], float]:
    """A function that takes one step and returns its seconds."""

    def step() -> float:
        started = time.perf_counter()
        model(**batch).last_hidden_state[:, 0].square().mean().backward()
        for parameter in parameters:
            parameter.grad = None
        return time.perf_counter() - started

    return step


def measure(backbone: Backbone, architecture: Architecture, options: argparse.Namespace, compiles: bool) -> Any:
    """Medians of the ways for one architecture."""
    generator, shape = torch.Generator().manual_seed(1), (options.batch, options.tokens)
    batch = {
        "input_ids": torch.randint(1000, 20000, shape, generator=generator),
        "attention_mask": torch.ones(shape, dtype=torch.long),
    }
    backbone.model.train()
    with attach(backbone, architecture) as attached:
        step = step_of(backbone.model, batch, list(attached.parameters()))
        ways: dict[str, tuple[Callable[[], float], Callable[[], Any]]] = {
            "now": (step, nullcontext),
            "written out": (step, written_out),
        }
        first = 0.0
        if compiles:
            ways["compiled"] = (step_of(torch.compile(backbone.model), batch, list(attached.parameters())), nullcontext)
            first = ways["compiled"][0]()
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(options.warmup + options.steps):
            for name, (way, context) in ways.items():
                with context():
                    taken = way()
                if number >= options.warmup:
                    seconds[name].append(taken)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    told: dict[str, Any] = {"seconds_per_step": medians, "seconds": seconds}
    told["times_as_fast_as written out"] = {name: medians["written out"] / value for name, value in medians.items()}
    if compiles:
        gained = medians["now"] - medians["compiled"]
        told["seconds_to_compile"] = first - medians["compiled"]
        told["steps_to_earn_it"] = told["seconds_to_compile"] / gained if gained > 0 else None
    return told


def gradients(options: argparse.Namespace, hidden: int) -> dict[str, Any]:
    """Median seconds of an up-projection's weight gradient, as PyTorch lays it out and by columns, by its units.

    Beside a map from `hidden` to four times as much, whose own product stands with them.
    """
    rows, width = options.batch * options.tokens, 4 * hidden
    given, gradient, frozen = torch.randn(rows, hidden), torch.randn(rows, width), torch.randn(width, hidden)

    def median(product: Callable[[], Tensor]) -> float:
        seconds = []
        for _ in range(options.steps + options.warmup):
            started = time.perf_counter()
            product()
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds[options.warmup :])

    told: dict[str, Any] = {"width": width, "frozen map": median(lambda: functional.linear(given, frozen))}
    for n in (1, 4, 8, 15, 16, 32):
        units = torch.randn(rows, n)
        told[f"{n} units"] = {
            "as laid out": median(lambda units=units: gradient.t() @ units),
            "by columns": median(lambda units=units: units.t() @ gradient),
        }
    return told


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--baselines", nargs="+", default=["lora_all:8", "lora:8", "lora_all:32", "serial:12"])
    parser.add_argument("--compile", default="lora_all:8", help="the baseline that is compiled, too")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=54, help="the mean pair of MRPC has 54")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12, help="steps of each way")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="step")
    return parser.parse_args()


def main() -> None:
    """Time the ways of every architecture and write them."""
    options = parse()
    torch.set_num_threads(options.threads)
    before, backbone, found = machine.facts(), Backbone.from_pretrained(options.model), dict[str, Any]()
    narrow = gradients(options, backbone.model.config.hidden_size)
    print("gradients", narrow, flush=True)
    for name in options.baselines:
        found[name] = measure(backbone, baseline(name, backbone), options, name == options.compile)
        print(name, {key: value for key, value in found[name].items() if key != "seconds"}, flush=True)
        setting = {key: getattr(options, key) for key in ("batch", "tokens", "warmup", "steps", "threads")}
        path = machine.write(options.name, {"setting": setting, "gradients": narrow, "works": found}, before)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
