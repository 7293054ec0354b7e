"""Conversations in a user's own files: lists of messages, as chats are stored, turned into texts and answers.

A message has a ``role`` (system, user, assistant, ...) and a ``content``. What is learnt is what the assistant says;
its last message is the answer, and what comes before it is the prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from autopeft.errors import DataError
from autopeft.tasks._answers._reading import has_half
from autopeft.tasks._examples import Examples
from autopeft.tasks._tables import Row, Table, listed
from autopeft.tasks._task import Task, one_per_row
from autopeft.tasks._wording import MESSAGES, Message

BEFORE = "messages before the answer"
"""The column that `as_texts` adds. No column of a file is likely to be called so."""

_ASSISTANT = "assistant"
_WRITTEN_OUT = re.compile(r"\s*\[\s*\{\s*[\"'](role|content)[\"']")


_HALVES = "a message holds half a character"


def is_of_messages(table: Table, text: Sequence[str]) -> bool:
    """Whether the one column `text` holds conversations and no texts, or at least as many: the rest are mistakes."""
    values = [row.get(text[0]) for row in table.rows] if len(text) == 1 else []
    n_chats = sum(isinstance(one, list | tuple) and bool(one) and isinstance(one[0], Mapping) for one in values)
    return n_chats > 0 and n_chats >= sum(isinstance(one, str) for one in values)


def is_written_out(value: Any) -> bool:
    """Whether `value` is a text that looks like a list of messages, as a CSV file would hold it."""
    return isinstance(value, str) and _WRITTEN_OUT.match(value) is not None


def rows_of_written_out(table: Table, text: Sequence[str]) -> list[str]:
    """The rows, from 1, whose one column `text` holds a conversation as text."""
    rows = enumerate(table.rows, start=1) if len(text) == 1 else ()
    return [str(number) for number, row in rows if is_written_out(row.get(text[0]))]


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
        rows.append({**row, text: as_one_text(before), label: last["content"], BEFORE: before})
    if wrong:
        raise DataError(f"{table.source} cannot be used: {listed(wrong, most=5)}.")
    return Table(table.source, tuple(dict.fromkeys((*table.columns, label, BEFORE))), rows, table.repeated)


def as_one_text(messages: Sequence[Message]) -> str:
    """Messages, one a line."""
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)


def to_answer(value: Any) -> tuple[list[Message], str]:
    """What stands before the assistant's answer in a conversation, which may hold it; or what is wrong with it."""
    if not isinstance(value, list | tuple) or not value or not all(map(_is_message, value)):
        return [], f"a conversation is a list of messages with a role and a content, but got {value!r:.60}"
    if has_half(value):
        return [], _HALVES
    before = value[:-1] if value[-1]["role"] == _ASSISTANT else value
    return [dict(message) for message in before], "" if before else "there is nothing before the answer"


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
    if has_half(messages):
        return [], _HALVES
    if len(messages) < 2 or messages[-1]["role"] != _ASSISTANT:
        return [], f"a conversation ends with a message of the {_ASSISTANT}, but has the roles {_roles(messages)}"
    return [dict(message) for message in messages], ""


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(value.get(part), str) for part in ("role", "content"))


def _roles(messages: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(message["role"] for message in messages)
