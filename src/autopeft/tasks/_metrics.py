"""Metrics of the tasks, as fractions (0.913, not 91.3), through scikit-learn and SciPy.

A prediction that does not vary has no correlation with anything: Matthews, Spearman and Pearson are then 0,
without a warning. Metrics of nothing are NaN.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.tasks import _text_metrics
from autopeft.tasks._examples import Examples
from autopeft.tasks._text_metrics import TextMetric

ALIASES: Mapping[str, str] = MappingProxyType(
    {"mcc": "matthews", "f1_macro": "macro_f1", "f1_micro": "micro_f1", "acc": "accuracy"}
)
"""Other names of metrics that people write."""

LIKELIHOODS = ("loss", "perplexity")
"""What a model that writes is scored by without writing: how likely it finds the gold answers; smaller is better.

The loss is the mean over all tokens of the answers of the negative logarithm of a token's probability, in nats; the
perplexity is its exponential."""

_ERRORS = ("mae", "rmse", *LIKELIHOODS)


def as_objective(names: Sequence[str]) -> tuple[str, ...]:
    """`names` without aliases; an error that stands first is searched for with its sign turned, and told as it is."""
    known = [ALIASES.get(name, name) for name in names]
    return tuple([f"neg_{known[0]}", *known] if known and known[0] in _ERRORS else known)


def is_likelihood(name: str) -> bool:
    """Whether the metric is one of `LIKELIHOODS`, or one with its sign turned."""
    return name.removeprefix("neg_") in LIKELIHOODS


Metric = Callable[[NDArray[Any], Examples], float]
"""``metric(predictions, examples)``: class ids, numbers, or indices of the choices taken; shape ``(n,)``."""


def _sklearn() -> Any:
    """scikit-learn's metrics, imported where the first prediction is scored: with pandas, that takes over a second."""
    from sklearn import metrics

    return metrics


def accuracy(labels: NDArray[Any], predictions: NDArray[Any]) -> float:
    """Fraction of predictions that equal the label."""
    return float(_sklearn().accuracy_score(labels, predictions))


def f1(labels: NDArray[Any], predictions: NDArray[Any]) -> float:
    """F1 of class 1; 0 when class 1 is neither predicted nor present."""
    # Over class 1 alone and not "binary", which refuses predictions that are no class at all.
    return float(_sklearn().f1_score(labels, predictions, labels=[1], average="macro", zero_division=0.0))


def macro_f1(labels: NDArray[Any], predictions: NDArray[Any]) -> float:
    """Mean of the F1 of every class that occurs among labels or predictions (SuperGLUE's CB).

    Negative predictions (none of the classes) count as wrong, but are no class of their own. Of several labels a row,
    ``(n, n_labels)`` of 0 and 1, those that are said or right anywhere.
    """
    if labels.ndim == 2:
        used = np.flatnonzero(labels.any(axis=0) | predictions.any(axis=0))
        return _multi_f1(labels[:, used], predictions[:, used], "macro") if len(used) else 1.0
    classes = np.unique(np.concatenate([labels, predictions]))
    classes = classes[classes >= 0]
    return float(_sklearn().f1_score(labels, predictions, labels=classes, average="macro", zero_division=0.0))


def micro_f1(labels: NDArray[Any], predictions: NDArray[Any]) -> float:
    """F1 over all pairs of a row and a label, ``(n, n_labels)`` of 0 and 1; 1 where all rows are empty."""
    return _multi_f1(labels, predictions, "micro") if labels.any() or predictions.any() else 1.0


def subset_accuracy(labels: NDArray[Any], predictions: NDArray[Any]) -> float:
    """Fraction of the rows of which every label is predicted right, ``(n, n_labels)`` of 0 and 1."""
    return float((labels == predictions).all(axis=1).mean())


def _multi_f1(labels: NDArray[Any], predictions: NDArray[Any], average: str) -> float:
    # scikit-learn takes rows of floats for another kind of target.
    return float(_sklearn().f1_score(labels, predictions.astype(labels.dtype), average=average, zero_division=0.0))


def matthews(labels: NDArray[Any], predictions: NDArray[Any]) -> float:
    """Matthews correlation, from -1 to 1; 0 when labels or predictions are constant (GLUE's CoLA)."""
    # The formula divides by nothing there, and who says always the same has learnt nothing.
    if _is_constant(labels) or _is_constant(predictions):
        return 0.0
    return float(_sklearn().matthews_corrcoef(labels, predictions))


def spearman(labels: NDArray[Any], predictions: NDArray[Any]) -> float:
    """Spearman's rank correlation, ties at their mean rank; 0 when either side is constant."""
    return _correlation("spearmanr", labels, predictions)


def pearson(labels: NDArray[Any], predictions: NDArray[Any]) -> float:
    """Pearson's correlation; 0 when either side is constant."""
    return _correlation("pearsonr", labels, predictions)


def mae(labels: NDArray[Any], predictions: NDArray[Any]) -> float:
    """Mean absolute error, in the unit of the labels; smaller is better."""
    return float(np.abs(labels - predictions).mean())


def rmse(labels: NDArray[Any], predictions: NDArray[Any]) -> float:
    """Root of the mean squared error, in the unit of the labels; smaller is better."""
    return float(np.sqrt(np.square(labels - predictions).mean()))


def grouped_exact_match(labels: NDArray[Any], predictions: NDArray[Any], groups: Sequence[str]) -> float:
    """Fraction of the groups of which every example is predicted right (MultiRC, Khashabi et al. 2018)."""
    right: dict[str, bool] = {}
    for group, label, prediction in zip(groups, labels.tolist(), predictions.tolist(), strict=True):
        right[group] = right.get(group, True) and label == prediction
    return float(np.mean(list(right.values())))


def _is_constant(values: NDArray[Any]) -> bool:
    return bool((values == values[0]).all())


def _correlation(name: str, labels: NDArray[Any], predictions: NDArray[Any]) -> float:
    if len(labels) < 2 or _is_constant(labels) or _is_constant(predictions):
        return 0.0
    from scipy import stats

    with warnings.catch_warnings():  # a nearly constant prediction is what it is: its value is reported
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        found = getattr(stats, name)(np.asarray(labels, np.float64), np.asarray(predictions, np.float64))
        value = float(found.statistic)
    return 0.0 if math.isnan(value) else value


def _chosen_names(predictions: NDArray[Any], examples: Examples) -> list[str]:
    return [names[int(taken)] for names, taken in zip(examples.names, predictions, strict=True)]


_MOST_NATS = 700.0
_SIGNED = (*LIKELIHOODS, *(f"neg_{name}" for name in LIKELIHOODS))


def _of_chosen(metric: TextMetric) -> Metric:
    """A metric of texts where names of choices are what was said."""
    return lambda taken, examples: metric.measure(_chosen_names(taken, examples), examples)


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "accuracy": lambda taken, examples: accuracy(examples.labels, taken),
        "f1": lambda taken, examples: f1(examples.labels, taken),
        "macro_f1": lambda taken, examples: macro_f1(examples.labels, taken),
        "micro_f1": lambda taken, examples: micro_f1(examples.labels, taken),
        "subset_accuracy": lambda taken, examples: subset_accuracy(examples.labels, taken),
        "matthews": lambda taken, examples: matthews(examples.labels, taken),
        "spearman": lambda taken, examples: spearman(examples.labels, taken),
        "pearson": lambda taken, examples: pearson(examples.labels, taken),
        "mae": lambda taken, examples: mae(examples.labels, taken),
        "rmse": lambda taken, examples: rmse(examples.labels, taken),
        "neg_mae": lambda taken, examples: -mae(examples.labels, taken),
        "neg_rmse": lambda taken, examples: -rmse(examples.labels, taken),
        "f1a": lambda taken, examples: f1(examples.labels, taken),
        "group_exact_match": lambda taken, examples: grouped_exact_match(examples.labels, taken, examples.groups),
        **{name: _of_chosen(metric) for name, metric in _text_metrics.found().items()},
        # What was said does not tell how likely the gold answer was, see `likelihoods`.
        **dict.fromkeys(_SIGNED, lambda taken, examples: math.nan),
    }
)
"""Every metric by name. Larger is better but for errors ("mae", "loss", ...); as objectives "neg_mae" and so on.

"f1a" is F1 over all answers of all questions, "group_exact_match" over whole questions."""


def measure(names: Sequence[str], predictions: NDArray[Any], examples: Examples) -> dict[str, float]:
    """Each metric of `names`; NaN throughout where there are no examples or a prediction is NaN or infinite."""
    # A metric of broken predictions would be some number: NaN is what the caller turns into a failure of the trial.
    if len(examples) == 0 or not np.isfinite(predictions).all():
        return dict.fromkeys(names, math.nan)
    return {name: METRICS[name](predictions, examples) for name in names}


def measure_texts(names: Sequence[str], said: Sequence[str], examples: Examples) -> dict[str, float]:
    """Each metric of `names` that compares strings, of texts beside the gold answers; NaN where there are none.

    Those of `LIKELIHOODS` are NaN: texts do not tell them.
    """
    if len(examples) == 0:
        return dict.fromkeys(names, math.nan)
    known = _text_metrics.found()
    return {name: math.nan if is_likelihood(name) else known[name].measure(said, examples) for name in names}


def likelihoods(names: Sequence[str], losses: Sequence[float], tokens: Sequence[int]) -> dict[str, float]:
    """The metrics of `names` that are told by likelihoods, see `LIKELIHOODS`.

    Args:
        losses: of each example, the sum over the tokens of its answer, in nats.
        tokens: of each example, how many tokens its answer has.
    """
    loss = math.fsum(losses) / sum(tokens) if sum(tokens) else math.nan
    # Beyond 709 nats a float has no such number; a model that far off has diverged.
    values = {"loss": loss, "perplexity": math.exp(loss) if loss < _MOST_NATS else math.inf}
    signed = values | {f"neg_{name}": -value for name, value in values.items()}
    return {name: signed[name] for name in names if name in signed}
