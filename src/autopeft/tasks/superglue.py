"""SuperGLUE (Wang et al. 2019, arXiv 1905.00537), in the field names and label numbers of ``super_glue``.

How an encoder reads them (segments in order; a choice is scored on its own and the best one is taken):

=========  =========================================================================================
BoolQ      question | passage
CB, RTE    premise | hypothesis
WiC        ``word: sentence1`` | ``word: sentence2``
MultiRC    paragraph | ``question answer``: one binary example an answer, scored over questions too
COPA       ``premise What was the cause?`` (or ``What happened as a result?``) | choice, for each choice
ReCoRD     passage | query with ``@placeholder`` filled, for each entity of the passage
=========  =========================================================================================

In ReCoRD several entities may be right: in training an example is repeated for each, in scoring the entity taken
is compared with all gold answers. WSC is in neither paper, and COPA is not in BIPEFT's. Under "bipeft" the task's
metrics are those that BIPEFT reports; its release chooses CB's checkpoints by macro-F1, though accuracy is printed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from autopeft.errors import DataError
from autopeft.tasks._examples import Examples
from autopeft.tasks._tables import Row, Table, listed
from autopeft.tasks._task import Hub, Task, columns_or_raise, read_labels, text_mistakes
from autopeft.tasks._text_metrics.overlap import normalised

_PROTOCOLS = ("holdout", "autopeft-superglue", "bipeft")
_NO_YES = ("false", "true")
_ASKED = {"cause": "What was the cause?", "effect": "What happened as a result?"}


def words_in_context(task: Task, table: Table) -> Examples:
    """WiC: is the word used in one sense in both sentences? The word stands before each of them.

    Raises:
        DataError: as `autopeft.tasks._task.one_per_row`.
    """
    labels = _labels(task, table)
    texts = [(f"{row['word']}: {row['sentence1']}", f"{row['word']}: {row['sentence2']}") for row in table.rows]
    return Examples(labels, texts=texts, fields=_fields(table, ("sentence1", "sentence2", "word")))


def answers_to_questions(task: Task, table: Table) -> Examples:
    """MultiRC: is this answer to the question about the paragraph right? One group a question.

    A question is told by the ``idx`` of the Hub, or by paragraph and text where there is none.

    Raises:
        DataError: as `autopeft.tasks._task.one_per_row`.
    """
    labels = _labels(task, table)
    texts = [(row["paragraph"], f"{row['question']} {row['answer']}") for row in table.rows]
    # The short fields first, as T5 reads them: what is too long is cut at its end.
    fields = _fields(table, ("question", "answer", "paragraph"))
    return Examples(labels, texts=texts, groups=[_question(row) for row in table.rows], fields=fields)


def plausible_alternatives(task: Task, table: Table) -> Examples:
    """COPA: which of two choices is the cause or the effect of the premise?

    Raises:
        DataError: as `autopeft.tasks._task.one_per_row`, or the question is neither "cause" nor "effect".
    """
    labels = _labels(task, table)
    asked = enumerate((row["question"] for row in table.rows), start=1)
    odd = [f"row {number}: {question!r}" for number, question in asked if question not in _ASKED]
    if odd:
        raise DataError(f"{table.source}: 'question' is 'cause' or 'effect', but {listed(odd)}.")
    contexts = [f"{row['premise']} {_ASKED[row['question']]}" for row in table.rows]
    pairs = zip(contexts, table.rows, strict=True)
    choices = [[(context, row["choice1"]), (context, row["choice2"])] for context, row in pairs]
    fields = _fields(table, ("premise", "choice1", "choice2", "question"))
    return Examples(labels, choices=choices, fields=fields)


def filled_queries(task: Task, table: Table) -> Examples:
    """ReCoRD: which entity of the passage fills the placeholder of the query? One group a query.

    Raises:
        DataError: a column is missing, a text is empty, or no entity of a row is among its answers.
    """
    columns_or_raise(table, (*task.inputs, task.label))
    unlisted = [
        f"{number} ({name})"
        for number, row in enumerate(table.rows, start=1)
        for name in ("entities", task.label)
        if not isinstance(row.get(name), list | tuple) or not all(isinstance(item, str) for item in row[name])
    ]
    if unlisted:
        rows = ", ".join(unlisted[:5])
        raise DataError(f"{table.source} cannot be used: {len(unlisted)} values are no lists of text: rows {rows}.")
    gold = [_right_entities(row) for row in table.rows]
    mistakes = text_mistakes(table, ("passage", "query"))
    lost = [str(number) for number, right in enumerate(gold, start=1) if not right]
    if lost:
        mistakes.append(f"{len(lost)} rows have no entity that is among 'answers': rows {', '.join(lost[:5])}")
    if mistakes:
        raise DataError(f"{table.source} cannot be used: {listed(mistakes)}.")
    passages = [_flowing(row["passage"]) for row in table.rows]
    return Examples(
        np.array([right[0] for right in gold], dtype=np.int64),
        choices=[_candidates(passage, row) for passage, row in zip(passages, table.rows, strict=True)],
        groups=[f"{index}" for index in range(len(table))],
        answers=[tuple(row["answers"]) for row in table.rows],
        names=[tuple(row["entities"]) for row in table.rows],
        gold=gold,
        fields=[
            (("query", row["query"]), ("entities", ", ".join(row["entities"])), ("passage", passage))
            for passage, row in zip(passages, table.rows, strict=True)
        ],
    )


def _labels(task: Task, table: Table) -> Any:
    columns_or_raise(table, (*task.inputs, task.label))
    mistakes = text_mistakes(table, task.inputs)
    labels, wrong = read_labels(task, table)
    if mistakes or wrong:
        raise DataError(f"{table.source} cannot be used: {listed([*mistakes, *wrong])}.")
    return labels.values


def _fields(table: Table, names: tuple[str, ...]) -> list[tuple[tuple[str, str], ...]]:
    return [tuple((name, row[name]) for name in names) for row in table.rows]


def _question(row: Row) -> str:
    index = row.get("idx")
    # Two questions of a paragraph may have the same words, so that the Hub's numbers are more exact than the texts.
    if isinstance(index, Mapping) and {"paragraph", "question"} <= index.keys():
        return f"{index['paragraph']}-{index['question']}"
    return f"{row['paragraph']}\n{row['question']}"


def _right_entities(row: Row) -> tuple[int, ...]:
    answers = {normalised(answer) for answer in row["answers"]}
    return tuple(index for index, entity in enumerate(row["entities"]) if normalised(entity) in answers)


def _candidates(passage: str, row: Row) -> list[tuple[str, str]]:
    return [(passage, row["query"].replace("@placeholder", entity)) for entity in row["entities"]]


def _flowing(passage: str) -> str:
    """The passage with its ``@highlight`` marks turned into sentence ends (as T5 reads it, arXiv 1910.10683)."""
    # A sentence that has ended already gets no second full stop.
    return re.sub(r"\n@highlight\n", ". ", re.sub(r"([.?!\"'])\n@highlight\n", r"\1 ", passage))


def _task(name: str, inputs: tuple[str, ...], **more: object) -> Task:
    facts: dict[str, object] = {"kind": "classification", "protocols": _PROTOCOLS, "hub": Hub("aps/super_glue", name)}
    return Task(name=f"superglue/{name}", inputs=inputs, **(facts | more))  # type: ignore[arg-type]


_TASKS = (
    _task("boolq", ("question", "passage"), label_names=_NO_YES, about="Yes or no? 9,427 questions."),
    _task(
        "cb",
        ("premise", "hypothesis"),
        label_names=("entailment", "contradiction", "neutral"),
        metrics=("accuracy", "macro_f1"),
        about="CommitmentBank, 250 pairs, few of them neutral.",
    ),
    _task(
        "copa",
        ("premise", "question", "choice1", "choice2"),
        kind="multiple_choice",
        label_names=("choice1", "choice2"),
        protocols=("holdout", "autopeft-superglue"),
        format=plausible_alternatives,
        about="Choice of plausible alternatives, 400 premises.",
    ),
    _task(
        "multirc",
        ("paragraph", "question", "answer"),
        label_names=_NO_YES,
        metrics=("f1a", "group_exact_match"),
        format=answers_to_questions,
        about="Reading comprehension with several right answers, 27,243 answers.",
    ),
    _task(
        "record",
        ("passage", "query", "entities"),
        label="answers",
        kind="multiple_choice",
        metrics=("token_f1", "exact_match"),
        format=filled_queries,
        is_large=True,
        about="Cloze questions about news, 100,730 queries.",
    ),
    _task("rte", ("premise", "hypothesis"), label_names=("entailment", "not_entailment"), about="As glue/rte."),
    _task(
        "wic",
        ("word", "sentence1", "sentence2"),
        label_names=_NO_YES,
        format=words_in_context,
        about="Words in context, 5,428 pairs.",
    ),
)

MEMBERS: Mapping[str, Task] = {task.name: task for task in _TASKS}
