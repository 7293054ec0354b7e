"""Bayesian optimisation on the lattice: a SAAS Gaussian process and noisy expected hypervolume improvement.

AutoPEFT (arXiv 2301.12132, section 3.2). Its presets: ``paper`` is what the paper says, ``released`` what the
authors' code does (without its crashes and without its mislabelled training data), ``recommended`` what this
package would do first: a cost that is known before training is not modelled, and nothing is proposed twice.
``robust`` minds besides that metrics are noisy and that runs collapse; ``limits`` does too, and each of its proposals
seeks the best value under a limit of cost of its own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autopeft.errors import InputError, SpaceExhaustedError, UnknownNameError
from autopeft.objective import Measurement, Objective, reference_point
from autopeft.objectives import Costing
from autopeft.samplers import Sampler, SamplerSpec
from autopeft.samplers._bayes.costs import LatticeCosts
from autopeft.samplers._bayes.data import Data
from autopeft.samplers._bayes.inputs import Inputs
from autopeft.samplers._bayes.local_search import Ledger, Score, climb, spread, walk
from autopeft.samplers._bayes.outcome import OutcomeTransform
from autopeft.samplers._bayes.settings import PRESETS, BayesSettings
from autopeft.samplers._bayes.smoothing import sampling_variance
from autopeft.samplers._propose import check_seed, generator, quiet, taken, with_options
from autopeft.samplers.random import random_unseen
from autopeft.spaces.lattice import Configuration, SearchSpace
from autopeft.trial import Trial, TrialState, front_of, with_cost

if TYPE_CHECKING:
    from torch import Tensor

    from autopeft.samplers._bayes.refitting import Observations, Refitting

    Acquisition = Callable[[Sequence[Configuration], LatticeCosts], Score]

_log = logging.getLogger(__name__)

# Trials that fix the reference point when none is marked as the initial design.
_FIRST = 10
# Steps through the range of limits, from proposal to proposal and from seed to seed.
_GOLDEN, _SILVER = (math.sqrt(5) - 1) / 2, math.sqrt(2) - 1
# How many times the lowest limit the highest one is at least.
_SPAN = 8.0


class SaasNehvi:
    """SAAS surrogate, noisy expected hypervolume improvement, local search on the lattice.

    Raises:
        SettingsError: the surrogate is "saas-nuts" and NumPyro is not installed.
    """

    name = "saas-nehvi"

    def __init__(self, space: SearchSpace, seed: int, settings: BayesSettings, costing: Costing | None = None) -> None:
        self._space, self._seed = space, check_seed(seed)
        share = settings.band if settings.goal == "band" else None
        self._costs = LatticeCosts(space, settings.cost_scale, costing or Costing(), share)
        self._cost = self._costs.objective
        self._settings = settings = settings if self._costs.is_known else settings.modelled()
        self._rows = Inputs(space, settings.encoding, settings.inputs)
        self._kept_fits: Refitting | None = None
        if settings.surrogate == "saas-nuts":
            with quiet(seed):
                from autopeft.samplers._bayes.surrogate import check_nuts

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
        # Two values are the fewest that have a spread, without which nothing can be brought to unit variance.
        if len(with_cost(trials, self._cost)) < 2:
            return self._random(self._costs.aim, seen, rng, n)
        found: list[Configuration] = []
        with quiet(int(rng.integers(2**31))):
            from autopeft.samplers._bayes.surrogate import FAILURES

            try:
                # Fitted once for all that are proposed together: what is proposed first enters the others as pending
                # only.
                acquisition = self._acquisition(trials, int(rng.integers(2**31)))
                while len(found) < n:
                    costs = self._sought(trials, len(found))
                    found.append(self._propose(trials, acquisition, found, seen, rng, costs))
                    seen.add(self._space.identity(found[-1]))
            except SpaceExhaustedError:
                if not found:
                    raise
            # A mistake of the user is not made up for by a random proposal.
            except InputError:
                raise
            except FAILURES as error:
                _log.warning("The surrogate failed (%s); the proposal is random.", error, exc_info=True)
                found += self._random(self._costs.aim, seen, rng, n - len(found))
        return found

    def _random(
        self, aim: SearchSpace, seen: set[tuple[int, ...]], rng: np.random.Generator, n: int
    ) -> list[Configuration]:
        """Random ones from where it looks; where nothing is left there, from the rest of the space.

        Raises:
            SpaceExhaustedError: nothing is left anywhere.
        """
        try:
            return random_unseen(aim, seen, rng, n)
        except SpaceExhaustedError:
            if aim is self._space:
                raise
            return random_unseen(self._space, seen, rng, n)

    def score(self, trials: Sequence[Trial], configurations: Sequence[Configuration]) -> NDArray[np.float64]:
        """The acquisition values that `ask` would compare, for inspection. Returns ``(len(configurations),)``.

        Raises:
            ValueError: fewer than two trials are measured.
        """
        measured = len(with_cost(trials, self._cost))
        if measured < 2:
            raise ValueError(f"An acquisition function needs at least 2 measured trials, but there are {measured}.")
        rng = generator(self._seed, trials)
        with quiet(int(rng.integers(2**31))):
            acquisition = self._acquisition(trials, int(rng.integers(2**31)))
            return acquisition(_pending(trials), self._sought(trials, 0))(configurations)

    # -- the front and where to look -----------------------------------------------------------------------

    def _sought(self, trials: Sequence[Trial], place: int) -> LatticeCosts:
        """What costs are worth to the proposal at `place` of those that are asked for together."""
        measured, settings = with_cost(trials, self._cost), self._settings
        if settings.goal != "limits" or not measured:
            return self._costs
        # Multiples of the golden ratio cover a range evenly however many there are; random ones leave gaps in a few.
        share = math.modf((len(trials) + place) * _GOLDEN + self._seed * _SILVER)[0]
        _, one, _ = measured[0]
        low, high = (one.counts.backbone * percent / 100 for percent in (settings.limit_low, settings.limit_high))
        limit = self._space.budget
        if limit is not None:
            # Under a budget below the range there is still a range.
            high = min(high, limit.most)
            low = min(low, high / _SPAN)
        return self._costs.under(low * (high / low) ** share)

    def _propose(
        self,
        trials: Sequence[Trial],
        acquisition: Acquisition,
        chosen: Sequence[Configuration],
        seen: set[tuple[int, ...]],
        rng: np.random.Generator,
        costs: LatticeCosts,
    ) -> Configuration:
        settings = self._settings
        ledger = Ledger(costs.aim, acquisition([*_pending(trials), *chosen], costs), frozenset(seen))
        starts = self._starts(trials, seen, rng, costs)
        if settings.neighbourhood == "walk":
            walk(ledger, starts, rng, evaluations=settings.evaluations)
        else:
            climb(
                ledger, starts, rng, moves=settings.moves, evaluations=settings.evaluations,
                most_neighbours=settings.most_neighbours,
            )  # fmt: skip
        return ledger.best(rng) or self._random(costs.aim, seen, rng, 1)[0]

    def _starts(
        self, trials: Sequence[Trial], seen: set[tuple[int, ...]], rng: np.random.Generator, costs: LatticeCosts
    ) -> list[Configuration]:
        front, settings = self._known_good(trials, costs), self._settings
        if settings.neighbourhood == "walk":
            front = front or self._random(costs.aim, seen, rng, 1)  # nothing may have been measured where it looks
            return [front[int(i)] for i in rng.integers(0, len(front), settings.pareto_starts)]  # `walk` changes each
        # Evenly along the front: were they the best by one objective, one end of it would never be searched.
        starts = spread(front, settings.pareto_starts)
        if settings.random_starts:
            starts += self._random(costs.aim, seen, rng, settings.random_starts)
        return starts

    def _known_good(self, trials: Sequence[Trial], costs: LatticeCosts) -> list[Configuration]:
        """The front in order of cost; where one band is sought, what was measured in it, the best first."""
        if costs.band is None:
            by_number = {trial.number: trial.configuration for trial in trials}
            return [by_number[point.key] for point in front_of(trials, self._cost).points]
        held = [(t, found) for t, found, _ in with_cost(trials, self._cost) if costs.aim.is_feasible(t.configuration)]
        held.sort(key=lambda item: -item[1].value)
        return [trial.configuration for trial, _ in held[: self._settings.pareto_starts]]

    # -- the surrogate -------------------------------------------------------------------------------------

    def _acquisition(self, trials: Sequence[Trial], seed: int) -> Acquisition:
        """Fit once; the result takes the pending configurations and what costs are worth, and scores candidates."""
        data = self._data(trials)
        value_scale = OutcomeTransform(self._settings.transform, data.values)
        if self._settings.integration == "closed":
            return self._closed(data, value_scale, seed)
        return self._sampled(data, value_scale, seed)

    def _data(self, trials: Sequence[Trial]) -> Data:
        measured = with_cost(trials, self._cost)
        metric, cost = Objective("metric", "maximize"), self._cost
        values = self._raised(measured)
        shifts = [self._noise(trial) for trial, _, _ in measured]
        worst_cost, worst_value = self._reference(measured)
        variances = [sampling_variance(found) for _, found, _ in measured]
        known = tuple(variance for variance in variances if variance is not None)
        is_told = self._settings.metric_noise == "sampling" and len(known) == len(measured)
        return Data(
            tuple(trial.configuration for trial, _, _ in measured),
            tuple(metric.maximised(value) + shift for value, (shift, _) in zip(values, shifts, strict=True)),
            tuple(cost.maximised(spent) + shift for (_, _, spent), (_, shift) in zip(measured, shifts, strict=True)),
            (metric.maximised(worst_value), cost.maximised(worst_cost)),
            known if is_told else None,
        )

    def _constant(self, measured: Sequence[tuple[Trial, Measurement, float]]) -> float | None:
        """What always saying the same would measure; None where no trial says so, as those of earlier versions."""
        told = [found.extra.get("constant") for _, found, _ in measured]
        return max((float(value) for value in told if value is not None), default=None)

    def _raised(self, measured: Sequence[tuple[Trial, Measurement, float]]) -> list[float]:
        constant = self._constant(measured) if self._settings.floor == "constant" else None
        return [found.value if constant is None else max(found.value, constant) for _, found, _ in measured]

    def _noise(self, trial: Trial) -> tuple[float, float]:
        if not self._settings.noise:
            return 0.0, 0.0
        identity = self._space.identity(trial.configuration)  # not its number, which an interruption shifts
        drawn = np.random.default_rng([self._seed, 1, *identity]).normal(0, self._settings.noise, 2)
        return float(drawn[0]), float(drawn[1])

    def _reference(self, measured: Sequence[tuple[Trial, Measurement, float]]) -> tuple[float, float]:
        """Worst cost and worst metric, natural; fixed as soon as the initial design is measured.

        The worst cost is the largest that is allowed; of a cost that is not known before, the largest of that design.
        """
        if self._settings.reference == "fixed":
            return self._settings.reference_cost, self._settings.reference_value
        first = [item for item in measured if item[0].origin == "initial"] or list(measured[:_FIRST])
        pairs = [(spent, found.value) for _, found, spent in first]
        _, one, _ = measured[0]
        worst = self._costs.worst(one.counts)
        found = reference_point(pairs, max(spent for spent, _ in pairs) if worst is None else worst)
        constant = self._constant(measured) if self._settings.reference == "constant" else None
        return found if constant is None else (found[0], constant)

    def _closed(self, data: Data, scale: OutcomeTransform, seed: int) -> Acquisition:
        import torch

        from autopeft.samplers._bayes.acquisition import KnownCostNehvi

        settings = self._settings
        model = self._fit(data, seed)
        # The reference goes through the transformation of the values, or the two could not be compared.
        lowest = float(scale([data.reference[0]])[0])

        def given(pending: Sequence[Configuration], costs: LatticeCosts) -> Score:
            baseline = [*data.configurations, *pending]
            function = KnownCostNehvi(
                model, self._encoded(baseline), torch.as_tensor(costs.positions(baseline)), (lowest, costs.farthest),
                n_samples=settings.mc_samples, seed=seed, is_pruned=settings.prune_baseline,
            )  # fmt: skip
            is_log = settings.acquisition == "log-nehvi"

            def score(configurations: Sequence[Configuration]) -> NDArray[np.float64]:
                values = function(self._encoded(configurations), torch.as_tensor(costs.positions(configurations)))
                return np.asarray((values if is_log else values.exp()).numpy(), dtype=np.float64)

            return score

        return given

    def _sampled(self, data: Data, scale: OutcomeTransform, seed: int) -> Acquisition:
        from botorch.models import ModelList
        from botorch.models.deterministic import GenericDeterministicModel

        from autopeft.samplers._bayes.acquisition import SampledNehvi

        settings = self._settings
        is_known = settings.cost_model == "exact"
        x = self._inputs(data.configurations)
        model = self._fit(data, seed)
        if is_known:
            # BoTorch wants a model for every output, and this one reads the known cost off its column.
            second: Any = GenericDeterministicModel(lambda rows: rows[..., -1:])
            worst_cost = -self._costs.farthest
        else:
            cost_scale = OutcomeTransform(settings.transform, data.costs)
            second = self._fit(data, seed + 1, of_cost=True)
            worst_cost = float(cost_scale([data.reference[1]])[0])
        reference = (float(scale([data.reference[0]])[0]), worst_cost)

        def given(pending: Sequence[Configuration], costs: LatticeCosts) -> Score:
            function = SampledNehvi(
                ModelList(model, second), x, self._inputs(pending), reference,
                is_log=settings.acquisition == "log-nehvi", n_samples=settings.mc_samples, seed=seed,
                is_pruned=settings.prune_baseline, is_cost_known=is_known,
            )  # fmt: skip

            def score(configurations: Sequence[Configuration]) -> NDArray[np.float64]:
                return np.asarray(function(self._inputs(configurations)).numpy(), dtype=np.float64)

            return score

        return given

    def _fit(self, data: Data, seed: int, *, of_cost: bool = False) -> Any:
        """The process of one output, on the scale of its own transform."""
        from autopeft.samplers._bayes.refitting import Refitting

        fits = self._kept_fits = self._kept_fits or Refitting(self._settings, self._seed)
        n, width = len(data.configurations), self._rows.width
        seen = self._observations(data, of_cost)
        at = fits.fitted_at(n)
        first = seen if at == n else self._observations(data.first(at), of_cost)
        return fits.model(seen, first, seed, width, output=int(of_cost))

    def _observations(self, data: Data, of_cost: bool) -> Observations:
        import torch

        from autopeft.samplers._bayes.refitting import Observations

        values = data.costs if of_cost else data.values
        scale = OutcomeTransform(self._settings.transform, values)
        y = torch.as_tensor(scale(values), dtype=torch.float64).unsqueeze(-1)
        spread = None if of_cost else data.spread(scale)
        noise = None if spread is None else torch.as_tensor(spread, dtype=torch.float64).unsqueeze(-1)
        is_closed = self._settings.integration == "closed"
        x = self._encoded(data.configurations) if is_closed else self._inputs(data.configurations)
        return Observations(x, y, noise)

    def _encoded(self, configurations: Sequence[Configuration]) -> Tensor:
        import torch

        return torch.as_tensor(self._rows(configurations), dtype=torch.float64)

    def _position(self, configurations: Sequence[Configuration]) -> NDArray[np.float64]:
        """Positions on the cost axis, smaller is better."""
        return self._costs.positions(configurations)

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


def build(
    space: SearchSpace, seed: int, *, cost: Costing | None = None, preset: str = "recommended", **options: Any
) -> Sampler:
    """Bayesian optimisation with the values of `preset`, changed by `options` (fields of `BayesSettings`).

    Raises:
        UnknownNameError: there is no such preset.
        SettingsError: an option does not exist, or its value cannot be used; all such are listed together.
    """
    if preset not in PRESETS:
        raise UnknownNameError("preset of 'saas-nehvi'", preset, PRESETS)
    return SaasNehvi(space, seed, with_options(PRESETS[preset], options, SaasNehvi.name), cost)


MEMBERS = {
    "saas-nehvi": SamplerSpec(
        "saas-nehvi",
        build,
        "Bayesian optimisation: SAAS Gaussian process, noisy expected hypervolume improvement (AutoPEFT)",
        presets=PRESETS,
        reads_cost=True,
    )
}
