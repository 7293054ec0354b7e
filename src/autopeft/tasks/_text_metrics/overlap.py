"""``token_f1``, ``exact_match``, ``rouge_l``: what a text shares with the nearest of its gold texts, as a mean."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from autopeft.tasks._examples import Examples
from autopeft.tasks._text_metrics._text_metric import TextMetric


def normalised(text: str) -> str:
    """`text` in lower case, without punctuation, articles and surplus space, as SQuAD and ReCoRD compare it."""
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def token_f1(prediction: str, answers: Sequence[str]) -> float:
    """The best F1 of the prediction's tokens against those of any gold answer (ReCoRD, arXiv 1810.12885)."""
    return max((_overlap(normalised(prediction).split(), normalised(gold).split()) for gold in answers), default=0.0)


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 when the prediction equals any gold answer after normalisation, else 0."""
    return float(any(normalised(prediction) == normalised(gold) for gold in answers))


def rouge_l(prediction: str, answers: Sequence[str]) -> float:
    """The best F1 of the longest common subsequence of words with any gold answer (Lin 2004, section 3), 0 to 1.

    Words are runs of letters and digits in lower case; nothing is stemmed, articles stay.
    """
    words = _words(prediction)
    return max((_lcs_f1(words, _words(gold)) for gold in answers), default=0.0)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _lcs_f1(first: Sequence[str], second: Sequence[str]) -> float:
    if not first or not second:
        return float(first == second)
    lengths = [0] * (len(second) + 1)  # of the common subsequence of what is read of `first`, and a prefix of `second`
    for word in first:
        diagonal = 0
        for column, other in enumerate(second, start=1):
            above = lengths[column]
            # One row of the table is enough, as only the lengths are wanted and not the subsequence.
            lengths[column] = diagonal + 1 if word == other else max(above, lengths[column - 1])
            diagonal = above
    return 2 * lengths[-1] / (len(first) + len(second))


def _overlap(prediction: Sequence[str], gold: Sequence[str]) -> float:
    # A word counts as often as both have it, so that repeating a right word does not pay.
    common = (Counter(prediction) & Counter(gold)).total()
    if not common:
        return float(prediction == gold)
    return 2 * common / (len(prediction) + len(gold))


def _mean(metric: Callable[[str, Sequence[str]], float]) -> TextMetric:
    """The mean over the examples of a metric of one text and its gold texts."""

    def measure(said: Sequence[str], examples: Examples) -> float:
        return float(np.mean([metric(text, gold) for text, gold in zip(said, examples.answers, strict=True)]))

    return TextMetric(measure)


MEMBERS: Mapping[str, TextMetric] = {
    "token_f1": _mean(token_f1),
    "exact_match": _mean(exact_match),
    "rouge_l": _mean(rouge_l),
}
