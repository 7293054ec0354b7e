"""Optuna's samplers in our studies, and our samplers in anybody's Optuna study.

`tpe`, `nsga2` and `gp` replay the trials into an Optuna study in memory and ask it, so that they too are pure
functions of the trials. `LatticeSampler` goes the other way: an `optuna.samplers.BaseSampler` that proposes what
one of our samplers would.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from autopeft.architecture import Counts
from autopeft.candidate import Candidate
from autopeft.errors import SettingsError, SpaceExhaustedError
from autopeft.objective import Measurement, Objective
from autopeft.objectives import Costing
from autopeft.rules import Count, Several, raise_if_any, violations
from autopeft.samplers import Sampler, SamplerSpec
from autopeft.samplers._propose import check_seed, generator, quiet, taken, with_options
from autopeft.samplers.random import random_unseen
from autopeft.spaces.lattice import Configuration, SearchSpace
from autopeft.trial import Failure, Trial, TrialState

_STATES = {
    TrialState.RUNNING: optuna.trial.TrialState.RUNNING,
    TrialState.PAUSED: optuna.trial.TrialState.RUNNING,
    TrialState.COMPLETE: optuna.trial.TrialState.COMPLETE,
    TrialState.FAILED: optuna.trial.TrialState.FAIL,
}


@dataclass(frozen=True)
class OptunaSettings:
    """Options of `tpe` and `gp`.

    Args:
        startup: measured trials before the model is used; random until then.
        attempts: how often Optuna is asked again when it repeats an architecture or leaves the budget, before a
            random one takes its place.
    """

    startup: Count = 10
    attempts: Count = 25

    def __post_init__(self) -> None:
        raise_if_any("The Optuna sampler cannot use these options", violations(self))


_GP = OptunaSettings(attempts=5)  # a question costs seconds there


@dataclass(frozen=True)
class GeneticSettings:
    """Options of `nsga2`.

    Args:
        population: measured trials that form a generation.
        attempts: as for `OptunaSettings`.
    """

    population: Several = 20
    attempts: Count = 25

    def __post_init__(self) -> None:
        raise_if_any("The Optuna sampler cannot use these options", violations(self))


class Replayed:
    """A sampler of Optuna's, given all the trials anew at every question.

    Args:
        name: of the member.
        make: the Optuna sampler for a seed.
        settings: the resolved options.
        attempts: how often it is asked again for one proposal.
        generation: measured trials in a generation, for samplers that count those.
        cost: what is minimised beside the metric.
    """

    def __init__(
        self,
        name: str,
        space: SearchSpace,
        seed: int,
        make: Callable[[int], BaseSampler],
        settings: Mapping[str, Any],
        *,
        attempts: int,
        generation: int | None = None,
        cost: Costing | None = None,
    ) -> None:
        self.name, self._space, self._seed = name, space, check_seed(seed)
        self._make, self._settings = make, dict(settings)
        self._attempts, self._generation = attempts, generation
        self._cost = (cost or Costing()).objective

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved options, JSON-ready."""
        return dict(self._settings)

    def ask(self, trials: Sequence[Trial], n: int = 1) -> list[Configuration]:
        """`n` proposals of Optuna's, random ones where it only repeats itself. See `Sampler.ask`."""
        rng, seen = generator(self._seed, trials), taken(self._space, trials)
        # Optuna cannot know that a space is exhausted, and would be asked for as long as it may repeat itself.
        if len(seen) >= self._space.n_valid:
            return random_unseen(self._space, seen, rng, n)
        found: list[Configuration] = []
        with quiet(int(rng.integers(2**31))), _silent():
            # A study in memory, told everything anew: kept between calls it would be a state that a resumed search
            # lacks.
            study = self._study(trials, int(rng.integers(2**31)))
            for _ in range(n):
                proposed = self._fresh(study, seen)
                if proposed is None:
                    break
                found.append(proposed)
                seen.add(self._space.identity(proposed))
        if len(found) < n:
            found += self._random(seen, rng, n - len(found), is_needed=not found)
        return found

    def _random(
        self, seen: set[tuple[int, ...]], rng: np.random.Generator, n: int, is_needed: bool
    ) -> list[Configuration]:
        try:
            return random_unseen(self._space, seen, rng, n)
        except SpaceExhaustedError:
            if is_needed:
                raise
            return []

    def _fresh(self, study: optuna.Study, seen: set[tuple[int, ...]]) -> Configuration | None:
        """Ask until the answer is feasible and new. Rejected answers stay pending in `study`, as a discouragement."""
        distributions: dict[str, BaseDistribution] = dict(index_distributions(self._space))
        for _ in range(self._attempts):
            answer = study.ask(distributions)
            configuration = Configuration(tuple(int(answer.params[c.name]) for c in self._space.choices))
            if self._space.is_feasible(configuration) and self._space.identity(configuration) not in seen:
                return configuration
        return None

    def _study(self, trials: Sequence[Trial], seed: int) -> optuna.Study:
        study = optuna.create_study(directions=["maximize", self._cost.direction], sampler=self._make(seed))
        n_complete = 0
        for trial in trials:
            study.add_trial(self._frozen(trial, n_complete))
            n_complete += trial.is_complete
        return study

    def _frozen(self, trial: Trial, n_before: int) -> FrozenTrial:
        measurement = trial.measurement
        attributes = {}
        if self._generation is not None:
            # Optuna notes the generation when it proposes. These trials it did not propose, so they are given theirs.
            attributes[optuna.samplers.NSGAIISampler._get_generation_key()] = n_before // self._generation
        return optuna.create_trial(
            state=_STATES[trial.state],
            values=None if measurement is None else [measurement.value, self._cost.told(measurement)],
            params={c.name: i for c, i in zip(self._space.choices, trial.configuration.indices, strict=True)},
            distributions=dict(index_distributions(self._space)),
            system_attrs=attributes,
        )


def index_distributions(space: SearchSpace) -> dict[str, IntDistribution]:
    """For every choice the range of its indices: sizes are ordered, evenly spaced in their logarithm."""
    return {choice.name: IntDistribution(0, len(choice.values) - 1) for choice in space.choices}


@contextmanager
def _silent() -> Iterator[None]:
    """Optuna reports every study in memory; nobody asked for that one."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


# -- the other way round ---------------------------------------------------------------------------------------


def value_distributions(space: SearchSpace) -> dict[str, CategoricalDistribution]:
    """For every choice its values, for ``study.ask(value_distributions(space))`` with a `LatticeSampler`."""
    return {choice.name: CategoricalDistribution(choice.values) for choice in space.choices}


def suggest(trial: optuna.trial.BaseTrial, space: SearchSpace) -> Candidate:
    """Ask an Optuna trial for every choice of `space`; returns the candidate, ready to be trained."""
    values = [trial.suggest_categorical(choice.name, choice.values) for choice in space.choices]
    indices = (choice.values.index(value) for choice, value in zip(space.choices, values, strict=True))
    return space.candidate(Configuration(tuple(indices)))


class LatticeSampler(BaseSampler):
    """One of our samplers as an Optuna sampler, over the choices of a `SearchSpace`.

    The study has one objective, the metric, or several, of which `metric` says which one it is; the cost is
    computed from the space. Parameters that are no choices of the space are drawn at random.

    Args:
        space: what is searched; the study suggests its choices by name, see `suggest`.
        sampler: any `Sampler` over the same space.
        metric: position of the metric among the study's objectives; its direction is the study's.
        backbone: parameters of the backbone; only the unit of the cost depends on it.

    Raises:
        SettingsError: `metric` is negative or `backbone` is below 1.
    """

    _PROPOSED = "autopeft:indices"

    def __init__(self, space: SearchSpace, sampler: Sampler, *, metric: int = 0, backbone: int | None = None) -> None:
        size = space.cost(space.largest()) if backbone is None else backbone
        if metric < 0 or size < 1:
            raise SettingsError(f"metric is at least 0 and backbone at least 1, but got {metric} and {size}.")
        self._space, self._sampler, self._metric, self._backbone = space, sampler, metric, size
        # For parameters that are none of ours; theirs is no search, but the study must still be given a value.
        self._random = optuna.samplers.RandomSampler(seed=0)
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def reseed_rng(self) -> None:
        """Give the random draws of other parameters a new seed, as every worker process must have its own."""
        self._random.reseed_rng()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All choices of the space, from the first trial on."""
        return dict(value_distributions(self._space))

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next configuration, by name of the choice.

        Raises:
            SpaceExhaustedError: every architecture has been measured.
        """
        ours = {choice.name for choice in self._space.choices}
        others = {name: item for name, item in search_space.items() if name not in ours}
        drawn = {name: self._random.sample_independent(study, trial, name, item) for name, item in others.items()}
        if not ours & set(search_space):
            return drawn
        with self._lock:  # threads of one study do not propose the same
            proposed = self._proposed(study, trial)
        pairs = zip(self._space.choices, proposed.indices, strict=True)
        return drawn | {choice.name: choice.values[index] for choice, index in pairs if choice.name in search_space}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value for a parameter that is no choice of the space."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _proposed(self, study: optuna.Study, now: FrozenTrial) -> Configuration:
        """What `now` is to evaluate, written down so that others see it."""
        while True:
            (proposed,) = self._sampler.ask(self._trials(study, now), 1)
            study._storage.set_trial_system_attr(now._trial_id, self._PROPOSED, list(proposed.indices))
            # Another process may have asked at the same moment: the earlier of two trials keeps what both propose.
            earlier = [trial for trial in self._trials(study, now) if trial.number < now.number]
            if self._space.identity(proposed) not in taken(self._space, earlier):
                return proposed

    def _trials(self, study: optuna.Study, now: FrozenTrial) -> list[Trial]:
        """The study's other trials that hold a configuration of the space."""
        found = []
        for frozen in study.get_trials(deepcopy=False):
            if frozen.number != now.number and (configuration := self._configuration(frozen)) is not None:
                found.append(self._trial(study, frozen, configuration))
        return found

    def _configuration(self, frozen: FrozenTrial) -> Configuration | None:
        """What the trial evaluated: its parameters, or while it has none yet what it was told to."""
        values = [frozen.params.get(choice.name) for choice in self._space.choices]
        if all(v in choice.values for v, choice in zip(values, self._space.choices, strict=True)):
            return Configuration(tuple(c.values.index(v) for c, v in zip(self._space.choices, values, strict=True)))
        proposed = frozen.system_attrs.get(self._PROPOSED)
        return None if proposed is None else Configuration(tuple(proposed))

    def _trial(self, study: optuna.Study, frozen: FrozenTrial, configuration: Configuration) -> Trial:
        measurement, failure, state = None, None, TrialState.RUNNING
        if frozen.state == optuna.trial.TrialState.COMPLETE and not np.isfinite(frozen.values).all():
            # Optuna calls a trial complete whose value is infinite, and a surrogate would be fitted to it.
            failure, state = Failure("nan", f"the objectives are {frozen.values}"), TrialState.FAILED
        elif frozen.state == optuna.trial.TrialState.COMPLETE:
            measurement, state = self._measurement(study, frozen, configuration), TrialState.COMPLETE
        elif frozen.state.is_finished():
            failure, state = Failure("crash", f"Optuna's state is {frozen.state.name}"), TrialState.FAILED
        candidate = self._space.candidate(configuration)
        return Trial(
            frozen.number,
            configuration,
            candidate.architecture,
            state,
            "optuna",
            0,
            measurement=measurement,
            failure=failure,
            changes=candidate.changes,
        )

    def _measurement(self, study: optuna.Study, frozen: FrozenTrial, configuration: Configuration) -> Measurement:
        if self._metric >= len(study.directions):
            raise SettingsError(
                f"metric is a position among the study's {len(study.directions)} objectives, but got {self._metric}."
            )
        is_maximised = study.directions[self._metric] == optuna.study.StudyDirection.MAXIMIZE
        objective = Objective("metric", "maximize" if is_maximised else "minimize")
        nominal, stored = self._space.cost(configuration), self._space.cost(configuration, "stored")
        counts = Counts(nominal=nominal, stored=stored, trained=stored, backbone=self._backbone)
        value = objective.maximised(float(frozen.values[self._metric]))
        return Measurement({"metric": value}, "metric", counts, 0.0, 0, 0.0, "optuna")


# -- members ---------------------------------------------------------------------------------------------------


def build_tpe(space: SearchSpace, seed: int, *, cost: Costing | None = None, **options: Any) -> Sampler:
    """Optuna's tree-structured Parzen estimator (Watanabe 2023, arXiv 2304.11127) with `OptunaSettings`."""
    chosen = with_options(OptunaSettings(), options, "tpe")

    def make(derived: int) -> BaseSampler:
        return optuna.samplers.TPESampler(n_startup_trials=chosen.startup, seed=derived)

    return Replayed("tpe", space, seed, make, asdict(chosen), attempts=chosen.attempts, cost=cost)


def build_gp(space: SearchSpace, seed: int, *, cost: Costing | None = None, **options: Any) -> Sampler:
    """Optuna's Gaussian process with log expected hypervolume improvement, with `OptunaSettings`."""
    chosen = with_options(_GP, options, "gp")

    def make(derived: int) -> BaseSampler:
        return optuna.samplers.GPSampler(n_startup_trials=chosen.startup, seed=derived)

    return Replayed("gp", space, seed, make, asdict(chosen), attempts=chosen.attempts, cost=cost)


def build_nsga2(space: SearchSpace, seed: int, *, cost: Costing | None = None, **options: Any) -> Sampler:
    """Optuna's NSGA-II (Deb, Pratap, Agarwal and Meyarivan 2002) with `GeneticSettings`.

    Generations are counted over the measured trials, so that a replay finds the generations of the first run.
    """
    chosen = with_options(GeneticSettings(), options, "nsga2")

    def make(derived: int) -> BaseSampler:
        return optuna.samplers.NSGAIISampler(population_size=chosen.population, seed=derived)

    return Replayed(
        "nsga2", space, seed, make, asdict(chosen), attempts=chosen.attempts, generation=chosen.population, cost=cost
    )


MEMBERS = {
    "tpe": SamplerSpec(
        "tpe",
        build_tpe,
        "Optuna's tree-structured Parzen estimator (Watanabe 2023)",
        reads_cost=True,
        defaults=OptunaSettings(),
    ),
    "nsga2": SamplerSpec(
        "nsga2", build_nsga2, "Optuna's NSGA-II (Deb et al. 2002)", reads_cost=True, defaults=GeneticSettings()
    ),
    "gp": SamplerSpec(
        "gp",
        build_gp,
        "Optuna's Gaussian process with log expected hypervolume improvement",
        reads_cost=True,
        defaults=_GP,
    ),
}
