"""What the table says of candidates that are not in it: a Gaussian process over what they add up to.

Shares of right answers are bent by a logarithm below a ceiling: candidates crowd there, and one that collapsed says
little of others. The lengthscales are by groups of inputs, fitted once to the first table by leaving one out.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.model_selection import KFold

from autopeft.benchmark._table import Run, Table
from autopeft.candidate import Candidate
from autopeft.errors import SettingsError

Rows = NDArray[np.float64]

_PARTS = ("lora", "lora-rest", "dora", "serial", "parallel", "prefix", "bitfit", "lnfit")
_METHODS = tuple(name for name in _PARTS if name != "lora-rest")
"""What placements call them: LoRA outside of queries and values is a part of its own here."""
_SIZED = 6
N_LAYERS = 6
"""Layers of the model that tables are of; it is one encoder."""
ROLES = frozenset(
    ("q", "k", "v", "o", "kv", "attention", "attention_norm", "ffn_in", "ffn_hidden", "ffn_out", "ffn", "ffn_norm")
)
"""The roles of the sites of each of its layers."""
_SPREADS: tuple[tuple[float, int], ...] = ((2.5, 8), (20.0, 6), (6.5, 3), (1.5, 1), (6.5, 2), (3.5, 6), (4.0, 3))
"""Lengthscales in standard deviations of an input, and of how many inputs: sizes, layers, their number and ends, rate,
cost and number of methods, units over all layers, products with the rate."""
_CEILING = 0.02
"""How far above the best run of the table the ceiling is."""
SEED_SPREAD = 0.014
"""Standard deviation of what training seeds do to a candidate that does not collapse."""


def inputs(table: Table, candidates: Sequence[Candidate]) -> Rows:
    """What the surrogate sees of each candidate, ``(n, 29)``.

    Raises:
        SettingsError: one has no place on the table's model.
    """
    for candidate in candidates:
        check_candidate(candidate)
    return np.array([_row(table, candidate) for candidate in candidates])


def _row(table: Table, candidate: Candidate) -> list[float]:
    sizes, layers, per = dict.fromkeys(_PARTS, 0.0), set[int](), 0.0
    for placement in candidate.architecture:
        _, layer, role = placement.site.split(".")
        layers.add(int(layer))
        name = placement.method
        if name == "lora" and role not in ("q", "v"):
            name = "lora-rest"
        sizes[name] = max(sizes[name], float(placement.size))
    on = [float(layer in layers) for layer in range(N_LAYERS)]
    n = sum(on)
    rate = _log_rate(table, candidate)
    logs = [math.log2(1 + sizes[name]) for name in _PARTS]
    units = [math.log2(1 + sizes[name] * n) for name in _PARTS[:_SIZED]]
    per = sum(sizes[name] * cost for name, cost in zip(_PARTS, (4, 14, 4, 2, 2, 2), strict=False)) * 384 * n
    cost = math.log10(1 + per)
    ends = [n, min(layers, default=N_LAYERS), max(layers, default=N_LAYERS)]
    several = float(sum(value > 0 for value in logs))
    return [*logs, *on, *ends, rate, cost, several, *units, rate * (sizes["prefix"] > 0), rate * n, rate * cost]


def _log_rate(table: Table, candidate: Candidate) -> float:
    """The logarithm of the learning rate as a multiple of the recipe's; a factor for one method counts for all."""
    changes = candidate.changes
    rate = (changes.learning_rate or table.rate) / table.rate * changes.rate_factor
    return math.log10(rate * max([1.0, *dict(changes.rate_factors).values()]))


def check_candidate(candidate: Candidate) -> None:
    """Refuse what has no place on the model of the tables: a number would come back for it like any other.

    Raises:
        SettingsError: a method was never trained, or there is no such site.
    """
    wrong = []
    for placement in candidate.architecture:
        if placement.method not in _METHODS:
            wrong.append(f"the method {placement.method!r} is none of {', '.join(_METHODS)}")
        stack, _, rest = placement.site.partition(".")
        layer, _, role = rest.partition(".")
        if stack != "encoder" or layer not in map(str, range(N_LAYERS)) or role not in ROLES:
            wrong.append(f"there is no site {placement.site!r} in {N_LAYERS} layers called encoder.0 and so on")
    if wrong:
        raise SettingsError(f"The table's model has no {candidate}: {'; '.join(dict.fromkeys(wrong))}.")


def check_seed(name: str, value: int) -> int:
    """`value` as a seed of NumPy.

    Raises:
        SettingsError: it is no whole number of at least 0.
    """
    try:
        whole = operator.index(value)
    except TypeError:
        whole = -1
    if whole < 0:
        raise SettingsError(f"`{name}` is a whole number of at least 0, but got {value!r}.")
    return whole


class Surrogate:
    """Fitted to the means of all candidates of `table`.

    Attributes:
        ceiling: no candidate is thought to be worth more.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        groups: list[list[Run]] = list(table.by_candidate.values())
        self.candidates = [runs[0].candidate for runs in groups]
        self.values = np.array([np.average([r.value for r in runs], weights=[r.n for r in runs]) for runs in groups])
        self.ceiling = float(max(run.value for run in table.runs)) + _CEILING
        raw = inputs(table, self.candidates)
        self._middle, spread = raw.mean(0), raw.std(0)
        lengths = np.concatenate([np.full(n, length) for length, n in _SPREADS])
        self._width = np.where(spread > 0, spread, 1.0) * lengths
        self.noise = np.array([self._noise(runs) for runs in groups])
        self.process = self._fitted(np.arange(len(groups)))

    @staticmethod
    def _noise(runs: Sequence[Run]) -> float:
        """Standard error of a candidate's value: of its seeds, and of the examples, which its seeds share."""
        value, n = float(np.mean([run.value for run in runs])), max(run.n for run in runs)
        # Paired differences between candidates matter, and they answer four in five examples alike.
        return math.sqrt(SEED_SPREAD**2 / len(runs) + 0.4 * value * (1 - value) / n)

    def bent(self, values: Rows) -> Rows:
        """Values as the process sees them."""
        return np.asarray(-np.log(self.ceiling - np.minimum(values, self.ceiling - 0.01)))

    def unbent(self, bent: Rows) -> Rows:
        """The inverse of `bent`; nothing is below the constant answer."""
        return np.maximum(self.ceiling - np.exp(-bent), self.table.constant)

    def placed(self, candidates: Sequence[Candidate]) -> Rows:
        """Candidates where the kernel has one lengthscale for all inputs."""
        return np.asarray((inputs(self.table, candidates) - self._middle) / self._width)

    def _fitted(self, places: NDArray[np.int64]) -> Any:
        slopes = 1 / np.maximum(self.ceiling - self.values[places], 0.01)
        kernel = ConstantKernel(0.6, "fixed") * Matern(1.0, "fixed", nu=2.5) + WhiteKernel(1e-3, "fixed")
        process = GaussianProcessRegressor(
            kernel, alpha=(self.noise[places] * slopes) ** 2, optimizer=None, normalize_y=False
        )
        bent = self.bent(self.values)
        self._mean = float(bent.mean())
        chosen = [self.candidates[place] for place in places]
        return process.fit(self.placed(chosen), bent[places] - self._mean)

    def predict(self, candidates: Sequence[Candidate]) -> Rows:
        """What each is probably worth (its median), ``(n,)``."""
        return self.unbent(self.process.predict(self.placed(candidates)) + self._mean)

    def error(self, folds: int = 10) -> dict[str, float]:
        """What it knows of candidates that it has not seen, by cross-validation.

        Returns:
            The number of candidates, the share of the variance explained, that share of what noise leaves, the rank
            correlation, and the root mean square error.
        """
        found = np.zeros(len(self.values))
        for seen, unseen in KFold(folds, shuffle=True, random_state=0).split(found):
            process = self._fitted(seen)
            asked = [self.candidates[place] for place in unseen]
            found[unseen] = self.unbent(process.predict(self.placed(asked)) + self._mean)
        off, spread = float(np.mean((found - self.values) ** 2)), float(self.values.var())
        noise = float(np.mean(self.noise**2))
        return {
            "candidates": float(len(found)),
            "explained": 1 - off / spread,
            "explained_of_what_noise_leaves": 1 - max(off - noise, 0.0) / (spread - noise),
            "rank_correlation": float(spearmanr(found, self.values)[0]),
            "rms_error": math.sqrt(off),
        }
