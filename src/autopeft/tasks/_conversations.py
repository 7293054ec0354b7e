"""Conversations in a user's own files: lists of messages, as chats are stored, turned into texts and answers.

A message has a ``role`` (system, user, assistant, ...) and a ``content``. What is learnt is what the assistant says;
its last message is the answer, and what comes before it is the prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from autopeft.errors import DataError
from autopeft.tasks._examples import Examples
from autopeft.tasks._tables import Row, Table, listed
from autopeft.tasks._task import Task, one_per_row
from autopeft.tasks._wording import MESSAGES, Message

BEFORE = "messages before the answer"
"""The column that `as_texts` adds. No column of a file is likely to be called so."""

_ASSISTANT = "assistant"


def is_of_messages(table: Table, text: Sequence[str]) -> bool:
    """Whether the one column `text` holds conversations and no texts."""
    first = table.rows[0].get(text[0]) if len(text) == 1 and table.rows else None
    return isinstance(first, list | tuple) and bool(first) and isinstance(first[0], Mapping)


def as_texts(table: Table, text: str, label: str) -> Table:
    """The conversations of column `text` as texts to be read, with their last answers in column `label`.

    Where the table has a column `label`, it holds the answer: a text, or messages, of which the last is the answer.

    Raises:
        DataError: a row is no conversation that the assistant ends; the first rows concerned are named.
    """
    rows, wrong = list[Row](), list[str]()
    for number, row in enumerate(table.rows, start=1):
        messages, mistake = _whole(row, text, label)
        if mistake:
            wrong.append(f"row {number}: {mistake}")
            continue
        *before, last = messages
        flat = "\n".join(f"{message['role']}: {message['content']}" for message in before)
        rows.append({**row, text: flat, label: last["content"], BEFORE: before})
    if wrong:
        raise DataError(f"{table.source} cannot be used: {listed(wrong, most=5)}.")
    return Table(table.source, tuple(dict.fromkeys((*table.columns, label, BEFORE))), rows, table.repeated)


def conversations(task: Task, table: Table) -> Examples:
    """One example a row, of what `as_texts` gives; a row of text alone is the one message of a user.

    Raises:
        DataError: as `autopeft.tasks._task.one_per_row`.
    """
    found = one_per_row(task, table)
    before = [json.dumps(_before(task, row), ensure_ascii=False) for row in table.rows]
    return replace(found, fields=[((MESSAGES, text),) for text in before])


def _before(task: Task, row: Row) -> list[Message]:
    given: list[Message] = row.get(BEFORE) or [{"role": "user", "content": row[task.inputs[0]]}]
    return given


def _whole(row: Row, text: str, label: str) -> tuple[list[Message], str]:
    """The conversation of a row with its answer at the end, or what is wrong with it."""
    own, answer = row.get(text), row.get(label)
    if isinstance(answer, str):
        answer = [{"role": _ASSISTANT, "content": answer}]
    messages = [*(own or ()), *(answer or ())] if isinstance(own, list | tuple) else []
    if not messages or not all(map(_is_message, messages)):
        return [], f"{text!r} must be a list of messages with a role and a content, but got {own!r:.60}"
    if len(messages) < 2 or messages[-1]["role"] != _ASSISTANT:
        return [], f"a conversation ends with a message of the {_ASSISTANT}, but has the roles {_roles(messages)}"
    return [dict(message) for message in messages], ""


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(value.get(part), str) for part in ("role", "content"))


def _roles(messages: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(message["role"] for message in messages)
