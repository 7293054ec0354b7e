"""Writes what TRL's `SFTTrainer` computes for a few examples on a very small Llama: `tests/reference/sft.json`.

    python -m venv other && other/bin/pip install -e . trl
    other/bin/python scripts/make_sft_reference.py

The model's weights and what it was given are written beside the losses and the norms of the gradients, so that the test
that compares ours with them needs no TRL, which is no dependency of this package. Committed is what TRL 1.16.0 gave.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from safetensors.torch import save_file

from autopeft.testing import tiny

TARGET = Path(__file__).resolve().parent.parent / "tests" / "reference"

PAIRS = (
    ("w1 w2 w3", " good w4"),
    ("w5", " bad"),
    ("w6 w7 w8 w9 w10", " w11 w12 w13"),
    ("w14 w15 unheard of", " w16 w17 good w18 w19"),
)
CHATS = (
    ("w20 w21", "good w22"),
    ("w23", "bad"),
)
TEMPLATE = (
    "{% for m in messages %}{{ 'w70 ' if m['role'] == 'user' else 'w71 ' }}{{ m['content'] }}{{ ' </s> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'w71 ' }}{% endif %}"
)
CHANGES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}


def measured(rows: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    """The loss of all `rows` in one batch, and the norm of its gradient by parameter."""
    found = tiny.backbone("llama", with_tokenizer=True, **CHANGES)
    model = found.language_model.requires_grad_(True)
    model.set_attn_implementation("eager")
    found.tokenizer.chat_template = TEMPLATE
    with tempfile.TemporaryDirectory() as folder:
        config = trl.SFTConfig(
            output_dir=folder, per_device_train_batch_size=len(rows), report_to="none", use_cpu=True, bf16=False,
            gradient_checkpointing=False, max_length=64, packing=False, seed=0, **settings,
        )  # fmt: skip
        data = Dataset.from_list(rows)
        trainer = trl.SFTTrainer(model, config, train_dataset=data, processing_class=found.tokenizer)
        (batch,) = list(trainer.get_train_dataloader())
        model.eval()
        loss = trainer.compute_loss(model, batch)
    loss.backward()
    named = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return {
        "tokens": int((batch["labels"] != -100).sum()),
        "loss": float(loss.detach()),
        "gradients": {name: float(value.norm()) for name, value in sorted(named.items())},
    }


def main() -> None:
    """Write the losses, and the weights that they were computed with."""
    pairs = [{"prompt": prompt, "completion": answer} for prompt, answer in PAIRS]
    chats = [
        {
            "prompt": [{"role": "user", "content": prompt}],
            "completion": [{"role": "assistant", "content": answer}],
        }
        for prompt, answer in CHATS
    ]
    facts = {
        "versions": {"trl": trl.__version__, "torch": torch.__version__},
        "changes": CHANGES,
        "template": TEMPLATE,
        "pairs": PAIRS,
        "chats": CHATS,
        "completion": measured(pairs),
        "all": measured(pairs, completion_only_loss=False),
        "chat": measured(chats),
    }
    whole = tiny.backbone("llama", with_tokenizer=True, **CHANGES).language_model
    save_file({name: value.contiguous() for name, value in whole.state_dict().items()}, TARGET / "sft.safetensors")
    (TARGET / "sft.json").write_text(json.dumps(facts, indent=1) + "\n")
    sys.stdout.write(f"{TARGET / 'sft.json'}: losses of TRL {trl.__version__}\n")


if __name__ == "__main__":
    main()
