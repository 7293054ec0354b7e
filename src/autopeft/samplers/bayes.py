"""Bayesian optimisation on the lattice: a SAAS Gaussian process and noisy expected hypervolume improvement.

AutoPEFT (arXiv 2301.12132, section 3.2). Three presets: ``paper`` is what the paper says, ``released`` what the
authors' code does (without its crashes and without its mislabelled training data), ``recommended`` what this
package would do: the cost is known before training, so it is not modelled, and nothing is proposed twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from autopeft.errors import SpaceExhaustedError, UnknownNameError
from autopeft.local_search import Ledger, Score, climb, mutate, spread, walk
from autopeft.objective import metric_and_cost, reference_point
from autopeft.outcome import OutcomeTransform, TransformKind
from autopeft.proposal import check_seed, complain, generator, quiet, taken, with_options
from autopeft.samplers import Sampler
from autopeft.samplers.random_search import random_unseen
from autopeft.space import Configuration, Encoding, SearchSpace
from autopeft.trial import Trial, TrialState, front_of

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)

Surrogate = Literal["saas-map", "saas-nuts", "gp"]
CostModel = Literal["exact", "gp"]
CostScale = Literal["linear", "log", "rank"]
Reference = Literal["initial", "fixed"]
Acquisition = Literal["log-nehvi", "nehvi"]
Integration = Literal["closed", "sampled"]
Neighbourhood = Literal["one-exchange", "walk"]

# Trials that fix the reference point when none is marked as the initial design.
_FIRST = 10
# Random architectures that define the scale "rank", and the seed of that draw, the same for every study.
_RANKED, _RANK_SEED = 2048, 0


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
        if not isinstance(self.reference_cost, int | float) or not 0 < self.reference_cost:
            wrong.append(f"reference_cost is a percentage above 0, but got {self.reference_cost!r}")
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


@dataclass(frozen=True)
class CostAxis:
    """An increasing map from nominal parameters to the scale on which the hypervolume is spanned: 0 to 1.

    0 is the cheapest architecture and 1 the dearest that is allowed, which is also the reference.
    """

    scale: CostScale
    low: int
    high: int
    drawn: tuple[int, ...] = ()

    @classmethod
    def of(cls, space: SearchSpace, scale: CostScale) -> CostAxis:
        """The axis of `space`; "rank" draws random architectures, the same ones every time."""
        low, high = space.cost_range("nominal")
        if space.budget is not None and space.budget.count == "nominal":
            low, high = max(low, space.budget.least), min(high, space.budget.most)
        drawn: tuple[int, ...] = ()
        if scale == "rank":
            configurations = space.sample(np.random.default_rng(_RANK_SEED), _RANKED)
            drawn = tuple(sorted({space.cost(configuration) for configuration in configurations}))
        return cls(scale, low, high, drawn)

    @property
    def worst(self) -> float:
        """The reference: the dearest architecture, or a tenth beyond it where all cost the same."""
        return 1.0 if self.high > self.low else 1.1

    def __call__(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Positions of `counts` nominal parameters, shape ``(n,)``."""
        low, high = self._bent(np.array([self.low, self.high]))
        return np.asarray((self._bent(counts) - low) / (high - low if high > low else 1.0))

    def _bent(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        if self.scale == "linear":
            return counts.astype(np.float64)
        # A bias-only module has no nominal parameters.
        logs = np.log10(np.maximum(counts.astype(np.float64), 0.5))
        if self.scale == "log":
            return logs
        known = np.log10(np.maximum(np.array([self.low, *self.drawn, self.high], dtype=np.float64), 0.5))
        known = np.unique(known)
        return np.interp(logs, known, np.linspace(0, 1, len(known)))


@dataclass(frozen=True)
class Data:
    """The measured trials as a surrogate sees them: inputs, and both objectives maximised and untransformed."""

    configurations: tuple[Configuration, ...]
    values: tuple[float, ...]
    costs: tuple[float, ...]
    reference: tuple[float, float]


class SaasNehvi:
    """SAAS surrogate, noisy expected hypervolume improvement, local search on the lattice.

    Raises:
        SettingsError: the surrogate is "saas-nuts" and NumPyro is not installed.
    """

    name = "saas-nehvi"

    def __init__(self, space: SearchSpace, seed: int, settings: BayesSettings) -> None:
        self._space, self._seed, self._settings = space, check_seed(seed), settings
        self._axis = CostAxis.of(space, settings.cost_scale)
        if settings.surrogate == "saas-nuts":
            with quiet(seed):
                from autopeft.surrogate import check_nuts

                check_nuts()

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved options, JSON-ready, for a study to store."""
        return self._settings.as_dict()

    def ask(self, trials: Sequence[Trial], n: int = 1) -> list[Configuration]:
        """The `n` configurations with the best acquisition, chosen one after the other. See `Sampler.ask`.

        With fewer than two measured trials, or where the surrogate cannot be fitted, they are random.
        """
        rng = generator(self._seed, trials)
        seen = taken(self._space, trials)
        if sum(trial.is_complete for trial in trials) < 2:
            return random_unseen(self._space, seen, rng, n)
        found: list[Configuration] = []
        with quiet(int(rng.integers(2**31))):
            try:
                acquisition = self._acquisition(trials, int(rng.integers(2**31)))
                while len(found) < n:
                    found.append(self._propose(trials, acquisition, found, seen, rng))
                    seen.add(self._space.identity(found[-1]))
            except SpaceExhaustedError:
                if not found:
                    raise
            except (ArithmeticError, RuntimeError, ValueError) as error:
                _log.warning("The surrogate failed (%s); the proposal is random.", error)
                found += random_unseen(self._space, seen, rng, n - len(found))
        return found

    def score(self, trials: Sequence[Trial], configurations: Sequence[Configuration]) -> NDArray[np.float64]:
        """The acquisition values that `ask` would compare, for inspection. Returns ``(len(configurations),)``.

        Raises:
            ValueError: fewer than two trials are measured.
        """
        measured = sum(trial.is_complete for trial in trials)
        if measured < 2:
            raise ValueError(f"An acquisition function needs at least 2 measured trials, but there are {measured}.")
        rng = generator(self._seed, trials)
        with quiet(int(rng.integers(2**31))):
            return self._acquisition(trials, int(rng.integers(2**31)))(_pending(trials))(configurations)

    # -- the front and where to look -----------------------------------------------------------------------

    def _propose(
        self,
        trials: Sequence[Trial],
        acquisition: Callable[[Sequence[Configuration]], Score],
        chosen: Sequence[Configuration],
        seen: set[tuple[int, ...]],
        rng: np.random.Generator,
    ) -> Configuration:
        settings = self._settings
        ledger = Ledger(self._space, acquisition([*_pending(trials), *chosen]), frozenset(seen))
        starts = self._starts(trials, seen, rng)
        if settings.neighbourhood == "walk":
            walk(ledger, starts, rng, evaluations=settings.evaluations)
        else:
            climb(
                ledger, starts, rng, moves=settings.moves, evaluations=settings.evaluations,
                most_neighbours=settings.most_neighbours,
            )  # fmt: skip
        return ledger.best(rng) or random_unseen(self._space, seen, rng, 1)[0]

    def _starts(
        self, trials: Sequence[Trial], seen: set[tuple[int, ...]], rng: np.random.Generator
    ) -> list[Configuration]:
        by_number = {trial.number: trial.configuration for trial in trials}
        front = [by_number[point.key] for point in front_of(trials).points]
        settings = self._settings
        if settings.neighbourhood == "walk":
            parents = [front[int(i)] for i in rng.integers(0, len(front), settings.pareto_starts)]
            return [mutate(self._space, parent, rng) for parent in parents]
        starts = spread(front, settings.pareto_starts)
        if settings.random_starts:
            starts += random_unseen(self._space, seen, rng, settings.random_starts)
        return starts

    # -- the surrogate -------------------------------------------------------------------------------------

    def _acquisition(self, trials: Sequence[Trial], seed: int) -> Callable[[Sequence[Configuration]], Score]:
        """Fit once; the result takes the pending configurations and gives a score of candidates."""
        data = self._data(trials)
        value_scale = OutcomeTransform(self._settings.transform, data.values)
        if self._settings.integration == "closed":
            return self._closed(data, value_scale, seed)
        return self._sampled(data, value_scale, seed)

    def _data(self, trials: Sequence[Trial]) -> Data:
        measured = [trial for trial in trials if trial.measurement is not None]
        metric, cost = metric_and_cost("metric")
        pairs = [(t.measurement.percent, t.measurement.value) for t in measured if t.measurement is not None]
        shifts = [self._noise(trial) for trial in measured]
        worst_cost, worst_value = self._reference(measured)
        return Data(
            tuple(trial.configuration for trial in measured),
            tuple(metric.maximised(value) + shift for (_, value), (shift, _) in zip(pairs, shifts, strict=True)),
            tuple(cost.maximised(percent) + shift for (percent, _), (_, shift) in zip(pairs, shifts, strict=True)),
            (metric.maximised(worst_value), cost.maximised(worst_cost)),
        )

    def _noise(self, trial: Trial) -> tuple[float, float]:
        if not self._settings.noise:
            return 0.0, 0.0
        drawn = np.random.default_rng([self._seed, trial.number, 1]).normal(0, self._settings.noise, 2)
        return float(drawn[0]), float(drawn[1])

    def _reference(self, measured: Sequence[Trial]) -> tuple[float, float]:
        """Worst cost in percent and worst metric, natural; fixed as soon as the initial design is measured."""
        if self._settings.reference == "fixed":
            return self._settings.reference_cost, self._settings.reference_value
        first = [trial for trial in measured if trial.origin == "initial"] or list(measured[:_FIRST])
        pairs = [(t.measurement.percent, t.measurement.value) for t in first if t.measurement is not None]
        assert measured[0].measurement is not None
        return reference_point(pairs, 100.0 * self._axis.high / measured[0].measurement.counts.backbone)

    def _closed(self, data: Data, scale: OutcomeTransform, seed: int) -> Callable[[Sequence[Configuration]], Score]:
        import torch

        from autopeft.acquisition import KnownCostNehvi

        settings = self._settings
        x = self._encoded(data.configurations)
        model = self._fit(x, scale(data.values), seed, x.shape[-1])
        worst = (float(scale([data.reference[0]])[0]), self._axis.worst)

        def given(pending: Sequence[Configuration]) -> Score:
            baseline = [*data.configurations, *pending]
            function = KnownCostNehvi(
                model, self._encoded(baseline), torch.as_tensor(self._position(baseline)), worst,
                n_samples=settings.mc_samples, seed=seed, is_pruned=settings.prune_baseline,
            )  # fmt: skip
            is_log = settings.acquisition == "log-nehvi"

            def score(configurations: Sequence[Configuration]) -> NDArray[np.float64]:
                values = function(self._encoded(configurations), torch.as_tensor(self._position(configurations)))
                return np.asarray((values if is_log else values.exp()).numpy(), dtype=np.float64)

            return score

        return given

    def _sampled(self, data: Data, scale: OutcomeTransform, seed: int) -> Callable[[Sequence[Configuration]], Score]:
        from botorch.models import ModelList
        from botorch.models.deterministic import GenericDeterministicModel

        from autopeft.acquisition import SampledNehvi

        settings = self._settings
        is_known = settings.cost_model == "exact"
        x = self._inputs(data.configurations)
        model = self._fit(x, scale(data.values), seed, self._space.n_choices)
        if is_known:
            second: Any = GenericDeterministicModel(lambda rows: rows[..., -1:])
            worst_cost = -self._axis.worst
        else:
            cost_scale = OutcomeTransform(settings.transform, data.costs)
            second = self._fit(x, cost_scale(data.costs), seed + 1, self._space.n_choices)
            worst_cost = float(cost_scale([data.reference[1]])[0])
        reference = (float(scale([data.reference[0]])[0]), worst_cost)

        def given(pending: Sequence[Configuration]) -> Score:
            function = SampledNehvi(
                ModelList(model, second), x, self._inputs(pending), reference,
                is_log=settings.acquisition == "log-nehvi", n_samples=settings.mc_samples, seed=seed,
                is_pruned=settings.prune_baseline, is_cost_known=is_known,
            )  # fmt: skip

            def score(configurations: Sequence[Configuration]) -> NDArray[np.float64]:
                return np.asarray(function(self._inputs(configurations)).numpy(), dtype=np.float64)

            return score

        return given

    def _fit(self, x: Tensor, y: NDArray[np.float64], seed: int, n_features: int) -> Any:
        import torch

        from autopeft.surrogate import Nuts, fit

        nuts = Nuts(self._settings.warmup, self._settings.samples, self._settings.thinning)
        target = torch.as_tensor(y, dtype=torch.float64).unsqueeze(-1)
        return fit(self._settings.surrogate, x, target, n_features=n_features, seed=seed, nuts=nuts)

    def _encoded(self, configurations: Sequence[Configuration]) -> Tensor:
        import torch

        return torch.as_tensor(self._space.encode(configurations, self._settings.encoding), dtype=torch.float64)

    def _position(self, configurations: Sequence[Configuration]) -> NDArray[np.float64]:
        """Positions on the cost axis, smaller is better."""
        rows = np.array([c.indices for c in configurations], dtype=np.int64).reshape(-1, self._space.n_choices)
        return self._axis(self._space.costs(rows))

    def _inputs(self, configurations: Sequence[Configuration]) -> Tensor:
        """Encoded configurations and, as a last column for a known cost, minus the position on its axis."""
        import torch

        encoded = self._encoded(configurations)
        if self._settings.cost_model != "exact":
            return encoded
        position = torch.as_tensor(-self._position(configurations))
        return torch.cat([encoded, position.unsqueeze(-1)], -1)


def _pending(trials: Sequence[Trial]) -> list[Configuration]:
    return [trial.configuration for trial in trials if trial.state is TrialState.RUNNING]


def build(space: SearchSpace, seed: int, *, preset: str = "recommended", **options: Any) -> Sampler:
    """Bayesian optimisation with the values of `preset`, changed by `options` (fields of `BayesSettings`).

    Raises:
        UnknownNameError: there is no such preset.
        SettingsError: an option does not exist, or its value cannot be used; all such are listed together.
    """
    if preset not in PRESETS:
        raise UnknownNameError("preset of 'saas-nehvi'", preset, PRESETS)
    return SaasNehvi(space, seed, with_options(PRESETS[preset], options, SaasNehvi.name))


MEMBERS = {"saas-nehvi": build}
