"""What Bayesian optimisation can be told, and the sets of values that have names.

Every number comes from AutoPEFT (arXiv 2301.12132, section 3.2 and appendix) or from its released code; where
the two differ there are two presets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from autopeft.rules import Count, Natural, NotNegative, Number, Positive, Share, raise_if_any, violations
from autopeft.samplers._bayes.inputs import InputKind
from autopeft.samplers._bayes.outcome import CostScale, TransformKind
from autopeft.spaces.lattice import Encoding

Surrogate = Literal["saas-map", "saas-nuts", "gp"]
CostModel = Literal["exact", "gp"]
Reference = Literal["initial", "fixed", "constant"]
Acquisition = Literal["log-nehvi", "nehvi"]
Integration = Literal["closed", "sampled"]
Neighbourhood = Literal["one-exchange", "walk"]
MetricNoise = Literal["fitted", "sampling"]
Floor = Literal["none", "constant"]
Goal = Literal["front", "band", "limits"]


@dataclass(frozen=True)
class Nuts:
    """How long the No-U-Turn sampler runs: `samples` draws after `warmup`, every `thinning`-th of them kept."""

    warmup: Count
    samples: Count
    thinning: Count


@dataclass(frozen=True)
class BayesSettings:
    """Everything that `saas-nehvi` can be told; stored with a study.

    Args:
        preset: the name of the set of values that the others were taken from.
        surrogate: "saas-map", "saas-nuts" (needs the extra ``saas``) or "gp".
        warmup, samples, thinning: of NUTS; ``samples / thinning`` draws are kept.
        transform: how measured values are bent before the fit, see `OutcomeTransform`.
        cost_model: "exact": computed from the architecture; "gp": a second Gaussian process, as in the papers. A
            cost that only a measurement tells is always modelled, see `modelled`.
        cost_scale: the axis on which an exact cost spans the hypervolume: "linear" parameters, "log"arithm, or
            "rank" among random architectures of the space. A modelled cost uses `transform`.
        reference: "initial": the worst value of the initial design, widened by a tenth of its range, and the
            largest cost allowed; "fixed": `reference_cost`, in the unit of the cost, and `reference_value`;
            "constant": as "initial", but of values the constant answer's, where it is known.
        acquisition: log-NEHVI or NEHVI.
        integration: "closed": the candidate's value in closed form (needs an exact cost); "sampled": BoTorch.
        mc_samples: quasi-random posterior samples.
        refit: the hyper-parameters of the surrogate are fitted anew whenever the number of measured trials has grown by
            this share, and in between the process of before sees the new values; 0: for every proposal, as NUTS
            does in any case.
        prune_baseline: leave out measured points that are almost surely dominated.
        encoding: of configurations as inputs, see `SearchSpace.encode`.
        neighbourhood: "one-exchange": climb among all points that differ in one choice; "walk": the released
            code's random walks.
        pareto_starts, random_starts: searches that begin at points of the front, and at random ones. A walk
            draws every start from the front and uses `pareto_starts` only.
        moves: most moves of one climb.
        evaluations: acquisition values that one start may ask for.
        most_neighbours: a random subset of this size is looked at in larger neighbourhoods.
        metric_noise: how noisy measured metrics are taken to be. "fitted": one variance for all, found with the rest;
            with a few dozen trials that is mostly none, and the surrogate takes the luckiest value at its word.
            "sampling": at each trial the variance that comes from scoring so many examples; where a metric has none
            (an error in the labels' own unit) it is fitted.
        noise: standard deviation of noise added to both objectives before the fit (the released code's 1e-4).
        inputs: what the surrogate sees of a configuration: its "choices", or "wide", also what they add up to, see
            `Inputs`.
        floor: "constant": values below that of the best constant answer count as that, where it is known: how far a
            run fell says nothing of others; "none": they count as they are.
        goal: what is sought where the space has a budget of parameters: "front": all sizes up to it; "band": the best
            value at costs from the share `band` of the budget up to it, without a budget the front; "limits": each
            proposal seeks the best value under a limit of its own, see `limit_low`. Where the cost is another count
            than the budget's, the front.
        band: see `goal`; a budget that has a least cost of its own is the band as it is.
        limit_low, limit_high: the range of the limits, in percent of the backbone's parameters, within the budget;
            they cover it evenly by their logarithm, whatever the number of proposals. A cost below the lower end buys
            nothing there.
    """

    preset: str = "recommended"
    surrogate: Surrogate = "saas-map"
    warmup: Count = 256
    samples: Count = 128
    thinning: Count = 16
    transform: TransformKind = "rank-normal"
    cost_model: CostModel = "exact"
    cost_scale: CostScale = "log"
    reference: Reference = "initial"
    reference_cost: Positive = 26.0
    reference_value: Number = 0.70
    acquisition: Acquisition = "log-nehvi"
    integration: Integration = "closed"
    mc_samples: Count = 128
    prune_baseline: bool = True
    encoding: Encoding = "unit"
    neighbourhood: Neighbourhood = "one-exchange"
    pareto_starts: Natural = 10
    random_starts: Natural = 10
    moves: Count = 20
    evaluations: Count = 4000
    most_neighbours: Count = 256
    metric_noise: MetricNoise = "fitted"
    noise: NotNegative = 0.0
    inputs: InputKind = "choices"
    floor: Floor = "none"
    goal: Goal = "front"
    band: Share = 0.5
    limit_low: Positive = 0.1
    limit_high: Positive = 8.0
    refit: Share = 0.0

    def __post_init__(self) -> None:
        wrong = violations(self)
        if self.integration == "closed" and self.cost_model == "gp":
            wrong.append("integration 'closed' needs cost_model 'exact', but got 'gp'")
        if self.goal == "limits" and self.cost_model == "exact" and self.integration == "sampled":
            wrong.append("goal 'limits' with an exact cost needs integration 'closed', but got 'sampled'")
        if self.limit_low > self.limit_high:
            wrong.append(f"limit_low is at most limit_high, but got {self.limit_low:g} and {self.limit_high:g}")
        if self.pareto_starts == self.random_starts == 0:
            wrong.append("pareto_starts + random_starts must be at least 1, but both are 0")
        raise_if_any("The sampler 'saas-nehvi' cannot use these options", wrong)

    def modelled(self) -> BayesSettings:
        """The same for a cost that only a measurement tells: a second Gaussian process learns it from the trials.

        The acquisition is then the paper's, whose kernel needs no compiler, and looked up as often as the paper does:
        every value is an average over samples of both processes, which takes a hundred times as long as a closed form.
        """
        if self.cost_model == "gp":
            return self
        few = min(self.evaluations, 400)
        return replace(self, cost_model="gp", integration="sampled", acquisition="nehvi", evaluations=few)

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping, which is part of a study's identity."""
        found = asdict(self)
        # Studies that began before there was a choice go on as they were.
        return {name: value for name, value in found.items() if name not in EARLIER or value != EARLIER[name]}


EARLIER: Mapping[str, Any] = MappingProxyType(
    {
        "metric_noise": "fitted",
        "inputs": "choices",
        "floor": "none",
        "goal": "front",
        "band": 0.5,
        "limit_low": 0.1,
        "limit_high": 8.0,
        "refit": 0.0,
    }
)
"""What every search did before there was a setting for it; left out of what a study stores."""

PRESETS: Mapping[str, BayesSettings] = {
    "limits": BayesSettings(
        preset="limits", transform="clipped", cost_scale="rank", metric_noise="sampling", inputs="wide",
        floor="constant", reference="constant", goal="limits", mc_samples=32, pareto_starts=5, random_starts=5,
        refit=0.1,
    ),
    "robust": BayesSettings(
        preset="robust", transform="clipped", cost_scale="rank", metric_noise="sampling", inputs="wide",
        floor="constant", reference="constant", goal="band", mc_samples=32, pareto_starts=5,
        random_starts=5, refit=0.1,
    ),
    "recommended": BayesSettings(refit=0.1),
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
