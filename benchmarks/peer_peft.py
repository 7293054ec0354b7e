"""A peer's side of the speed table: LoRA by the package `peft`, trained by transformers' `Trainer`.

Runs as a subprocess of `speed.py`, in this project's environment, which has `peft` and `accelerate`::

    python benchmarks/peer_peft.py --model FOLDER --data FOLDER --targets query,value --examples 1024 --threads 2

Pairs of MRPC are padded to the longest of their batch and grouped by length, the faster way in which that trainer
is used. The last line on stdout is one JSON object; everything else goes to stderr.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)


class Steps(TrainerCallback):
    """When every step began, and when the last one ended."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the time at which a step begins."""
        self.marks.append(time.perf_counter())

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the time at which the last step ended."""
        self.marks.append(time.perf_counter())


def pairs(folder: Path, tokenizer: Any, n: int, max_length: int) -> Dataset:
    """The first `n` training pairs, tokenised."""
    with gzip.open(folder / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        data = Dataset.from_list([json.loads(line) for line in itertools.islice(lines, n)])
    columns = ["input_ids", "token_type_ids", "attention_mask"]

    def encode(rows: Any) -> Any:
        found = tokenizer(rows["sentence1"], rows["sentence2"], max_length=max_length, truncation=True)
        return {**{name: found[name] for name in columns if name in found}, "labels": rows["label"]}

    return data.map(encode, batched=True, remove_columns=data.column_names)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.jsonl.gz of MRPC")
    parser.add_argument("--targets", required=True, help="names of the linear maps, joined by commas")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--examples", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--warmup", type=int, default=2, help="steps that are not timed")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bf16", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Train one epoch and print what it took."""
    options = parse()
    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    data = pairs(options.data, tokenizer, options.examples, options.max_length)
    model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=2)
    lora = peft.LoraConfig(
        peft.TaskType.SEQ_CLS, r=options.rank, lora_alpha=options.rank, target_modules=options.targets.split(",")
    )
    model = peft.get_peft_model(model, lora)
    timer = Steps()
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=options.batch, learning_rate=1e-3, num_train_epochs=1,
            train_sampling_strategy="group_by_length", seed=options.seed, use_cpu=True, bf16=options.bf16,
            report_to="none", save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(
            model=model, args=settings, train_dataset=data, data_collator=DataCollatorWithPadding(tokenizer),
            callbacks=[timer],
        )  # fmt: skip
        loss = trainer.train().training_loss
    seconds = [later - earlier for earlier, later in itertools.pairwise(timer.marks[options.warmup :])]
    adapters = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
    print(
        json.dumps(
            {
                "seconds_per_step": statistics.fmean(seconds),
                "steps": len(seconds),
                "parameters_of_modules": adapters,
                "train_loss": loss,
                "versions": {module.__name__: module.__version__ for module in (peft, transformers, torch)},
            }
        )
    )


if __name__ == "__main__":
    main()
