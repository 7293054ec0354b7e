"""``e2e/parse``: the facts of a restaurant from a sentence about it (E2E NLG, arXiv 1706.09254).

"Clowns serves English food near Clare Hall." becomes ``name[Clowns], food[English], near[Clare Hall]``. The answer is
text of a fixed form, as where a model is to fill in a record; it reads the files of
``e2e/facts`` the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping

from autopeft.tasks._examples import Examples
from autopeft.tasks._tables import Table
from autopeft.tasks._task import Hub, Task, columns_or_raise, one_per_row

_NAMES = (
    {"sentence": "completion", "facts": "prompt"},
    {"sentence": "human_reference", "facts": "meaning_representation"},
)
"""What our columns are called in the files of ``e2e/facts`` and on the Hub."""


def sentences_and_facts(task: Task, table: Table) -> Examples:
    """One example a row: a sentence, and the facts that it tells.

    Raises:
        DataError: as `autopeft.tasks._task.one_per_row`.
    """
    names = next((names for names in _NAMES if set(names.values()) <= set(table.columns)), None)
    if names is None:
        columns_or_raise(table, (*task.inputs, task.label))
        return one_per_row(task, table)
    # Other columns, such as the further sentences of the same facts, are no part of the answer.
    rows = [{ours: row[theirs] for ours, theirs in names.items()} for row in table.rows]
    return one_per_row(task, Table(table.source, tuple(names), rows))


PARSE = Task(
    name="e2e/parse",
    kind="text",
    inputs=("sentence",),
    label="facts",
    metrics=("token_f1", "exact_match", "rouge_l"),
    hub=Hub("tuetschek/e2e_nlg_cleaned"),
    parts=(("train", "train"), ("validation", "validation"), ("test", "test")),
    format=sentences_and_facts,
    prompt="Sentence: {sentence}\nFacts:",
    about="The facts of a restaurant from a sentence about it (E2E NLG, CC BY-SA 4.0).",
)

MEMBERS: Mapping[str, Task] = {PARSE.name: PARSE}
