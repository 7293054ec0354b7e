"""Some of what a model wrote, kept beside what it was asked and what people wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autopeft.tasks._examples import Examples
from autopeft.tasks._task import Task
from autopeft.training.learners import Written

_MOST = 10
"""How many texts are kept, from the first on, so that two runs on the same part keep those of the same examples."""


def kept_texts(task: Task, outputs: Sequence[Any], examples: Examples) -> list[dict[str, Any]]:
    """The first texts among the outputs, JSON-ready; none where a model answered by likelihoods or a head.

    Returns:
        Mappings of "prompt" (the fields of the example, a line each), "said", and "references" (every gold text, or the
        word for the right class).
    """
    said = [text for output in outputs[:_MOST] if (text := _text(output)) is not None]
    return [
        {"prompt": _prompt(examples, row), "said": text, "references": _references(task, examples, row)}
        for row, text in enumerate(said)
    ]


def _text(output: Any) -> str | None:
    """What was written; a text-to-text model gives it as it is."""
    if isinstance(output, Written):
        return output.text
    return output if isinstance(output, str) else None


def _prompt(examples: Examples, row: int) -> str:
    # The task's own fields and not the template around them, which is the same for every example.
    parts = examples.texts[row] if examples.texts else examples.choices[row][0][:1]
    return "\n".join(parts)


def _references(task: Task, examples: Examples, row: int) -> list[str]:
    return list(examples.answers[row]) if examples.answers else [task.target_text(examples, row)]
