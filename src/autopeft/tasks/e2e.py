"""``e2e/facts``: a sentence about a restaurant from its facts (E2E NLG; Novikova, Dušek and Rieser 2017, 1706.09254).

``name[Clowns], food[English], near[Clare Hall]`` becomes "Clowns serves English food near Clare Hall." The answer is
text, so that an encoder-decoder is wanted. Rows have ``prompt`` and ``completion``; where a row has ``references``, all
sentences that people wrote for these facts, each of them is right. It is read from a folder (``--data``).
"""

from __future__ import annotations

from collections.abc import Mapping

from autopeft.tasks._examples import Examples
from autopeft.tasks._tables import Table
from autopeft.tasks._task import Hub, Task, one_per_row


def facts_and_sentences(task: Task, table: Table) -> Examples:
    """One example a row; every one of its references is right.

    Raises:
        DataError: as `autopeft.tasks._task.one_per_row`.
    """
    rows = [{**row, task.label: row.get("references") or row.get(task.label)} for row in table.rows]
    return one_per_row(task, Table(table.source, table.columns, rows))


FACTS = Task(
    name="e2e/facts",
    kind="text",
    inputs=("prompt",),
    label="completion",
    metrics=("rouge_l", "token_f1", "exact_match"),
    hub=Hub("tuetschek/e2e_nlg_cleaned"),
    parts=(("train", "train"), ("validation", "validation"), ("test", "test")),
    format=facts_and_sentences,
    about="A sentence from the facts of a restaurant (E2E NLG, CC BY-SA 4.0).",
)

MEMBERS: Mapping[str, Task] = {FACTS.name: FACTS}
