"""What a tokenizer makes of the training texts: how many are cut, and how much of them it does not know.

Both would go on silently: the word that decides may stand behind the cut, and a tokenizer of another language gives a
model nothing to read.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.backbones import Backbone
from autopeft.errors import DataError
from autopeft.training.evaluator import Evaluator
from autopeft.training.learners import CausalLearner, EncoderLearner, Learner

_MOST = 2000
_NOT_READ = MappingProxyType({"right": "what comes after", "left": "what comes before that from their ends"})
# Beyond that share there is next to nothing to read: it is refused.
_MOST_UNKNOWN = 0.9
# Names and slips are unknown to good tokenizers, too.
_MANY_UNKNOWN = 0.1


def token_lines(evaluator: Evaluator) -> dict[str, str]:
    """Sentences by what they are about, "cut" and "unknown"; empty where all texts are read whole and known.

    At most 2,000 training texts are looked at, the first ones. What a text-to-text model is asked beside the texts is
    not counted.
    """
    if isinstance(evaluator.learner, CausalLearner):
        return _cut_of_joined(evaluator, evaluator.learner)
    # A sentence about lengths needs no more, and tokenising millions of texts twice would delay every start.
    texts = list(evaluator.splits.train.segments())[:_MOST]
    tokenizer, limit = evaluator.backbone.tokenizer, _limit(evaluator)
    if not texts or tokenizer is None:
        return {}
    ids = _whole_rows(evaluator, len(texts), limit)
    if ids is None:
        pairs = [parts[1] for parts in texts] if len(texts[0]) == 2 else None
        ids = tokenizer([parts[0] for parts in texts], pairs, truncation=False, verbose=False)["input_ids"]
    return {
        **_cut(np.array([len(row) for row in ids]), limit, evaluator),
        **_unknown(ids, tokenizer),
    }


def _whole_rows(evaluator: Evaluator, n: int, limit: int) -> Sequence[Sequence[int]] | None:
    """The first `n` training texts as they are encoded, where none of them was cut; None where that is not known."""
    # Others put words in front of a text; and a fraction of the examples does not begin with the first of all.
    if not isinstance(evaluator.learner, EncoderLearner) or evaluator.recipe.data_fraction < 1:
        return None
    tokens = evaluator.train_part.tokens
    # A row that is as long as is allowed may have been longer.
    if len(tokens) < n or not (tokens.lengths[:n] < limit).all():
        return None
    return [tokens[row] for row in range(n)]  # type: ignore[misc]  # an array is no Sequence, but read as one


def _cut_of_joined(evaluator: Evaluator, learner: CausalLearner) -> dict[str, str]:
    """What is cut of prompts and of answers of a decoder that writes."""
    train, limit = evaluator.splits.train, _limit(evaluator)
    rows = [row.within(limit) for row in learner.joined(train.subset(range(min(len(train), _MOST))))]
    prompts, answers = [row.cut_prompt for row in rows if row.cut_prompt], [row for row in rows if row.cut_answer]
    if not prompts and not answers:
        return {}
    parts = []
    if prompts:
        median, most = int(np.median(prompts)), max(prompts)
        parts.append(f"of {len(prompts):,} prompts the beginning (in the median {median:,} tokens, at most {most:,})")
    if answers:
        parts.append(f"of {len(answers):,} answers the end, which is then not learnt")
    told = f"To fit {limit} tokens, of {len(rows):,} examples is cut: {'; '.join(parts)}: {_remedy(evaluator)}"
    return {"cut": told}


def check_known(evaluator: Evaluator) -> None:
    """Refuse training texts of which the tokenizer knows next to nothing: they would look all alike.

    Raises:
        DataError: more than nine tenths of the tokens are unknown, special ones not counted.
    """
    tokenizer, part = evaluator.backbone.tokenizer, evaluator.train_part
    share = _share_unknown(part.tokens.flat, tokenizer)
    if share > _MOST_UNKNOWN:
        raise DataError(
            f"{share:.0%} of the tokens of {len(part):,} training examples are unknown to the tokenizer of "
            f"{evaluator.backbone.name}, more than the {_MOST_UNKNOWN:.0%} with which there is something to learn: "
            "take a model of the language of the texts."
        )


def _share_unknown(tokens: NDArray[Any], tokenizer: Any) -> float:
    """The share of the tokenizer's unknown token; those that frame a text do not count."""
    # Tokenizers over bytes know everything.
    if tokenizer.unk_token_id is None:
        return 0.0
    special = sorted(set(tokenizer.all_special_ids) - {tokenizer.unk_token_id})
    words = tokens[~np.isin(tokens, special)]
    return float((words == tokenizer.unk_token_id).mean()) if len(words) else 0.0


def most_tokens(backbone: Backbone, learner: Learner, max_length: int) -> int:
    """Where `learner` cuts a row: at the recipe's length, or before it where model or tokenizer end."""
    if isinstance(learner, EncoderLearner):
        max_length = min(max_length, int(backbone.tokenizer.model_max_length))
    return min(max_length, backbone.n_positions or max_length)


def _limit(evaluator: Evaluator) -> int:
    return most_tokens(evaluator.backbone, evaluator.learner, evaluator.recipe.max_length)


def _remedy(evaluator: Evaluator) -> str:
    """What keeps texts whole: the recipe's length, unless the model itself ends there."""
    if _limit(evaluator) == evaluator.recipe.max_length:
        return "raise recipe.max_length"
    return "the model reads no more: shorten the texts, or take a model that reads longer ones"


def _cut(lengths: Any, limit: int, evaluator: Evaluator) -> dict[str, str]:
    side, remedy = evaluator.recipe.truncation_side, _remedy(evaluator)
    longer = lengths[lengths > limit]
    if not len(longer):
        return {}
    message = (
        f"{len(longer):,} of {len(lengths):,} training texts are longer than {limit} tokens (of those the median has "
        f"{int(np.median(longer)):,}, the longest {int(longer.max()):,}), and {_NOT_READ[side]} is not read: {remedy}"
    )
    if side == "right":
        message += ", or set recipe.truncation_side to left to read their ends instead"
    return {"cut": message}


def _unknown(ids: Sequence[Sequence[int]], tokenizer: Any) -> dict[str, str]:
    share = _share_unknown(np.concatenate([np.asarray(row, dtype=np.int64) for row in ids]), tokenizer)
    if share <= _MANY_UNKNOWN:
        return {}
    told = f"{share:.0%} of the tokens of {len(ids):,} training texts are unknown to the tokenizer, and look all alike"
    return {"unknown": told}
