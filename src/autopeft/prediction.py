"""Predictions of a saved model on new texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autopeft.data.examples import Examples
from autopeft.errors import DataError
from autopeft.saving import load
from autopeft.task import Task
from autopeft.training.batches import collate
from autopeft.training.text_to_text import TextToTextLearner

_BATCH = 32
_MOST_TOKENS = 512


def predictions(folder: str | Path, texts: Sequence[tuple[str, ...]], *, device: str = "cpu") -> list[dict[str, Any]]:
    """The label (or number) and its probability (1 for a number) for every input.

    Args:
        texts: the texts of each input, as many as the model was trained on; an encoder for multiple choice takes the
            question (or context) and then its candidates, two or more.

    Raises:
        ArchitectureError: the folder does not hold a saved model.
        DataError: there is no text, or an input has another number of texts than the model takes.
    """
    model: Any = load(folder, device=device)
    is_headed = bool(model.record["n_outputs"])
    answer = _chosen if model.record["problem"] == "multiple_choice" else _labelled
    _check(model.record, texts)
    found: list[dict[str, Any]] = []
    for start in range(0, len(texts), _BATCH):
        found += (answer if is_headed else _said)(model, texts[start : start + _BATCH])
    return found


def _check(record: Mapping[str, Any], texts: Sequence[tuple[str, ...]]) -> None:
    expected = len(record["inputs"])
    is_choice = record["problem"] == "multiple_choice" and record["n_outputs"]
    wanted = "a question and two or more candidates" if is_choice else f"{expected} text(s)"
    wrong = [parts for parts in texts if (len(parts) < 3 if is_choice else len(parts) != expected)]
    if not texts or wrong:
        raise DataError(f"The model takes {wanted} an input, but got {wrong[0] if wrong else 'none'}.")


def _trained_length(record: Mapping[str, Any]) -> int:
    """Tokens that were read of an input in training and measuring."""
    return int(record["facts"].get("recipe", {}).get("max_length", _MOST_TOKENS))


def _logits(model: Any, columns: Sequence[list[str]]) -> torch.Tensor:
    trained = _trained_length(model.record)
    positions = model.attached.backbone.n_positions or trained
    most = min(trained, positions, int(model.tokenizer.model_max_length))
    inputs = model.tokenizer(*columns, truncation=True, max_length=most, padding=True, return_tensors="pt")
    logits: torch.Tensor = model(**inputs.to(model.device)).logits.float()
    return logits


@torch.inference_mode()
def _chosen(model: Any, texts: Sequence[tuple[str, ...]]) -> list[dict[str, Any]]:
    """Of every question the likeliest candidate: its label where the labels stand for places, else its text."""
    names, found = model.record["label_names"], []
    for question, *candidates in texts:
        shares = _logits(model, [[question] * len(candidates), candidates]).squeeze(-1).softmax(-1)
        best = int(shares.argmax())
        label = names[best] if len(names) == len(candidates) else candidates[best]
        found.append({"text": "\t".join((question, *candidates)), "label": label, "score": float(shares[best])})
    return found


@torch.inference_mode()
def _labelled(model: Any, texts: Sequence[tuple[str, ...]]) -> list[dict[str, Any]]:
    logits = _logits(model, [list(column) for column in zip(*texts, strict=True)])
    names = model.record["label_names"]
    if not names:
        values = zip(texts, logits.squeeze(-1).tolist(), strict=True)
        return [{"text": "\t".join(parts), "label": value, "score": 1.0} for parts, value in values]
    scores, labels = logits.softmax(-1).max(-1)
    rows = zip(texts, labels.tolist(), scores.tolist(), strict=True)
    return [{"text": "\t".join(parts), "label": names[label], "score": score} for parts, label, score in rows]


@torch.inference_mode()
def _said(model: Any, texts: Sequence[tuple[str, ...]]) -> list[dict[str, Any]]:
    """The same of a text-to-text model: the likeliest of the labels that it knows, or the number that it says."""
    record = model.record
    task = Task(
        record["prompt"],
        record["problem"],
        tuple(record["inputs"]),
        label_names=tuple(record["label_names"]),
        verbalisers=tuple(record["verbalisers"]),
    )
    learner = TextToTextLearner(model.attached.backbone, task)
    encoded = learner.encode(Examples(np.zeros(len(texts), dtype=np.int64), texts=texts), _trained_length(record))
    said = learner.outputs(collate(encoded, np.arange(len(texts)), learner.pad, model.device))
    rows = [("\t".join(parts), one) for parts, one in zip(texts, said, strict=True)]
    if not task.label_names:
        return [{"text": text, "label": task.parse_prediction(one), "score": 1.0} for text, one in rows]
    found = []
    for text, likelihoods in rows:
        shares = np.exp(likelihoods - np.logaddexp.reduce(likelihoods))
        label = int(shares.argmax())
        found.append({"text": text, "label": task.label_names[label], "score": float(shares[label])})
    return found
