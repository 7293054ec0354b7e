"""Operations: multiplications and additions of one forward pass over an example of median length.

PyTorch's own counter watches a real pass, so that a method of a stranger's is counted as well as one of ours. It counts
matrix products, twice the multiplications each, and nothing that works element by element.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.architecture import Architecture, Placement
from autopeft.objective import Objective
from autopeft.objectives._bench import Bench, Probe

_GIGA = 1e9


def measure(probe: Probe) -> Mapping[str, Any]:
    """GFLOP of what is attached, counted in one pass, and the tokens of the example."""
    found, tokens = _counted(probe)
    return {"value": found / _GIGA, "unit": "GFLOP", "examples": 1, "tokens": tokens, "passes": 1}


def price(bench: Bench, architecture: Architecture) -> float:
    """GFLOP before training: those of the backbone, and what every module adds to it when it stands there alone.

    Modules add up exactly, because each is a sum of matrix products beside those of the backbone. A module is counted
    once for all layers, for a search asks for thousands of architectures made of the same few.
    """
    # A module that looks across tokens has the last layer computed whole, which then belongs to the base of all others.
    first = bench.deciding(architecture)
    base = _kept(bench, first)
    added = sum(_kept(bench, (*first, placement)) - base for placement in architecture if placement not in first)
    return (base + added) / _GIGA


def _kept(bench: Bench, placements: tuple[Placement, ...]) -> float:
    """Operations of a pass with these placements; counted at the first question."""
    key = ("operations", *map(bench.kind_of, placements))
    if key not in bench.kept:
        with bench.attached(Architecture(placements)) as probe:
            bench.kept[key] = _counted(probe)[0]
    return bench.kept[key]


def _counted(probe: Probe) -> tuple[float, int]:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # Fused attention is one opaque call, which the counter knows on some devices only; taken apart it is the same work.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        tokens = probe.forward()
    return float(counter.get_total_flops()), tokens


MEMBERS = {
    "operations": Objective(
        "operations",
        unit="GFLOP",
        label="operations of a forward pass, GFLOP",
        about="operations of one forward pass over an example of median length, in GFLOP",
        price=price,
        measure=measure,
    )
}
