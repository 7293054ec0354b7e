"""What is kept of the texts that a model wrote."""

from __future__ import annotations

import numpy as np
import pytest

from autopeft import tasks
from autopeft.experiments._written import texts_table, written
from autopeft.tasks._examples import Examples
from autopeft.tasks._task import Task
from autopeft.training.kept_texts import kept_texts
from autopeft.training.learners import Written

SENTENCES = Task("tiny/facts", "text", ("prompt",), label="completion", metrics=("rouge_l",))


def examples(n: int) -> Examples:
    texts = [(f"name[N{row}]",) for row in range(n)]
    return Examples(np.zeros(n, dtype=np.int64), texts=texts, answers=[(f"N{row}.", "There.") for row in range(n)])


@pytest.mark.parametrize("form", [lambda text: Written(text), str], ids=["decoder", "text to text"])
def test_ten_texts_are_kept_beside_prompts_and_references(form: type[str]) -> None:
    found = kept_texts(SENTENCES, [form(f"said {row}") for row in range(12)], examples(12))
    assert len(found) == 10
    assert found[9] == {"prompt": "name[N9]", "said": "said 9", "references": ["N9.", "There."]}


def test_a_class_that_is_written_has_its_word_as_reference() -> None:
    task = tasks.lookup("glue/mrpc").in_words()
    part = Examples(np.array([1]), texts=[("A.", "B.")])
    assert kept_texts(task, [Written("yes")], part) == [
        {"prompt": "A.\nB.", "said": "yes", "references": [task.label_names[1]]}
    ]


def test_nothing_is_kept_where_nothing_was_written() -> None:
    assert kept_texts(SENTENCES, [Written(None, 2.0, 3)], examples(1)) == []
    assert kept_texts(tasks.lookup("glue/sst2"), [np.array([0.1, 0.9])], examples(1)) == []
    assert written({"ours": [{"rouge_l": 0.5}]}, {"ours": ()}) == []  # as cells of earlier commits


def test_texts_stand_beside_each_other_and_the_first_gold_ones() -> None:
    gold = ["a", "b", "c", "d", "e"]
    kept = {
        "one": [{"prompt": "p", "said": "x", "references": gold}, {"prompt": "p", "said": "y", "references": ["a"]}],
        "two": [{"prompt": "p", "said": "z", "references": gold}, {"prompt": "q", "said": "w", "references": []}],
    }
    found = texts_table(kept)
    assert found.header == ("asked", "one", "two", "people wrote")
    assert found.rows == (
        ("p", "x", "z", "a / b / c (and 2 more)"),
        ("p", "y", "", "a"),
        ("q", "", "w", ""),
    )
