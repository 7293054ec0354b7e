"""What Bayesian optimisation can be told, and the three sets of values that have names.

Every number comes from AutoPEFT (arXiv 2301.12132, section 3.2 and appendix) or from its released code; where
the two differ there are two presets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from autopeft.bayes.outcome import CostScale, TransformKind
from autopeft.proposal import complain
from autopeft.space import Encoding

Surrogate = Literal["saas-map", "saas-nuts", "gp"]
CostModel = Literal["exact", "gp"]
Reference = Literal["initial", "fixed"]
Acquisition = Literal["log-nehvi", "nehvi"]
Integration = Literal["closed", "sampled"]
Neighbourhood = Literal["one-exchange", "walk"]


@dataclass(frozen=True)
class Nuts:
    """How long the No-U-Turn sampler runs: `samples` draws after `warmup`, every `thinning`-th of them kept."""

    warmup: int
    samples: int
    thinning: int


@dataclass(frozen=True)
class BayesSettings:
    """Everything that `saas-nehvi` can be told; stored with a study.

    Args:
        preset: the name of the set of values that the others were taken from.
        surrogate: "saas-map", "saas-nuts" (needs the extra ``saas``) or "gp".
        warmup, samples, thinning: of NUTS; ``samples / thinning`` draws are kept.
        transform: how measured values are bent before the fit, see `OutcomeTransform`.
        cost_model: "exact": computed from the architecture; "gp": a second Gaussian process, as in the papers.
        cost_scale: the axis on which an exact cost spans the hypervolume: "linear" parameters, "log"arithm, or
            "rank" among random architectures of the space. A modelled cost uses `transform`.
        reference: "initial": the worst value of the initial design, widened by a tenth of its range, and the
            largest cost allowed; "fixed": `reference_cost` percent and `reference_value`.
        acquisition: log-NEHVI or NEHVI.
        integration: "closed": the candidate's value in closed form (needs an exact cost); "sampled": BoTorch.
        mc_samples: quasi-random posterior samples.
        prune_baseline: leave out measured points that are almost surely dominated.
        encoding: of configurations as inputs, see `SearchSpace.encode`.
        neighbourhood: "one-exchange": climb among all points that differ in one choice; "walk": the released
            code's random walks.
        pareto_starts, random_starts: searches that begin at points of the front, and at random ones. A walk
            draws every start from the front and uses `pareto_starts` only.
        moves: most moves of one climb.
        evaluations: acquisition values that one start may ask for.
        most_neighbours: a random subset of this size is looked at in larger neighbourhoods.
        noise: standard deviation of noise added to both objectives before the fit (the released code's 1e-4).
    """

    preset: str = "recommended"
    surrogate: Surrogate = "saas-map"
    warmup: int = 256
    samples: int = 128
    thinning: int = 16
    transform: TransformKind = "rank-normal"
    cost_model: CostModel = "exact"
    cost_scale: CostScale = "log"
    reference: Reference = "initial"
    reference_cost: float = 26.0
    reference_value: float = 0.70
    acquisition: Acquisition = "log-nehvi"
    integration: Integration = "closed"
    mc_samples: int = 128
    prune_baseline: bool = True
    encoding: Encoding = "unit"
    neighbourhood: Neighbourhood = "one-exchange"
    pareto_starts: int = 10
    random_starts: int = 10
    moves: int = 20
    evaluations: int = 4000
    most_neighbours: int = 256
    noise: float = 0.0

    def __post_init__(self) -> None:
        complain("The sampler 'saas-nehvi' cannot use these options", [*self._wrong_names(), *self._wrong_numbers()])

    def _wrong_names(self) -> list[str]:
        kinds: dict[str, Any] = {
            "surrogate": Surrogate, "transform": TransformKind, "cost_model": CostModel, "cost_scale": CostScale,
            "reference": Reference, "acquisition": Acquisition, "integration": Integration, "encoding": Encoding,
            "neighbourhood": Neighbourhood,
        }  # fmt: skip
        wrong = [
            f"{name} is one of {', '.join(get_args(kind))}, but got {getattr(self, name)!r}"
            for name, kind in kinds.items()
            if getattr(self, name) not in get_args(kind)
        ]
        if self.integration == "closed" and self.cost_model == "gp":
            wrong.append("integration 'closed' needs cost_model 'exact', but got 'gp'")
        return wrong

    def _wrong_numbers(self) -> list[str]:
        least = {"warmup": 1, "samples": 1, "thinning": 1, "mc_samples": 1, "pareto_starts": 0, "random_starts": 0,
                 "moves": 1, "evaluations": 1, "most_neighbours": 1}  # fmt: skip
        wrong = [
            f"{name} is a whole number of at least {low}, but got {getattr(self, name)!r}"
            for name, low in least.items()
            if isinstance(getattr(self, name), bool)
            or not isinstance(getattr(self, name), int)
            or getattr(self, name) < low
        ]
        if not wrong and self.pareto_starts + self.random_starts == 0:
            wrong.append("pareto_starts + random_starts must be at least 1, but both are 0")
        if not isinstance(self.noise, int | float) or not 0 <= self.noise < float("inf"):
            wrong.append(f"noise is a finite number of at least 0, but got {self.noise!r}")
        if not isinstance(self.reference_cost, int | float) or not 0 < self.reference_cost < float("inf"):
            wrong.append(f"reference_cost is a percentage above 0, but got {self.reference_cost!r}")
        if not isinstance(self.reference_value, int | float) or not abs(self.reference_value) < float("inf"):
            wrong.append(f"reference_value is a finite number, but got {self.reference_value!r}")
        return wrong

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        return asdict(self)


PRESETS: Mapping[str, BayesSettings] = {
    "recommended": BayesSettings(),
    "paper": BayesSettings(
        preset="paper", surrogate="saas-nuts", transform="z-score", cost_model="gp", acquisition="nehvi",
        integration="sampled", random_starts=0, moves=100, evaluations=100,
    ),
    "released": BayesSettings(
        preset="released", surrogate="saas-nuts", warmup=128, samples=64, thinning=4, transform="ecdf",
        cost_model="gp", reference="fixed", acquisition="nehvi", integration="sampled", encoding="released",
        neighbourhood="walk", random_starts=0, evaluations=200, noise=1e-4,
    ),
}  # fmt: skip
