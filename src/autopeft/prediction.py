"""Predictions of a saved model on new texts."""

from __future__ import annotations

from collections.abc import Sequence
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
    """The label (or number) and its probability (1 for a number) for every input of one or two texts.

    Raises:
        ArchitectureError: the folder does not hold a saved model.
        DataError: there is no text, or the inputs have another number of texts than the model was trained on.
    """
    model: Any = load(folder, device=device)
    expected = len(model.record["inputs"])
    wrong = [parts for parts in texts if len(parts) != expected]
    if not texts or wrong:
        raise DataError(f"The model takes {expected} text(s) an input, but got {wrong[0] if wrong else 'none'}.")
    found: list[dict[str, Any]] = []
    for start in range(0, len(texts), _BATCH):
        found += _batch(model, texts[start : start + _BATCH])
    return found


@torch.inference_mode()
def _batch(model: Any, texts: Sequence[tuple[str, ...]]) -> list[dict[str, Any]]:
    if not model.record["n_outputs"]:
        return _said(model, texts)
    columns = [list(column) for column in zip(*texts, strict=True)]
    inputs = model.tokenizer(*columns, truncation=True, padding=True, return_tensors="pt").to(model.device)
    logits = model(**inputs).logits.float()
    names = model.record["label_names"]
    if not names:
        values = zip(texts, logits.squeeze(-1).tolist(), strict=True)
        return [{"text": "\t".join(parts), "label": value, "score": 1.0} for parts, value in values]
    scores, labels = logits.softmax(-1).max(-1)
    rows = zip(texts, labels.tolist(), scores.tolist(), strict=True)
    return [{"text": "\t".join(parts), "label": names[label], "score": score} for parts, label, score in rows]


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
    most = record["facts"].get("recipe", {}).get("max_length", _MOST_TOKENS)
    encoded = learner.encode(Examples(np.zeros(len(texts), dtype=np.int64), texts=texts), most)
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
