"""A task in words for a decoder: the prompt of an example, and what may be answered.

Templates are data, one a task, in `templates.yaml` or in the task's own `prompt`. A prompt and a completion of a user's
own stay as they are, one joined to the other; conversations are the messages themselves, which the tokenizer's chat
template turns into tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from autopeft import yaml_files
from autopeft.tasks._examples import Examples
from autopeft.tasks._task import Task

MESSAGES = "messages"
"""The field of an example that holds a conversation, as JSON: what was said before the answer."""

Message = dict[str, Any]
Prompt = str | list[Message]
"""A text, or a conversation of which the answer is the next message."""


@dataclass(frozen=True)
class Wording:
    """How a decoder is asked.

    Args:
        task: the task, whose verbalisers are what is said for the classes.
        template: with the fields of an example in braces; empty for the texts as they are.
    """

    task: Task
    template: str = ""

    def prompt(self, examples: Examples, index: int) -> Prompt:
        """What stands before the answer of an example."""
        fields = dict(examples.fields[index]) if examples.fields else self._texts(examples, index)
        if list(fields) == [MESSAGES]:
            found: list[Message] = json.loads(fields[MESSAGES])
            return found
        if self.template:
            return self.template.format_map(fields)
        if self.task.answers.is_text_only:
            return "\n".join(fields.values())
        return "\n".join([*(f"{name}: {text}" for name, text in fields.items()), "Answer:"])

    def answer(self, text: str) -> str:
        """`text` as it follows the prompt: a user's own completion as it is, every other after a space."""
        is_own = self.task.answers.is_text_only and not self.template
        return text if is_own else f" {text}"

    def candidates(self, examples: Examples, index: int) -> Sequence[str]:
        """What may be answered: the choices of the example, or what is said for the classes."""
        if examples.names:
            return examples.names[index]
        if examples.choices:
            return [segments[-1] for segments in examples.choices[index]]
        return self.task.verbalisers

    def _texts(self, examples: Examples, index: int) -> dict[str, str]:
        if examples.texts:
            return dict(zip(self.task.inputs, examples.texts[index], strict=True))
        return {self.task.inputs[0]: examples.choices[index][0][0]}


def wording(task: Task) -> Wording:
    """How a decoder is asked `task`; classes are said by the template's answers, or else by their names."""
    facts = _templates().get(task.name, {})
    said = tuple(facts.get("answers", ())) or task.label_names
    return Wording(replace(task, verbalisers=said), task.prompt or facts.get("prompt", ""))


@cache
def _templates() -> Mapping[str, Any]:
    """Every template by the name of its task."""
    return MappingProxyType(yaml_files.read(Path(__file__).with_name("templates.yaml")))
