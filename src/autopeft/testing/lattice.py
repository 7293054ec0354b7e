"""Search spaces and trials without models, for tests of search: AutoPEFT's lattice on a made-up backbone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from autopeft.architecture import Cost, Counts, Line, ParameterBudget
from autopeft.objective import Measurement
from autopeft.spaces.lattice import Axis, Configuration, SearchSpace
from autopeft.trial import Failure, FailureKind, Trial, TrialState

BACKBONE_PARAMETERS = 22_700_000

Formula = Callable[[SearchSpace, Configuration], float]


@dataclass(frozen=True)
class FakeSite:
    """A place in a made-up transformer."""

    key: str
    stack: str
    layer: int | None
    role: str
    seam: str = "delta"


@dataclass(frozen=True)
class FakeBackbone:
    """`n_layers` layers with one feed-forward and one attention each."""

    n_layers: int
    hidden_size: int
    sites: Mapping[str, FakeSite] = field(init=False)

    def __post_init__(self) -> None:
        sites = [
            FakeSite(f"encoder.{layer}.{role}", "encoder", layer, role)
            for layer in range(self.n_layers)
            for role in ("ffn", "attention")
        ]
        object.__setattr__(self, "sites", {site.key: site for site in sites})


@dataclass(frozen=True)
class FakeMethod:
    """A bottleneck of width s: 2 * D * s weights, and biases s + D (stored only)."""

    name: str
    roles: tuple[str, ...]
    hidden_size: int
    is_sized: bool = True
    stacks: tuple[str, ...] = ()
    seam: str = "delta"

    def cost(self, site: FakeSite) -> Cost:
        """Weights in both counts, biases in the stored one."""
        width = self.hidden_size
        return Cost(nominal=Line(0, 2 * width), stored=Line(width, 2 * width + 1))


def autopeft_space(
    n_layers: int = 6,
    hidden_size: int = 384,
    sizes: tuple[int, ...] | None = None,
    budget: ParameterBudget | None = None,
) -> SearchSpace:
    """Layer switches and three shared sizes: 2^6 * 10^3 = 64,000 points by default."""
    axes = [
        Axis(FakeMethod("serial", ("ffn",), hidden_size), sizes),
        Axis(FakeMethod("parallel", ("ffn",), hidden_size), sizes),
        Axis(FakeMethod("prefix", ("attention",), hidden_size), sizes),
    ]
    return SearchSpace.build(FakeBackbone(n_layers, hidden_size), axes, budget=budget)


def tiny_space() -> SearchSpace:
    """Two layers, one method with sizes 0, 1, 2: 12 points, 6 of them valid and all of those distinct."""
    return SearchSpace.build(FakeBackbone(2, 8), [Axis(FakeMethod("serial", ("ffn",), 8), (0, 1, 2))])


def accuracy(space: SearchSpace, configuration: Configuration) -> float:
    """A made-up noise-free accuracy: late layers matter most, returns of size diminish, one method is weak.

    Every active layer adds its weight; the three methods add saturating terms in the logarithm of their size,
    the serial one most, and too large a prefix hurts. Between 0.52 and about 0.75.
    """
    architecture = space.decode(configuration)
    layers = {int(p.site.split(".")[1]) for p in architecture}
    n_layers = 1 + max(int(slot.site.split(".")[1]) for slot in space.slots)
    # As measured on real encoders, roughly: what the head reads is written by the last layers.
    weights = np.arange(1, n_layers + 1) ** 1.5
    reach = float(sum(weights[layer] for layer in layers) / weights.sum())
    # Without a price of crowding the largest architecture would be the best, and a search would have nothing to find.
    crowding = 0.03 * max(0, len(layers) - n_layers // 2) / n_layers
    names = ("serial", "parallel", "prefix")
    size = {name: max((p.size for p in architecture if p.method == name), default=0) for name in names}
    gain = 0.10 * _saturating(size["serial"], 6) + 0.06 * _saturating(size["parallel"], 24)
    gain += 0.05 * _saturating(size["prefix"], 3) - 0.03 * (math.log2(1 + size["prefix"]) / 8.6) ** 2
    return float(0.52 + (reach**0.7) * (0.03 + gain) - crowding * 0.3)


def _saturating(size: int, half: float) -> float:
    # Half of what there is to gain is gained at the size `half`, and most sizes differ by less than noise.
    return size / (size + half) if size else 0.0


def measurement(space: SearchSpace, configuration: Configuration, value: float) -> Measurement:
    """What a training run would have reported."""
    nominal, stored = space.cost(configuration), space.cost(configuration, "stored")
    counts = Counts(nominal=nominal, stored=stored, trained=stored + 770, backbone=BACKBONE_PARAMETERS)
    return Measurement({"accuracy": value}, "accuracy", counts, 1.0, 1, 0.1, "dev")


def complete(
    space: SearchSpace, number: int, configuration: Configuration, value: float, origin: str = "initial"
) -> Trial:
    """A measured trial."""
    found = measurement(space, configuration, value)
    return replace(running(space, number, configuration), state=TrialState.COMPLETE, origin=origin, measurement=found)


def running(space: SearchSpace, number: int, configuration: Configuration) -> Trial:
    """A trial that a worker holds."""
    candidate = space.candidate(configuration)
    changes = candidate.changes
    return Trial(number, configuration, candidate.architecture, TrialState.RUNNING, "initial", 0, changes=changes)


def failed(space: SearchSpace, number: int, configuration: Configuration, kind: FailureKind = "nan") -> Trial:
    """A trial without a measurement."""
    failure = Failure(kind, "made up")
    return replace(running(space, number, configuration), state=TrialState.FAILED, failure=failure)


def history(space: SearchSpace, configurations: Sequence[Configuration], formula: Formula = accuracy) -> list[Trial]:
    """Measured trials of `configurations`, in order."""
    return [complete(space, i, c, formula(space, c)) for i, c in enumerate(configurations)]


def noisy(noise: float, seed: int) -> Formula:
    """`accuracy` with repeatable noise: an architecture always gets the same one under a seed."""

    def formula(space: SearchSpace, configuration: Configuration) -> float:
        # By the point itself, so that a search meets the same noise in whichever order it measures.
        rng = np.random.default_rng([seed, *configuration.indices])
        return accuracy(space, configuration) + noise * float(rng.standard_normal())

    return formula
