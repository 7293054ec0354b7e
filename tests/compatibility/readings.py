"""What is read from old files, by public names alone: `make.py` reads it then, the tests read it now."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

import autopeft

_FIGURE = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)")


def trials_of(study: Path) -> list[dict[str, Any]]:
    """Every trial of the study in a file, as plain data."""
    with autopeft.Study.open(study) as opened:
        return [_plain(trial) for trial in opened.trials()]


def _plain(trial: autopeft.Trial) -> dict[str, Any]:
    found: dict[str, Any] = {
        "number": trial.number,
        "origin": trial.origin,
        "seed": trial.seed,
        "state": str(trial.state),
        "architecture": trial.architecture.as_dict(),
        "fingerprint": trial.architecture.fingerprint,
        "configuration": list(trial.configuration.indices),
        "retry_of": trial.retry_of,
        "failure": None if trial.failure is None else [trial.failure.kind, trial.failure.message],
        "value": None,
    }
    if trial.measurement is not None:
        measured = trial.measurement
        found.update(value=measured.value, percent=measured.percent, seconds=measured.seconds)
        found.update(metrics=dict(measured.metrics), counts=measured.counts.as_dict())
    return found


@torch.no_grad()
def logits_of(model: Any, texts: list[str]) -> Any:
    """What a loaded model computes for `texts`; of a text-to-text model every ninth word at three places."""
    batch = model.tokenizer(texts, return_tensors="pt", padding=True)
    if not model.config.is_encoder_decoder:
        return model(**batch).logits.tolist()
    starts = torch.tensor([[0, 4, 5]] * len(texts))
    return model(**batch, decoder_input_ids=starts).logits[..., ::9].tolist()


def figures(page: str) -> list[list[str]]:
    """The numbers in every row of every Markdown table of `page`; rows without any are left out."""
    rows = (line for line in page.splitlines() if line.startswith("|"))
    return [found for found in map(_FIGURE.findall, rows) if found]


def lost(then: list[list[str]], now: list[list[str]]) -> list[list[str]]:
    """The rows of `then` whose figures no row of `now` holds in their order; there may be others between them."""
    return [row for row in then if not any(_holds(other, row) for other in now)]


def _holds(row: list[str], wanted: list[str]) -> bool:
    rest = iter(row)
    return all(figure in rest for figure in wanted)


def holds(now: Any, then: Any) -> bool:
    """Whether all that `then` says stands in `now`; mappings may have gained entries since."""
    if isinstance(then, dict):
        return isinstance(now, dict) and all(key in now and holds(now[key], value) for key, value in then.items())
    if isinstance(then, list):
        return isinstance(now, list) and len(now) == len(then) and all(map(holds, now, then))
    return bool(now == then)
