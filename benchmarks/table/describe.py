"""Prints what the datasheet of the table says of it: its noise, what its surrogate knows, and what was measured best.

python benchmarks/table/describe.py [TABLE]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, spearmanr

from autopeft.benchmark import Run, Surrogate, Table

TABLE = Path(__file__).parent / "sst2.jsonl.gz"

COLLAPSED = 0.05
"""A run that is so far below the best of its candidate has collapsed, which is another thing than noise."""


def seeds(table: Table) -> None:
    """How far a training seed moves a candidate: of those that several seeds answered all examples."""
    groups = [[run for run in runs if run.right] for runs in table.by_candidate.values()]
    groups = [runs for runs in groups if len(runs) > 1]
    calm = [runs for runs in groups if max(r.value for r in runs) - min(r.value for r in runs) < COLLAPSED]
    squares = [np.var([run.value for run in runs], ddof=1) for runs in calm]
    weights = [len(runs) - 1 for runs in calm]
    print(f"{len(groups)} candidates with several seeds, {len(calm)} without a collapse")
    print(f"  a seed moves them by {math.sqrt(np.average(squares, weights=weights)):.4f} (standard deviation, pooled)")
    for runs in groups:
        values = [run.value for run in runs]
        print(f"  {np.std(values, ddof=1):.4f}  {' '.join(f'{value:.3f}' for value in values)}  {runs[0].candidate}")


def examples(table: Table) -> None:
    """The standard error of the difference of two candidates that answer the same examples."""
    right = [run.right[1.0].astype(float) for run in table.runs if run.right]
    for n in (table.n_searched, len(right[0])):
        errors = [np.std(one[:n] - other[:n], ddof=1) / math.sqrt(n) for one, other in combinations(right, 2)]
        print(f"standard error of a difference on {n} examples: {np.median(errors):.4f} (median over pairs of runs)")


def fidelities(table: Table) -> None:
    """The rank correlation of each share of the steps with the end, with a bootstrap interval over runs."""
    runs = [run for run in table.runs if run.right]
    for share in sorted(runs[0].right)[:-1]:
        early = np.array([run.right[share].mean() for run in runs])
        end = np.array([run.value for run in runs])
        found = bootstrap(
            (early, end), correlated, n_resamples=2000, paired=True, vectorized=False, method="percentile",
            random_state=np.random.default_rng(0),
        ).confidence_interval  # fmt: skip
        print(
            f"rank correlation of {share:.3g} of the steps with the end: {correlated(early, end):.2f} "
            f"(95 % interval {found.low:.2f} to {found.high:.2f}, {len(runs)} runs)"
        )


def correlated(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Spearman's."""
    return float(spearmanr(first, second)[0])


def best(table: Table, n: int = 12) -> None:
    """Candidates that several seeds answered all examples, by their mean."""
    groups = [[run for run in runs if run.right] for runs in table.by_candidate.values()]
    several: list[Sequence[Run]] = [runs for runs in groups if len(runs) > 2]
    for runs in sorted(several, key=lambda runs: -np.mean([run.value for run in runs]))[:n]:
        values = [run.value for run in runs]
        percent = 100 * runs[0].nominal / table.n_backbone
        print(f"  {np.mean(values):.3f}  {percent:.2f} %  {' '.join(f'{v:.3f}' for v in values)}  {runs[0].candidate}")


def main() -> None:
    """Print all of it."""
    table = Table.load(sys.argv[1] if len(sys.argv) > 1 else TABLE)
    whole = sum(bool(run.right) for run in table.runs)
    print(f"{table.task} on {table.model}: {len(table.runs)} runs, {len(table.by_candidate)} candidates; "
          f"{whole} runs with every answer kept")  # fmt: skip
    seeds(table)
    examples(table)
    fidelities(table)
    print(
        "the surrogate, cross-validated:", {name: round(value, 3) for name, value in Surrogate(table).error().items()}
    )
    print("measured best, three seeds on all examples:")
    best(table)


if __name__ == "__main__":
    main()
