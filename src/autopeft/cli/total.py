"""What a search and its finals will train, told before anything is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autopeft.cli.finish import FinalsAsked
    from autopeft.session import Session
    from autopeft.settings import Settings


@dataclass(frozen=True)
class Total:
    """Trainings of a search, in those of its own recipe, and of its finals, in those of theirs.

    Args:
        rates: the fewest and the most that finding learning rates takes.
        trials: at the most.
        examples: of one training of the search.
        is_card: whether a rate is found for each method.
        n_methods: of the space.
        runs: of the finals at the most; 0 where there are to be none.
        final_examples: of one run of the finals.
        after: the settings of the finals.
        n_train: training examples of the finals.
    """

    rates: tuple[float, float]
    trials: float
    examples: int
    is_card: bool
    n_methods: int
    runs: int = 0
    final_examples: int = 0
    after: Settings | None = None
    n_train: int = 0

    @classmethod
    def of(cls, session: Session, finals: FinalsAsked | None = None, after: Session | None = None) -> Total:
        """Of a search, and of its finals where their session is given."""
        from autopeft.finals.heats import examples_of_a_run
        from autopeft.training.rate_card import trainings_of_card

        settings = session.settings
        n_rates, is_card = len(settings.learning_rates), settings.rates == "card" and bool(settings.learning_rates)
        n_methods = len({slot.method for slot in session.space.slots})
        rates = trainings_of_card(n_methods, n_rates) if is_card else (float(n_rates), float(n_rates))
        trials = session.total if settings.trainings is None else min(session.total, settings.trainings)
        found = cls(rates, trials, examples_of_a_run(session.evaluator), is_card, n_methods)
        if finals is None or after is None:
            return found
        more = (finals.most_runs(after.settings), examples_of_a_run(after.evaluator), after.settings)
        return replace(found, runs=more[0], final_examples=more[1], after=more[2], n_train=after.evaluator.n_train)

    @property
    def share(self) -> float:
        """One training of the search in runs of the finals."""
        return self.examples / self.final_examples

    @property
    def rates_told(self) -> str:
        """How many trainings go into learning rates."""
        least, most = self.rates
        if self.is_card:
            return f"a card of {self.n_methods} methods, {least:.3g} to {most:.3g} trainings"
        return f"{most:.0f} tried, a training each" if most else "that of the recipe"

    @property
    def finals_told(self) -> str:
        """How many runs the finals take, and of what length."""
        return f"at most {self.runs} runs of {self.final_examples:,} examples each"

    @property
    def told(self) -> str:
        """All of it in runs of the finals' recipe."""
        most = (self.trials + self.rates[1]) * self.share + self.runs
        return (
            f"At most {most:,.1f} runs of the finals' recipe ({self.final_examples:,} examples each): "
            f"{self.rates[1]:.3g} trainings for learning rates and {self.trials:g} trials of {self.share:.3g} of a run "
            f"each, {self.runs} runs of finals."
        )
