"""What a GPU does with several candidates in one pass, in one command that ends within its limit.

    python benchmarks/gpu.py --data FOLDER --device cuda

Parts, in this order: LoRA of rank 8 on queries and values by a plain loop of PyTorch with `peft`, and by this package
with 1, 2, 4 and so on candidates in one pass, in float32 and in bf16, with the peak memory of each against the line
through the first two; then a whole search on MRPC. A part that fails, or for which no time is left, is written down as
not run, with its reason, and the others go on. With ``--device cpu`` the mechanics can be tried anywhere.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import machine
from autopeft import tasks
from autopeft.architecture import Architecture, Placement
from autopeft.backbones import Backbone
from autopeft.training.batches import TrainingOrder, collate
from autopeft.training.evaluator import Evaluator
from autopeft.training.memory import Memory
from autopeft.training.recipe import Recipe
from autopeft.training.together import Together
from together import nothing

PRECISIONS = ("float32", "bf16")


def lora(backbone: Backbone) -> Architecture:
    """LoRA of rank 8 on the queries and values of every layer."""
    return Architecture(
        tuple(Placement(key, "lora", 8) for key, site in backbone.sites.items() if site.role in ("q", "v"))
    )


def _ready(device: torch.device) -> float:
    """The time at which all work of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def ours(evaluator: Evaluator, k: int, warmup: int) -> dict[str, float]:
    """Seconds a candidate and step with `k` in one pass, and the peak memory of the pass."""
    device, marks = evaluator.backbone.device, list[float]()
    memory = Memory(device)
    with Together([evaluator] * k, [lora(evaluator.backbone)] * k, 1) as together:
        with mock.patch.object(Together, "_evaluate", nothing):
            together.train(lambda done, planned: marks.append(_ready(device)))
    steps = len(marks) - warmup
    return {"seconds": (marks[-1] - marks[warmup - 1]) / steps / k, "peak_bytes": memory.peak()}


def plain(evaluator: Evaluator, model: Path, warmup: int) -> dict[str, float]:
    """The same modules, batches and optimiser in a plain loop over transformers' model with `peft`."""
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import AutoModelForSequenceClassification

    recipe, device = evaluator.recipe, evaluator.backbone.device
    memory = Memory(device)
    found = AutoModelForSequenceClassification.from_pretrained(model, num_labels=2, attn_implementation="sdpa")
    targets = ["query", "value"]
    found = get_peft_model(found, LoraConfig(TaskType.SEQ_CLS, r=8, lora_alpha=8, target_modules=targets)).to(device)
    optimiser = torch.optim.AdamW([p for p in found.parameters() if p.requires_grad], lr=recipe.learning_rate)
    part, marks = evaluator.train_part, list[float]()
    order = TrainingOrder(part.lengths, recipe.batch_size, 1)
    for _ in range(recipe.n_steps(len(part))):
        batch = collate(part, next(order), evaluator.learner.pad, device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=recipe.precision == "bf16"):
            loss = found(**batch.inputs, labels=batch.labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(found.parameters(), recipe.clip)
        optimiser.step()
        optimiser.zero_grad()
        marks.append(_ready(device))
    return {"seconds": (marks[-1] - marks[warmup - 1]) / (len(marks) - warmup), "peak_bytes": memory.peak()}


def search(options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """A whole search on MRPC through the command line, within `seconds`."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "autopeft", "search", "--model", options.model, "--task", "mrpc"]
        words += ["--data", options.data, "--device", options.device, "--trials", options.trials]
        words += ["--batch", max(options.k), "--set", f"train_limit={options.train_limit}"]
        words += ["--set", "learning_rates=[]", "--out", Path(folder) / "study"]
        began = time.perf_counter()
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=seconds)
    if done.returncode:
        raise RuntimeError(done.stderr[-500:])
    return {"seconds": time.perf_counter() - began, "trials": options.trials}


def against_line(peaks: dict[int, float]) -> dict[int, float]:
    """Measured peak memory over that of the straight line through the two smallest k, by k."""
    first, second = sorted(peaks)[:2]
    slope = (peaks[second] - peaks[first]) / (second - first)
    return {k: peak / (peaks[first] + slope * (k - first)) for k, peak in peaks.items()}


class Parts:
    """Runs one part after the other until the time is up, and keeps what each gave or why it did not run."""

    def __init__(self, limit: float) -> None:
        self.found, self.not_run = dict[str, Any](), dict[str, str]()
        self._end = time.perf_counter() + limit

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self._end - time.perf_counter()

    def run(self, name: str, part: Callable[[], Any]) -> None:
        """Run a part, if there is time."""
        if self.left <= 0:
            self.not_run[name] = "no time was left"
            return
        try:
            self.found[name] = part()
        # Whatever goes wrong in one part must not take the figures of the others with it.
        except Exception as error:
            self.not_run[name] = f"{type(error).__name__}: {error}"
        print(f"{name}: {self.found.get(name, self.not_run.get(name))}", flush=True)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="minilm")
    parser.add_argument(
        "--model-folder", type=Path, help="the same model for the peer, where --model is a packaged one"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with glue/mrpc/train.jsonl.gz")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--k", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32], help="candidates at once")
    parser.add_argument("--precision", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--steps", type=int, default=30, help="timed steps of every part")
    parser.add_argument("--warmup", type=int, default=5, help="steps before timing, at least 1")
    parser.add_argument("--batch", type=int, default=32, help="examples a step")
    parser.add_argument("--trials", type=int, default=24, help="of the search")
    parser.add_argument("--train-limit", type=int, default=3668, help="of the search")
    parser.add_argument("--limit", type=float, default=480, help="seconds for all parts together")
    parser.add_argument("--name", default="gpu", help="name of the result")
    return parser.parse_args()


def main() -> None:
    """Run all parts and write the result, what was not run included."""
    options = parse()
    before, parts = machine.facts(), Parts(options.limit)
    task, backbone = tasks.lookup("mrpc"), Backbone.from_pretrained(options.model, device=options.device)
    steps = options.warmup + options.steps
    recipe = Recipe(steps=steps, batch_size=options.batch, evaluate_every=1e6)
    evaluator = Evaluator(backbone, task, tasks.load(task, data=options.data), recipe)
    for precision in options.precision:
        own = evaluator.with_recipe(precision=precision)
        if options.model_folder is None:
            parts.not_run[f"peft, {precision}"] = "no --model-folder was given"
        else:
            parts.run(f"peft, {precision}", lambda own=own: plain(own, options.model_folder, options.warmup))
        for k in options.k:
            parts.run(f"k={k}, {precision}", lambda own=own, k=k: ours(own, k, options.warmup))
    parts.run("search", lambda: search(options, parts.left))
    lines = {}
    for precision in options.precision:
        names = {k: f"k={k}, {precision}" for k in options.k}
        peaks = {k: parts.found[name]["peak_bytes"] for k, name in names.items() if name in parts.found}
        lines[precision] = against_line(peaks) if len(peaks) > 1 else {}
    setting = {key: str(value) for key, value in vars(options).items() if key not in ("data", "model_folder", "name")}
    card = torch.cuda.get_device_name(backbone.device) if backbone.device.type == "cuda" else "none: the processor"
    told = {"setting": setting, "card": card, "parts": parts.found, "not_run": parts.not_run, "peak_to_line": lines}
    print(json.dumps({"not_run": parts.not_run, "peak_to_line": lines}, indent=1))
    print(f"written: {machine.write(options.name, told, before)}")


if __name__ == "__main__":
    main()
