"""Local refinement: neighbours of a finalist at its cost, accepted on a paired gain over seeds.

Uniform adapters are finalists like any other, and their neighbours are where an allocation can gain. Which neighbours
are tried is said by importances (`autopeft.finals.moves`). The first seeds pick the best of them; whether it is better
is asked of seeds that picked nothing, so that the best of several lucky ones is not taken for better. By noise alone at
most one band in forty accepts anything: the two-sided 5 % level is divided by the number of finalists that are
refined, and a gain is only half of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from autopeft.candidate import Candidate
from autopeft.errors import TrialFailure
from autopeft.finals.finalists import Finalist
from autopeft.finals.heats import FIRST_SEED, Entry, Heats, Result, examples_of_a_run
from autopeft.finals.importance import importances
from autopeft.finals.moves import Key, Move, moves, widened
from autopeft.network.build import count
from autopeft.paired import Paired, grain_of, paired
from autopeft.training.evaluator import Evaluator
from autopeft.training.kept_runs import KeptRuns

_LEVEL = 0.05

Look = Callable[[Evaluator, Candidate, int], Mapping[str, Any]]
"""What tells importances; `importances` trains for it."""


@dataclass(frozen=True)
class Refinement:
    """What was tried around one finalist.

    Args:
        start: the finalist's name.
        tried: what was moved, and the gain on the validation part over the first seeds.
        confirmed: the gain of the best of them over seeds that picked nothing; None where none had a gain before.
        accepted: the neighbour as a finalist; None where the gain is not shown.
        examples: processed in all but the accepted one's own runs, which its entry counts.
        seconds: likewise.
    """

    start: str
    tried: tuple[tuple[str, Paired], ...]
    confirmed: Paired | None
    accepted: Entry | None
    examples: int
    seconds: float

    def __str__(self) -> str:
        if not self.tried:
            return f"{self.start}: nothing can be moved."
        told, gain = max(self.tried, key=lambda pair: pair[1].mean)
        best = f"{self.start}: the best of {len(self.tried)} neighbours, {told}, {gain.mean:+.4f} on validation"
        if self.confirmed is None or self.confirmed.interval is None:
            return f"{best}: not accepted."
        low, high = self.confirmed.interval
        said = "accepted" if self.accepted is not None else "not accepted"
        return f"{best}; with new seeds {self.confirmed.mean:+.4f} ({low:+.4f} to {high:+.4f}): {said}."

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        return {
            "start": self.start,
            "tried": [[told, list(gain.values)] for told, gain in self.tried],
            "confirmed": None if self.confirmed is None else list(self.confirmed.values),
            "accepted": None if self.accepted is None else self.accepted.finalist.name,
            "examples": self.examples,
            "seconds": self.seconds,
            "said": str(self),
        }


@dataclass
class _Runs:
    """The runs of one refinement, each counted once, and those of the finals before it not at all."""

    heats: Heats
    done: dict[tuple[str, int], Result] = field(default_factory=dict)
    examples: int = 0
    seconds: float = 0.0

    def value(self, finalist: Finalist, rate: float, seed: int) -> float | None:
        """The objective on the validation part; None where training failed."""
        found = self.heats.run(finalist, rate, seed)
        self.done[finalist.name, seed] = found
        return found.validation

    def gain(self, move: Finalist, start: Finalist, rate: float, seeds: Sequence[int]) -> Paired:
        """Of `move` over `start`; minus infinity where a run of it failed."""
        sides = [{seed: self.value(one, rate, seed) for seed in seeds} for one in (move, start)]
        ours, theirs = ({s: -math.inf if v is None else v for s, v in side.items()} for side in sides)
        if -math.inf in ours.values():
            return Paired(tuple(seeds), (-math.inf,) * len(seeds))
        evaluator = self.heats.evaluator
        return paired(ours, theirs, grain_of(evaluator.task.objective, len(evaluator.splits.validation)))


def refine(heats: Heats, entries: Sequence[Entry], n: int, look: Look = importances) -> tuple[Refinement, ...]:
    """Try `n` neighbours of every entry of the last round; what is accepted is trained with all seeds of the finals.

    Args:
        heats: with which the entries were trained.
    """
    starts = [entry for entry in entries if entry.is_last and not entry.has_failed]
    return tuple(_refined(heats, entry, n, _LEVEL / len(starts), look) for entry in starts)


def _refined(heats: Heats, entry: Entry, n: int, level: float, look: Look) -> Refinement:
    plan, start, runs = heats.plan, entry.finalist, _Runs(heats)
    tried: list[tuple[Finalist, str, Paired]] = []
    for number, move in enumerate(_neighbours(heats, entry, runs, look)[:n]):
        finalist = _finalist(heats.evaluator, entry, move, number)
        gain = runs.gain(finalist, start, entry.learning_rate, plan.seeds[: plan.first])
        tried.append((finalist, move.told, gain))
    best = max(tried, key=lambda item: item[2].mean, default=None)
    confirmed, accepted = None, None
    if best is not None and best[2].mean > 0:
        # Seeds behind those of the finals: the ones before have picked this neighbour among the others.
        fresh = range(FIRST_SEED + plan.last, FIRST_SEED + 2 * plan.last)
        confirmed = runs.gain(best[0], start, entry.learning_rate, fresh)
        if confirmed.mean > 0 and confirmed.p_value is not None and confirmed.p_value < level:
            accepted = _entered(heats, entry, replace(best[0], name=f"{start.name} refined"))
    # The start's own runs are counted by its entry, and those of what was accepted by the new one.
    entered = {(start.name, run.seed) for run in entry.runs}
    entered |= {(best[0].name, seed) for seed in plan.seeds} if best is not None and accepted is not None else set()
    counted = [run for key, run in runs.done.items() if key not in entered]
    told = tuple((told, gain) for _, told, gain in tried)
    return Refinement(
        start.name,
        told,
        confirmed,
        accepted,
        runs.examples + sum(run.examples for run in counted),
        runs.seconds + math.fsum(run.seconds for run in counted),
    )


def _neighbours(heats: Heats, entry: Entry, runs: _Runs, look: Look) -> list[Move]:
    """What promises most first; nothing where the architecture cannot be trained with every place filled."""
    evaluator = heats.evaluator.with_recipe(learning_rate=entry.learning_rate)
    candidate, backbone = entry.finalist.candidate, evaluator.backbone
    changes = replace(candidate.changes, learning_rate=None)
    wide = Candidate(widened(candidate.architecture, backbone), changes)
    seed = heats.plan.seeds[0]
    about = {**heats.about(wide, entry.learning_rate, seed), "looked at": "importance"}
    runs.examples += examples_of_a_run(evaluator)
    try:
        found: Mapping[str, Any] = KeptRuns(heats.folder).once(about, lambda: look(evaluator, wide, seed), dict, dict)
    except TrialFailure:
        return []
    runs.seconds += float(found["seconds"])
    importance: dict[Key, float] = {}
    for name, value in found["importance"].items():
        site, _, method = name.partition(" ")
        importance[site, method] = float(value)
    return moves(candidate.architecture, backbone, importance)


def _finalist(evaluator: Evaluator, entry: Entry, move: Move, number: int) -> Finalist:
    start = entry.finalist
    candidate = replace(start.candidate, architecture=move.architecture)
    nominal = count(evaluator.backbone, move.architecture, 0).nominal
    return replace(start, name=f"{start.name} moved {number}", candidate=candidate, nominal=nominal, found_by="refined")


def _entered(heats: Heats, entry: Entry, finalist: Finalist) -> Entry:
    """The accepted neighbour with the seeds of the finals, at the rate of what it comes from."""
    rate = entry.learning_rate
    runs = tuple(heats.run(finalist, rate, seed) for seed in heats.plan.seeds)
    values = [run.validation for run in runs]
    tried = ((rate, fmean(value for value in values if value is not None) if None not in values else None),)
    examples, seconds = sum(run.examples for run in runs), math.fsum(run.seconds for run in runs)
    return Entry(finalist, tried, rate, runs, True, examples, seconds)
