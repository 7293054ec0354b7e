"""The peer's side of the training-throughput benchmark: the package `adapters` 1.3 in default use.

Runs in an environment of its own (see README.md of this folder), as a subprocess::

    /path/to/peer/bin/python benchmarks/peer_adapters.py --model FOLDER --data FOLDER --steps 30 --threads 2

It trains a parallel adapter (width 48, scale 4) and a prefix (length 3) in layers 3 to 5, from 0, of a BERT
with 6 layers, with a classification head, on MRPC, the way that library's own text-classification example
does: every pair padded to 128 tokens, `AdapterTrainer`, AdamW, learning rate 1e-3, batches of 32. The warm-up
steps are not timed. The last line on stdout is one JSON object; everything else goes to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import adapters
import torch
import transformers
from adapters import AdapterTrainer, AutoAdapterModel, ConfigUnion, ParBnConfig, PrefixTuningConfig
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback, TrainingArguments


@dataclass
class StepTimer(TrainerCallback):
    """Seconds of every optimiser step, from the start of one to the start of the next, data loading included."""

    started: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the time at which a step begins."""
        self._note()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the time at which the last step ended."""
        self._note()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Keep the mean training loss, which shows that something was learnt."""
        if logs and "train_loss" in logs:
            self.losses.append(float(logs["train_loss"]))

    def _note(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.started.append(time.perf_counter())

    def seconds(self, warmup: int) -> list[float]:
        """Seconds of each step after the first `warmup`."""
        return [b - a for a, b in zip(self.started[warmup:], self.started[warmup + 1 :], strict=False)]


def pairs(folder: Path, tokenizer: Any) -> Dataset:
    """MRPC's training pairs of ``train.jsonl.gz``, tokenised and padded to 128 tokens."""
    with gzip.open(folder / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        data = Dataset.from_list([json.loads(line) for line in lines])

    def encode(batch: dict[str, list[Any]]) -> Any:
        return tokenizer(batch["sentence1"], batch["sentence2"], padding="max_length", max_length=128, truncation=True)

    data = data.map(encode, batched=True).rename_column("label", "labels")
    data.set_format(type="torch", columns=["input_ids", "token_type_ids", "attention_mask", "labels"])
    return data


def model_with_adapter(folder: Path, width: int, prefix: int, prefix_hidden: int, layers: list[int]) -> Any:
    """The backbone with one adapter (parallel and prefix) in `layers`, from 0, and a head with two labels."""
    model = AutoAdapterModel.from_pretrained(str(folder))
    out = [layer for layer in range(model.config.num_hidden_layers) if layer not in layers]
    config = ConfigUnion(
        PrefixTuningConfig(prefix_length=prefix, bottleneck_size=prefix_hidden, leave_out=out),
        ParBnConfig(reduction_factor=model.config.hidden_size / width, leave_out=out),
    )
    model.add_adapter("task", config=config)
    model.add_classification_head("task", num_labels=2)
    model.train_adapter("task")
    return model


def train(model: Any, data: Dataset, options: argparse.Namespace) -> StepTimer:
    """Run the warm-up and the timed steps."""
    timer = StepTimer()
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=options.batch,
            learning_rate=1e-3,
            max_steps=options.warmup + options.steps,
            seed=options.seed,
            use_cpu=options.device == "cpu",
            bf16=options.bf16,
            report_to="none",
        )
        trainer = AdapterTrainer(model=model, args=settings, train_dataset=data, callbacks=[timer])
        trainer.train()
    return timer


def processor() -> str:
    """The processor's name, as the system gives it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_bytes() -> int:
    """Largest resident memory of this process so far. Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def report(options: argparse.Namespace, timer: StepTimer, trained: int, load: tuple[float, float]) -> dict[str, Any]:
    """The one JSON object of a run; times are in seconds, memory in bytes."""
    seconds = timer.seconds(options.warmup)
    versions = {module.__name__: module.__version__ for module in (adapters, transformers, torch)}
    return {
        "peer": "adapters",
        "examples_per_second": options.batch * len(seconds) / sum(seconds),
        "seconds_per_step": sum(seconds) / len(seconds),
        "median_seconds_per_step": statistics.median(seconds),
        "slowest_seconds_per_step": max(seconds),
        "steps": len(seconds),
        "warmup": options.warmup,
        "batch": options.batch,
        "max_length": 128,
        "padding": "max_length",
        "precision": "bf16" if options.bf16 else "float32",
        "layers": options.layers,
        "parallel": options.width,
        "prefix": options.prefix,
        "prefix_hidden": options.prefix_hidden,
        "trained_parameters": trained,
        "train_loss": timer.losses[-1] if timer.losses else None,
        "peak_resident_bytes": peak_bytes(),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "seed": options.seed,
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "load_before": load[0],
            "load_after": load[1],
        },
        "versions": {**versions, "python": platform.python_version()},
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the backbone, a BERT")
    parser.add_argument("--data", type=Path, required=True, help="folder with MRPC's train.jsonl.gz")
    parser.add_argument("--steps", type=int, default=30, help="timed steps")
    parser.add_argument("--warmup", type=int, default=3, help="steps before timing")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--width", type=int, default=48, help="width of the parallel adapter")
    parser.add_argument("--prefix", type=int, default=3, help="length of the prefix")
    parser.add_argument("--prefix-hidden", type=int, default=800, help="inner size of the prefix's map")
    parser.add_argument("--layers", type=int, nargs="+", default=[3, 4, 5], help="active layers, from 0")
    parser.add_argument("--bf16", action="store_true", help="automatic mixed precision")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser.parse_args(arguments)


def main() -> None:
    """Train, then print one JSON object."""
    options = parse()
    torch.set_num_threads(options.threads)
    transformers.set_seed(options.seed)
    before = os.getloadavg()[0]
    with contextlib.redirect_stdout(sys.stderr):  # the trainer prints its logs
        data = pairs(options.data, AutoTokenizer.from_pretrained(str(options.model)))
        model = model_with_adapter(options.model, options.width, options.prefix, options.prefix_hidden, options.layers)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        timer = train(model, data, options)
    print(json.dumps(report(options, timer, trained, (before, os.getloadavg()[0]))))


if __name__ == "__main__":
    main()
