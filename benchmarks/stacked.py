"""What stacked weights of several candidates would gain at one site on this machine: one batched product, or one each.

    OMP_NUM_THREADS=1 python benchmarks/stacked.py

LoRA's two products, forward and backward, on MiniLM's width, both ways in turns; seconds of the processor, the least
over the rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

import machine

WIDTH = 384


def both(k: int, rank: int, tokens: int) -> dict[str, Callable[[], Tensor]]:
    """The two ways, each with weights of its own: ``(k, tokens, WIDTH)`` goes in and comes out."""
    rows = torch.randn(k, tokens, WIDTH)
    down, up = torch.randn(k, WIDTH, rank) * 0.02, torch.randn(k, rank, WIDTH) * 0.02
    stacked = [weights.clone().requires_grad_() for weights in (down, up)]
    apart = [(a.clone().requires_grad_(), b.clone().requires_grad_()) for a, b in zip(down, up, strict=True)]
    return {
        "stacked": lambda: torch.bmm(torch.bmm(rows, stacked[0]), stacked[1]),
        "apart": lambda: torch.cat([own @ a @ b for own, (a, b) in zip(rows, apart, strict=True)]),
    }


def seconds(act: Callable[[], Tensor], n: int = 10) -> float:
    """Of the processor, for one forward and backward pass."""
    began = time.process_time()
    for _ in range(n):
        act().sum().backward()  # type: ignore[no-untyped-call]
    return (time.process_time() - began) / n


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--k", type=int, default=8, help="candidates")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=1920, help="of one candidate: 32 texts of 60")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    before, ways = machine.facts(), both(options.k, options.rank, options.tokens)
    for act in ways.values():
        seconds(act, 1)
    found = [{name: seconds(act) for name, act in ways.items()} for _ in range(options.rounds)]
    least = {name: min(row[name] for row in found) for name in ways}
    result = {**vars(options), "seconds": least, "apart_over_stacked": least["apart"] / least["stacked"]}
    print(result, machine.write("stacked", result, before))


if __name__ == "__main__":
    main()
