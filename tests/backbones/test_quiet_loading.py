"""Nothing that a normal user does with a model of a known family has transformers log a warning."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers.utils import logging as transformers_logging

import tiny
from autopeft.backbones import Backbone
from autopeft.network.attach import attach


class Told(logging.Handler):
    """Keeps what is logged at the level of warnings or above."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.rows: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.rows.append(record.getMessage())


@pytest.fixture
def told() -> Iterator[list[str]]:
    # At the root and at transformers' own logger, which hands on to nobody by default.
    handler, root, own = Told(), logging.getLogger(), transformers_logging.get_logger("transformers")
    root.addHandler(handler)
    own.addHandler(handler)
    yield handler.rows
    root.removeHandler(handler)
    own.removeHandler(handler)


@pytest.mark.parametrize("model_type", tiny.MODEL_TYPES)
def test_a_model_is_loaded_trained_and_used_without_a_warning(
    model_type: str, tmp_path: Path, told: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    made = tiny.backbone(model_type)
    made.model.save_pretrained(tmp_path)
    tiny.tokenizer(model_type).save_pretrained(tmp_path)
    told.clear()  # of what transformers alone did
    capfd.readouterr()
    found = Backbone.from_pretrained(tmp_path)
    # The way without a file, which a copy of a model that was made before would not go.
    Backbone.from_config(made.model.config)
    attached = attach(found, tiny.everywhere(found, "serial"))
    output = tiny.output(found)
    output.sum().backward()
    torch.optim.AdamW(attached.parameters()).step()
    attached.detach()
    assert told == []
    # The bar of a script; the command line shows none.
    lines = capfd.readouterr().err.splitlines()
    assert not [line for line in lines if line.strip() and "Loading weights" not in line]
