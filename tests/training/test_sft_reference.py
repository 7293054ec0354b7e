"""What a decoder learns is what TRL's `SFTTrainer` learns from the same, see `scripts/make_sft_reference.py`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tiny
from autopeft.tasks._conversations import as_texts, conversations
from autopeft.tasks._examples import Examples
from autopeft.tasks._tables import Table
from autopeft.tasks._task import Task
from autopeft.training.batches import collate
from autopeft.training.learners import CausalLearner

FOLDER = Path(__file__).parents[1] / "reference"
KEPT = json.loads((FOLDER / "sft.json").read_text())
TASK = Task("tiny/words", "text", ("prompt",), label="completion", metrics=("neg_loss",))


def pairs() -> Examples:
    texts, answers = [(prompt,) for prompt, _ in KEPT["pairs"]], [(answer,) for _, answer in KEPT["pairs"]]
    return Examples(np.zeros(len(texts), dtype=np.int64), texts=texts, answers=answers)


def chats() -> Examples:
    rows = [
        {"prompt": [{"role": "user", "content": one}], "completion": [{"role": "assistant", "content": other}]}
        for one, other in KEPT["chats"]
    ]
    table = as_texts(Table("made up", ("prompt", "completion"), rows), "prompt", "completion")
    return conversations(TASK, table)


@pytest.mark.parametrize(
    ("name", "task", "given"),
    [("completion", TASK, pairs()), ("all", replace(TASK, loss_on="all"), pairs()), ("chat", TASK, chats())],
)
def test_losses_and_gradients_are_those_of_trl(name: str, task: Task, given: Examples) -> None:
    changes: dict[str, Any] = KEPT["changes"]
    found = tiny.backbone("llama", with_tokenizer=True, **changes)
    found.tokenizer.chat_template = KEPT["template"]
    learner = CausalLearner(found, task)
    whole = found.language_model
    whole.load_state_dict(load_file(FOLDER / "sft.safetensors"))
    whole.requires_grad_(True)
    batch = collate(learner.encode(given, 64), np.arange(len(given)), learner.pad, torch.device("cpu"))
    loss = learner.forward(batch).loss
    loss.backward()  # type: ignore[no-untyped-call]
    assert batch.targets is not None
    # TRL counts the targets before they are shifted; where prompts are learnt, too, the first token is one of them.
    assert int((batch.targets != -100).sum()) == KEPT[name]["tokens"]
    assert float(loss.detach()) == pytest.approx(KEPT[name]["loss"], abs=1e-5)
    norms = {key: float(value.grad.norm()) for key, value in whole.named_parameters() if value.grad is not None}
    assert norms == pytest.approx(KEPT[name]["gradients"], abs=1e-5)
