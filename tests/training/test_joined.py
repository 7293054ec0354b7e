"""Where an answer begins among the tokens of a conversation, whatever it begins with."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from autopeft.errors import DataError
from autopeft.training.learners._joined import UNLEARNT, join_messages

TEMPLATE = (
    "{% for m in messages %}{{ m['role'][0] }}:\n{{ m['content'] }}$\n{% endfor %}"
    "{% if add_generation_prompt %}a:\n{% endif %}"
)


def tokenizer(template: str = TEMPLATE) -> Any:
    """One of characters that merges two line ends, as those of GPT-2's kind do."""
    vocabulary = {letter: number for number, letter in enumerate("\n$:uabcdefgh")}
    model = models.BPE(vocab={**vocabulary, "\n\n": len(vocabulary)}, merges=[("\n", "\n")])
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), eos_token="$", chat_template=template)


def said(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[turn % 2], "content": one} for turn, one in enumerate(contents)]


def text(made: Any, ids: list[int]) -> str:
    return "".join(made.convert_ids_to_tokens(ids))


@pytest.mark.parametrize("first", ["bb", "\nbb", "\n\n\nbb\n"])
@pytest.mark.parametrize("last", ["dd", "\ndd", "\n\ndd\n\n"])
def test_an_answer_may_begin_with_what_merges_with_the_end_of_its_prompt(first: str, last: str) -> None:
    made = tokenizer()
    row = join_messages(made, said("a", first, "c"), last, is_all_learnt=False)
    learnt = [token for token in row.targets if token != UNLEARNT]
    assert text(made, row.ids) == f"u:\na$\na:\n{first}$\nu:\nc$\na:\n{last}$\n"
    assert text(made, learnt) == f"{first}$\n{last}$\n"
    asked = made.apply_chat_template(said("a", first, "c"), add_generation_prompt=True, return_dict=False)
    if not first.startswith("\n"):  # a model is asked with the very tokens that it learnt to answer
        assert row.ids[: row.start] == asked
    assert text(made, row.ids[row.start :]) == f"{last}$\n"


def test_what_needs_no_cut_is_tokenised_as_one() -> None:
    made = tokenizer()
    row = join_messages(made, said("a\n\n", "b\n\nb", "c"), "d", is_all_learnt=False)
    whole = made.apply_chat_template([*said("a\n\n", "b\n\nb", "c", "d")], return_dict=False)
    assert row.ids == whole


def test_a_template_that_changes_what_came_before_is_refused() -> None:
    changing = "{% if add_generation_prompt %}b{% endif %}" + TEMPLATE
    with pytest.raises(DataError, match="changes what came before an answer"):
        join_messages(tokenizer(changing), said("a"), "d", is_all_learnt=False)
