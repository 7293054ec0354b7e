"""A prompt and its answer as one row of tokens: where the answer begins, what is learnt, and what is cut.

As TRL's trainers do it: the text of prompt and answer is tokenised as one, and the answer is what comes behind the
tokens of the prompt alone; a free answer ends with the tokenizer's end token. Where a token would reach across the
border, both are tokenised apart, so that the border stays exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from jinja2 import TemplateError

from autopeft.errors import DataError
from autopeft.tasks._wording import Message

UNLEARNT = -100
"""The mark by which transformers leaves a position out of the loss."""

_LEAST_PROMPT = 4  # of what there is room for, one part in so many is kept for the prompt


@dataclass(frozen=True)
class Joined:
    """One row.

    Args:
        ids: tokens of the prompt and of its answer.
        targets: what is learnt at each position, as long as `ids`; `UNLEARNT` where nothing is.
        start: where the last answer begins; what stands before it is what a model is given to go on from.
        n_framing: how many tokens the tokenizer puts in front of any text.
        cut_prompt, cut_answer: tokens that were cut.
    """

    ids: list[int]
    targets: list[int]
    start: int
    n_framing: int = 0
    cut_prompt: int = 0
    cut_answer: int = 0

    def within(self, limit: int) -> Joined:
        """At most `limit` tokens: the beginning of the prompt is cut first, whose end the answer goes on from.

        A prompt keeps a quarter of the room at least, and what the tokenizer puts in front; the answer's end is cut
        only where it has no room beside that.
        """
        answer = min(len(self.ids) - self.start, limit - min(self.start, max(limit // _LEAST_PROMPT, 1)))
        prompt = min(self.start, limit - answer)
        front = min(self.n_framing, prompt - 1) if prompt < self.start else 0
        kept = [*range(front), *range(self.start - (prompt - front), self.start + answer)]
        return replace(
            self,
            ids=[self.ids[place] for place in kept],
            targets=[self.targets[place] for place in kept],
            start=prompt,
            cut_prompt=self.start - prompt,
            cut_answer=len(self.ids) - self.start - answer,
        )


def join_texts(
    tokenizer: Any, pairs: Sequence[tuple[str, str]], *, is_ended: bool, is_all_learnt: bool
) -> list[Joined]:
    """One row a pair of a prompt and an answer.

    Args:
        is_ended: whether the end token is learnt behind the answer.
        is_all_learnt: whether the prompts are learnt, too.
    """
    if not pairs:
        return []
    end = tokenizer.eos_token if is_ended and tokenizer.eos_token else ""
    said = [answer if answer.endswith(end) else answer + end for _, answer in pairs]
    framing = len(tokenizer("")["input_ids"])
    prompts = tokenizer([prompt for prompt, _ in pairs])["input_ids"]
    wholes = tokenizer([prompt + answer for (prompt, _), answer in zip(pairs, said, strict=True)])["input_ids"]
    found = []
    for prompt, whole, answer in zip(prompts, wholes, said, strict=True):
        if whole[: len(prompt)] != prompt or len(whole) == len(prompt):
            whole = prompt + tokenizer(answer, add_special_tokens=False)["input_ids"]
        learnt = [*range(len(whole))] if is_all_learnt else [*range(len(prompt), len(whole))]
        found.append(Joined(whole, _targets(whole, learnt), len(prompt), min(framing, len(prompt))))
    return found


def join_messages(tokenizer: Any, before: Sequence[Message], answer: str, *, is_all_learnt: bool) -> Joined:
    """A conversation by the tokenizer's chat template: everything that the assistant says is learnt.

    Raises:
        DataError: the tokenizer has no chat template, or its template does not leave what came before as it was.
    """
    if not tokenizer.chat_template:
        raise DataError(
            "The data holds conversations, but the tokenizer has no chat template: take an instructed model, or write "
            "`chat_template` into its tokenizer_config.json."
        )
    messages = [*before, {"role": "assistant", "content": answer}]
    whole = templated(tokenizer, messages)
    said = [
        (templated(tokenizer, messages[:place], is_asking=True), templated(tokenizer, messages[: place + 1]))
        for place, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    # Some templates leave thoughts out of earlier turns; such a turn is read and not learnt.
    turns = [(len(asked), len(one)) for asked, one in said if whole.startswith(one) and one.startswith(asked)]
    asked = said[-1][0]
    ids, spans = _tokenised(tokenizer, whole, turns)
    if not whole.startswith(asked) or not turns or spans[-1][0] == len(ids):
        raise DataError(
            "The tokenizer's chat template changes what came before an answer, so that the answer cannot be told from "
            "it: take another `chat_template`."
        )
    learnt = [place for start, end in spans for place in range(start, end)]
    return Joined(ids, _targets(ids, range(len(ids)) if is_all_learnt else learnt), spans[-1][0])


def templated(tokenizer: Any, messages: Sequence[Message], *, is_asking: bool = False) -> str:
    """A conversation as text; `is_asking` for an answer of the assistant behind it."""
    return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=is_asking))


def _tokenised(tokenizer: Any, text: str, turns: Sequence[tuple[int, int]]) -> tuple[list[int], list[tuple[int, int]]]:
    """The tokens of `text`, and where each of the `turns`, which are given in characters, stands among them.

    The text is tokenised as one. Only where a token would reach across a border of a turn, such as one of the line ends
    before an answer and in it, it is cut there, since a model that answers goes on from the border as it is.
    """
    cuts = set[int]()
    while True:
        ids = _pieces(tokenizer, text, cuts)
        before = {border: _pieces(tokenizer, text[:border], cuts) for turn in turns for border in turn}
        crossed = {border for border, head in before.items() if ids[: len(head)] != head} - cuts
        if not crossed:
            return ids, [(len(before[start]), len(before[end])) for start, end in turns]
        cuts |= crossed


def _pieces(tokenizer: Any, text: str, cuts: Iterable[int]) -> list[int]:
    """The tokens of `text`, of what lies between `cuts` each for itself; a template writes all special tokens."""
    borders = [0, *sorted(cut for cut in cuts if 0 < cut < len(text)), len(text)]
    parts = [text[start:end] for start, end in pairwise(borders)]
    return [token for part in parts for token in tokenizer(part, add_special_tokens=False)["input_ids"]]


def _targets(ids: Sequence[int], learnt: Iterable[int]) -> list[int]:
    places = set(learnt)
    return [token if place in places else UNLEARNT for place, token in enumerate(ids)]


def closing(tokenizer: Any) -> int | None:
    """The token with which the chat template closes what the assistant says; None where it has none of its own."""
    if not tokenizer.chat_template:
        return None
    asked = [{"role": "user", "content": "a"}]
    try:
        front = templated(tokenizer, asked, is_asking=True)
        behind = templated(tokenizer, [*asked, {"role": "assistant", "content": "b"}])[len(front) :]
    # A template may refuse what is no conversation of its kind, and then says nothing of how turns end.
    except (TemplateError, TypeError, ValueError, KeyError):
        return None
    tail: list[int] = tokenizer(behind, add_special_tokens=False)["input_ids"]
    added = set(tokenizer.added_tokens_decoder) - {tokenizer.unk_token_id}
    said = [place for place, token in enumerate(tail) if token not in added and tokenizer.decode([token]).strip()]
    return next((token for token in tail[said[-1] + 1 :] if token in added), None) if said else None
