"""``bleu``: BLEU of a whole part (Papineni et al. 2002) by sacrebleu (Post 2018, arXiv 1804.08771)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest

from autopeft.tasks._examples import Examples
from autopeft.tasks._text_metrics._text_metric import TextMetric


def bleu(said: Sequence[str], examples: Examples) -> float:
    """sacrebleu's BLEU with all gold texts as references, as a fraction: 0.65 and not 65.

    It is of the part as a whole, not a mean over examples, as n-grams are counted over all texts. With sacrebleu's
    defaults: case counts, tokens as in mteval 13a, exponential smoothing. Examples may have different numbers of
    references.
    """
    from sacrebleu.metrics import BLEU  # an extra, which `TextMetric.package` tells before anything is trained

    # sacrebleu wants the first references of all texts, then the second ones; None where a text has fewer.
    streams = [list(stream) for stream in zip_longest(*examples.answers)]
    return float(BLEU().corpus_score(list(said), streams).score) / 100


MEMBERS: Mapping[str, TextMetric] = {"bleu": TextMetric(bleu, package="sacrebleu", extra="text")}
