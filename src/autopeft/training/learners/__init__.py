"""Learners: how a task is put to a backbone. One file a kind: a head, a decoder that writes, and text-to-text."""

from __future__ import annotations

from autopeft.backbones import Backbone
from autopeft.errors import SettingsError
from autopeft.tasks._examples import Examples
from autopeft.tasks._task import Task
from autopeft.training.learners._learner import Answer, Learner
from autopeft.training.learners.causal import CausalLearner, Written
from autopeft.training.learners.encoder import EncoderLearner
from autopeft.training.learners.text_to_text import TextToTextLearner

__all__ = ["Answer", "CausalLearner", "EncoderLearner", "Learner", "TextToTextLearner", "Written", "learner_for"]


def learner_for(backbone: Backbone, task: Task, answer: Answer = "score", train: Examples | None = None) -> Learner:
    """The kind of learner that fits the backbone.

    Args:
        train: what is trained on, from which numbers get their scale; None where nothing is.

    Raises:
        SettingsError: what answers in words has no head, but classes have weights; the backbone gives no text, but
            `answer` or the task asks for it; or it is text-to-text and `answer` is a decoder's.
    """
    is_text_to_text, is_causal = backbone.family.is_text_to_text, backbone.family.is_causal
    is_in_words = task.answers.is_text_only or answer != "score"
    if (is_text_to_text or (is_causal and is_in_words)) and task.class_weights:
        raise SettingsError(
            f"Class weights belong to a head, but {backbone.name} says its answers in words: leave them out, or take "
            "an encoder."
        )
    if is_text_to_text:
        if answer not in ("score", "generate"):
            raise SettingsError(f"The answer {answer!r} is a decoder's: {backbone.name} has 'score' and 'generate'.")
        return TextToTextLearner(backbone, task, answer)
    if is_causal and is_in_words:
        return CausalLearner(backbone, task, answer)
    if task.answers.is_text_only:
        raise SettingsError(
            f"The answer of {task.name} is text, and {backbone.name} gives none: take a decoder, or an encoder-decoder "
            "such as T5."
        )
    if is_in_words:
        raise SettingsError(f"{backbone.name} gives no text, so the answer {answer!r} cannot be had from it.")
    return EncoderLearner(backbone, task, train)
