"""What a search would have seen of a candidate, and what it is worth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from autopeft.benchmark._landscape import Landscape
from autopeft.benchmark._surrogate import SEED_SPREAD, Surrogate, check_candidate, check_seed
from autopeft.benchmark._table import Run, Table
from autopeft.candidate import Candidate
from autopeft.errors import SettingsError


@dataclass(frozen=True)
class Answer:
    """What a training would have shown.

    Args:
        value: the share of right answers on the examples that a search sees.
        true: what the candidate is worth, as near as the table knows: the mean of its runs on all examples, or what the
            surrogate says.
        is_measured: whether the candidate was trained, and at this fidelity; else a surrogate speaks.
    """

    value: float
    true: float
    is_measured: bool


class Benchmark:
    """The table with a surrogate for what is not in it.

    Args:
        landscape: which of the truths that the table allows holds for candidates that were not trained.

    Raises:
        SettingsError: `landscape` is no whole number of at least 0.
    """

    def __init__(self, table: Table, landscape: int = 0) -> None:
        self.table, self.surrogate = table, Surrogate(table)
        self._landscape = Landscape(self.surrogate, landscape)

    def query(self, candidate: Candidate, fidelity: float = 1.0, seed: int = 0) -> Answer:
        """What training `candidate` from `seed` would have shown.

        Args:
            fidelity: the share of the steps; below 1 only what was measured there has an answer.
            seed: of the training, and of the examples that the search sees.

        Raises:
            SettingsError: nothing is known of this fidelity, a method or a site is not that of the table's model, or
                the seed is no whole number of at least 0.
        """
        seed = check_seed("seed", seed)
        check_candidate(candidate)
        runs = self.table.by_candidate.get(candidate.fingerprint, [])
        kept = [run for run in runs if fidelity in run.right]
        if kept:
            return self._measured(runs, kept, fidelity, seed)
        if fidelity != 1.0:
            raise SettingsError(
                f"The table knows nothing of {candidate} at a share of {fidelity:.3g} of the steps; at 1 it does."
            )
        return self._guessed(candidate, runs, seed)

    def _measured(self, runs: list[Run], kept: list[Run], fidelity: float, seed: int) -> Answer:
        rng = np.random.default_rng([seed, 0])
        right = kept[seed % len(kept)].right[fidelity]
        seen = right[rng.permutation(len(right))[: self.table.n_searched]]
        return Answer(float(seen.mean()), float(np.mean([run.value for run in runs])), True)

    def _guessed(self, candidate: Candidate, runs: list[Run], seed: int) -> Answer:
        if runs:
            return Answer(runs[seed % len(runs)].value, float(np.mean([run.value for run in runs])), True)
        true = float(self._landscape.values([candidate])[0])
        rng = np.random.default_rng([seed, int(candidate.fingerprint[:8], 16)])
        n = self.table.n_searched
        noise = rng.normal() * math.sqrt(SEED_SPREAD**2 + 0.4 * true * (1 - true) / n)
        # What collapsed gives the constant answer whatever the seed.
        value = true if true <= self.table.constant else min(max(true + noise, 0.0), 1.0)
        return Answer(round(value * n) / n, true, False)
