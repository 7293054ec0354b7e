"""Where random points of the recommended space lie, and those of the initial design that begins with baselines.

    python benchmarks/initial_design.py

On a BERT of MiniLM's shape, without weights; nothing is trained.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import BertConfig

import machine
from autopeft.backbones import Backbone
from autopeft.samplers.random import initial_design
from autopeft.session.parts import build_space
from autopeft.settings import SpaceSettings
from autopeft.spaces.lattice import Configuration, SearchSpace
from autopeft.spaces.start import baselines, baselines_first, layers_of

LAYERS = 6


def described(space: SearchSpace, points: Sequence[Configuration], size: int) -> dict[str, Any]:
    """Shares in per cent: of points by number of layers, and below shares of a model of `size` parameters."""
    layers = layers_of(space, points)
    indices = np.array([point.indices for point in points])
    costs = 100 * space.costs(indices, "nominal") / size
    return {
        "points": len(points),
        "by_layers": {n: round(100 * float(np.mean(layers == n)), 1) for n in range(1, LAYERS + 1)},
        "below_0.1": round(100 * float(np.mean(costs < 0.1)), 1),
        "below_0.5": round(100 * float(np.mean(costs < 0.5)), 1),
        "median": round(float(np.median(costs)), 3),
    }


def main() -> None:
    """Count, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--random", type=int, default=2000)
    parser.add_argument("--start", type=int, default=60)
    options = parser.parse_args()
    config = BertConfig(hidden_size=384, num_hidden_layers=LAYERS, num_attention_heads=12, intermediate_size=1536)
    backbone = Backbone.from_config(config, device="meta")
    space = build_space(backbone, SpaceSettings(name="recommended", batch_factors=(), dropout_factors=()))
    before, size, first = machine.facts(), backbone.n_parameters, len(list(baselines(space)))
    start = baselines_first(space, 0, options.start)
    parts = {"random": initial_design(space, 0, options.random), "start": start, "filling": start[first:]}
    result = {"baselines": first, **{name: described(space, found, size) for name, found in parts.items()}}
    print(result, machine.write("initial_design", result, before))


if __name__ == "__main__":
    main()
