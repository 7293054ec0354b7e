"""Learners: how a task is put to a backbone. One file a kind: an encoder with a head, and a text-to-text model."""

from __future__ import annotations

from autopeft.backbones import Backbone
from autopeft.errors import SettingsError
from autopeft.tasks._examples import Examples
from autopeft.tasks._task import Task
from autopeft.training.learners._learner import Answer, Learner
from autopeft.training.learners.encoder import EncoderLearner
from autopeft.training.learners.text_to_text import TextToTextLearner

__all__ = ["Answer", "EncoderLearner", "Learner", "TextToTextLearner", "learner_for"]


def learner_for(backbone: Backbone, task: Task, answer: Answer = "score", train: Examples | None = None) -> Learner:
    """The kind of learner that fits the backbone.

    Args:
        train: what is trained on, from which numbers get their scale; None where nothing is.

    Raises:
        SettingsError: the backbone has no head and classes have weights, or it gives no text and `answer` is "generate"
            or the task's answer is text.
    """
    if backbone.family.is_text_to_text:
        if task.class_weights:
            raise SettingsError(
                f"Class weights belong to a head, but {backbone.name} says its answers in words: leave them out, or "
                "take an encoder."
            )
        return TextToTextLearner(backbone, task, answer)
    if task.answers.is_text_only:
        raise SettingsError(
            f"The answer of {task.name} is text, and {backbone.name} gives none: take an encoder-decoder such as T5."
        )
    if answer == "generate":
        raise SettingsError(f"{backbone.name} gives no text, so the answer 'generate' cannot be had from it.")
    return EncoderLearner(backbone, task, train)
