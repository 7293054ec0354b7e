"""A rival of a pay-off that searches by settings of this package: rates, then trials until its share is spent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, ClassVar, Self

from autopeft.candidate import Candidate, Changes
from autopeft.experiments._experiment import merged
from autopeft.experiments._payoff_finals import Asked, Entrant, Known
from autopeft.experiments._payoff_purse import Purse
from autopeft.finals.heats import examples_of_a_run, examples_of_a_trial
from autopeft.objective import Measurement
from autopeft.samplers._bayes.smoothing import smooth
from autopeft.session import Session
from autopeft.settings import Settings
from autopeft.spaces.choices import Configuration
from autopeft.spaces.nearest import nearest
from autopeft.spaces.variations import variations
from autopeft.study.study import Study
from autopeft.training.evaluator import Evaluator
from autopeft.trial import Trial


@dataclass(frozen=True)
class Search:
    """A search by this package's own settings: its rates, its space, its initial design, its sampler.

    Args:
        settings: changes of the shared ones.
        smoothed: whether the surrogate's mean ranks the trials for the finals; else what was measured does.
        finals: see `Rival`; 0 ends at the best measured trial, as the papers do.
        first: known architectures, which are trained before the search and meet its trials in the finals.
        challenge: whether the search begins around the best of these, trained as it was, one choice changed at a time,
            and what it finds is chosen only if it is shown to be better than they are, see `settle`.
        price: what twice the parameters must add to the metric to be worth it, at every choice that is made.
    """

    required: ClassVar[frozenset[str]] = frozenset({"settings"})

    settings: Mapping[str, Any] = field(default_factory=dict)
    smoothed: bool = False
    finals: float = 0.25
    first: tuple[Known, ...] = ()
    challenge: bool = False
    price: float = 0.0

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Self:
        """The search that `raw` describes.

        `first` has names, each with a rate, several, or rates by batch factor; or is a list of mappings of a
        `baseline`, its `rates`, and perhaps a `batch_factor` and a `dropout_factor`.
        """
        first = tuple(_known(raw.get("first", {})))
        smoothed, challenge = bool(raw.get("smoothed", False)), bool(raw.get("challenge", False))
        price = float(raw.get("price", 0.0))
        if not 0 <= price < inf:
            raise ValueError(f"`price` is a number of at least 0, but is {price:g}")
        return cls(raw["settings"], smoothed, float(raw.get("finals", 0.25)), first, challenge, price)

    def settings_of(self, asked: Asked) -> Settings:
        """The settings of the search.

        Raises:
            SettingsError: they are none.
        """
        return asked.origin.settings(merged(asked.settings.as_dict(), self.settings))

    def check_settings(self, asked: Asked) -> None:
        """They are settings of a search."""
        self.settings_of(asked)

    def check(self, asked: Asked) -> None:
        """The session can be built, and the baselines exist."""
        session = Session.build(self.settings_of(asked))
        session.sampler()
        for one in self.first:
            one.on(session.evaluator)

    def propose(self, asked: Asked, purse: Purse) -> list[Entrant]:
        """Rates, then trial by trial until the share is spent. The study keeps what is done."""
        session = Session.build(self.settings_of(asked))
        known = list(self._known(session.evaluator, asked.seed, purse)) if self.first else []
        champion = max(known, key=lambda one: one.score - one.toll).candidate if self.challenge and known else None
        if champion is not None:
            session = Session.build(_as_champion(session, champion))
        initial = session.initial if champion is None else _around(session, champion)
        with session.begin(asked.folder) as study:
            signal = session.proxy(study, folder=asked.folder)
            evaluator = session.tuned(signal)
            _charge_rates(purse, signal, evaluator, asked.seed)
            self._run(session, study, initial, evaluator, asked, purse)
            return [*known, *self._entrants(session, evaluator, study.trials(with_history=False))]

    def _known(self, evaluator: Evaluator, seed: int, purse: Purse) -> Iterator[Entrant]:
        """What is trained before the search, at a rate of its own."""
        for one in self.first:
            value = purse.value(evaluator, one.on(evaluator), seed, "rates", str(one))
            if value is not None:
                # By what it measured: the surrogate knows no more of it than that.
                candidate, is_incumbent = one.on(evaluator), self.challenge
                yield Entrant(str(one), candidate, evaluator, value, [value], "known", is_incumbent, self.price)

    def _run(
        self,
        session: Session,
        study: Study,
        initial: Sequence[Configuration],
        evaluator: Evaluator,
        asked: Asked,
        purse: Purse,
    ) -> None:
        # The study pays afterwards, trial by trial, so the ledger is asked and not the purse.
        def evaluate(candidate: Candidate, seed: int) -> Measurement:
            return purse.ledger.measure(evaluator, candidate, seed)

        sampler, charged = session.sampler(folder=asked.folder), 0
        while True:
            # What the study holds is charged first: a cell that goes on must not have its trials for nothing.
            trials = study.trials(with_history=False)
            for trial in trials[charged:]:
                _charge_trial(purse, trial, evaluator)
            charged = len(trials)
            if not purse.left(evaluator, asked.share):
                return
            study.run(evaluate, sampler, study.n_finished() + 1, initial)
            if len(study.trials(with_history=False)) == charged:
                return  # the space is exhausted

    def _entrants(self, session: Session, evaluator: Evaluator, trials: Sequence[Trial]) -> list[Entrant]:
        values = {trial.number: trial.measurement.value for trial in trials if trial.measurement is not None}
        metric = evaluator.task.objective
        scores = smooth(session.space, trials, metric=metric) if self.smoothed else values
        # The first of equal candidates stands for all: dials of a method that is absent make no difference.
        found: dict[Candidate, Entrant] = {}
        for trial in sorted((t for t in trials if t.number in values), key=lambda t: -scores[t.number]):
            name, measured = f"trial {trial.number}", [values[trial.number]]
            entrant = Entrant(name, trial.candidate, evaluator, scores[trial.number], measured, trial.origin)
            found.setdefault(trial.candidate, replace(entrant, price=self.price))
        return list(found.values())


def _known(asked: Any) -> Iterator[Known]:
    if isinstance(asked, Mapping):
        for name, rates in asked.items():
            yield from _known_at(str(name), rates)
        return
    for one in asked:
        keys = {"baseline", "rates", "batch_factor", "dropout_factor"}
        if not isinstance(one, Mapping) or not {"baseline", "rates"} <= set(one) <= keys:
            raise ValueError(f"an entry of `first` has `baseline`, `rates` and perhaps factors, but is {one!r}")
        batch, dropout = float(one.get("batch_factor", 1)), float(one.get("dropout_factor", 1))
        for rate in one["rates"]:
            yield Known(str(one["baseline"]), float(rate), batch, dropout)


def _known_at(name: str, asked: Any) -> Iterator[Known]:
    """A rate, a list of rates, or either by what the examples a step are multiplied by."""
    if isinstance(asked, Mapping):
        for factor, rates in asked.items():
            yield from (replace(one, batch_factor=float(factor)) for one in _known_at(name, rates))
        return
    yield from (Known(name, float(rate)) for rate in (asked if isinstance(asked, list) else [asked]))


def _as_champion(session: Session, champion: Candidate) -> Settings:
    """With the champion's learning rate, and with its batches and dropout where the space leaves no choice of them."""
    # Every trial at a rate that is known to be wrong would lose, whatever it trains.
    kept = Changes(learning_rate=champion.changes.learning_rate)
    dialled = {dial.target for dial in session.space.dials}
    if "batch" not in dialled:
        kept = replace(kept, batch_factor=champion.changes.batch_factor)
    if "dropout" not in dialled:
        kept = replace(kept, dropout_factor=champion.changes.dropout_factor)
    return session.settings.with_changes(recipe=kept.recipe_for(session.settings.recipe))


def _around(session: Session, champion: Candidate) -> Sequence[Configuration]:
    """The initial design of a challenge; the session's own where the space holds nothing like the champion."""
    # Its learning rate is the recipe's by now, so that no dial has to be near it.
    changes = replace(champion.changes, learning_rate=None)
    point = nearest(session.space, replace(champion, changes=changes))
    if point is None:
        return session.initial
    return variations(session.space, point)[: session.settings.initial]


def _charge_rates(purse: Purse, signal: Any, evaluator: Evaluator, seed: int) -> None:
    """What was spent on learning rates before the search."""
    if signal is None:
        return
    # What is stored with a study is read, for a sweep and a card have no common form but that they can be written down.
    told = signal.as_dict()
    for run in told.get("runs", ()):  # a card of rates by method has pieces of runs
        name = f"{run['method']} alone at {run['learning_rate']:g}"
        purse.charge("rates", name, seed, run["value"], run["examples"], run["seconds"])
    for rate, value in told.get("values", ()):  # a sweep has whole runs
        purse.charge("rates", f"sweep at {rate:g}", seed, value, examples_of_a_run(evaluator), 0.0)


def _charge_trial(purse: Purse, trial: Trial, evaluator: Evaluator) -> None:
    found = trial.measurement
    value, seconds = (None, 0.0) if found is None else (found.value, found.seconds)
    examples = examples_of_a_trial(evaluator, found)
    purse.charge("search", f"trial {trial.number} ({trial.origin})", trial.seed, value, examples, seconds)
