"""How finalists are trained: each at the same number of learning rates, on a few seeds, the better half on more.

Every run is written when it is done, so that finals that are interrupted go on where they were. What decides is the
mean on the validation part; the test part is measured with every run, so that none has to be trained again for it, and
decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from autopeft.candidate import Candidate
from autopeft.errors import SettingsError, TrialFailure
from autopeft.finals.finalists import Finalist
from autopeft.objective import Measurement
from autopeft.training.evaluator import Evaluator
from autopeft.training.kept_runs import KeptRuns, name_of
from autopeft.training.rate_sweep import best_rate, try_rates
from autopeft.training.retraining import FULL_DIVISOR

FIRST_SEED = 40
"""The first seed of finals; the others follow. Searches draw theirs from the study."""


@dataclass(frozen=True)
class Plan:
    """What every finalist is given.

    Args:
        learning_rates: tried with the first seed, by the metric on the validation part.
        widen: how many further rates may be tried while the best is the smallest or the largest.
        first: seeds of the first round.
        last: seeds of the last round, for the better half of those who were searched and of the baselines.

    Raises:
        SettingsError: there is no learning rate, or fewer than two seeds.
    """

    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    widen: int = 1
    first: int = 3
    last: int = 5

    def __post_init__(self) -> None:
        if not self.learning_rates or any(not 0 < rate < math.inf for rate in self.learning_rates):
            raise SettingsError(f"Finals need learning rates above 0, but got {list(self.learning_rates)}.")
        if not 2 <= self.first <= self.last or self.widen < 0:
            raise SettingsError(
                f"Finals need 2 <= first <= last seeds and no fewer than 0 further rates, but got {self.first}, "
                f"{self.last} and {self.widen}."
            )

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those of the last round; the first round has the first of them."""
        return tuple(range(FIRST_SEED, FIRST_SEED + self.last))

    def most_runs(self, n_searched: int, n_baselines: int, n_neighbours: int = 0) -> int:
        """Runs of the finals of one band at the most: as if every rate were widened and every neighbour accepted.

        Args:
            n_neighbours: tried around each finalist of the last round.
        """
        entrants = n_searched + n_baselines
        halves = (n_searched + 1) // 2 + (n_baselines + 1) // 2
        rates = len(self.learning_rates) + (self.widen if len(self.learning_rates) > 1 else 0)
        # One run for the importances, the first seeds of each, new seeds of the best and of what it comes from, and
        # what the best then lacks of the last round.
        each = 1 + n_neighbours * self.first + 2 * self.last + self.last - self.first if n_neighbours else 0
        return entrants * (rates + self.first - 1) + halves * (self.last - self.first + each)


@dataclass(frozen=True)
class Result:
    """One run.

    Args:
        validation: the objective on the validation part; None where training failed.
        test: the objective on the test part; None where training failed.
        examples: training examples that were processed.
        seconds: of training and evaluation.
        failure: why there is no value.
    """

    learning_rate: float
    seed: int
    validation: float | None
    test: float | None
    examples: int
    seconds: float
    failure: str = ""


@dataclass(frozen=True)
class Entry:
    """A finalist and its runs.

    Args:
        tried: pairs of a learning rate and the objective on the validation part, None where training failed.
        learning_rate: the best of them.
        runs: at that rate, one a seed.
        is_last: whether it was in the last round.
        examples: processed for it in all, the rates that were not chosen included.
        seconds: of training and evaluation, of the same runs.
    """

    finalist: Finalist
    tried: tuple[tuple[float, float | None], ...]
    learning_rate: float
    runs: tuple[Result, ...]
    is_last: bool
    examples: int
    seconds: float = 0.0

    @property
    def validation(self) -> float:
        """Mean on the validation part; minus infinity where a run failed: what may fail is no answer."""
        # A mean over the seeds that did not fail would reward an architecture for diverging where it would have done
        # badly.
        values = [run.validation for run in self.runs if run.validation is not None]
        return -math.inf if self.has_failed else fmean(values)

    @property
    def has_failed(self) -> bool:
        """Whether a run at its rate failed."""
        return any(run.validation is None for run in self.runs)

    @property
    def test(self) -> dict[int, float]:
        """The objective on the test part by seed."""
        return {run.seed: run.test for run in self.runs if run.test is not None}

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        finalist = self.finalist
        return {
            "name": finalist.name,
            "band": finalist.band,
            "found_by": finalist.found_by,
            "nominal": finalist.nominal,
            **finalist.candidate.as_dict(),
            "described": str(finalist.candidate),
            "tried": [list(pair) for pair in self.tried],
            "learning_rate": self.learning_rate,
            "is_last": self.is_last,
            "runs": [asdict(run) for run in self.runs],
            "examples": self.examples,
            "seconds": self.seconds,
        }


OnRun = Callable[[Finalist, Result], None]


@dataclass
class Heats:
    """The finals of one band.

    Args:
        evaluator: with the recipe that all are trained with.
        plan: what each is given.
        folder: where runs are kept; None keeps none.
        on_run: told of every run, those that were read from `folder` included.
    """

    evaluator: Evaluator
    plan: Plan
    folder: Path | None = None
    on_run: OnRun | None = None
    _read: dict[str, Result] = field(default_factory=dict, init=False)

    def hold(self, finalists: Sequence[Finalist]) -> tuple[Entry, ...]:
        """Both rounds; the entries in the order of the finalists."""
        entries = [self._entry(finalist, self._tried(finalist)) for finalist in finalists]
        kept = {id(entry) for group in _groups(entries) for entry in _better_half(group)}
        return tuple(self._again(entry) if id(entry) in kept else entry for entry in entries)

    def _tried(self, finalist: Finalist) -> list[tuple[float, float | None]]:
        """The rates that were tried, and what each gave on the validation part."""
        plan, is_full = self.plan, "full" in finalist.candidate.architecture.methods
        # As in a retraining, what trains the whole backbone is tried at far smaller rates than inserted modules are.
        rates = [rate / FULL_DIVISOR if is_full else rate for rate in plan.learning_rates]
        return try_rates(rates, plan.widen, lambda rate: self.run(finalist, rate, plan.seeds[0]).validation)

    def _entry(self, finalist: Finalist, tried: Sequence[tuple[float, float | None]]) -> Entry:
        # Where every rate failed the smallest one is named; its runs say why nothing came of it.
        rate = best_rate(tried) or min(rate for rate, _ in tried)
        return self._with_seeds(finalist, tuple(tried), rate, self.plan.seeds[: self.plan.first], is_last=False)

    def _again(self, entry: Entry) -> Entry:
        return self._with_seeds(entry.finalist, entry.tried, entry.learning_rate, self.plan.seeds, is_last=True)

    def _with_seeds(
        self,
        finalist: Finalist,
        tried: tuple[tuple[float, float | None], ...],
        rate: float,
        seeds: Sequence[int],
        *,
        is_last: bool,
    ) -> Entry:
        runs = tuple(self.run(finalist, rate, seed) for seed in seeds)
        # All that was tried is charged, or whoever needs more rates would look cheaper than they are.
        others = [self.run(finalist, other, seeds[0]) for other, _ in tried if other != rate]
        examples = sum(run.examples for run in (*runs, *others))
        seconds = math.fsum(run.seconds for run in (*runs, *others))
        return Entry(finalist, tried, rate, runs, is_last, examples, seconds)

    def run(self, finalist: Finalist, rate: float, seed: int) -> Result:
        """One run, read where it was done before."""
        about = self.about(finalist.candidate, rate, seed)
        key = name_of(about)
        # The best rate's run with the first seed is asked for twice, as one of the rates and as one of the seeds.
        if key not in self._read:
            found = KeptRuns(self.folder).once(
                about, lambda: self._trained(finalist.candidate, rate, seed), asdict, lambda row: Result(**row)
            )
            self._read[key] = found
            if self.on_run is not None:
                self.on_run(finalist, found)
        return self._read[key]

    def about(self, candidate: Candidate, rate: float, seed: int) -> dict[str, Any]:
        """What decides the outcome of a run: one of other data or another recipe is another one."""
        return {
            "candidate": candidate.as_dict(),
            "recipe": {**self.evaluator.recipe.of_run(), "learning_rate": rate},
            "data": self.evaluator.splits.describe(),
            "model": self.evaluator.backbone.identity(),
            "seed": seed,
        }

    def _trained(self, candidate: Candidate, rate: float, seed: int) -> Result:
        # The rate is what is being tried, so one that the candidate fixes gives way; its factors stay.
        free = replace(candidate, changes=replace(candidate.changes, learning_rate=None))
        evaluator = self.evaluator.with_recipe(learning_rate=rate)
        try:
            with evaluator.trained(free, seed) as run:
                found = run.measure("test", evaluator.splits.test)
                n_processed = int(found.extra["n_processed"])
                return Result(rate, seed, run.measure().value, found.value, n_processed, found.seconds)
        except TrialFailure as failure:
            # It is charged in full: how far it came before it failed is not known here.
            return Result(
                rate, seed, None, None, examples_of_a_run(evaluator), 0.0, f"{type(failure).__name__}: {failure}"
            )


def examples_of_a_run(evaluator: Evaluator) -> int:
    """Training examples that a run of the evaluator's recipe processes when nothing stops it."""
    return evaluator.recipe.n_processed(evaluator.n_train)


def examples_of_a_trial(evaluator: Evaluator, measurement: Measurement | None) -> int:
    """Those that a trial has processed; one that failed is charged in full, as how far it came is not known."""
    return examples_of_a_run(evaluator) if measurement is None else int(measurement.extra["n_processed"])


def _groups(entries: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Those who were searched and the baselines: each side keeps its better half, so that both meet in the end."""
    return [e for e in entries if not e.finalist.is_baseline], [e for e in entries if e.finalist.is_baseline]


def _better_half(entries: Sequence[Entry]) -> list[Entry]:
    """The better half by the mean on the validation part, rounded up; of equals the cheaper."""
    ranked = sorted(entries, key=lambda entry: (-entry.validation, entry.finalist.nominal))
    return ranked[: (len(ranked) + 1) // 2]
