"""What a rival of a pay-off may spend, in training examples, and the trainings that it has spent them on.

A training is kept as a file under the name of everything that decides its outcome. So a cell that was interrupted goes
on where it was, and a training that two rivals both want is done once; each is charged for it all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from autopeft.candidate import Candidate
from autopeft.errors import TrialFailure
from autopeft.finals.heats import examples_of_a_run
from autopeft.objective import Measurement
from autopeft.training.evaluator import Evaluator
from autopeft.training.kept_runs import KeptRuns
from autopeft.training.run import measure_untrained

FAILED = float("-inf")
"""What a training that failed is worth: what may fail is no answer."""


@dataclass(frozen=True)
class Ledger:
    """The trainings of all cells of a part.

    Args:
        folder: a file each; None keeps none.
    """

    folder: Path | None

    def measure(self, evaluator: Evaluator, candidate: Candidate, seed: int) -> Measurement:
        """The measurement on the validation part, read where the same was trained before.

        Raises:
            TrialFailure: training failed, which is not kept.
        """
        return self._kept(evaluator, candidate, seed, "validation", lambda: evaluator(candidate, seed))

    def test(self, evaluator: Evaluator, candidate: Candidate, seed: int) -> Measurement:
        """The measurement on the test part after a training; ``extra["validation"]`` is the metric on the other.

        Raises:
            TrialFailure: training failed, which is not kept.
        """

        if candidate.architecture.is_empty:
            # Nothing is drawn where nothing is trained, so that every seed is the first.
            return self._kept(evaluator, candidate, 0, "test", lambda: _as_it_is(evaluator))

        def train() -> Measurement:
            # With a seed that no choice has seen; the validation metric is kept to show how optimistic choosing was.
            with evaluator.trained(candidate, seed) as run:
                found, value = run.measure("test", evaluator.splits.test), run.measure().value
            found = Measurement.from_dict(found.as_dict() | {"extra": {**found.extra, "validation": value}})
            return found

        return self._kept(evaluator, candidate, seed, "test", train)

    def _kept(
        self, evaluator: Evaluator, candidate: Candidate, seed: int, split: str, train: Callable[[], Measurement]
    ) -> Measurement:
        # What was trained for another rival is read, but nobody is spared its cost: that is the purse's business.
        about = _about(evaluator, candidate, seed, split)
        return KeptRuns(self.folder).once(about, train, Measurement.as_dict, Measurement.from_dict)


def _as_it_is(evaluator: Evaluator) -> Measurement:
    found, before = measure_untrained(evaluator, "test", evaluator.splits.test), measure_untrained(evaluator)
    return Measurement.from_dict(found.as_dict() | {"extra": {**found.extra, "validation": before.value}})


def _about(evaluator: Evaluator, candidate: Candidate, seed: int, split: str) -> dict[str, Any]:
    """What decides the outcome of a training: with another recipe or other data it is another one."""
    # The recipe is the one that the candidate is trained with, so that a rate that is given by the recipe and the same
    # rate that a candidate brings are one training.
    return {
        "architecture": candidate.architecture.as_dict(),
        "recipe": candidate.recipe_for(evaluator.recipe).as_dict(),
        "data": evaluator.splits.describe(),
        "model": evaluator.backbone.identity(),
        "answer": evaluator.answer,
        "seed": seed,
        "split": split,
    }


@dataclass(frozen=True)
class Spent:
    """One training, or several at once, that a rival was charged for.

    Args:
        stage: what for: "rates", "search" or "finals".
        name: what was trained, in words.
        seed: of the training.
        value: the metric on the validation part; None where training failed, or for several at once.
        examples: training examples that went through the model, repetitions counted.
        seconds: of training and evaluation, as they were when it was trained first.
    """

    stage: str
    name: str
    seed: int
    value: float | None
    examples: int
    seconds: float


@dataclass
class Purse:
    """What one rival may spend, and has spent.

    Args:
        ledger: of the trainings.
        limit: training examples.
        spent: in order.
    """

    ledger: Ledger
    limit: int
    spent: list[Spent] = field(default_factory=list)

    @property
    def examples(self) -> int:
        """Training examples that are spent."""
        return sum(one.examples for one in self.spent)

    def left(self, evaluator: Evaluator, share: float = 1.0) -> int:
        """How many whole trainings of the evaluator's recipe `share` of the limit still pays for."""
        return max(0, int(share * self.limit) - self.examples) // examples_of_a_run(evaluator)

    def measure(self, evaluator: Evaluator, candidate: Candidate, seed: int, stage: str, name: str) -> Measurement:
        """Train and pay.

        Raises:
            TrialFailure: training failed. It is charged in full: how far it came is not known here.
        """
        try:
            found = self.ledger.measure(evaluator, candidate, seed)
        except TrialFailure:
            # A rival must not be able to try what diverges for nothing.
            self.charge(stage, name, seed, None, examples_of_a_run(evaluator), 0.0)
            raise
        self.charge(stage, name, seed, found.value, int(found.extra["n_processed"]), found.seconds)
        return found

    def value(self, evaluator: Evaluator, candidate: Candidate, seed: int, stage: str, name: str) -> float | None:
        """The metric on the validation part; None where training failed."""
        try:
            return self.measure(evaluator, candidate, seed, stage, name).value
        except TrialFailure:
            return None

    def charge(self, stage: str, name: str, seed: int, value: float | None, examples: int, seconds: float) -> None:
        """Note what was trained elsewhere."""
        self.spent.append(Spent(stage, name, seed, value, examples, seconds))

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping: the limit, the sums, by stage too, and every training."""
        stages = dict.fromkeys(one.stage for one in self.spent)
        return {
            "limit": self.limit,
            "examples": self.examples,
            "seconds": sum(one.seconds for one in self.spent),
            "stages": {stage: sum(one.examples for one in self.spent if one.stage == stage) for stage in stages},
            "spent": [asdict(one) for one in self.spent],
        }
