"""``e2e/facts``: a sentence about a restaurant from its facts (E2E NLG; Novikova, Dušek and Rieser 2017, 1706.09254).

``name[Clowns], food[English], near[Clare Hall]`` becomes "Clowns serves English food near Clare Hall." The answer is
text, so that an encoder-decoder is wanted. Rows have ``prompt`` and ``completion``; where a row has ``references``, all
sentences that people wrote for these facts, each of them is right. The cleaned set of the Hub calls them
``meaning_representation`` and ``human_reference``, and has a row for every sentence: those of the same facts are each
other's references.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from autopeft.tasks._examples import Examples
from autopeft.tasks._tables import Table
from autopeft.tasks._task import Hub, Task, columns_or_raise, one_per_row


def facts_and_sentences(task: Task, table: Table) -> Examples:
    """One example a row; every one of its references is right, and the first is trained on.

    Raises:
        DataError: as `autopeft.tasks._task.one_per_row`.
    """
    table = _as_ours(task, table) if _FACTS in table.columns else table
    # All references are right answers to the same facts: scoring against one of them would punish another wording.
    rows = [{**row, task.label: row.get("references") or row.get(task.label)} for row in table.rows]
    return one_per_row(task, Table(table.source, table.columns, rows))


_FACTS, _SENTENCE = "meaning_representation", "human_reference"


def _as_ours(task: Task, table: Table) -> Table:
    """The Hub's rows under our names, each with the sentences of the other rows of its facts behind its own."""
    columns_or_raise(table, (_FACTS, _SENTENCE))
    alike: dict[str, list[str]] = defaultdict(list)
    for row in table.rows:
        alike[row[_FACTS]].append(row[_SENTENCE])
    rows = [
        {
            task.inputs[0]: row[_FACTS],
            task.label: row[_SENTENCE],
            "references": _first(row[_SENTENCE], alike[row[_FACTS]]),
        }
        for row in table.rows
    ]
    return Table(table.source, (task.inputs[0], task.label, "references"), rows)


def _first(own: str, every: Sequence[str]) -> list[str]:
    # The row's own sentence first, since that is the one that is trained on.
    return list(dict.fromkeys([own, *every]))


FACTS = Task(
    name="e2e/facts",
    kind="text",
    inputs=("prompt",),
    label="completion",
    metrics=("rouge_l", "facts_mentioned", "token_f1", "exact_match"),
    hub=Hub("tuetschek/e2e_nlg_cleaned"),
    parts=(("train", "train"), ("validation", "validation"), ("test", "test")),
    format=facts_and_sentences,
    about="A sentence from the facts of a restaurant (E2E NLG, CC BY-SA 4.0).",
)

MEMBERS: Mapping[str, Task] = {FACTS.name: FACTS}
